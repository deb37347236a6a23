"""What a training is tuned by: everything that can change its result beside model and data."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

__all__ = ["PRECISIONS", "SCHEDULES", "Hyperparameters"]

SCHEDULES = ("step", "cosine", "constant")
PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True, slots=True)
class Hyperparameters:
    """Hyperparameters of one training; checked when made.

    Values are brought to one form (``1`` becomes ``1.0`` where a fraction is meant, lists become
    tuples), so that equal settings have equal JSON.

    Attributes:
        learning_rate: Of stochastic gradient descent, at the schedule's top.
        momentum: In [0, 1).
        weight_decay: On every parameter, as the field trains.
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
        loss_weights: By name of a stream, auxiliary output or auxiliary loss; missing means 1.
        segments: Equal parts a video is cut into; each gives a frame and a flow stack.
        flow_length: Flow fields in a stack.
        crop_size: Side of the square that a model sees, in pixels.
        scales: Sides of the training crops as fractions of the frame's short side. Test crops
            have 224/256 of it, or the nearest in these scales' range.
        flip: Whether half of the training clips are mirrored.
        precision: ``float32``, or ``bfloat16`` for autocast.
        test_segments: Segments of a test clip.
        test_clips: Clips a test video is sampled at, evenly shifted within the segments.
        test_crops: ``centre``, ``three`` (along the longer side) or ``ten`` (corners and centre,
            each also mirrored) of every test clip. Clips × crops are the views.

    Raises:
        ValueError: If a value is not allowed; the message names it and what is.
    """

    learning_rate: float = 1e-2
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int = 32
    accumulation_steps: int = 1
    epochs: int = 30
    schedule: str = "step"
    milestones: tuple[float, ...] = (0.4, 0.8)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    clip_norm: float | None = None
    loss_weights: Mapping[str, float] = field(default_factory=dict)
    segments: int = 3
    flow_length: int = 10
    crop_size: int = 224
    scales: tuple[float, ...] = (1.0, 0.875, 0.75, 0.66)
    flip: bool = True
    precision: str = "float32"
    test_segments: int = 25
    test_clips: int = 1
    test_crops: str = "centre"

    def __post_init__(self) -> None:
        for name in ("learning_rate", "gamma"):
            self._set(name, _number(name, getattr(self, name), above=0.0))
        for name in ("momentum", "weight_decay", "warmup_epochs"):
            self._set(name, _number(name, getattr(self, name), least=0.0))
        if self.clip_norm is not None:
            self._set("clip_norm", _number("clip_norm", self.clip_norm, above=0.0))
        for name in _COUNTS:
            _check_count(name, getattr(self, name))
        for name in ("milestones", "scales"):
            self._set(name, _numbers(name, getattr(self, name)))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
                )
        if not isinstance(self.flip, bool):
            raise ValueError(f"flip must be true or false, got {self.flip!r}")
        self._set("loss_weights", _loss_weights(self.loss_weights))
        self._check_ranges()

    def _check_ranges(self) -> None:
        if self.momentum >= 1:
            raise ValueError(f"momentum must be under 1, got {self.momentum}")
        if self.warmup_epochs > self.epochs:
            raise ValueError(
                f"warmup_epochs must be at most epochs, got warmup_epochs={self.warmup_epochs} "
                f"and epochs={self.epochs}"
            )
        if self.accumulation_steps > self.batch_size:
            raise ValueError(
                "accumulation_steps must be at most batch_size, got "
                f"accumulation_steps={self.accumulation_steps} and batch_size={self.batch_size}"
            )
        rising = all(a < b for a, b in zip(self.milestones, self.milestones[1:], strict=False))
        if not rising or not all(0 < fraction < 1 for fraction in self.milestones):
            raise ValueError(
                "milestones must be rising fractions of all steps, each between 0 and 1, got "
                f"{list(self.milestones)}"
            )
        if not self.scales or not all(0 < scale <= 1 for scale in self.scales):
            raise ValueError(
                f"scales must be one or more numbers in (0, 1], got {list(self.scales)}"
            )

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    def to_json(self) -> str:
        """JSON with every field, equal for equal hyperparameters."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> "Hyperparameters":
        """The hyperparameters that `to_json` wrote; a field left out takes its default.

        Raises:
            ValueError: If the text is no JSON object, or has an unknown field or a bad value.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"hyperparameters must be a JSON object: {error}") from None
        if not isinstance(values, dict):
            raise ValueError(f"hyperparameters must be a JSON object, got {text!r}")
        known = [one.name for one in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(
                f"unknown hyperparameters {', '.join(unknown)}; there are {', '.join(known)}"
            )
        return cls(**values)


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
_CHOICES = {"schedule": SCHEDULES, "precision": PRECISIONS}


def _number(
    name: str, value: Any, *, above: float | None = None, least: float | None = None
) -> float:
    allowed = "a finite number"
    allowed += f" above {above:g}" if above is not None else ""
    allowed += f" of at least {least:g}" if least is not None else ""
    good = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (above is None or value > above)
        and (least is None or value >= least)
    )
    if not good:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")
    return float(value)


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    if not isinstance(values, list | tuple):
        raise ValueError(f"{name} must be a list of numbers, got {values!r}")
    return tuple(_number(f"each of {name}", value) for value in values)


def _check_count(name: str, value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")


def _loss_weights(weights: Any) -> dict[str, float]:
    if not isinstance(weights, Mapping) or not all(isinstance(name, str) for name in weights):
        raise ValueError(f"loss_weights must map names to numbers, got {weights!r}")
    return {
        name: _number(f"loss_weights[{name!r}]", weights[name], least=0.0)
        for name in sorted(weights)
    }
