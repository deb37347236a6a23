"""What to do next is a function of what is finished.

A study's searches and its ablation share one queue. ``next_jobs`` says from the trainings' values,
scores and failures alone which jobs may run now, so a killed study goes on by asking again, and
neither the number of places nor the order in which jobs end changes a trial, a row or a number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from study.plan import Plan, PlannedRow, Training, stages_left
from study.search import Chosen, Readings, Search, Trial, best_trial, trials_of

__all__ = [
    "Agenda",
    "ArmSearch",
    "Failure",
    "Finished",
    "Found",
    "Job",
    "Outlook",
    "Waiting",
    "next_jobs",
]

_Need = tuple[PlannedRow, tuple[tuple[Training, tuple[str, ...]], ...]]
"""A row, and its trainings with the parts that it needs of each."""

_Known = dict[str, tuple[Training, Readings]]
"""By id, trainings that a search asked for, and what was known of each."""


@dataclass(frozen=True, kw_only=True)
class ArmSearch:
    """A search and what it is for.

    Attributes:
        search: The search; its last rung is its trainings' last epoch.
        make_training: The training of proposed values.
        arms: Names of the arms that need what it finds; they are lost with it.
        target: Dataset and split in a few words.
        label: What tells it from the study's other searches, in a few words.
        own_choices: Whether each of the arms chooses among its trials by an objective of its own.
    """

    search: Search
    make_training: Callable[[Mapping[str, Any]], Training]
    arms: tuple[str, ...]
    target: str
    label: str = ""
    own_choices: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """What a finished search found.

    Attributes:
        trial: Its best complete trial.
        trials: All of its trials.
        choices: By arm, what it chose among them, where arms choose for themselves.
    """

    trial: Trial
    trials: tuple[Trial, ...]
    choices: Mapping[str, Chosen] = field(default_factory=dict)

    @property
    def values(self) -> Mapping[str, Any]:
        """The best trial's values."""
        return self.trial.values


