"""From arms to the fewest trainings that serve them.

Streams that don't interact and have separate losses train exactly as each would alone, so one
training of both serves every arm that reads either stream or any fusion of the two: late, early
and adaptively weighted fusion at every λ need scores and features, not another training. Seeds,
splits and hyperparameters do make a difference, so each combination of them is its own training.

Everything here is pure: the same arms, settings and targets give the same plan.
"""

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from hashlib import sha256
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from models import (
    VideoModel,
    create_model,
    make_options,
    model_options,
    options_without_effect,
)
from models.fusion import FUSIONS
from models.video_model import STREAM_INPUTS
from search_spaces.space import STREAMS, WHOLE, Arm, Settings, Space, Stage
from study.provenance import canonical_json, fingerprint
from study.source import PACKAGES, STARTING, source_version
from study.training.hyperparameters import Hyperparameters
from study.training.weights import divided_name

__all__ = [
    "MODALITIES",
    "Plan",
    "PlannedRow",
    "Target",
    "Training",
    "effective_options",
    "fewest_frames",
    "make_plan",
    "make_training",
    "meta_network",
    "modality",
    "model_modules",
    "net_key",
    "scoring_id",
    "served_trainings",
    "settings_of",
    "stages_left",
    "streams_apart",
    "streams_read",
    "with_stages",
]

