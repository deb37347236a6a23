"""What of a study is left to do, and about how long it takes.

Work is counted in passes: one segment of a clip, forward through a training's network. A backward
pass counts as two. So one number, the seconds of a pass, tells the time of training, validation
and scoring, and what a network took in one study tells what it takes in another (all ours).
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from models.flops import count_flops
from study.agenda import Agenda, Outlook
from study.data.clips.transforms import test_crops
from study.data.datasets.parts import Parts
from study.plan import Plan, PlannedRow, Training, meta_network, stages_left
from study.provenance import canonical_json
from study.request import Study
from study.search import Search, Trial
from study.training.clips import clip_settings

__all__ = [
    "Estimate",
    "Pace",
    "Paces",
    "Phase",
    "Span",
    "Work",
    "epoch_passes",
    "estimate",
    "estimate_study",
    "expected_epochs",
    "expected_jobs",
    "gflops_of",
    "longest_chain",
    "net_key",
    "scoring_passes",
    "work_left",
]

Phase = Literal["search", "trainings", "scoring"]
Span = tuple[float, float]
"""The least and the most that is expected."""

BACKWARD = 2  # forward passes that take as long as a backward pass
SPREAD = {"measured": 1.25, "GFLOPs": 2.0}  # either way; ours
START_SECONDS = 15.0  # of Ray, and of ending it; ours
JOB_SECONDS = 1.0  # of starting a job's process, network and clips; ours
_sizes: dict[str, float] = {}
_CLIP = ("segments", "crop_size", "flow_length", "precision")


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """A piece of what is left.

    Attributes:
        phase: ``search``, ``trainings`` (of the reported rows) or ``scoring``.
        training: What is trained or scored; for a trial to come, the untuned one in its place.
        passes: Segments through its network, a backward pass counted as two.
        jobs: Jobs that do it.
        most: How many times as much it may come to.
    """

    phase: Phase
    training: Training
    passes: float
    jobs: float = 0.0
    most: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """How fast a network is.

    Attributes:
        seconds: Of one process for a pass, the least and the most.
        source: ``earlier`` (trainings in the results), ``measured`` (a few steps, here) or
            ``GFLOPs`` (in proportion to another network).
    """

    seconds: Span
    source: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """How long a study takes.

    Attributes:
        phases: By phase, the seconds that its trainings take together, of one process each.
        wall: Seconds from the start to the end.
        unknown: A training of each network of whose speed nothing is known; these are left out.
    """

    phases: Mapping[Phase, Span]
    wall: Span
    unknown: Sequence[Training] = ()


@dataclass
class Paces:
    """What is known of networks' speed on one kind of device."""

    _known: dict[str, "_Measured"] = field(default_factory=dict)

    def add(self, training: Training, *, seconds: float, source: str) -> None:
        """Adds what a training took.

        Args:
            training: The training.
            seconds: Of one process for a pass.
            source: As of `Pace`.
        """
        size = gflops_of(training) / training.hyperparameters.segments
        self._add(key_of(training), training.model, size, seconds, source)

    def renew(self, training: Training, *, seconds: float) -> None:
        """Has what a running training takes stand in place of all that was known of its network.

        Args:
            training: The training.
            seconds: Of one process for a pass.
        """
        self._known.pop(key_of(training), None)
        self.add(training, seconds=seconds, source="measured")

    def add_earlier(self, line: Mapping[str, Any], *, seconds: float) -> None:
        """Adds what a training of this study or another took.

        Args:
            line: A finished training's line in ``trainings``.
            seconds: All of its epochs, without what scoring took then.
        """
        hyperparameters = json.loads(line["hyperparameters"])
        segments = hyperparameters["segments"]
        passes = segments * line["epochs"]
        passes *= (1 + BACKWARD) * line["train_videos"] + (line["validation_videos"] or 0)
        key = net_key(line["model"], json.loads(line["options"]), hyperparameters)
        size = line["gflops"] / segments
        self._add(key, line["model"], size, seconds * line["workers"] / passes, "earlier")

    def _add(self, key: str, model: str, size: float, seconds: float, source: str) -> None:
        known = self._known.setdefault(key, _Measured(model=model, gflops=size, source=source))
        known.seconds.append(seconds)

    def of(self, training: Training) -> Pace | None:
        """Returns a network's pace; by the GFLOPs of the nearest known one if it isn't known.

        The nearest is one of the same model if there is any, and of these the one of the nearest
        size. None where nothing at all is known.
        """
        known = self._known.get(key_of(training))
        if known is not None:
            spread = SPREAD.get(known.source, 1.0) if len(known.seconds) == 1 else 1.0
            low, high = min(known.seconds), max(known.seconds)
            return Pace(seconds=(low / spread, high * spread), source=known.source)
        if not self._known:
            return None
        size = gflops_of(training) / training.hyperparameters.segments

        def distance(one: _Measured) -> tuple[bool, float]:
            return one.model != training.model, max(one.gflops / size, size / one.gflops)

        nearest = min(self._known.values(), key=distance)
        seconds = sum(nearest.seconds) / len(nearest.seconds) * size / nearest.gflops
        spread = SPREAD["GFLOPs"] if nearest.model != training.model else SPREAD["measured"]
        return Pace(seconds=(seconds / spread, seconds * spread), source="GFLOPs")