@dataclass(frozen=True, kw_only=True)
class Agenda:
    """All that a study has to do.

    Attributes:
        searches: Its searches, in the order in which they take equal places in the queue.
        plan: The plan of the arms whose searches are in what is found, by the search's name, and
            of those that need none; None is found where no trial completed. What it plans for an
            arm must not change when more is found: arms that share trainings have to come in
            together.
        parts: The parts whose scores a row needs of one of its trainings.
        cost: About how long an epoch of a training takes, in any unit. It changes the queue's
            order and nothing else.
    """

    searches: tuple[ArmSearch, ...]
    plan: Callable[[Mapping[str, Found | None]], Plan]
    parts: Callable[[PlannedRow, Training], tuple[str, ...]]
    cost: Callable[[Training], float] = lambda training: 1.0
    _memory: "_Memory" = field(init=False, repr=False, compare=False)

    def training(self, one: ArmSearch, values: Mapping[str, Any]) -> Training:
        """Returns the training of values that a search proposed."""
        return self._memory.training(one, values)[0]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memory", _Memory())
        names = [one.search.name for one in self.searches]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"searches of one name on an agenda: {', '.join(repeated)}")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """What is finished.

    Attributes:
        values: By search and training, the search's objective by epoch. A training that has come
            past a rung of a search has the value there, whatever it ran for.
        parts: By scoring id, the parts whose scores are stored; the training has reached its last
            epoch.
        failed: By training, why it failed for good.
        choices: By search, what each of its arms chose among its trials once all have ended.
        networks: By a training that another one starts from, the one whose stored network is its
            own; by a training that starts from others, itself where its network is kept.
    """

    values: Mapping[tuple[str, str], Mapping[int, float]] = field(default_factory=dict)
    parts: Mapping[str, frozenset[str]] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    choices: Mapping[str, Mapping[str, Chosen]] = field(default_factory=dict)
    networks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A piece of a training that may run now.

    Attributes:
        training: The training, which goes on from where it stands.
        until: The epoch at whose end the job ends.
        parts: The parts to score then.
        search: The name of the search that it is a trial of, or None in the ablation.
        trial: The trial's number, or None.
        network: Whether another training starts from its network.
    """

    training: Training
    until: int
    parts: tuple[str, ...] = ()
    network: bool = False
    search: str | None = None
    trial: int | None = None


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """What of a search can't run yet.

    Attributes:
        search: The search's name.
        at_rungs: How many trials wait for a decision.
        unproposed: How many are not yet proposed.
        blocking: The number of the earliest trial that hasn't ended: all wait for it at last.
    """

    search: str
    at_rungs: int
    unproposed: int
    blocking: int


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Rows that can't be made.

    Attributes:
        arms: Names of the arms.
        reason: Why.
        search: The name of the search without a complete trial, or None.
        training_id: The planned training that failed, or None.
    """

    arms: tuple[str, ...]
    reason: str
    search: str | None = None
    training_id: str | None = None

    def __str__(self) -> str:
        """Returns arms and reason, for a person."""
        return f"{', '.join(self.arms)}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What may run now, and where the study stands.

    Attributes:
        jobs: The jobs that may run now, the most urgent first, never two of one training. Those
            that run already are among them.
        held_up: The jobs that may run once what their trainings start from is finished.
        waiting: What can't run yet, by search.
        searches: The trials of each search so far.
        undecided: Names of the searches whose trials have ended and whose arms' choices among them
            aren't in what is finished.
        networks: As of what is finished.
        plan: The plan of all arms whose searches are done.
        rows: Its rows whose scores are all stored.
        failures: The arms that are lost, and why.
    """

    jobs: tuple[Job, ...]
    held_up: tuple[Job, ...]
    waiting: tuple[Waiting, ...]
    searches: Mapping[str, tuple[Trial, ...]]
    undecided: tuple[str, ...]
    networks: Mapping[str, str]
    plan: Plan
    rows: tuple[PlannedRow, ...]
    failures: tuple[Failure, ...]

    @property
    def done(self) -> bool:
        """Whether nothing is left to do; until then a job may run, or a choice is to be made."""
        return not self.jobs and not self.undecided


def next_jobs(agenda: Agenda, finished: Finished) -> Outlook:
    """Says what may run now.

    Run the first jobs whose trainings don't run already, as many as there are places, and ask
    again whenever one has ended.

    The queue has first what the longest chain of trainings waits for: a trial holds up the trials
    ``lag`` after it, those that these hold up, and the ablation at the end; a training of the
    ablation holds up nothing. Of equal chains, the earlier trial comes first. What a training
    starts from comes before it, and where that fails the training has failed too.
    """
    trials = {one.search.name: agenda._memory.trials(one, finished) for one in agenda.searches}
    waiting = tuple(
        what
        for one in agenda.searches
        if (what := _waiting(one.search, trials[one.search.name])) is not None
    )
    going_on = {what.search for what in waiting}
    found: dict[str, Found | None] = {}
    undecided = []
    for one in agenda.searches:
        name = one.search.name
        best = best_trial(trials[name])
        if name in going_on:
            continue
        if best is None:
            found[name] = None
        elif one.own_choices and name not in finished.choices:
            undecided.append(name)
        else:
            chosen = finished.choices.get(name, {})
            found[name] = Found(trial=best, trials=trials[name], choices=chosen)
    plan, needs = agenda._memory.plan(agenda, found)
    left: dict[str, tuple[Training, dict[str, None]]] = {}  # a dict keeps the parts' order
    rows, lost = [], []
    for row, trainings in needs:
        missing = {own.training_id: _missing(own, parts, finished) for own, parts in trainings}
        failed = {
            own.training_id: culprit
            for own, _ in trainings
            if missing[own.training_id] and (culprit := _failed(own, finished))
        }
        if failed:
            lost.append((row, *next(iter(failed.items()))))
        elif not any(missing.values()):
            rows.append(row)
        # What is lost with another training is trained all the same: which of two fails first
        # must make no difference.
        for own, _ in trainings:
            if missing[own.training_id] and own.training_id not in failed:
                _, of_scoring = left.setdefault(own.scoring_id, (own, {}))
                of_scoring.update(dict.fromkeys(missing[own.training_id]))
    jobs, held_up = _queue(agenda, trials, left, finished)
    return Outlook(
        jobs=jobs,
        held_up=held_up,
        waiting=waiting,
        searches=trials,
        undecided=tuple(undecided),
        networks=finished.networks,
        plan=plan,
        rows=tuple(rows),
        failures=(
            *(
                _failed_search(agenda, one, trials[one.search.name], finished)
                for one in agenda.searches
                if found.get(one.search.name, ...) is None
            ),
            *_failed_trainings(lost, finished),
        ),
    )


def _failed(training: Training, finished: Finished) -> str | None:
    """Returns the id of the training that failed, itself or one that it needs to start from."""
    needed = [training.training_id, *stages_left(training, finished.networks)]
    return next((key for key in needed if key in finished.failed), None)


def _missing(training: Training, parts: Sequence[str], finished: Finished) -> list[str]:
    stored = finished.parts.get(training.scoring_id, frozenset())
    return [part for part in parts if part not in stored]


def _waiting(search: Search, trials: tuple[Trial, ...]) -> Waiting | None:
    """What of a search can't run yet; None once the search is done."""
    blocking = next((trial.number for trial in trials if not trial.ended), None)
    if blocking is None:
        return None
    return Waiting(
        search=search.name,
        at_rungs=sum(trial.state == "waiting" for trial in trials),
        unproposed=search.trials - len(trials),
        blocking=blocking,
    )


