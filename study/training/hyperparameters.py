"""What a training is tuned by: all that can change its result other than model and data."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Any, Literal

from models.checks import check_count, check_fields, check_names, check_number

__all__ = [
    "ClassBalance",
    "Crops",
    "Hyperparameters",
    "Optimizer",
    "Precision",
    "RateMultipliers",
    "Schedule",
]

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["step", "cosine", "constant"]
ClassBalance = Literal["none", "loss", "sampling"]
Precision = Literal["float32", "bfloat16"]
Crops = Literal["centre", "three", "ten"]
RateMultipliers = Literal["none", "tsn", "tsm", "st_resnet"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """Hyperparameters of one training; checked when made.

    Values are brought to one form (``1`` becomes ``1.0`` where a fraction is meant, lists become
    tuples), so that equal hyperparameters have equal JSON.

    Attributes:
        learning_rate: At the schedule's top.
        optimizer: ``sgd``, stochastic gradient descent with momentum, or ``adamw`` (Loshchilov and
            Hutter, "Decoupled weight decay regularization", ICLR 2019), at torch's betas.
        momentum: Of ``sgd``, in [0, 1).
        weight_decay: On every parameter, as the field trains, unless `rate_multipliers` says
            otherwise.
        rate_multipliers: Whose multiples of the learning rate some parameters have, and which of
            them don't decay: ``tsn``, ``tsm`` or ``st_resnet``, see
            ``study.training.parameter_groups``; or ``none``.
        batch_size: Videos an optimiser step, over all processes and accumulation steps.
        accumulation_steps: Forward and backward passes into which a process divides its share of
            a batch. Changes memory and speed; the result only where batch normalisation sees
            smaller batches.
        epochs: Passes over the training videos.
        schedule: ``step`` (``gamma`` at each milestone), ``cosine`` (to zero) or ``constant``.
        milestones: Fractions of all steps at which ``step`` multiplies the rate, rising, in (0, 1).
        gamma: What ``step`` multiplies the rate by.
        warmup_epochs: Epochs over which the rate rises linearly, step by step; may be a fraction.
        clip_norm: Largest gradient norm, over each stream where a model's streams are
            independent and over the whole model otherwise; None for no limit.
        ema_decay: Of an exponential moving average of weights and buffers, updated after every
            step, from which all scores are then taken; in (0, 1), None for no average.
        label_smoothing: What of each label is spread evenly over the classes, in [0, 1).
        mixup_alpha: α of the Beta(α, α) that mixup draws its shares from (Zhang et al., "mixup:
            beyond empirical risk minimization", ICLR 2018); 0 for no mixup.
        cutmix_alpha: α of CutMix (Yun et al., "CutMix: regularization strategy to train strong
            classifiers with localizable features", ICCV 2019); 0 for no CutMix. With both, each
            forward pass has one of them, by a fair coin. Clips are mixed with others of their
            forward pass, all frames and all streams of a clip alike.
        class_balance: ``loss`` weights a class's losses by V / (N·V_c), V_c of the V training
            videos being of the class; ``sampling`` draws each of an epoch's V videos from a class
            drawn evenly out of N, with replacement; or ``none``.
        loss_weights: By name of a stream, auxiliary output or auxiliary loss; missing means 1.
        segments: Equal parts a video is cut into; each gives a frame and a flow stack.
        frame_stride: Stored frames from one frame of a clip to the next, where `segments` frames in
            a row make a clip; None takes one from each of as many equal parts.
        flow_length: Flow fields in a stack.
        crop_size: Side of the square that a model sees, in pixels.
        scales: Sides of the training crops as fractions of the frame's short side. Test crops
            have 224/256 of it, or the nearest in these scales' range.
        flip: Whether half of the training clips are mirrored.
        precision: ``float32``, or ``bfloat16`` for autocast.
        activation_checkpointing: Compute activations again in the backward pass: less memory,
            about a third more time, the same result.
        test_segments: Segments of a test clip.
        test_clips: Clips a test video is sampled at, evenly shifted within the segments.
        test_crops: ``centre``, ``three`` (along the longer side) or ``ten`` (corners and centre,
            each also mirrored) of every test clip. Clips × crops are the views.
        test_crop_size: Side in pixels that a model sees of the test crops, such as 256 where
            squares of the whole short side aren't to be scaled down; None for `crop_size`.

    Raises:
        ValueError: If a value is not allowed; the message names it and what is.
    """

    learning_rate: float = 1e-2
    optimizer: Optimizer = "sgd"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    rate_multipliers: RateMultipliers = "none"
    batch_size: int = 32
    accumulation_steps: int = 1
    epochs: int = 30
    schedule: Schedule = "step"
    milestones: tuple[float, ...] = (0.4, 0.8)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    ema_decay: float | None = None
    label_smoothing: float = 0.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    class_balance: ClassBalance = "none"
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    segments: int = 3
    frame_stride: int | None = None
    flow_length: int = 10
    crop_size: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
    precision: Precision = "float32"
    activation_checkpointing: bool = False
    test_segments: int = 25
    test_clips: int = 1
    test_crops: Crops = "centre"
    test_crop_size: int | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        for name in _COUNTS:
            check_count(name, getattr(self, name))
        for name in ("learning_rate", "gamma"):
            check_number(name, getattr(self, name), above=0)
        for name in ("weight_decay", "warmup_epochs", "mixup_alpha", "cutmix_alpha"):
            check_number(name, getattr(self, name), least=0)
        for name in ("momentum", "label_smoothing"):
            check_number(name, getattr(self, name), least=0, below=1)
        if self.ema_decay is not None:
            check_number("ema_decay", self.ema_decay, above=0, below=1)
        for name in ("frame_stride", "test_crop_size"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        if self.clip_norm is not None:
            check_number("clip_norm", self.clip_norm, above=0)
        check_number("milestones", self.milestones, above=0, below=1)
        check_number("scales", self.scales, above=0, most=1)
        for name, weight in self.loss_weights.items():
            check_number(f"loss_weights[{name!r}]", weight, least=0)
        self._check_together()

    def _check_together(self) -> None:
        """Checks what no field shows alone."""
        for name, limit in (("warmup_epochs", "epochs"), ("accumulation_steps", "batch_size")):
            if getattr(self, name) > getattr(self, limit):
                raise ValueError(
                    f"{name} must be at most {limit}, got {name}={getattr(self, name)} and "
                    f"{limit}={getattr(self, limit)}"
                )
        if not all(earlier < later for earlier, later in pairwise(self.milestones)):
            raise ValueError(f"milestones must rise, got {self.milestones}")
        if not self.scales:
            raise ValueError("scales must be one or more numbers, got none")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Hyperparameters":
        """Returns hyperparameters by name, in Python's form or JSON's, with defaults for the rest.

        Where `test_segments` is None, test clips have as many segments as training clips.

        Raises:
            ValueError: If a name is unknown or a value isn't allowed.
        """
        check_names("hyperparameters", values, [field.name for field in fields(cls)])
        if values.get("test_segments", _default("test_segments")) is None:
            segments = values.get("segments", _default("segments"))
            values = {**values, "test_segments": segments}
        return cls(**values)

    @property
    def mixes_videos(self) -> bool:
        """Whether a video is trained on together with others of its forward pass."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def tested_size(self) -> int:
        """Side in pixels of what a model sees of a test crop."""
        return self.test_crop_size or self.crop_size

    def of_training(self) -> dict[str, Any]:
        """Returns what can change a training, by name, in a form that is equal for equal trainings.

        What touches the scoring of test videos alone is left out, and so is what has no effect
        with the others as they are, such as what is switched off.
        """
        left_out = {*self.of_scoring(), "activation_checkpointing"}
        left_out |= {name for name in _SWITCHES if getattr(self, name) == _default(name)}
        if self.optimizer != "sgd":
            left_out.add("momentum")
        values = {name: value for name, value in asdict(self).items() if name not in left_out}
        values["loss_weights"] = {
            name: weight for name, weight in self.loss_weights.items() if weight != 1
        }
        if self.frame_stride is None:
            del values["frame_stride"]
        if self.schedule != "step":
            del values["milestones"]
        if self.schedule != "step" or not self.milestones:
            del values["gamma"]
        return values

    def of_scoring(self) -> dict[str, Any]:
        """Returns what decides the views that a trained network's videos are scored in, by name."""
        names = ("test_segments", "test_clips", "test_crops", "test_crop_size")
        return {name: getattr(self, name) for name in names}


def _default(name: str) -> Any:
    return next(field.default for field in fields(Hyperparameters) if field.name == name)


_SWITCHES = (
    "optimizer",
    "rate_multipliers",
    "ema_decay",
    "label_smoothing",
    "mixup_alpha",
    "cutmix_alpha",
    "class_balance",
)
_COUNTS = (
    "batch_size",
    "accumulation_steps",
    "epochs",
    "segments",
    "flow_length",
    "crop_size",
    "test_segments",
    "test_clips",
)