@dataclass(kw_only=True)
class _Measured:
    """Seconds a pass of one network; its GFLOPs are of a pass."""

    model: str
    gflops: float
    source: str
    seconds: list[float] = field(default_factory=list)


def net_key(model: str, options: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> str:
    """Returns what a network's speed depends on.

    An option that is a fraction, such as dropout, matters only by being zero.
    """
    flags = {
        name: bool(value) if isinstance(value, float) else value for name, value in options.items()
    }
    return canonical_json([model, flags, [hyperparameters[name] for name in _CLIP]])


def key_of(training: Training) -> str:
    """Returns the `net_key` of a training."""
    hyperparameters = {name: getattr(training.hyperparameters, name) for name in _CLIP}
    return net_key(training.model, training.options, hyperparameters)


def gflops_of(training: Training) -> float:
    """Returns billions of multiply–adds of one training clip's forward pass."""
    key = key_of(training)
    if key not in _sizes:
        net, hyperparameters = meta_network(training), training.hyperparameters
        frames, size = hyperparameters.segments, hyperparameters.crop_size
        _sizes[key] = count_flops(net, net.example_inputs(frames=frames, size=size))
    return _sizes[key]


def epoch_passes(training: Training, parts: Parts) -> int:
    """Returns the passes of an epoch: every training video, then every validation video."""
    segments = training.hyperparameters.segments
    return segments * ((1 + BACKWARD) * len(parts.train) + len(parts.validation))


def scoring_passes(training: Training, parts: Parts, scored: Iterable[str]) -> int:
    """Returns the passes of scoring some parts once as rows report them.

    The validation part is not scored again where a test clip is as a validation clip.
    """
    hyperparameters = training.hyperparameters
    crops = test_crops(
        1, 1, size=1, scales=hyperparameters.scales, crops=hyperparameters.test_crops
    )
    larger = (hyperparameters.tested_size / hyperparameters.crop_size) ** 2
    frames = hyperparameters.test_segments * hyperparameters.test_clips * len(crops)
    views = round(larger * frames)
    alike = clip_settings(hyperparameters) == clip_settings(hyperparameters, views=True)
    of_video = {
        "train": views,
        "validation": 0 if alike else views,
        "test": views,
    }
    return sum(len(getattr(parts, part)) * of_video[part] for part in scored)


def expected_epochs(search: Search, *, reached: int = 0, next_rung: int | None = None) -> float:
    """Returns the epochs that a trial trains on average, if trials' values come in random order.

    Args:
        search: The search.
        reached: Epochs that the trial has behind it.
        next_rung: The rung to which it goes on; None for the first.
    """
    first = 0 if next_rung is None else search.rungs.index(next_rung)
    epochs, share = float(search.rungs[first] - reached), 1.0
    for level, goes_on in list(enumerate(_shares(search)))[first:]:
        share *= goes_on
        epochs += share * (search.rungs[level + 1] - search.rungs[level])
    return epochs


def _shares(search: Search) -> list[float]:
    """Returns the share of the trials at each rung but the last that go on.

    The n-th of them does if fewer than ⌈n/η⌉ of the n are better.
    """
    shares, there = [], search.trials
    for _ in search.rungs[:-1]:
        going_on = sum(
            1.0 if n < search.prune_from else -(-n // search.eta) / n for n in range(1, there + 1)
        )
        shares.append(going_on / there)
        there = max(1, round(going_on))
    return shares


def work_left(
    study: Study,
    agenda: Agenda,
    outlook: Outlook,
    *,
    untuned: Plan,
    reached: Mapping[str, int] | None = None,
) -> list[Work]:
    """Returns what is left of a study.

    Args:
        study: The study.
        agenda: Its agenda.
        outlook: Where it stands.
        untuned: Its whole plan without what searches find, ``study.plan()``.
        reached: By training, the epochs that running jobs have finished.
    """
    reached = reached or {}
    work = list(_search_work(study, agenda, outlook, reached))
    planned = {_row_key(row.arm.name, row.training) for row in outlook.plan.rows}
    lost = {arm for failure in outlook.failures if failure.search for arm in failure.arms}
    for job in (*outlook.jobs, *outlook.held_up):
        if job.search is None:
            epochs = job.until - reached.get(job.training.training_id, 0)
            work += _reported_work(study, job.training, epochs, job.parts)
    to_come = [
        row
        for row in untuned.rows
        if _row_key(row.arm.name, row.training) not in planned and row.arm.name not in lost
    ]
    parts: dict[str, set[str]] = defaultdict(set)
    for row in to_come:
        for training in row.distinct_trainings:
            parts[training.training_id].update(agenda.parts(row, training))
    most = _most_of_each(agenda, to_come)
    counted = {job.training.training_id for job in (*outlook.jobs, *outlook.held_up)}
    for identity in tuple(parts):
        for first in stages_left(untuned.trainings[identity], outlook.networks):
            if first not in counted:
                parts.setdefault(first, set())
    for identity, scored in parts.items():
        training = untuned.trainings[identity]
        epochs = training.hyperparameters.epochs
        pieces = _reported_work(study, training, epochs, scored)
        work += [replace(piece, most=most.get(identity, 1)) for piece in pieces]
    return work


def _most_of_each(agenda: Agenda, rows: Sequence[PlannedRow]) -> dict[str, int]:
    """Returns how many trainings may come of each untuned one.

    Where arms choose among a search's trials for themselves, each that reads a stream may have it
    trained at another trial's settings.
    """
    trials = {
        arm: one.search.trials for one in agenda.searches if one.own_choices for arm in one.arms
    }
    most: dict[str, int] = {}
    reading: Counter[tuple[str, str]] = Counter()
    for row in rows:
        for stream, training in (*row.trainings.items(), *row.fitted_on.items()):
            identity = training.training_id
            reading[identity, stream] += 1
            choices = min(reading[identity, stream], trials.get(row.arm.name, 1))
            most[identity] = max(choices, most.get(identity, 1))
    return most


def _row_key(arm: str, training: Training) -> tuple[object, ...]:
    return arm, training.target, training.seed


def _search_work(
    study: Study, agenda: Agenda, outlook: Outlook, reached: Mapping[str, int]
) -> Iterator[Work]:
    for one in agenda.searches:
        trials = outlook.searches[one.search.name]
        for trial in trials:
            if not trial.ended:
                training = agenda.training(one, trial.values)
                epochs = _epochs_left(one.search, trial, reached.get(training.training_id, 0))
                yield _trial_work(study, training, epochs, jobs=1)
        if unproposed := one.search.trials - len(trials):
            jobs = expected_jobs(one.search)
            epochs = unproposed * expected_epochs(one.search)
            yield _trial_work(study, agenda.training(one, {}), epochs, jobs=unproposed * jobs)


def _trial_work(study: Study, training: Training, epochs: float, *, jobs: float) -> Work:
    passes = epochs * epoch_passes(training, study.parts_of(training))
    return Work(phase="search", training=training, passes=passes, jobs=jobs)


def _epochs_left(search: Search, trial: Trial, reached: int) -> float:
    have = max([reached, *trial.readings])
    left = expected_epochs(search, reached=have, next_rung=trial.next_rung)
    if trial.state == "waiting":
        left *= _shares(search)[search.rungs.index(have)]
    return left


def expected_jobs(search: Search) -> float:
    """Returns the jobs that a trial is on average: one for each rung to which it trains."""
    jobs = share = 1.0
    for goes_on in _shares(search):
        share *= goes_on
        jobs += share
    return jobs


def _reported_work(
    study: Study, training: Training, epochs: float, scored: Iterable[str]
) -> list[Work]:
    parts = study.parts_of(training)
    passes = epochs * epoch_passes(training, parts)
    return [
        Work(phase="trainings", training=training, passes=passes, jobs=1.0 if epochs else 0.0),
        Work(
            phase="scoring",
            training=training,
            passes=scoring_passes(training, parts, scored),
            jobs=0.0 if epochs else 1.0,
        ),
    ]


def longest_chain(
    agenda: Agenda, outlook: Outlook, epoch_seconds: Callable[[Training], float]
) -> float:
    """Returns the seconds of the trainings that wait for one another.

    Of a search's trials each waits for the one ``lag`` before it, and the reported trainings wait
    for the last. All wait for what they start from.

    Args:
        agenda: The study's agenda.
        outlook: Where it stands.
        epoch_seconds: The seconds of an epoch of a training.
    """

    def whole(training: Training) -> float:
        """The seconds of a training and of what it starts from."""
        own = training.hyperparameters.epochs * epoch_seconds(training)
        return own + before(training)

    def before(training: Training) -> float:
        left = stages_left(training, outlook.networks)
        return max(map(whole, left.values()), default=0.0)

    longest = max((whole(job.training) for job in outlook.held_up), default=0.0)
    for one in agenda.searches:
        left = one.search.trials - sum(t.ended for t in outlook.searches[one.search.name])
        epochs = -(-left // one.search.lag) * expected_epochs(one.search)
        training = agenda.training(one, {})
        seconds = (epochs + one.search.rungs[-1]) * epoch_seconds(training) + before(training)
        longest = max(longest, seconds if left else 0.0)
    return longest


def estimate_study(
    study: Study,
    agenda: Agenda,
    outlook: Outlook,
    paces: Paces,
    *,
    untuned: Plan,
    at_once: int,
    reached: Mapping[str, int] | None = None,
) -> Estimate:
    """Estimates how long what is left of a study takes.

    Args:
        study: The study.
        agenda: Its agenda.
        outlook: Where it stands.
        paces: What is known of its networks' speed.
        untuned: Its whole plan without what searches find, ``study.plan()``.
        at_once: Trainings that run at once.
        reached: By training, the epochs that running jobs have finished.
    """
    workers = study.request.resources.workers

    def epoch_seconds(end: int) -> Callable[[Training], float]:
        def seconds(training: Training) -> float:
            pace = paces.of(training)
            passes = epoch_passes(training, study.parts_of(training))
            return 0.0 if pace is None else passes * pace.seconds[end] / workers

        return seconds

    return estimate(
        work_left(study, agenda, outlook, untuned=untuned, reached=reached),
        paces.of,
        workers=workers,
        at_once=at_once,
        chain=(
            longest_chain(agenda, outlook, epoch_seconds(0)),
            longest_chain(agenda, outlook, epoch_seconds(1)),
        ),
    )


def estimate(
    work: Iterable[Work],
    pace: Callable[[Training], Pace | None],
    *,
    workers: int = 1,
    at_once: int = 1,
    chain: Span = (0.0, 0.0),
) -> Estimate:
    """Estimates how long work takes.

    The wall time is no less than the work divided by the places, nor than the longest chain of
    trainings that wait for one another; and no more than the first and the share of the chain in
    which other places idle (Graham, "Bounds on multiprocessing timing anomalies", 1969, eq. 1).

    Args:
        work: What is left.
        pace: The pace of a training's network, None where it isn't known.
        workers: Processes of each training, which divide its passes.
        at_once: Trainings that run at once.
        chain: Seconds of the longest chain, the least and the most.
    """
    phases: dict[Phase, list[float]] = {}
    unknown: dict[str, Training] = {}
    wall = [0.0, 0.0]
    for piece in work:
        known = pace(piece.training)
        if known is None:
            unknown[key_of(piece.training)] = piece.training
            continue
        spans = phases.setdefault(piece.phase, [0.0, 0.0])
        for end, (seconds, times) in enumerate(zip(known.seconds, (1, piece.most), strict=True)):
            spans[end] += times * piece.passes * seconds
            own = piece.passes * seconds / workers + piece.jobs * JOB_SECONDS
            wall[end] += times * own / at_once
    return Estimate(
        phases={phase: (low, high) for phase, (low, high) in phases.items()},
        wall=(
            START_SECONDS + max(wall[0], chain[0]),
            START_SECONDS + wall[1] + chain[1] * (1 - 1 / at_once),
        ),
        unknown=tuple(unknown.values()),
    )
