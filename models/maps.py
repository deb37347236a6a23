"""Where a network looks in a clip: Grad-CAM of each stream, and attention over frames and cells.

Selvaraju et al., "Grad-CAM: visual explanations from deep networks via gradient-based
localization", ICCV 2017. They explain one image; over the frames of a clip it is as follows (ours):
a network of images weights each frame's channels by that frame's own gradients, a network of
volumes by those of the whole clip, and one scale serves all frames, so that frames can be compared.
"""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.video_model import VideoModel

__all__ = ["ClipMaps", "class_activation_map", "clip_maps", "over_clip"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ClipMaps:
    """Where a network looks in one clip, by stream.

    Attributes:
        grad_cam: What speaks for the class: (t, h, w) in 0..1, and 1 where it is most, unless
            nothing speaks for it. The t steps cover the clip evenly, t may differ from its T
            frames.
        attention: Attention weights, (t, h, w), or (t, 1, 1) where whole frames are weighted; they
            sum to one. Streams without attention are left out.
    """

    grad_cam: Mapping[str, Tensor]
    attention: Mapping[str, Tensor]


def clip_maps(model: VideoModel, inputs: Mapping[str, Tensor], label: int) -> ClipMaps:
    """Returns where a network looks in one clip.

    Grad-CAM is of the last map of more than one cell that a module of the stream's network makes:
    of ``backbones``, ``nets`` or ``towers``, before attention, fusion and classifier. Gradients are
    computed from that map on alone, so that a clip takes the memory that scoring it takes.

    Args:
        model: The network, in evaluation mode.
        inputs: As ``forward`` takes them, of one clip.
        label: The class whose evidence is looked for.

    Raises:
        ValueError: If the inputs are of several clips, there is no such class, or a stream has no
            map of more than one cell.
    """
    clips, *_, height, width = next(iter(inputs.values())).shape
    if clips != 1:
        raise ValueError(f"maps are of one clip, got inputs of {clips}")
    if not 0 <= label < model.num_classes:
        raise ValueError(f"label must be one of 0..{model.num_classes - 1}, got {label}")
    trunks = {stream: model.stream_modules()[stream][0] for stream in model.streams}
    calls = {stream: _count_calls(model, trunk, inputs) for stream, trunk in trunks.items()}
    if blind := [stream for stream, count in calls.items() if not count]:
        raise ValueError(
            f"stream {blind[0]!r} of model {model.model_name!r} has no map of more than one cell "
            f"of {height} × {width} px; give larger frames"
        )
    last: dict[str, Tensor] = {}
    with ExitStack() as hooks, torch.enable_grad():
        _freeze(model, hooks)
        for stream, trunk in trunks.items():
            _on_maps(trunk, _Start(stream, calls[stream], last), hooks)
        output = model(**inputs)
    grad_cam = {
        stream: class_activation_map(maps, _gradient(output.logits[stream][0, label], maps))
        for stream, maps in last.items()
    }
    attention = {
        stream: _laid_out(weights[0].detach(), len(grad_cam[stream]), height / width)
        for stream, weights in output.attention.items()
        if stream in grad_cam
    }
    return ClipMaps(grad_cam=grad_cam, attention=attention)


def class_activation_map(maps: Tensor, gradient: Tensor) -> Tensor:
    """Returns ReLU(Σ_k α_k A_k), α_k being the mean of the score's gradient (eqs. 1 and 2).

    Args:
        maps: A of one clip: (t, C, h, w) of a network of images, or (1, C, t, h, w).
        gradient: Of a class's score before the softmax, of the same shape.

    Returns:
        (t, h, w), divided by its largest value unless that is zero.
    """
    maps, gradient = maps.detach().float(), gradient.float()
    alpha = gradient.mean(dim=tuple(range(2, maps.ndim)), keepdim=True)
    found = (alpha * maps).sum(dim=1).relu()  # (t, h, w) or (1, t, h, w)
    found = found if maps.ndim == 4 else found[0]
    most = found.max()
    return found / most if most > 0 else found


def over_clip(maps: Tensor, frames: int, size: tuple[int, int]) -> Tensor:
    """Spreads maps (t, h, w) over the frames of a clip, (T, H, W), by linear interpolation.

    Args:
        maps: The maps; their steps cover the clip evenly.
        frames: T.
        size: H and W in pixels.
    """
    return F.interpolate(maps[None, None], size=(frames, *size), mode="trilinear")[0, 0]


def _count_calls(model: VideoModel, trunk: nn.Module, inputs: Mapping[str, Tensor]) -> int:
    """Returns how often modules of a stream's network return a map of more than one cell."""
    count = 0

    def counted(output: Tensor) -> None:
        nonlocal count
        count += 1

    with ExitStack() as hooks, torch.no_grad():
        _on_maps(trunk, counted, hooks)
        model(**inputs)
    return count


class _Start:
    """Starts the gradients of a stream at its last map.

    Args:
        stream: The stream.
        calls: The number of that map among all maps of the stream.
        last: Receives it.
    """

    def __init__(self, stream: str, calls: int, last: dict[str, Tensor]) -> None:
        self._stream, self._left, self._last = stream, calls, last

    def __call__(self, output: Tensor) -> Tensor | None:
        self._left -= 1
        if self._left:
            return None
        maps = self._last[self._stream] = output.detach().requires_grad_()
        return maps.clone()  # a leaf refuses what changes it in place


def _on_maps(
    trunk: nn.Module, receive: Callable[[Tensor], Tensor | None], hooks: ExitStack
) -> None:
    """Hands each map of more than one cell that a module returns to a function that may change it.

    Args:
        trunk: The module; its parts count too.
        receive: Receives the map; a tensor that it returns takes the map's place.
        hooks: Removes the hooks when it is closed.
    """

    def hook(module: nn.Module, given: Any, output: Any) -> Tensor | None:
        is_map = isinstance(output, Tensor) and output.ndim in (4, 5)
        return receive(output) if is_map and output.shape[-2:].numel() > 1 else None

    for module in trunk.modules():
        hooks.callback(module.register_forward_hook(hook).remove)


def _freeze(model: nn.Module, hooks: ExitStack) -> None:
    """Has no gradients computed for parameters, until the stack is closed."""
    for parameter in model.parameters():
        hooks.callback(parameter.requires_grad_, parameter.requires_grad)
        parameter.requires_grad_(False)


def _gradient(score: Tensor, maps: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(score, maps, retain_graph=True)
    return gradient


def _laid_out(weights: Tensor, steps: int, aspect: float) -> Tensor:
    """Lays n weights, frame by frame and row by row, out as (t, h, w).

    Args:
        weights: (n,).
        steps: t.
        aspect: Height of a frame by its width.
    """
    cells = len(weights) // steps
    rows = round((cells * aspect) ** 0.5)
    return weights.float().reshape(steps, rows, cells // rows)
