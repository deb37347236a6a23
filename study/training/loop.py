"""One training, from initial weights to the last epoch, on one process or many.

Read from the top: `train` is the whole of it, and what it calls follows in the order of use.
The result depends on the initial weights, the data, the hyperparameters and the seed. Stopping and
resuming, after an epoch or within one, doesn't change a bit of it, nor do loader workers; the
number of processes changes the order in which floating-point numbers are summed, and which dropout
mask meets which video.
"""

import contextlib
import hashlib
import json
import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_map_only
from torch.utils.data import DataLoader

from models import ModelOutput, VideoModel
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.scores import Scores, top_k_accuracy
from study.training.allocation import keep_freed_memory
from study.training.checkpoint import (
    CheckpointPlace,
    DamagedCheckpointError,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from study.training.evaluation import score
from study.training.hyperparameters import Hyperparameters
from study.training.interruption import EPOCHS_SHARE_SECONDS, CheckpointTimes
from study.training.parameter_groups import parameter_groups
from study.training.recomputation import recompute_activations

__all__ = [
    "EpochReport",
    "NonFiniteLossError",
    "class_weights",
    "learning_rate",
    "mix_clips",
    "put_channels_last",
    "train",
    "video_losses",
]

ORDER_STREAM, DROPOUT_STREAM, MIX_STREAM = 0, 2, 3  # first words of seeds; an item's has 1
CHECK_EVERY = 50  # steps between checks of the losses, each of which waits for the device

logger = logging.getLogger(__name__)


class NonFiniteLossError(FloatingPointError):
    """A loss that became infinite or not a number."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EpochReport:
    """The result of one epoch; the same on every process.

    Attributes:
        epoch: Epochs finished, from 1.
        lr: Learning rate of the epoch's last step.
        train_loss: Mean over the epoch's videos of the weighted sum of losses.
        losses: Name of a stream, auxiliary output or auxiliary loss → its mean, not weighted.
        validation_top1: Top-1 of the late average on the validation videos; None without them.
        seconds: The epoch's wall time, validation included.
        clips_per_second: Training clips a second over all processes, validation left out.
        halved: Whether forward passes had half the videos planned, as the GPU's memory was short.
    """

    epoch: int
    lr: float
    train_loss: float
    losses: dict[str, float]
    validation_top1: float | None
    seconds: float
    clips_per_second: float
    halved: bool = False


def train(
    model: VideoModel,
    train_data: ClipDataset,
    validation_data: ClipDataset | None = None,
    *,
    hyperparameters: Hyperparameters,
    seed: int,
    device: str | torch.device = "cpu",
    checkpoint: CheckpointPlace | None = None,
    report: Callable[[EpochReport], None] | None = None,
    validated: Callable[[int, Scores], None] | None = None,
    compile: bool = False,
    accumulation_steps: int | None = None,
    halved: bool = False,
    activation_checkpointing: bool = False,
    loader_workers: int = 0,
    until: int | None = None,
) -> list[EpochReport]:
    """Trains a network.

    When ``torch.distributed`` is initialised every process calls this with the same arguments,
    and each batch is divided between them.

    Where a training of one process runs out of the GPU's memory in the first epoch of a call, it
    begins that epoch once more with half the videos in each forward pass, and says so in a warning.
    Of several processes the others would wait for the one: all have to end, and to be called again
    with `halved`.

    Args:
        model: Trained in place, and left on `device` in the channels-last memory format, with the
            weights that its scores are taken from.
        train_data: Augmented clips of the training videos.
        validation_data: Clips of the validation videos, scored after each epoch.
        hyperparameters: How to train.
        seed: Of order and dropout; the data has its own, the initial weights are the caller's.
        device: ``cpu`` or a CUDA device.
        checkpoint: A file on storage that all processes see, written after the last epoch, after
            each other one that ends ten seconds or more after the file was last written, and every
            five minutes within a long epoch: a local path, or a URI as text. If it is there the
            training goes on from it; a damaged one is kept as ``NAME.damaged``, and the training
            starts again.
        report: Called on every process after each epoch. On resuming it is called first with
            the last finished epoch, which the caller may have missed.
        validated: Receives the validation videos' scores after each epoch, with the epoch's
            number from 1, before `report` is called.
        compile: Whether to use ``torch.compile``.
        accumulation_steps: Passes into which each process divides its share of a batch; None for
            the hyperparameters'. It may differ from those of the epochs in a checkpoint.
        halved: Whether forward passes have half the videos from the start.
        activation_checkpointing: Whether to compute activations again in the backward pass, where
            the hyperparameters don't say so.
        loader_workers: Loader processes of each process; 0 loads in the process itself.
        until: The epoch after which to stop; None goes on to the last. A checkpoint that is
            already beyond it is left out of account, and the training starts from the beginning.

    Returns:
        A report of every finished epoch, those before a resumption included.

    Raises:
        ValueError: If the checkpoint is of another training, a loss weight has no loss, or both
            `compile` and activation checkpointing are asked for.
        RuntimeError: If the processes find different checkpoints.
        NonFiniteLossError: If a loss becomes infinite or not a number.
        torch.OutOfMemoryError: If the GPU's memory is too small for half the videos as well, or
            that of one of several processes for all of its own.
    """
    activation_checkpointing |= hyperparameters.activation_checkpointing
    if compile and activation_checkpointing:
        raise ValueError(
            "compile and activation_checkpointing don't work together; switch one of them off"
        )
    if activation_checkpointing:
        recompute_activations(model)
    run = _TrainingRun.start(
        model,
        train_data,
        hyperparameters,
        seed,
        device,
        compile,
        loader_workers,
        accumulation_steps or hyperparameters.accumulation_steps,
        halved,
        checkpoint,
    )
    last = hyperparameters.epochs if until is None else min(until, hyperparameters.epochs)
    _resume(run, last)
    history = run.history
    if history and report is not None:
        report(history[-1])
    first = len(history)
    for epoch in range(first, last):
        started = time.perf_counter() - run.seconds_before(epoch)
        lr, losses = (_train_epoch if epoch > first else _train_first_epoch)(run, epoch, started)
        trained = _slowest(time.perf_counter() - started, run.device)
        top1 = None
        if validation_data is not None:
            scores = _validate(run, validation_data)
            top1 = top_k_accuracy(np.mean(list(scores.scores.values()), axis=0), scores.labels, 1)
            if validated is not None:
                validated(epoch + 1, scores)
        weights = hyperparameters.loss_weights
        history.append(
            EpochReport(
                epoch=epoch + 1,
                lr=lr,
                train_loss=sum(weights.get(name, 1.0) * loss for name, loss in losses.items()),
                losses=losses,
                validation_top1=top1,
                seconds=_slowest(time.perf_counter() - started, run.device),
                clips_per_second=len(train_data) / trained,
                halved=run.halved,
            )
        )
        if epoch + 1 == last or time.perf_counter() - run.saved >= EPOCHS_SHARE_SECONDS:
            _save(run)
        if report is not None:
            report(history[-1])
    if run.averaged is not None:
        model.load_state_dict(run.averaged.module.state_dict())
    return history


@dataclass(kw_only=True)
class _TrainingRun:
    """What a training needs from its first step to its last.

    Attributes:
        model: The network itself.
        forward: The network as it is called: data-parallel, compiled, both or neither.
        no_sync: Makes the context in which a backward pass keeps its gradients to its process.
        averaged: The moving average of the network, if one is asked for.
        class_weights: (N,) what each class's losses are multiplied by; None for 1.
        batches: Indices of each batch of the current epoch; `loader` reads them.
        passes: Forward and backward passes of a process in a step, as planned.
        halved: Whether forward passes have half the videos planned, as the GPU's memory was short.
        checkpoint: The file to write, if any.
        saved: When it was last written, or the training began, by ``time.perf_counter``.
        history: Reports of the finished epochs.
        unfinished: The state of the epoch that a checkpoint was written in, to go on with.
    """

    model: VideoModel
    forward: Callable[..., ModelOutput]
    no_sync: Callable[[], contextlib.AbstractContextManager[None]]
    optimizer: torch.optim.Optimizer
    averaged: AveragedModel | None
    class_weights: Tensor | None
    data: ClipDataset
    batches: list[list[int]]
    loader: "DataLoader[dict[str, Tensor]]"
    hyperparameters: Hyperparameters
    seed: int
    device: torch.device
    loader_workers: int
    passes: int
    halved: bool
    checkpoint: CheckpointPlace | None
    saved: float
    history: list[EpochReport] = field(default_factory=list)
    unfinished: dict[str, Any] | None = None

    @classmethod
    def start(
        cls,
        model: VideoModel,
        data: ClipDataset,
        hyperparameters: Hyperparameters,
        seed: int,
        device: str | torch.device,
        compile: bool,
        loader_workers: int,
        passes: int,
        halved: bool,
        checkpoint: CheckpointPlace | None,
    ) -> "_TrainingRun":
        device = torch.device(device)
        cuda = device.type == "cuda"
        if cuda:
            torch.set_float32_matmul_precision("high")  # TF32, which convolutions use by default
        else:
            keep_freed_memory()
        torch.backends.cudnn.deterministic = True  # or a seed would not fix a GPU's result
        put_channels_last(model.to(device).train())
        averaged = None
        if hyperparameters.ema_decay is not None:
            average = get_ema_multi_avg_fn(hyperparameters.ema_decay)
            averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
        forward: Callable[..., ModelOutput] = model
        no_sync: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
        if _world() > 1:
            if cuda:
                nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call, unused-ignore]
            forward = data_parallel = DistributedDataParallel(
                model, device_ids=[device] if cuda else None, gradient_as_bucket_view=True
            )
            no_sync = data_parallel.no_sync
        if compile:
            torch.compiler.reset()  # or networks of earlier trainings count against its limit
        batches: list[list[int]] = []
        return cls(
            model=model,
            forward=torch.compile(forward) if compile else forward,
            no_sync=no_sync,
            optimizer=_optimizer(model, hyperparameters),
            averaged=averaged,
            class_weights=class_weights(data, model.num_classes).to(device)
            if hyperparameters.class_balance == "loss"
            else None,
            data=data,
            batches=batches,
            loader=make_loader(data, batches, device=device, workers=loader_workers),
            hyperparameters=hyperparameters,
            seed=seed,
            device=device,
            loader_workers=loader_workers,
            passes=passes,
            halved=halved,
            checkpoint=checkpoint,
            saved=time.perf_counter(),
        )

    @property
    def scored(self) -> VideoModel:
        """The network that scores are taken from."""
        return self.model if self.averaged is None else cast(VideoModel, self.averaged.module)

    def state(self) -> dict[str, Any]:
        """Returns what a step of the optimiser changes; the tensors are those in use."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        if self.averaged is not None:
            state["averaged"] = self.averaged.state_dict()
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Takes up what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.averaged is not None:
            self.averaged.load_state_dict(state["averaged"])

    @property
    def accumulation_steps(self) -> int:
        """Forward and backward passes of a process in a step."""
        return self.passes * (2 if self.halved else 1)

    def unfinished_state(self, epoch: int) -> dict[str, Any] | None:
        """Returns the state that an epoch, from 0, goes on from; None where it begins."""
        state = self.unfinished
        return state if state is not None and state["epoch"] == epoch else None

    def seconds_before(self, epoch: int) -> float:
        """Returns the time that an epoch, from 0, took before the training was interrupted."""
        state = self.unfinished_state(epoch)
        return 0.0 if state is None else float(state["seconds"])

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share with a training that resumes from it."""
        shapes = [(name, list(value.shape)) for name, value in self.model.state_dict().items()]
        return {
            "model": _digest([type(self.model).__name__, shapes]),
            "training videos": _digest([(v.name, v.label) for v in self.data.videos]),
            "hyperparameters": json.dumps(self.hyperparameters.of_training(), sort_keys=True),
            "seed": self.seed,
        }


def _resume(run: _TrainingRun, last: int) -> None:
    """Restores a checkpoint that isn't beyond the end of epoch `last`, counted from 1."""
    path = run.checkpoint
    state = None if path is None else _load(path)
    if state is not None:
        saved = state.get("identity", {})
        differing = [name for name, value in run.identity.items() if saved.get(name) != value]
        if differing:
            raise ValueError(
                f"checkpoint {path} is of another training: its {' and '.join(differing)} differ; "
                "give another path, or delete it to train from the start"
            )
        if len(state["history"]) + (state["unfinished"] is not None) <= last:
            run.history = [EpochReport(**epoch) for epoch in state["history"]]
            run.unfinished = state["unfinished"]
            run.restore(state)
            run.halved = run.halved or state["halved"]
    if dist.is_initialized():
        epochs, steps = len(run.history), run.unfinished["steps"] if run.unfinished else 0
        reached = torch.tensor([epochs, -epochs, steps, -steps], device=run.device)
        dist.all_reduce(reached, dist.ReduceOp.MAX)
        if reached.sum() != 0:
            raise RuntimeError(  # another study that shares the training may have just written it
                f"checkpoint {path} is not the same for every process: this one finds "
                f"{epochs} epochs and {steps} steps there; put it on storage that all of them see"
            )


def _load(path: CheckpointPlace) -> dict[str, Any] | None:
    """Returns a checkpoint's state; None where there is none, or a damaged one, which is kept.

    No process goes on before all have come here, so none writes what another moves away.
    """
    try:
        return load_checkpoint(path)
    except FileNotFoundError:
        return None
    except DamagedCheckpointError as error:
        if _rank() == 0:
            aside = set_aside(path)
            logger.warning("%s. It is now %s, and the training starts again.", error, aside)
        return None


def _save(run: _TrainingRun, unfinished: dict[str, Any] | None = None) -> None:
    """Writes the checkpoint, if one is asked for.

    Random states aren't in it, since each forward pass has its own seed.
    """
    if run.checkpoint is None or _rank() != 0:
        return
    save_checkpoint(
        run.checkpoint,
        {
            "identity": run.identity,
            **run.state(),
            "halved": run.halved,
            "history": [asdict(epoch) for epoch in run.history],
            "unfinished": unfinished,
        },
    )
    run.saved = time.perf_counter()


def _train_first_epoch(
    run: _TrainingRun, epoch: int, started: float
) -> tuple[float, dict[str, float]]:
    """Trains the first epoch of a call, again at half the videos a pass if memory runs out."""
    one_video = run.accumulation_steps >= run.hyperparameters.batch_size
    if run.halved or one_video or _world() > 1:  # other processes would wait for this one
        return _train_epoch(run, epoch, started)
    state = tree_map_only(Tensor, lambda x: x.to("cpu", copy=True), run.state())
    try:
        return _train_epoch(run, epoch, started)
    except torch.OutOfMemoryError as error:
        warnings.warn(
            f"{error}; training goes on with half the videos in each forward pass, "
            f"accumulation_steps={2 * run.accumulation_steps}",
            RuntimeWarning,
            stacklevel=3,
        )
    # Only here is the memory of the failed step free: the error's traceback held it.
    run.halved = True
    run.optimizer.zero_grad()
    run.restore(state)
    return _train_epoch(run, epoch, started)


def _train_epoch(run: _TrainingRun, epoch: int, started: float) -> tuple[float, dict[str, float]]:
    """Trains on an epoch's videos, or on those that are left of an interrupted epoch.

    Args:
        run: The training.
        epoch: From 0.
        started: When the epoch began, by ``time.perf_counter``.

    Returns:
        The last learning rate and the mean losses.
    """
    hyperparameters, unfinished = run.hyperparameters, run.unfinished_state(epoch)
    order = _epoch_order(run, epoch)
    steps = _epoch_steps(order, hyperparameters.batch_size, run.accumulation_steps, run.seed, epoch)
    first = 0 if unfinished is None else unfinished["steps"]
    run.batches[:] = [own.indices for step in steps[first:] for own in step.micro_batches]
    run.data.set_epoch(epoch)
    losses = _EpochLosses(epoch, len(run.data))
    batches = iter(run.loader)
    if unfinished is not None:
        losses.restore(unfinished["losses"], run.device)
    times = CheckpointTimes(lambda seconds: _slowest(seconds, run.device))
    for number, step in enumerate(steps[first:], start=first):
        lr = learning_rate(hyperparameters, epoch * len(steps) + number, len(steps))
        for group in run.optimizer.param_groups:
            group["lr"] = lr * group["rate"]
        run.optimizer.zero_grad()
        sums = _accumulate_gradients(run, step, batches)
        if hyperparameters.clip_norm is not None:
            clip_gradients(run.model, hyperparameters.clip_norm)
        run.optimizer.step()
        if run.averaged is not None:
            run.averaged.update_parameters(run.model)
        losses.add(sums, lr)
        if run.checkpoint is not None and number + 1 < len(steps) and times.due():
            _save_within_epoch(run, epoch, number + 1, losses, started)
    if _world() > 1:  # running statistics that weren't synchronised become the first process's
        for net in filter(None, (run.model, run.averaged)):
            for buffer in net.buffers():
                dist.broadcast(buffer, 0)
    return lr, losses.mean()


def _save_within_epoch(
    run: _TrainingRun, epoch: int, steps: int, losses: "_EpochLosses", started: float
) -> None:
    """Writes a checkpoint after so many steps of an epoch; every process has to come here."""
    unfinished = {
        "epoch": epoch,
        "steps": steps,
        "seconds": time.perf_counter() - started,
        "losses": losses.state(),
    }
    _save(run, unfinished)


@dataclass(frozen=True)
class _MicroBatch:
    """One forward and backward pass of this process.

    Attributes:
        indices: Its videos.
        weights: 1 or 0 as each one's weight.
        seed: Of dropout.
        mix_seed: Of how its clips are mixed.
    """

    indices: list[int]
    weights: list[float]
    seed: int
    mix_seed: int


@dataclass(frozen=True)
class _Step:
    """One step of the optimiser: its videos over all processes, and what this one does."""

    videos: int
    micro_batches: list[_MicroBatch]


def _epoch_order(run: _TrainingRun, epoch: int) -> list[int]:
    """Returns the indices of an epoch's clips in order: of every video one, or balanced by class.

    Clips of one video in one epoch differ by multiples of the number of videos, see `ClipDataset`.
    """
    videos = len(run.data)
    rng = np.random.default_rng((ORDER_STREAM, run.seed, epoch))
    if run.hyperparameters.class_balance != "sampling":
        return list(map(int, rng.permutation(videos)))
    labels = np.array([video.label for video in run.data.videos])
    chances = 1 / np.bincount(labels)[labels]
    drawn = rng.choice(videos, size=videos, p=chances / chances.sum())
    before: Counter[int] = Counter()
    order = []
    for video in drawn.tolist():
        order.append(video + videos * before[video])
        before[video] += 1
    return order


def _epoch_steps(
    order: list[int], batch_size: int, accumulation_steps: int, seed: int, epoch: int
) -> list[_Step]:
    """Divides an epoch's clips into steps; the last may be smaller.

    Every process makes as many passes of the same sizes: where a batch doesn't divide evenly, a
    process one video short takes the batch's first video with weight zero.
    """
    rank, world = _rank(), _world()
    share = math.ceil(batch_size / world)
    size = math.ceil(share / accumulation_steps)
    steps = []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        own, weights = batch[rank::world], [1.0] * len(batch[rank::world])
        if len(own) < math.ceil(len(batch) / world):
            own, weights = [*own, batch[0]], [*weights, 0.0]
        micro_batches = [
            _MicroBatch(
                indices=own[first : first + size],
                weights=weights[first : first + size],
                seed=_seed(DROPOUT_STREAM, seed, epoch, rank, start, first),
                mix_seed=_seed(MIX_STREAM, seed, epoch, rank, start, first),
            )
            for first in range(0, len(own), size)
        ]
        steps.append(_Step(len(batch), micro_batches))
    return steps


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])


