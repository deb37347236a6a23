"""What a training needs of a GPU's memory, and the micro-batch that fits.

The estimate runs a step of the training on tensors without data and counts the bytes of all that
are alive; it needs no GPU, no memory and about a second. `measure_memory` runs the step on a GPU.
"""

import contextlib
import copy
import math
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._python_dispatch import TorchDispatchMode

from models import ModelOutput, VideoModel
from study.data.clips.transforms import test_crops
from study.training.hyperparameters import Hyperparameters
from study.training.loop import put_channels_last, video_losses
from study.training.recomputation import recompute_activations

__all__ = [
    "CONTEXT_BYTES",
    "FRAGMENTATION",
    "MemoryEstimate",
    "MicroBatch",
    "choose_micro_batch",
    "choose_scoring_batch",
    "estimate_memory",
    "estimate_scoring_memory",
    "measure_memory",
    "passes_matter",
]

GIB = 2**30
CONTEXT_BYTES = GIB  # the CUDA context, its libraries and their handles
FRAGMENTATION = 0.1  # of the tensors: convolutions' workspaces and gaps between allocations


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryEstimate:
    """Bytes that a process needs on its device, by the videos in one forward pass.

    What a pass needs is convex in its videos: the maximum over moments of linear functions. The
    estimate is the chord from one video to the whole batch, so between them it is no less, to a
    part in a thousand.

    Attributes:
        parameters_bytes: Parameters and buffers, and their moving average.
        gradients_bytes: Gradients, which accumulation keeps through the forward pass.
        optimizer_bytes: Momentum, or the two moments of AdamW.
        update_bytes: What the optimiser's step needs for itself, after the activations are freed.
        inputs_bytes: Of one video.
        activations_bytes: Of one video: what the forward pass keeps for the backward pass.
        backward_bytes: Of one video: what the backward pass needs beyond that at its peak.
        fixed_bytes: What a pass needs whatever its videos, such as weights cast to bfloat16.
    """

    parameters_bytes: int
    gradients_bytes: int = 0
    optimizer_bytes: int = 0
    update_bytes: int = 0
    inputs_bytes: int
    activations_bytes: int
    backward_bytes: int = 0
    fixed_bytes: int

    def tensor_bytes(self, videos: int) -> int:
        """Bytes of all tensors at the peak, with that many videos in a forward pass."""
        state = self.parameters_bytes + self.gradients_bytes + self.optimizer_bytes
        of_video = self.inputs_bytes + self.activations_bytes + self.backward_bytes
        return state + max(self.fixed_bytes + videos * of_video, self.update_bytes)

    def total_bytes(self, videos: int) -> int:
        """Bytes of the device: tensors, `FRAGMENTATION` of them, and `CONTEXT_BYTES`."""
        return CONTEXT_BYTES + math.ceil(self.tensor_bytes(videos) * (1 + FRAGMENTATION))


@dataclass(frozen=True, kw_only=True, slots=True)
class MicroBatch:
    """How a training's batch is divided so that it fits.

    Attributes:
        videos: The most videos in one forward pass of a process.
        accumulation_steps: Forward and backward passes of each process in a step.
        activation_checkpointing: Whether activations are computed again in the backward pass.
        precision: ``float32`` or ``bfloat16``.
        needed_bytes: What a process then needs of its device.
    """

    videos: int
    accumulation_steps: int
    activation_checkpointing: bool
    precision: str
    needed_bytes: int


def estimate_memory(
    model: VideoModel,
    hyperparameters: Hyperparameters,
    *,
    precision: str | None = None,
    activation_checkpointing: bool = False,
) -> MemoryEstimate:
    """Estimates what a step of training needs, without a GPU and without computing anything.

    Exact to a few percent but for what libraries take in addition to tensors, for which
    `MemoryEstimate.total_bytes` has a reserve. In bfloat16 it is an upper bound for networks with
    3-D pooling, which autocast leaves in float32 on a CPU and not on a GPU.

    Args:
        model: The network, on any device; on ``meta`` it costs no memory. It is left as it is.
        hyperparameters: Batch, clips and optimiser.
        precision: ``float32`` or ``bfloat16``; None is the hyperparameters'.
        activation_checkpointing: Whether activations are computed again in the backward pass.
    """
    net = _prepared(model, activation_checkpointing).to("meta")
    precision = precision or hyperparameters.precision
    passes = _count_steps(net, hyperparameters, {1, hyperparameters.batch_size}, precision)
    return _training_estimate(net, hyperparameters, passes[0], passes[-1])