MODALITIES = {"rgb": "RGB", "flow": "flow"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """What a training learns from and is judged on.

    Attributes:
        dataset: The dataset's name in the catalog.
        store_fingerprint: The clip store's fingerprint: what was decoded, and how.
        split: The split's name.
        carve: Draws which of the listed train videos are held out for validation.
    """

    dataset: str
    store_fingerprint: str
    split: str
    carve: int = 0


@dataclass(frozen=True, kw_only=True)
class Training:
    """One optimisation run, known by everything that can change its result, and by nothing else.

    Attributes:
        model: The model's name.
        options: All of the model's options, the defaults written out.
        hyperparameters: All hyperparameters.
        target: Dataset, store and split.
        seed: The seed of initial weights, order, augmentation and dropout.
        train_on: ``train`` holds the validation part out, ``all`` trains on it too.
        weights: Where the streams start: ``none`` or the content's name of a weights file, by
            stream where they differ, as of ``study.training.weights.joined_name``.
        code: The version of the source code that trains and scores it.
        starts_from: The trainings whose networks it starts from, by stream, or one by ``*`` for
            the whole network. One that has other streams too gives what its stream alone would.
    """

    model: str
    options: Mapping[str, Any]
    hyperparameters: Hyperparameters
    target: Target
    seed: int
    train_on: str
    weights: str
    code: str
    starts_from: Mapping[str, "Training"] = field(default_factory=dict)

    @cached_property
    def training_id(self) -> str:
        """The fingerprint: 16 hexadecimal digits.

        Options and hyperparameters without effect, and those of the scoring of test videos, don't
        count.
        """
        before, after = self._around_seed
        return sha256(f"{before}{self.seed}{after}".encode()).hexdigest()[:16]

    @cached_property
    def _around_seed(self) -> tuple[str, str]:
        """The canonical JSON that the fingerprint is of, before and after the seed."""
        mark = "\0"  # is in no name or value
        content = {
            "model": self.model,
            "options": effective_options(self.model, self.options),
            "hyperparameters": self.hyperparameters.of_training(),
            "target": asdict(self._own_target),
            "seed": mark,
            "train_on": self.train_on,
            "weights": self.weights,
            "code": self.code,
            **({"starts_from": [self.starts, _starting_code()]} if self.starts else {}),
        }
        before, after = canonical_json(content).split(canonical_json(mark))
        return before, after

    def with_seed(self, seed: int) -> "Training":
        """Returns the training with another seed, which starts from the same."""
        other = replace(self, seed=seed)
        vars(other)["_around_seed"] = self._around_seed  # takes longer to make than all the rest
        return other

    @cached_property
    def starts(self) -> Mapping[str, str]:
        """The ids of the trainings that it starts from, by stream or by ``*``.

        Where a first stage's streams train independently, they are those of each stream alone, so
        that no other stream which it trained has a say in what this training is.
        """
        found: dict[str, str] = {}
        if not self.starts_from:
            return found
        own = _own_net(self).starting_streams
        for given, first in self.starts_from.items():
            alone = _streams_alone(first)
            wanted = [stream for stream in own if given in (WHOLE, stream)]
            if alone:
                found |= {stream: alone[stream].training_id for stream in wanted}
            elif wanted:
                found[given] = first.training_id
        return found

    def first_stage(self, given: str) -> "Training":
        """Returns the training behind one of its `starts`."""
        return self.starts_from[given if given in self.starts_from else WHOLE]

    @property
    def _own_target(self) -> Target:
        """The target; a training on all of train has the same videos however they are carved."""
        return self.target if self.train_on == "train" else replace(self.target, carve=0)

    @cached_property
    def scoring_id(self) -> str:
        """The fingerprint of the training and the views that its videos are scored in.

        The code that scores is the training's too: it scores the validation videos.
        """
        return scoring_id(self.training_id, self.hyperparameters)


def _starting_code() -> str:
    """Returns the version of the code that starts networks from trained ones."""
    return source_version(frozenset(STARTING))


def _streams_alone(training: Training) -> dict[str, Training]:
    """Returns by stream the training of it alone; none where streams don't train independently."""
    if "streams" not in training.options or not _own_net(training).independent_streams:
        return {}
    alone = served_trainings(training) or (training,)
    return {one.options["streams"][0]: one for one in alone}


def with_stages(trainings: Iterable[Training]) -> dict[str, Training]:
    """Returns by id trainings and all that they start from, each after what it starts from."""
    found: dict[str, Training] = {}
    for one in trainings:
        found |= with_stages(one.starts_from.values())
        found[one.training_id] = one
    return found


def stages_left(training: Training, networks: Container[str]) -> dict[str, Training]:
    """Returns by id the trainings to be finished before one can begin, first stages first.

    Args:
        training: The training.
        networks: Ids of the trainings whose networks are stored. One whose own is needs nothing.
    """
    found: dict[str, Training] = {}
    if training.training_id in networks:
        return found
    for given, identity in training.starts.items():
        if identity not in networks:
            first = training.first_stage(given)
            found |= {**stages_left(first, networks), first.training_id: first}
    return found


def scoring_id(training_id: str, hyperparameters: Hyperparameters) -> str:
    """Returns the fingerprint of a training's scores in the test views of hyperparameters."""
    return fingerprint([training_id, hyperparameters.of_scoring()])


@dataclass(frozen=True, kw_only=True)
class PlannedRow:
    """One arm's result that a plan will give.

    Attributes:
        arm: The arm.
        trainings: By each stream that it reads, the training whose scores it reads of it: one of
            all its streams, unless they train independently and at settings of their own.
        fusion_lambda: λ of adaptively weighted fusion, or None to choose it by cross-fitting.
        fitted_on: By stream, the training that held the validation part out, on whose scores the
            fusion is fitted, where that is another than the one that is tested; else empty.
        tuned_by: The name of the net whose search gave its settings, or None.
        tuned: Which trials gave them and how these were chosen, for the record (JSON-able).
    """

    arm: Arm
    trainings: Mapping[str, Training]
    fusion_lambda: float | None
    fitted_on: Mapping[str, Training] = field(default_factory=dict)
    tuned_by: str | None = None
    tuned: Mapping[str, Any] = field(default_factory=dict)

    @property
    def training(self) -> Training:
        """The training of its first stream; dataset, split and seed are those of all."""
        return next(iter(self.trainings.values()))

    @property
    def distinct_trainings(self) -> tuple[Training, ...]:
        """Its trainings, each once, those that its fusion is fitted on included."""
        read = (*self.trainings.values(), *self.fitted_on.values())
        return tuple({one.training_id: one for one in read}.values())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The rows that are wanted and the trainings that they need.

    Attributes:
        rows: One for each arm, target and seed.
        trainings: Each needed training once, by its id, in the order of first need.
    """

    rows: tuple[PlannedRow, ...]
    trainings: Mapping[str, Training]

    @classmethod
    def joined(cls, plans: Sequence["Plan"]) -> "Plan":
        """Returns one plan of the rows and trainings of several."""
        return cls(
            rows=tuple(row for plan in plans for row in plan.rows),
            trainings={key: one for plan in plans for key, one in plan.trainings.items()},
        )

    def fitted_on(self, held_out: "Plan") -> "Plan":
        """Returns the plan with each row's fusion fitted on the same row of another plan.

        Args:
            held_out: A plan of those arms whose fusion is fitted, with the validation part held
                out.
        """

        def key(row: PlannedRow) -> tuple[str, Target, int]:
            return row.arm.name, row.training.target, row.training.seed

        fitted = {key(row): row.trainings for row in held_out.rows}
        return Plan(
            rows=tuple(replace(row, fitted_on=fitted.get(key(row), {})) for row in self.rows),
            trainings={**self.trainings, **held_out.trainings},
        )


def settings_of(
    arm: Arm, base: Settings, *, space: Space, found: Mapping[str, Any] | None = None
) -> Settings:
    """Returns the arm's settings: the base, the found values that matter to it, then its own.

    Of the base's options it takes those that its model has: a space may compare several models.
    What it starts from has the same base, and nothing found.
    """
    options = {name: value for name, value in base.options.items() if name in arm.known_options}
    settings = replace(base, options=options)
    if found is not None:
        settings = settings.updated(space.found_for(arm, found))
    stages = {
        given: Stage(model=first.model, settings=settings_of(first, base, space=space))
        for given, first in arm.starts_from.items()
    }
    return replace(settings.updated(arm.own), starts_from=stages)


def make_training(
    model: str,
    settings: Settings,
    *,
    target: Target,
    seed: int,
    train_on: str = "train",
    weights: Callable[[VideoModel], str] = lambda net: "none",
    code: Callable[[VideoModel], str] = lambda net: "",
    streams: Iterable[str] | None = None,
    starts_from: Mapping[str, Training] | None = None,
) -> Training:
    """Returns a training with its options and hyperparameters checked and written out.

    Args:
        model: The model's name.
        settings: Its options, hyperparameters and λ; what they leave out has its default.
        target: Dataset, store and split.
        seed: The training's seed.
        train_on: ``train`` or ``all``, as of `Training`.
        weights: Names the weights that a network starts from.
        code: Returns the version of the code that trains and scores a network.
        streams: The streams to train, where the model lets its streams be chosen.
        starts_from: The trainings that it starts from, as of `Training`.

    Raises:
        ValueError: If the model doesn't exist, an option or hyperparameter is not valid, or what
            it starts from lacks a stream.
    """
    options = dict(settings.options)
    hyperparameters = Hyperparameters.of(settings.hyperparameters)
    if "flow_length" in {field.name for field in fields(model_options(model))}:
        options["flow_length"] = hyperparameters.flow_length
    if streams is not None:
        options["streams"] = tuple(stream for stream in STREAMS if stream in set(streams))
    every_option = asdict(make_options(model, options))
    net = _net(model, every_option)
    starts_from = starts_from or {}
    for given, first in starts_from.items():
        _check_streams(model, net, given, first)
    return Training(
        model=model,
        options=every_option,
        hyperparameters=_of_streams(hyperparameters, net.streams),
        target=target,
        seed=seed,
        train_on=train_on,
        weights=weights(net),
        code=code(net),
        starts_from=starts_from,
    )


def _check_streams(model: str, net: VideoModel, given: str, first: Training) -> None:
    """Checks that a network has a stream that is to start, and a first stage what it is to give."""
    there = _own_net(first).starting_streams
    for stream in net.starting_streams if given == WHOLE else (given,):
        for name, streams in ((model, net.starting_streams), (first.model, there)):
            if stream not in streams:
                raise ValueError(
                    f"the {stream} stream of {model} is to start from a training of {first.model}, "
                    f"but {name} has {', '.join(streams)} alone with these options"
                )


def effective_options(model: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a model's options by name, the defaults written out, but those without effect."""
    every_option = asdict(make_options(model, options))
    unused = options_without_effect(model, options)
    return {name: value for name, value in every_option.items() if name not in unused}


def _of_streams(hyperparameters: Hyperparameters, streams: Sequence[str]) -> Hyperparameters:
    """Returns the hyperparameters without weights for the losses of other streams."""
    weights = {
        name: weight
        for name, weight in hyperparameters.loss_weights.items()
        if name not in STREAMS or name in streams
    }
    return replace(hyperparameters, loss_weights=weights)


def make_plan(
    arms: Sequence[Arm],
    *,
    targets: Sequence[Target],
    seeds: Sequence[int],
    settings: Callable[[Arm, Target], Settings | Mapping[str, Settings]],
    training: Callable[..., Training] = make_training,
    pretraining: Target | None = None,
    first_seed: int | None = None,
) -> Plan:
    """Plans the fewest trainings that serve the arms on every target with every seed.

    What they start from is planned with them. A training on the data to pretrain on is the same
    for all targets and seeds: the one that a study of that data reports as its first (ours).

    Args:
        arms: The wanted rows of the ablation.
        targets: Datasets and splits.
        seeds: At least one, with a result each; a training differs in nothing else by its seed.
        settings: An arm's full settings on a target; by stream where each has its own.
        training: Makes a training of a model's name, settings, target, seed, streams and what it
            starts from; ``make_training`` with weights and code filled in.
        pretraining: What is pretrained on, where settings say that a training starts so.
        first_seed: The seed of what trainings start from; None for their own.
    """
    rows: list[PlannedRow] = []
    trainings: dict[str, Training] = {}
    for target in targets:
        chosen = {arm.name: _by_stream(arm, settings(arm, target)) for arm in arms}
        joint = _joint_streams(arms, chosen)
        make = _Maker(
            training=training,
            target=target,
            first_seed=first_seed,
            pretraining=pretraining,
            joint=joint,
        )
        stages: dict[str, dict[str, tuple[Stage, str]]] = {}
        for arm in arms:
            stages[arm.name] = {}
            for stream, one in chosen[arm.name].items():
                stage = Stage(model=arm.model, settings=one)
                stages[arm.name][stream] = stage, _stage_key(stage)
        for seed in seeds:
            for arm in arms:
                read = {
                    stream: make(stage, seed, key)
                    for stream, (stage, key) in stages[arm.name].items()
                }
                trainings.update(with_stages(read.values()))
                own = next(iter(chosen[arm.name].values()))
                rows.append(PlannedRow(arm=arm, trainings=read, fusion_lambda=own.fusion_lambda))
    return Plan(rows=tuple(rows), trainings=trainings)


@dataclass(kw_only=True)
class _Maker:
    """Makes each training of one target once, and what it starts from before it.

    Attributes:
        training, target, first_seed, pretraining: As of `make_plan`.
        joint: By stage, as `_stage_key` knows it, the streams that are trained together.
        made: The trainings so far, by stage, the views that their videos are scored in, and seed.
        alone: By stage and views, one of those that start from no other.
    """

    training: Callable[..., Training]
    target: Target
    first_seed: int | None
    pretraining: Target | None
    joint: Mapping[str, frozenset[str]]
    made: dict[tuple[str, int], Training] = field(default_factory=dict)
    alone: dict[str, Training] = field(default_factory=dict)

    def __call__(self, stage: Stage, seed: int, net: str) -> Training:
        """Returns the training of a stage, whose key is given, with a seed."""
        seed = 1 if stage.pretraining else seed
        views = scoring_id(net, Hyperparameters.of(stage.settings.hyperparameters))
        if (views, seed) not in self.made:
            if views in self.alone:
                self.made[views, seed] = self.alone[views].with_seed(seed)
            else:
                self.made[views, seed] = self._make(stage, seed, streams=self.joint.get(net))
            if not self.made[views, seed].starts_from:
                self.alone.setdefault(views, self.made[views, seed])
        return self.made[views, seed]

    def _make(self, stage: Stage, seed: int, *, streams: frozenset[str] | None) -> Training:
        more: dict[str, Any] = {"target": self.target}
        if stage.pretraining:
            more = {"target": self.pretraining, "train_on": "train"}
        first_seed = seed if self.first_seed is None else self.first_seed
        wanted = {
            given: self(first, first_seed, _stage_key(first))
            for given, first in stage.settings.starts_from.items()
            if streams is None or given == WHOLE or given in streams
        }
        if wanted:
            more["starts_from"] = wanted
        return self.training(stage.model, stage.settings, seed=seed, streams=streams, **more)


def streams_read(arm: Arm, settings: Settings) -> tuple[str, ...]:
    """Returns the streams whose scores an arm reads: its fusion's, or all that its net has."""
    stream = FUSIONS[arm.fusion].stream
    if stream is not None:
        return (stream,)
    return _net(arm.model, asdict(make_options(arm.model, settings.options))).streams


def _by_stream(arm: Arm, settings: Settings | Mapping[str, Settings]) -> Mapping[str, Settings]:
    if isinstance(settings, Settings):
        return dict.fromkeys(streams_read(arm, settings), settings)
    return settings


def _joint_streams(
    arms: Sequence[Arm], settings: Mapping[str, Mapping[str, Settings]]
) -> dict[str, frozenset[str]]:
    """Returns, for each net whose streams train independently, those that are wanted of it.

    That is by some arm, or by a training that starts from it.
    """
    joint: dict[str, frozenset[str]] = {}

    def add(stage: Stage, streams: frozenset[str]) -> None:
        options = asdict(make_options(stage.model, stage.settings.options))
        net = _net(stage.model, options)
        if "streams" in options and net.independent_streams:
            key = _stage_key(stage)
            joint[key] = joint.get(key, frozenset()) | streams
        else:
            streams = frozenset(net.starting_streams)
        for given, first in stage.settings.starts_from.items():
            add(first, streams if given == WHOLE else streams & {given})

    for arm in arms:
        for stream, own in settings[arm.name].items():
            add(Stage(model=arm.model, settings=own), frozenset({stream}))
    return joint


def modality(row: PlannedRow) -> str:
    """Returns what an arm sees of a video: ``RGB``, ``flow`` or ``RGB + flow``.

    A stream that isn't independent of the others has learned from, or sees, all that the net sees.
    """
    seen: set[str] = set()
    for stream, training in row.trainings.items():
        net = _own_net(training)
        alone = net.independent_streams and STREAM_INPUTS[stream] in net.inputs
        seen |= {STREAM_INPUTS[stream]} if alone else set(net.inputs)
    return " + ".join(words for name, words in MODALITIES.items() if name in seen)


def streams_apart(training: Training) -> bool:
    """Returns whether its streams, of which there are several, train independently."""
    net = _own_net(training)
    return net.independent_streams and len(net.streams) > 1


def served_trainings(training: Training) -> tuple[Training, ...]:
    """Returns the trainings of fewer streams whose scores a training has: exactly as if alone."""
    if "streams" not in training.options or not streams_apart(training):
        return ()
    return tuple(
        replace(
            training,
            options={**training.options, "streams": (stream,)},
            hyperparameters=_of_streams(training.hyperparameters, (stream,)),
            weights=divided_name(training.weights, (stream,))[stream],
        )
        for stream in training.options["streams"]
    )


def fewest_frames(training: Training) -> int:
    """Returns the fewest segments that the training's net works on."""
    return _own_net(training).min_frames


def meta_network(training: Training, *, num_classes: int = 2) -> VideoModel:
    """Returns the training's net without memory for its weights: not to be changed."""
    return _net(training.model, training.options, num_classes=num_classes)


@cache
def model_modules(net: VideoModel) -> frozenset[str]:
    """Returns the modules that a network is made of, as far as they are not a library's.

    These define the model, its options and each layer in it: of the backbones those alone that it
    has.
    """
    own = {type(net).__module__, model_options(net.model_name).__module__}
    packages = {*PACKAGES, *(name.partition(".")[0] for name in own)}
    layers = {kind.__module__ for layer in net.modules() for kind in type(layer).__mro__}
    return frozenset(own | {name for name in layers if name.partition(".")[0] in packages})


def _own_net(training: Training) -> VideoModel:
    return _net(training.model, training.options)


def _net(model: str, options: Mapping[str, Any], *, num_classes: int = 2) -> VideoModel:
    return _build_net(model, tuple(options.items()), num_classes)


@cache
def _build_net(model: str, options: tuple[tuple[str, Any], ...], num_classes: int) -> VideoModel:
    with torch.device("meta"), _NothingDrawn():
        return create_model(model, num_classes=num_classes, **dict(options)).train()


class _NothingDrawn(TorchFunctionMode):
    """Leaves out initial values, which tensors without memory have none of.

    To draw them there, torch would import its compiler, which takes more than a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))


def net_key(model: str, settings: Settings) -> str:
    """Returns what two arms share when one training serves both.

    That is all but the choice of streams, where these train independently, and λ.
    """
    options = effective_options(model, settings.options)
    if _net(model, asdict(make_options(model, settings.options))).independent_streams:
        options.pop("streams", None)
    hyperparameters = Hyperparameters.of(settings.hyperparameters)
    stages = {given: _stage_key(first) for given, first in settings.starts_from.items()}
    return fingerprint([model, options, hyperparameters.of_training(), settings.weights, stages])


def _stage_key(stage: Stage) -> str:
    """Returns what two stages share when one training serves both."""
    return f"{net_key(stage.model, stage.settings)}{' pretraining' * stage.pretraining}"