def _queue(
    agenda: Agenda,
    trials: Mapping[str, tuple[Trial, ...]],
    left: Mapping[str, tuple[Training, Mapping[str, None]]],
    finished: Finished,
) -> tuple[tuple[Job, ...], tuple[Job, ...]]:
    """The jobs in their order, of several of one training the first, and those held up.

    Args:
        agenda: What there is to do.
        trials: By search, its trials.
        left: By scoring id, the training and the parts that are still to be scored.
        finished: What is finished.
    """
    jobs: list[tuple[float, int, str, Job]] = []
    for one in agenda.searches:
        for trial in trials[one.search.name]:
            if trial.state != "running" or trial.next_rung is None:
                continue
            training, key = agenda._memory.training(one, trial.values)
            ends = trial.next_rung == training.hyperparameters.epochs
            job = Job(
                training=training,
                until=trial.next_rung,
                parts=tuple(left.get(training.scoring_id, (training, ()))[1]) if ends else (),
                search=one.search.name,
                trial=trial.number,
            )
            behind = one.search.trials - trial.number
            follow = 1 + -(-behind // one.search.lag)
            jobs.append((follow * _time(agenda, training), behind, key, job))
    for training, parts in left.values():
        job = Job(training=training, until=training.hyperparameters.epochs, parts=tuple(parts))
        jobs.append((_time(agenda, training), 0, training.training_id, job))
    for chain, behind, _, job in tuple(jobs):
        for key, stage in stages_left(job.training, finished.networks).items():
            _, parts = left.get(stage.scoring_id, (stage, {}))
            first = Job(
                training=stage,
                until=stage.hyperparameters.epochs,
                parts=tuple(parts),
                network=True,
            )
            jobs.append((chain + _time(agenda, stage), behind, key, first))
    queue: dict[str, Job] = {}
    for *_, key, job in sorted(jobs, key=lambda one: one[:2], reverse=True):
        queue.setdefault(key, job)
    held_up = {
        key: job for key, job in queue.items() if stages_left(job.training, finished.networks)
    }
    return tuple(job for key, job in queue.items() if key not in held_up), tuple(held_up.values())


def _time(agenda: Agenda, training: Training) -> float:
    return agenda.cost(training) * training.hyperparameters.epochs


def _failed_search(
    agenda: Agenda, one: ArmSearch, trials: tuple[Trial, ...], finished: Finished
) -> Failure:
    # The best at a rung always goes on: where none is complete, some have failed.
    failed = next(trial for trial in trials if trial.state == "failed")
    training, key = agenda._memory.training(one, failed.values)
    culprit = _failed(training, finished) or key
    return Failure(
        arms=one.arms,
        reason=(
            f"none of the {len(trials)} trials on {one.target} completed; trial {failed.number} "
            f"failed with: {_reason(key, culprit, finished)}"
        ),
        search=one.search.name,
    )


def _failed_trainings(
    lost: Sequence[tuple[PlannedRow, str, str]], finished: Finished
) -> Iterator[Failure]:
    """The failures of rows, of which each comes with its training and the one that failed."""
    arms: dict[tuple[str, str], dict[str, None]] = {}
    for row, key, culprit in lost:
        arms.setdefault((culprit, _reason(key, culprit, finished)), {})[row.arm.name] = None
    for (culprit, reason), names in arms.items():
        yield Failure(arms=tuple(names), reason=reason, training_id=culprit)


def _reason(key: str, culprit: str, finished: Finished) -> str:
    """Returns why a training failed, or the one that it starts from."""
    return f"{'' if key == culprit else 'what it starts from: '}{finished.failed[culprit]}"


class _Memory:
    """What an agenda's functions returned, so that asking again is cheap; it decides nothing."""

    def __init__(self) -> None:
        self._trainings: dict[tuple[str, tuple[Any, ...]], tuple[Training, str]] = {}
        self._replays: dict[str, tuple[_Known, tuple[Trial, ...]]] = {}
        self._plan: tuple[Mapping[str, Found | None], Plan, tuple[_Need, ...]] | None = None

    def training(self, one: ArmSearch, values: Mapping[str, Any]) -> tuple[Training, str]:
        """The training of proposed values and its id."""
        key = (one.search.name, tuple(values.items()))
        if key not in self._trainings:
            training = one.make_training(values)
            self._trainings[key] = (training, training.training_id)
        return self._trainings[key]

    def trials(self, one: ArmSearch, finished: Finished) -> tuple[Trial, ...]:
        """The trials of a search; replayed where what is known of one of them has changed."""
        name = one.search.name

        def known(training: Training, training_id: str) -> Readings:
            values = finished.values.get((name, training_id), {})
            return Readings(values=values, failed=_failed(training, finished) is not None)

        before, trials = self._replays.get(name, ({}, ()))
        if before and all(known(one, key) == readings for key, (one, readings) in before.items()):
            return trials
        asked: _Known = {}

        def readings(values: Mapping[str, Any]) -> Readings:
            training, training_id = self.training(one, values)
            now = known(training, training_id)
            # The caller's own may change.
            asked[training_id] = training, replace(now, values=dict(now.values))
            return now

        trials = trials_of(one.search, readings)
        self._replays[name] = (asked, trials)
        return trials

    def plan(
        self, agenda: Agenda, found: Mapping[str, Found | None]
    ) -> tuple[Plan, tuple[_Need, ...]]:
        """The plan of what is found, and what its rows need."""
        if self._plan is None or self._plan[0] != found:
            plan = agenda.plan(found)
            needs = tuple(
                (row, tuple((own, agenda.parts(row, own)) for own in row.distinct_trainings))
                for row in plan.rows
            )
            self._plan = (found, plan, needs)
        return self._plan[1:]
