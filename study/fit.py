"""How a training's batch is divided so that it fits the GPU that the study is planned for.

The GPU's memory is what the user names, not what is found: identities and results are the same on
every machine. Where the result depends on the micro-batch (batch normalisation, dropout), it is
part of the identity.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from study.plan import Training, meta_network
from study.provenance import canonical_json
from study.training.memory import (
    MemoryEstimate,
    MicroBatch,
    choose_micro_batch,
    choose_scoring_batch,
    estimate_memory,
    estimate_scoring_memory,
    passes_matter,
)

__all__ = ["Gpu", "choose_clips", "divide_batch", "fit_training", "result_depends_on_passes"]

_CLIPS = (
    *("batch_size", "segments", "crop_size", "scales"),
    *("test_segments", "test_clips", "test_crops", "test_crop_size"),
)

_estimates: dict[str, MemoryEstimate] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gpu:
    """What a training is planned for.

    Attributes:
        bytes: Memory that each process has of its GPU.
        processes: The training's processes.
        classes: Of the dataset.
    """

    bytes: int
    processes: int
    classes: int


def fit_training(training: Training, gpu: Gpu, *, given: Collection[str]) -> Training:
    """Returns the training in the precision and with the passes that its result depends on.

    One that starts from a weights file or another training is trained in bfloat16, any other in
    float32, and in bfloat16 where not one video fits otherwise (ours).

    Args:
        training: The training.
        gpu: What it is planned for.
        given: Names of the hyperparameters that the user or the space sets; they stay.

    Raises:
        ValueError: If it doesn't fit.
    """
    trained = training.weights != "none" or training.starts
    preferred = ("bfloat16",) if trained else ("float32", "bfloat16")
    chosen = choose_micro_batch(
        lambda *how: _training_memory(training, gpu, *how),
        batch_size=training.hyperparameters.batch_size,
        available_bytes=gpu.bytes,
        world_size=gpu.processes,
        precisions=(training.hyperparameters.precision,) if "precision" in given else preferred,
        accumulation_steps=training.hyperparameters.accumulation_steps
        if "accumulation_steps" in given
        else None,
    )
    changes: dict[str, Any] = {"precision": chosen.precision}
    if result_depends_on_passes(training):
        changes["accumulation_steps"] = chosen.accumulation_steps
    return replace(training, hyperparameters=replace(training.hyperparameters, **changes))


def divide_batch(training: Training, gpu: Gpu, *, keep_steps: bool) -> MicroBatch:
    """Returns how the batch of a training that `fit_training` returned is divided.

    Args:
        training: The training.
        gpu: What it is planned for.
        keep_steps: Whether its ``accumulation_steps`` stay as they are.
    """
    hyperparameters = training.hyperparameters
    chosen = choose_micro_batch(
        lambda *how: _training_memory(training, gpu, *how),
        batch_size=hyperparameters.batch_size,
        available_bytes=gpu.bytes,
        world_size=gpu.processes,
        precisions=(hyperparameters.precision,),
        accumulation_steps=hyperparameters.accumulation_steps if keep_steps else None,
    )
    checkpointing = chosen.activation_checkpointing or hyperparameters.activation_checkpointing
    return replace(chosen, activation_checkpointing=checkpointing)


def choose_clips(training: Training, gpu: Gpu) -> int:
    """Returns how many clips are scored in one forward pass, at most the batch size.

    The estimate is that of float32, which takes a third of the time and is the larger one.

    Raises:
        ValueError: If not one clip fits.
    """
    hyperparameters = training.hyperparameters
    longest = max(hyperparameters.segments, hyperparameters.test_segments)
    key = _key(training, gpu, "score")
    if key not in _estimates:
        _estimates[key] = estimate_scoring_memory(
            meta_network(training, num_classes=gpu.classes),
            replace(hyperparameters, test_segments=longest),
            precision="float32",
        )
    return choose_scoring_batch(
        _estimates[key], batch_size=hyperparameters.batch_size, available_bytes=gpu.bytes
    )


def result_depends_on_passes(training: Training) -> bool:
    """Returns whether the division of its batch changes a training's result beyond rounding."""
    mixes = training.hyperparameters.mixes_videos
    return mixes or passes_matter(meta_network(training))


def _training_memory(
    training: Training, gpu: Gpu, precision: str, checkpointing: bool
) -> MemoryEstimate:
    checkpointing |= training.hyperparameters.activation_checkpointing
    key = _key(training, gpu, precision, checkpointing)
    if key not in _estimates:
        _estimates[key] = estimate_memory(
            meta_network(training, num_classes=gpu.classes),
            training.hyperparameters,
            precision=precision,
            activation_checkpointing=checkpointing,
        )
    return _estimates[key]


def _key(training: Training, gpu: Gpu, *how: str | bool) -> str:
    """What an estimate depends on.

    An option that is a fraction, such as dropout, matters only by being zero or through the
    parameters' shapes: a search over it needs one estimate.
    """
    hyperparameters = training.hyperparameters
    options = {
        name: bool(value) if isinstance(value, float) else value
        for name, value in training.options.items()
    }
    clips = [getattr(hyperparameters, name) for name in _CLIPS]
    shapes = [list(value.shape) for value in meta_network(training).state_dict().values()]
    kept = [hyperparameters.optimizer, bool(hyperparameters.momentum), hyperparameters.ema_decay]
    return canonical_json([training.model, options, clips, kept, shapes, gpu.classes, how])
