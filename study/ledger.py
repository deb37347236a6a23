"""What of a study is finished, as its results say."""

from collections.abc import Mapping
from dataclasses import dataclass

from study.agenda import Agenda, Finished, Outlook, next_jobs
from study.job import rung_key, stored_parts
from study.plan import Training
from study.results.rows import load_validation_scores, validation_accuracy
from study.results.store import ResultStore

__all__ = ["Ledger", "Objective", "look"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a search maximises: the validation top-1 of an arm's fusion.

    Attributes:
        fusion: The arm's fusion.
        groups: Each validation video's source video, which cross-fitting never divides.
    """

    fusion: str
    groups: Mapping[str, str]


class Ledger:
    """Keeps what is finished: read from the results once, then again as jobs end.

    A training that failed in an earlier run isn't finished; it is tried again.

    Args:
        results: The results.
        objectives: What each search maximises, by the search's name.
    """

    def __init__(self, results: ResultStore, objectives: Mapping[str, Objective]) -> None:
        self._results = results
        self._objectives = objectives
        self._known: dict[str, set[tuple[str, str]]] = {}  # by training: what was read
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        self._parts: dict[str, frozenset[str]] = {}
        self._failed: dict[str, str] = {}

    @property
    def finished(self) -> Finished:
        """What is finished."""
        return Finished(values=self._values, parts=self._parts, failed=self._failed)

    def fail(self, training_id: str, reason: str) -> None:
        """Notes that a training can't be finished."""
        self._failed[training_id] = reason

    def forget(self, training_id: str) -> None:
        """Has a training's results read again, as one of its jobs has ended."""
        self._known.pop(training_id, None)

    def read(self, agenda: Agenda, outlook: Outlook) -> bool:
        """Reads the results of what an outlook names and nobody has asked for before.

        Returns:
            Whether there were any: then another outlook can be had.
        """
        found = [
            self._read_parts(row.training)
            for row in outlook.plan.rows
            if self._is_new(row.training.training_id, ("parts", row.training.scoring_id))
        ]
        for one in agenda.searches:
            for trial in outlook.searches[one.search.name]:
                identity = agenda.training(one, trial.values).training_id
                key = (one.search.name, one.reading_key(identity, trial.values))
                if self._is_new(identity, key):
                    found.append(self._read_values(key, identity, one.search.rungs, trial.values))
        return any(found)

    def _is_new(self, identity: str, key: tuple[str, str]) -> bool:
        """Whether what is known of a training's parts, or of its value, is asked for first."""
        known = self._known.setdefault(identity, set())
        if key in known:
            return False
        known.add(key)
        return True

    def _read_parts(self, training: Training) -> bool:
        parts = stored_parts(self._results, training)
        changed = self._parts.get(training.scoring_id, frozenset()) != parts
        self._parts[training.scoring_id] = parts
        return changed

    def _read_values(
        self,
        key: tuple[str, str],
        identity: str,
        rungs: tuple[int, ...],
        values: Mapping[str, object],
    ) -> bool:
        objective = self._objectives[key[0]]
        known = self._values.setdefault(key, {})
        new = [epoch for epoch in rungs if epoch not in known]
        keys = {epoch: rung_key(identity, epoch) for epoch in new}
        scores = load_validation_scores(self._results, identity, keys)
        for epoch, of_epoch in scores.items():
            known[epoch] = validation_accuracy(
                objective.fusion,
                of_epoch,
                groups=objective.groups,
                fusion_lambda=values.get("fusion_lambda"),  # type: ignore[arg-type]
            )
        return bool(scores)


def look(agenda: Agenda, ledger: Ledger) -> Outlook:
    """Returns where a study stands: asks what is next until the results have no more to say."""
    outlook = next_jobs(agenda, ledger.finished)
    while ledger.read(agenda, outlook):
        outlook = next_jobs(agenda, ledger.finished)
    return outlook
