"""The searches of a study as an Optuna journal, which ``optuna-dashboard`` opens.

The journal is written for others to read. A study never reads it, so it may be deleted at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from study.search import Search, Trial, ended_in_optunas_form

__all__ = ["write_journal"]


def write_journal(path: Path, search: Search, trials: Sequence[Trial]) -> None:
    """Adds a search's trials that have ended, in their order, to a journal that may lack them.

    A journal that is damaged, or tells otherwise of the trials, begins again.

    Args:
        path: The journal's file; its folder is made if missing.
        search: The search, which is one of Optuna's studies in the journal.
        trials: Its trials so far.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    ended = ended_in_optunas_form(search, trials)
    try:
        study = _open(path, search)
        written = study.get_trials(deepcopy=False)
        agrees = all(
            ours.params == theirs.params for ours, theirs in zip(ended, written, strict=False)
        )
    except Exception:  # whatever Optuna stumbles over, the journal can be made again
        agrees = False
    if not agrees or len(written) > len(ended):
        path.unlink(missing_ok=True)
        study, written = _open(path, search), []
    for trial in ended[len(written) :]:
        study.add_trial(trial)


def _open(path: Path, search: Search) -> optuna.Study:
    Path(f"{path}.lock").unlink(missing_ok=True)  # a killed study's; no other writes this journal
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=search.name,
        direction="maximize",
        load_if_exists=True,
    )
