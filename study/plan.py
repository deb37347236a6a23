"""From arms to the fewest trainings that serve them.

Streams that don't interact and have separate losses train exactly as each would alone, so one
training of both serves every arm that reads either stream or any fusion of the two: late, early
and adaptively weighted fusion at every λ need scores and features, not another training. Seeds,
splits and hyperparameters do make a difference, so each combination of them is its own training.

Everything here is pure: the same arms, settings and targets give the same plan.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, cached_property
from hashlib import sha256
from typing import Any

import torch

from models import (
    VideoModel,
    create_model,
    make_options,
    model_options,
    options_without_effect,
)
from models.fusion import FUSIONS
from models.video_model import STREAM_INPUTS
from search_spaces.space import Arm, Settings, Space
from study.provenance import canonical_json, fingerprint
from study.source import PACKAGES
from study.training.hyperparameters import Hyperparameters
from study.training.weights import divided_name

__all__ = [
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
    "streams_apart",
    "streams_read",
]

STREAMS = ("spatial", "temporal")
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
    """

    model: str
    options: Mapping[str, Any]
    hyperparameters: Hyperparameters
    target: Target
    seed: int
    train_on: str
    weights: str
    code: str

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
        }
        before, after = canonical_json(content).split(canonical_json(mark))
        return before, after

    def with_seed(self, seed: int) -> "Training":
        """Returns the training with another seed."""
        other = replace(self, seed=seed)
        vars(other)["_around_seed"] = self._around_seed  # takes longer to make than all the rest
        return other

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
    """
    options = {name: value for name, value in base.options.items() if name in arm.known_options}
    settings = replace(base, options=options)
    if found is not None:
        settings = settings.updated(space.found_for(arm, found))
    return settings.updated(arm.own)


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

    Raises:
        ValueError: If the model doesn't exist or an option or hyperparameter is not valid.
    """
    options = dict(settings.options)
    hyperparameters = Hyperparameters.of(settings.hyperparameters)
    if "flow_length" in {field.name for field in fields(model_options(model))}:
        options["flow_length"] = hyperparameters.flow_length
    if streams is not None:
        options["streams"] = tuple(stream for stream in STREAMS if stream in set(streams))
    every_option = asdict(make_options(model, options))
    net = _net(model, every_option)
    return Training(
        model=model,
        options=every_option,
        hyperparameters=_of_streams(hyperparameters, net.streams),
        target=target,
        seed=seed,
        train_on=train_on,
        weights=weights(net),
        code=code(net),
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
) -> Plan:
    """Plans the fewest trainings that serve the arms on every target with every seed.

    Args:
        arms: The wanted rows of the ablation.
        targets: Datasets and splits.
        seeds: At least one, with a result each; a training differs in nothing else by its seed.
        settings: An arm's full settings on a target; by stream where each has its own.
        training: Makes a training of a model's name, settings, target, seed and streams;
            ``make_training`` with weights and code filled in.
    """
    rows: list[PlannedRow] = []
    trainings: dict[str, Training] = {}
    for target in targets:
        chosen = {arm.name: _by_stream(arm, settings(arm, target)) for arm in arms}
        joint = _joint_streams(arms, chosen)
        first: dict[str, Training] = {}  # of each net, with the first seed
        nets: dict[str, dict[str, str]] = {}  # by arm, each stream's
        for arm in arms:
            nets[arm.name] = {}
            for stream, own in chosen[arm.name].items():
                key = nets[arm.name][stream] = net_key(arm.model, own)
                if key not in first:
                    first[key] = training(
                        arm.model, own, target=target, seed=seeds[0], streams=joint.get(key)
                    )
        for seed in seeds:
            made = {key: one.with_seed(seed) for key, one in first.items()}
            trainings.update({one.training_id: one for one in made.values()})
            for arm in arms:
                read = {stream: made[key] for stream, key in nets[arm.name].items()}
                own = next(iter(chosen[arm.name].values()))
                rows.append(PlannedRow(arm=arm, trainings=read, fusion_lambda=own.fusion_lambda))
    return Plan(rows=tuple(rows), trainings=trainings)


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
    """Returns, for each net whose streams train independently, those that some arm reads."""
    joint: dict[str, frozenset[str]] = {}
    for arm in arms:
        for stream, own in settings[arm.name].items():
            options = asdict(make_options(arm.model, own.options))
            if "streams" in options and _net(arm.model, options).independent_streams:
                key = net_key(arm.model, own)
                joint[key] = joint.get(key, frozenset()) | {stream}
    return joint


def modality(row: PlannedRow) -> str:
    """Returns what an arm sees of a video: ``RGB``, ``flow`` or ``RGB + flow``.

    A stream that isn't independent of the others has learned from, or sees, all that the net sees.
    """
    seen: set[str] = set()
    for stream, training in row.trainings.items():
        net = _net(training.model, training.options)
        alone = net.independent_streams and STREAM_INPUTS[stream] in net.inputs
        seen |= {STREAM_INPUTS[stream]} if alone else set(net.inputs)
    return " + ".join(words for name, words in MODALITIES.items() if name in seen)


def streams_apart(training: Training) -> bool:
    """Returns whether its streams, of which there are several, train independently."""
    net = _net(training.model, training.options)
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
    return _net(training.model, training.options).min_frames


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


def _net(model: str, options: Mapping[str, Any], *, num_classes: int = 2) -> VideoModel:
    return _build_net(model, tuple(options.items()), num_classes)


@cache
def _build_net(model: str, options: tuple[tuple[str, Any], ...], num_classes: int) -> VideoModel:
    with torch.device("meta"):
        return create_model(model, num_classes=num_classes, **dict(options)).train()


def net_key(model: str, settings: Settings) -> str:
    """Returns what two arms share when one training serves both.

    That is all but the choice of streams, where these train independently, and λ.
    """
    options = effective_options(model, settings.options)
    if _net(model, asdict(make_options(model, settings.options))).independent_streams:
        options.pop("streams", None)
    hyperparameters = Hyperparameters.of(settings.hyperparameters)
    return fingerprint([model, options, hyperparameters.of_training(), settings.weights])