def estimate_scoring_memory(
    model: VideoModel,
    hyperparameters: Hyperparameters,
    *,
    precision: str | None = None,
) -> MemoryEstimate:
    """Estimates what scoring test clips needs; its "videos" are clips, a video's views among them.

    Args:
        model: The network, on any device; on ``meta`` it costs no memory. It is left as it is.
        hyperparameters: Test clips, and the batch size.
        precision: ``float32`` or ``bfloat16``; None is the hyperparameters'.
    """
    net = copy.deepcopy(model).to("meta").eval()
    precision = precision or hyperparameters.precision
    passes = _count_scoring(net, hyperparameters, {1, hyperparameters.batch_size}, precision)
    crops = hyperparameters.test_crops
    crops_of_clip = len(test_crops(1, 1, size=1, scales=hyperparameters.scales, crops=crops))
    views = hyperparameters.test_clips * crops_of_clip
    inputs = _input_bytes(net, hyperparameters.test_segments, hyperparameters.tested_size)
    of_clip, fixed = _line(passes[0], passes[-1], "peak_bytes")
    return MemoryEstimate(
        parameters_bytes=_bytes_of(net.state_dict().values()),
        inputs_bytes=inputs,
        activations_bytes=of_clip - inputs,
        fixed_bytes=fixed + views * inputs,  # all of a video's views are on the device
    )


def measure_memory(
    model: VideoModel,
    hyperparameters: Hyperparameters,
    *,
    device: str | torch.device = "cuda",
    precision: str | None = None,
    activation_checkpointing: bool = False,
) -> MemoryEstimate:
    """Measures what a step of training needs on a GPU, on one and two videos.

    It draws from the device's random state and resets its peak statistics.

    Args:
        model: The network; it is left as it is.
        hyperparameters: Batch, clips and optimiser.
        device: A CUDA device with room for the network and two videos.
        precision: ``float32`` or ``bfloat16``; None is the hyperparameters'.
        activation_checkpointing: Whether activations are computed again in the backward pass.

    Raises:
        torch.OutOfMemoryError: If two videos don't fit.
    """
    net = _prepared(model, activation_checkpointing).to(device)
    precision = precision or hyperparameters.precision
    _measure_step(net, hyperparameters, 1, precision)  # loads the libraries' kernels
    one, two = (_measure_step(net, hyperparameters, videos, precision) for videos in (1, 2))
    return _training_estimate(net, hyperparameters, one, two)


def choose_micro_batch(
    estimate: Callable[[str, bool], MemoryEstimate],
    *,
    batch_size: int,
    available_bytes: int,
    world_size: int = 1,
    precisions: Sequence[str] = ("float32",),
    accumulation_steps: int | None = None,
) -> MicroBatch:
    """Divides a batch into the fewest forward passes that fit and are equal.

    Where that takes at least twice as many passes, the last of the fewest is smaller. Activation
    checkpointing, which costs about a third more time, is used only where not one video fits
    without it; a further precision only where checkpointing isn't enough.

    Args:
        estimate: What a precision needs, without and with activation checkpointing.
        batch_size: Videos of an optimiser step, over all processes.
        available_bytes: The device's memory.
        world_size: Processes, each with a device of its own.
        precisions: Those that may be used, the preferred one first.
        accumulation_steps: Passes that are asked for, however few would fit; None chooses.

    Raises:
        ValueError: If not one video fits, or not those of the passes that are asked for.
    """
    share = math.ceil(batch_size / world_size)
    least = 1 if accumulation_steps is None else math.ceil(share / accumulation_steps)
    for precision in precisions:
        for checkpointing in (False, True):
            needed = estimate(precision, checkpointing)
            fitting = _most_that_fit(needed, share, available_bytes)
            if fitting >= least:
                steps = accumulation_steps or _equal_passes(share, math.ceil(share / fitting))
                videos = math.ceil(share / steps)
                return MicroBatch(
                    videos=videos,
                    accumulation_steps=steps,
                    activation_checkpointing=checkpointing,
                    precision=precision,
                    needed_bytes=needed.total_bytes(videos),
                )
    what = "one video needs" if least == 1 else f"{least} videos a pass need"
    instead = "" if least == 1 else "raise accumulation_steps or leave it out, "
    raise ValueError(
        f"{what} {needed.total_bytes(least) / GIB:.1f} GiB of GPU memory in {precision} with "
        f"activation checkpointing, but the GPU has {available_bytes / GIB:.1f} GiB; {instead}"
        "lower segments or crop_size, choose a smaller backbone, set precision=bfloat16 or take a "
        "larger GPU"
    )


