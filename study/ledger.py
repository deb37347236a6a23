"""What of a study is finished, as its results say."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from study.agenda import Agenda, ArmSearch, Finished, Outlook, next_jobs
from study.choices import best_trials, choose_trials
from study.job import checkpoint_place, is_finished, rung_key, stored_parts
from study.networks import kept_networks
from study.plan import Training, scoring_id, streams_apart, with_stages
from study.results.rows import load_validation_scores, validation_accuracy
from study.results.store import ResultStore
from study.scores import Scores
from study.search import Chosen, Search, Trial
from study.training.checkpoint import checkpoint_exists

__all__ = ["Ledger", "Objective", "look"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """What a search maximises, the validation top-1 of a fusion, and by what its arms choose.

    Attributes:
        fusion: The fusion.
        groups: Each validation video's source video, which cross-fitting never divides.
        arms: By name, the fusion of each arm that chooses among the search's trials for itself.
        fusion_lambda: The λ that all arms are given, or None where each has its own.
    """

    fusion: str
    groups: Mapping[str, str]
    arms: Mapping[str, str] = field(default_factory=dict)
    fusion_lambda: float | None = None


class Ledger:
    """Keeps what is finished: read from the results once, then again as jobs end.

    A training that failed in an earlier run isn't finished; it is tried again.

    Args:
        results: The results.
        objectives: What each search maximises, by the search's name.
        checkpoints: The folder of checkpoints, or its URI.
    """

    def __init__(
        self, results: ResultStore, objectives: Mapping[str, Objective], *, checkpoints: str
    ) -> None:
        self._results = results
        self._objectives = objectives
        self._checkpoints = checkpoints
        self._known: dict[str, set[tuple[str, str]]] = {}  # by training: what was read
        self._values: dict[tuple[str, str], dict[int, float]] = {}
        self._parts: dict[str, frozenset[str]] = {}
        self._failed: dict[str, str] = {}
        self._choices: dict[str, Mapping[str, Chosen]] = {}
        self._networks: dict[str, str] = {}
        self._served_by = _served_by(results)

    @property
    def finished(self) -> Finished:
        """What is finished."""
        return Finished(
            values=self._values,
            parts=self._parts,
            failed=self._failed,
            choices=self._choices,
            networks=self._networks,
        )

    def sources(self, training: Training) -> dict[str, str]:
        """Returns by each of a training's `starts` the one whose stored network it begins with."""
        starts = training.starts.items()
        return {given: self._networks[one] for given, one in starts if one in self._networks}

    def stages(self, training: Training) -> set[str]:
        """Returns the trainings whose stored networks one comes from, directly or not."""
        every = with_stages([training]).values()
        return {source for one in every for source in self.sources(one).values()}

    def source(self, training: Training) -> str:
        """Returns the id of the training whose scores stand for a training's own.

        It is the training itself, unless a finished one of more streams, which train as they would
        alone, has served it from the beginning.
        """
        own = training.training_id
        every = (own, *self._served_by.get(own, ()))
        return next((one for one in every if self._stored_parts(one, training)), own)

    def _stored_parts(self, identity: str, training: Training) -> frozenset[str]:
        """Returns the parts that a training is scored on in the views of another."""
        hyperparameters = training.hyperparameters
        return stored_parts(self._results, identity, scoring_id(identity, hyperparameters))

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
        found = []
        for row in outlook.plan.rows:
            for training in row.distinct_trainings:
                if self._is_new(training.training_id, ("parts", training.scoring_id)):
                    found.append(self._read_parts(training))
                found.append(self._read_networks(training))
        for one in agenda.searches:
            for trial in outlook.searches[one.search.name]:
                training = agenda.training(one, trial.values)
                identity = training.training_id
                if self._is_new(identity, (one.search.name, identity)):
                    found.append(self._read_values(one.search, identity))
                found.append(self._read_networks(training))
            if one.search.name in outlook.undecided:
                self._choices[one.search.name] = self._choose(
                    agenda, one, outlook.searches[one.search.name]
                )
                found.append(True)
        return any(found)

    def _is_new(self, identity: str, key: tuple[str, str]) -> bool:
        """Whether what is known of a training's parts, or of its value, is asked for first."""
        known = self._known.setdefault(identity, set())
        if key in known:
            return False
        known.add(key)
        return True

    def _read_parts(self, training: Training) -> bool:
        parts = self._stored_parts(self.source(training), training)
        changed = self._parts.get(training.scoring_id, frozenset()) != parts
        self._parts[training.scoring_id] = parts
        return changed

    def _read_networks(self, training: Training) -> bool:
        """Reads whether the networks that a training starts from are stored, or its own is kept."""
        found = []
        for one in with_stages([training]).values() if training.starts else ():
            identity = one.training_id
            if one.starts and self._is_new(identity, ("network", identity)):
                kept = identity in kept_networks(self._results)
                found.append(self._note_network(identity, [identity] if kept else []))
            for given, start in one.starts.items():
                first = one.first_stage(given).training_id
                if self._is_new(first, ("network of", start)):
                    there = dict.fromkeys((start, first, *self._served_by.get(start, ())))
                    found.append(self._note_network(start, filter(self._has_network, there)))
        return any(found)

    def _note_network(self, identity: str, sources: Iterable[str]) -> bool:
        """Notes the first of the trainings that store a network; returns whether that is new."""
        source = next(iter(sources), None)
        if source is None or identity in self._networks:
            return False
        self._networks[identity] = source
        return True

    def _has_network(self, identity: str) -> bool:
        stored = checkpoint_exists(checkpoint_place(self._checkpoints, identity))
        stored = stored or identity in kept_networks(self._results)
        return stored and is_finished(self._results, identity)

    def _read_values(self, search: Search, identity: str) -> bool:
        objective = self._objectives[search.name]
        known = self._values.setdefault((search.name, identity), {})
        scores = self._validation_scores(
            identity, [epoch for epoch in search.rungs if epoch not in known]
        )
        if search.rungs[-1] in scores and not is_finished(self._results, identity):
            del scores[search.rungs[-1]]  # its job was lost while it wrote
        for epoch, of_epoch in scores.items():
            known[epoch] = validation_accuracy(
                objective.fusion,
                of_epoch,
                groups=objective.groups,
                fusion_lambda=objective.fusion_lambda,
            )
        return bool(scores)

    def _validation_scores(self, identity: str, epochs: Sequence[int]) -> dict[int, Scores]:
        """Reads a training's scores at some epochs, as far as stored."""
        keys = {epoch: rung_key(identity, epoch) for epoch in epochs}
        return load_validation_scores(self._results, identity, keys)

    def _choose(
        self, agenda: Agenda, one: ArmSearch, trials: Sequence[Trial]
    ) -> Mapping[str, Chosen]:
        """Has each arm choose among the best complete trials."""
        objective, last = self._objectives[one.search.name], one.search.rungs[-1]
        trainings = {
            trial.number: agenda.training(one, trial.values) for trial in best_trials(trials)
        }
        scores = {
            number: self._validation_scores(training.training_id, [last])[last]
            for number, training in trainings.items()
        }
        return {
            arm: choose_trials(
                fusion,
                scores,
                apart=all(map(streams_apart, trainings.values())),
                groups=objective.groups,
                fusion_lambda=objective.fusion_lambda,
            )
            for arm, fusion in objective.arms.items()
        }


def look(agenda: Agenda, ledger: Ledger) -> Outlook:
    """Returns where a study stands: asks what is next until the results have no more to say."""
    outlook = next_jobs(agenda, ledger.finished)
    while ledger.read(agenda, outlook):
        outlook = next_jobs(agenda, ledger.finished)
    return outlook


def _served_by(results: ResultStore) -> dict[str, list[str]]:
    """Returns for each training of fewer streams the finished trainings that have its scores."""
    lines = results.read(
        "trainings", columns=["training_id", "serves", "status"], status="finished"
    )
    found: dict[str, list[str]] = {}
    for line in lines.sort_by("training_id").to_pylist():
        for served in json.loads(line["serves"] or "[]"):
            found.setdefault(served, []).append(line["training_id"])
    return found
