"""The searches of a study as an Optuna journal, which ``optuna-dashboard`` opens.

The journal is written for others to read. A study never reads it, so it may be deleted at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from study.search import Search, Trial, ended_in_optunas_form

__all__ = ["write_journal"]


def write_journal(path: Path, search: Search, trials: Sequence[Trial]) -> None:
    """Adds a search's trials that have ended, in their order, to a journal that may lack them.

    A journal that is damaged begins again, and so does a search whose trials it tells otherwise.

    Args:
        path: The journal's file; its folder is made if missing.
        search: The search, which is one of Optuna's studies in the journal.
        trials: Its trials so far.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = ended_in_optunas_form(search, trials)
    Path(f"{path}.lock").unlink(missing_ok=True)  # a killed study's; no other writes this journal
    try:
        _add(path, search.name, ended)
    except Exception:  # whatever Optuna stumbles over, the journal can be made again
        path.unlink(missing_ok=True)
        _add(path, search.name, ended)


def _add(path: Path, name: str, ended: Sequence[FrozenTrial]) -> None:
    storage = JournalStorage(JournalFileBackend(str(path)))
    study = _study(storage, name)
    written = study.get_trials(deepcopy=False)
    same = [ours.params == theirs.params for ours, theirs in zip(ended, written, strict=False)]
    if not all(same) or len(written) > len(ended):
        optuna.delete_study(study_name=name, storage=storage)
        study, written = _study(storage, name), []
    for trial in ended[len(written) :]:
        study.add_trial(trial)


def _study(storage: JournalStorage, name: str) -> optuna.Study:
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        return optuna.create_study(study_name=name, storage=storage, direction="maximize")