def choose_scoring_batch(estimate: MemoryEstimate, *, batch_size: int, available_bytes: int) -> int:
    """The most clips, at most `batch_size`, that are scored in one forward pass.

    Raises:
        ValueError: If not one clip fits.
    """
    clips = _most_that_fit(estimate, batch_size, available_bytes)
    if not clips:
        raise ValueError(
            f"scoring one clip needs {estimate.total_bytes(1) / GIB:.1f} GiB of GPU memory, but "
            f"the GPU has {available_bytes / GIB:.1f} GiB; lower test_segments, crop_size or "
            "test_crop_size, or take a larger GPU"
        )
    return clips


def passes_matter(model: nn.Module) -> bool:
    """Whether a training's result depends on its micro-batch, beyond rounding.

    It does where batch normalisation uses the statistics of a forward pass (frozen norms, as
    partial BN has them, use the running ones), and with dropout, whose masks are drawn for each
    pass.

    Args:
        model: The network in training mode.
    """
    return any(
        (isinstance(module, _BatchNorm) and (module.training or not module.track_running_stats))
        or (isinstance(module, nn.Dropout) and module.training and module.p > 0)
        for module in model.modules()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pass:
    """Bytes of tensors in a forward and backward pass, beyond what is there between passes.

    Attributes:
        videos: Videos of the pass.
        kept_bytes: After the forward pass, inputs included.
        peak_bytes: The most at any moment.
    """

    videos: int
    kept_bytes: int
    peak_bytes: int


def _prepared(model: VideoModel, activation_checkpointing: bool) -> VideoModel:
    """A copy of the network as it trains."""
    net = copy.deepcopy(model).train()
    if activation_checkpointing:
        recompute_activations(net)
    return net


def _training_estimate(
    net: VideoModel, hyperparameters: Hyperparameters, one: _Pass, most: _Pass
) -> MemoryEstimate:
    trained = _bytes_of(p for p in net.parameters() if p.requires_grad)
    inputs = _input_bytes(net, hyperparameters.segments, hyperparameters.crop_size)
    kept, _ = _line(one, most, "kept_bytes")
    of_video, fixed = _line(one, most, "peak_bytes")
    copies = 1 if hyperparameters.ema_decay is None else 2
    moments = 2 if hyperparameters.optimizer == "adamw" else bool(hyperparameters.momentum)
    return MemoryEstimate(
        parameters_bytes=copies * _bytes_of(net.state_dict().values()),
        gradients_bytes=trained,
        optimizer_bytes=moments * trained,
        update_bytes=trained,  # the gradients with weight decay added to them
        inputs_bytes=inputs,
        activations_bytes=kept - inputs,
        backward_bytes=of_video - kept,
        fixed_bytes=fixed,
    )


def _line(one: _Pass, most: _Pass, what: str) -> tuple[int, int]:
    """Bytes of a video, rounded up, and what is left for a pass whatever its videos."""
    first, last = getattr(one, what), getattr(most, what)
    if most.videos == one.videos:
        return first, 0
    of_video = -(-(last - first) // (most.videos - one.videos))
    return of_video, first - one.videos * of_video


def _count_steps(
    net: VideoModel, hyperparameters: Hyperparameters, numbers: Iterable[int], precision: str
) -> list[_Pass]:
    """Steps of the network, which is on ``meta``, with each of these numbers of videos."""
    passes = []
    with _without_data(net, precision), _LiveBytes() as live:
        state = _add_gradients(net, live.now)
        for videos in sorted(numbers):
            live.peak = state
            kept = _run_step(net, hyperparameters, videos, precision, live.now)
            passes.append(
                _Pass(videos=videos, kept_bytes=kept - state, peak_bytes=live.peak - state)
            )
    return passes


@contextlib.contextmanager
def _without_data(net: VideoModel, precision: str) -> Iterator[None]:
    """Lets a network that is on ``meta`` run in a precision.

    Autocast does nothing on ``meta``, so for it the network becomes one of fake CPU tensors, which
    take twice the time; fake CUDA tensors have a backward pass only where there is a GPU.
    """
    if precision == "float32":
        yield
        return
    with FakeTensorMode(allow_non_fake_inputs=True):
        net.to_empty(device="cpu")
        yield


def _measure_step(
    net: VideoModel, hyperparameters: Hyperparameters, videos: int, precision: str
) -> _Pass:
    device = _device(net)

    def now() -> int:
        return torch.cuda.memory_allocated(device)

    state = _add_gradients(net, now)
    torch.cuda.reset_peak_memory_stats(device)
    kept = _run_step(net, hyperparameters, videos, precision, now)
    peak = torch.cuda.max_memory_allocated(device)
    return _Pass(videos=videos, kept_bytes=kept - state, peak_bytes=peak - state)


def _add_gradients(net: nn.Module, now: Callable[[], int]) -> int:
    """Puts a network in the state that it has between two passes; returns the bytes by then."""
    put_channels_last(net)
    for parameter in net.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    return now()


def _run_step(
    net: VideoModel,
    hyperparameters: Hyperparameters,
    videos: int,
    precision: str,
    now: Callable[[], int],
) -> int:
    """One forward and backward pass; returns the bytes between the two."""
    segments, size = hyperparameters.segments, hyperparameters.crop_size
    inputs = _inputs(net, videos, segments, size)  # the loop holds them to the end of the step
    output = _run_forward(net, inputs, precision)
    labels = torch.zeros(videos, dtype=torch.int64, device=_device(net))
    loss = torch.stack([one.sum() for one in video_losses(output, labels).values()]).sum()
    kept = now()
    loss.backward()
    return kept


def _count_scoring(
    net: VideoModel, hyperparameters: Hyperparameters, numbers: Iterable[int], precision: str
) -> list[_Pass]:
    """Forward passes of the network, which is on ``meta``, with each of these numbers of clips."""
    passes = []
    with _without_data(net, precision), _LiveBytes() as live, torch.no_grad():
        put_channels_last(net)
        state = live.now()
        for clips in sorted(numbers):
            live.peak = state
            inputs = _inputs(net, clips, hyperparameters.test_segments, hyperparameters.tested_size)
            _run_forward(net, inputs, precision)
            del inputs
            passes.append(_Pass(videos=clips, kept_bytes=0, peak_bytes=live.peak - state))
    return passes


def _run_forward(net: VideoModel, inputs: Mapping[str, Tensor], precision: str) -> ModelOutput:
    autocast: Any = contextlib.nullcontext()
    if precision == "bfloat16":
        autocast = torch.autocast(_device(net).type, torch.bfloat16)
    with autocast:
        output: ModelOutput = net(**inputs)
    return output


def _inputs(net: VideoModel, clips: int, segments: int, size: int) -> dict[str, Tensor]:
    """Clips as `study.data.clips.transforms.model_inputs` makes them, each (B, T, C, S, S)."""
    return {
        name: torch.empty(
            (clips * segments, net.input_channels(name), size, size),
            device=_device(net),
            memory_format=torch.channels_last,
        ).unflatten(0, (clips, segments))
        for name in net.inputs
    }


def _device(net: nn.Module) -> torch.device:
    return next(net.parameters()).device


def _input_bytes(net: VideoModel, segments: int, size: int) -> int:
    """Bytes of one clip."""
    channels = sum(net.input_channels(name) for name in net.inputs)
    return segments * channels * size**2 * torch.float32.itemsize


def _bytes_of(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _most_that_fit(estimate: MemoryEstimate, videos: int, available_bytes: int) -> int:
    """The most videos, none more than given, that fit in a forward pass; 0 if not one does."""
    fitting = [n for n in range(1, videos + 1) if estimate.total_bytes(n) <= available_bytes]
    return max(fitting, default=0)


def _equal_passes(videos: int, fewest: int) -> int:
    return next((n for n in range(fewest, 2 * fewest) if videos % n == 0), fewest)


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, of those that came up inside.

    Attributes:
        peak: The most at any moment.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # of torch
        self.peak = 0
        self._now = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def now(self) -> int:
        """Bytes that are alive."""
        return self._now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in result if isinstance(result, tuple | list) else (result,):
            if isinstance(leaf, Tensor):
                self._add(leaf.untyped_storage())
        return result

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def freed(_: Any) -> None:
            del self._alive[key]
            self._now -= size

        self._alive[key] = weakref.ref(storage, freed)
        self._now += size
        self.peak = max(self.peak, self._now)