def learning_rate(hyperparameters: Hyperparameters, step: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of one step: a linear warm-up, then the schedule.

    Args:
        hyperparameters: Schedule, warm-up and epochs.
        step: From 0, over all epochs.
        steps_per_epoch: Steps of each epoch.
    """
    steps = hyperparameters.epochs * steps_per_epoch
    warmup = hyperparameters.warmup_epochs * steps_per_epoch
    top = hyperparameters.learning_rate
    if step < warmup:
        return top * min(1.0, (step + 1) / warmup)
    if hyperparameters.schedule == "cosine":
        return top * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
    if hyperparameters.schedule == "step":
        passed = sum(step >= round(fraction * steps) for fraction in hyperparameters.milestones)
        return top * hyperparameters.gamma**passed
    return top


def _accumulate_gradients(
    run: _TrainingRun, step: _Step, batches: Iterator[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Leaves the gradient of the step's mean loss in the parameters, summed over processes.

    Returns:
        Each loss summed over this process's videos of the step, not weighted.
    """
    totals: dict[str, Tensor] = {}
    autocast = torch.autocast(
        run.device.type,
        torch.bfloat16,
        enabled=run.hyperparameters.precision == "bfloat16",
    )
    for number, own in enumerate(step.micro_batches, start=1):
        batch = next(batches)
        labels = batch["label"].to(run.device, non_blocking=True)
        weights = torch.tensor(own.weights).to(run.device, non_blocking=True)
        last = number == len(step.micro_batches)
        inputs = model_inputs(batch, run.device)
        inputs, labels = mix_clips(
            inputs,
            labels,
            run.hyperparameters,
            num_classes=run.model.num_classes,
            seed=own.mix_seed,
        )
        run.model.seed_forward(own.seed)
        with contextlib.nullcontext() if last else run.no_sync():
            with autocast:
                output = run.forward(**inputs)
            losses = video_losses(
                output,
                labels,
                class_weights=run.class_weights,
                label_smoothing=run.hyperparameters.label_smoothing,
            )
            sums = {name: weights @ loss for name, loss in losses.items()}
            loss = _weighted(sums, run.hyperparameters) / step.videos
            torch.autograd.backward(
                loss * _world()
            )  # the processes' gradients are averaged, not summed
        for name, value in sums.items():
            totals[name] = totals.get(name, 0) + value.detach()
    return totals


def mix_clips(
    inputs: dict[str, Tensor],
    labels: Tensor,
    hyperparameters: Hyperparameters,
    *,
    num_classes: int,
    seed: int,
) -> tuple[dict[str, Tensor], Tensor]:
    """Mixes the clips of a forward pass by torchvision's mixup or CutMix, if any is asked for.

    A clip's frames, its inputs and its label are mixed with those of the same other clip and by
    the same share, so that a stream sees the same alone and with others.

    Args:
        inputs: By name, each (B, T, C, H, W).
        labels: (B,) int64.
        hyperparameters: α of both.
        num_classes: Number of classes N.
        seed: Of the shares.

    Returns:
        Inputs of the same shapes, and labels (B, N), or what was given where nothing is mixed.
    """
    if not (hyperparameters.mixup_alpha or hyperparameters.cutmix_alpha):
        return inputs, labels
    from torchvision import tv_tensors
    from torchvision.transforms import v2

    alphas = {v2.MixUp: hyperparameters.mixup_alpha, v2.CutMix: hyperparameters.cutmix_alpha}
    mixing = [
        kind(alpha=alpha, num_classes=num_classes) for kind, alpha in alphas.items() if alpha > 0
    ]
    torch.default_generator.manual_seed(seed)
    clips = {name: tv_tensors.Video(x) for name, x in inputs.items()}
    mixed, shares = v2.RandomChoice(mixing)(clips, labels)
    return {name: x.as_subclass(Tensor) for name, x in mixed.items()}, shares


def video_losses(
    output: ModelOutput,
    labels: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> dict[str, Tensor]:
    """Returns every loss by name, (B,).

    Args:
        output: Of B clips.
        labels: (B,) classes, or (B, N) shares of them.
        class_weights: (N,) what each class's cross-entropy is multiplied by; None for 1.
        label_smoothing: What of each label is spread evenly over the classes.
    """
    losses = {
        name: F.cross_entropy(
            logits.float(),
            labels,
            weight=class_weights,
            label_smoothing=label_smoothing,
            reduction="none",
        )
        for name, logits in (*output.logits.items(), *output.auxiliary_logits.items())
    }
    return losses | {name: loss.float() for name, loss in output.auxiliary_losses.items()}


def _weighted(sums: dict[str, Tensor], hyperparameters: Hyperparameters) -> Tensor:
    """Returns the weighted sum of losses; a stream that the model was built without has none."""
    weights = hyperparameters.loss_weights
    unknown = sorted(set(weights) - set(sums) - {"spatial", "temporal"})
    if unknown:
        raise ValueError(
            f"loss_weights names {', '.join(unknown)}, but the model's losses are {', '.join(sums)}"
        )
    return torch.stack([weights.get(name, 1.0) * loss for name, loss in sums.items()]).sum()


def put_channels_last(model: nn.Module) -> None:
    """Lays weights out for the fastest 2-D kernels and, up to 1.8 times on a CPU, 3-D ones.

    ``Module.to(memory_format=…)`` takes no model that has both.
    """
    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for parameter in model.parameters():
        if parameter.ndim in layouts:
            parameter.data = parameter.data.contiguous(memory_format=layouts[parameter.ndim])


def clip_gradients(model: VideoModel, max_norm: float) -> None:
    """Scales gradients down to a norm: each stream's by itself where streams are independent."""
    groups = [list(model.parameters())]
    if model.independent_streams:
        groups = list(model.stream_parameters().values())
    for parameters in groups:
        nn.utils.clip_grad_norm_(parameters, max_norm)


def class_weights(data: ClipDataset, num_classes: int) -> Tensor:
    """Returns V / (N·V_c) for each class c of N that V_c of the V videos have, (N,); else 0."""
    counts = torch.bincount(
        torch.tensor([video.label for video in data.videos]), minlength=num_classes
    )
    weights = len(data.videos) / (num_classes * counts.clamp(min=1).float())
    return weights * (counts > 0)


def _optimizer(model: VideoModel, hyperparameters: Hyperparameters) -> torch.optim.Optimizer:
    groups = parameter_groups(model, hyperparameters.rate_multipliers)
    lr, decay = hyperparameters.learning_rate, hyperparameters.weight_decay
    if hyperparameters.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=lr, weight_decay=decay)
    return torch.optim.SGD(groups, lr=lr, momentum=hyperparameters.momentum, weight_decay=decay)


class _EpochLosses:
    """Means of an epoch's losses over its videos and all processes."""

    def __init__(self, epoch: int, videos: int) -> None:
        self._epoch = epoch
        self._videos = videos
        self._steps = 0
        self._names: list[str] = []
        self._pending: list[tuple[Tensor, float]] = []
        self._totals = torch.zeros((), dtype=torch.float64)

    def add(self, sums: dict[str, Tensor], lr: float) -> None:
        """Adds one step's sums over this process's videos, with the step's learning rate."""
        self._names = list(sums)
        self._pending.append((torch.stack(list(sums.values())), lr))
        if len(self._pending) == CHECK_EVERY:
            self._flush()

    def state(self) -> dict[str, Any]:
        """Returns all that was added, as plain values; every process has to call it."""
        sums = [sums.cpu() for sums, _ in self._pending]
        return {
            "names": self._names,
            "steps": self._steps,
            "totals": self._totals,
            "rates": [lr for _, lr in self._pending],
            "pending": _of_all(sums),
        }

    def restore(self, state: dict[str, Any], device: torch.device) -> None:
        """Takes up what `state` returned.

        Where there are now other processes than then, they divide the sums of those between them.
        """
        self._names, self._steps, self._totals = state["names"], state["steps"], state["totals"]
        own = state["pending"][_rank() :: _world()]
        for step, lr in enumerate(state["rates"]):
            none = torch.zeros(len(self._names))
            sums = [process[step] for process in own] or [none]
            self._pending.append((torch.stack(sums).sum(0).to(device), lr))

    def mean(self) -> dict[str, float]:
        """Returns each loss's mean over the epoch's videos."""
        if self._pending:
            self._flush()
        return dict(zip(self._names, (self._totals / self._videos).tolist(), strict=True))

    def _flush(self) -> None:
        """Adds the pending sums over processes to the totals, and checks that they are finite."""
        sums = torch.stack([one for one, _ in self._pending])  # (steps, losses)
        if dist.is_initialized():
            dist.all_reduce(sums)
        sums = sums.double().cpu()
        bad = (~sums.isfinite()).nonzero()
        if len(bad):
            step, loss = bad[0].tolist()
            raise NonFiniteLossError(
                f"the {self._names[loss]} loss became {sums[step, loss].item()} in epoch "
                f"{self._epoch + 1}, step {self._steps + step + 1}, at a learning rate of "
                f"{self._pending[step][1]:g}; lower learning_rate, raise warmup_epochs or set "
                "clip_norm"
            )
        self._totals = self._totals + sums.sum(0)
        self._steps += len(sums)
        self._pending.clear()


def _validate(run: _TrainingRun, data: ClipDataset) -> Scores:
    return score(
        run.scored,
        data,
        device=run.device,
        batch_size=math.ceil(run.hyperparameters.batch_size / run.accumulation_steps),
        precision=run.hyperparameters.precision,
        loader_workers=run.loader_workers,
    )


def _slowest(seconds: float, device: torch.device) -> float:
    """Returns the most seconds that any process took."""
    if not dist.is_initialized():
        return seconds
    most = torch.tensor(seconds, dtype=torch.float64, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return most.item()


def _of_all(value: Any) -> list[Any]:
    """Returns the values of all processes, by rank."""
    values = [value] * _world()
    if _world() > 1:
        dist.all_gather_object(values, value)
    return values


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _world() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1
