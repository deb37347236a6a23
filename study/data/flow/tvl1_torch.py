"""TV-L1 optical flow on a GPU: the scheme of `study.data.flow.tvl1`, batched over frame pairs.

On CUDA with Triton an iteration is one fused kernel; elsewhere it is plain torch operations,
which also serve where numba is missing.
"""

from importlib.util import find_spec

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from study.data.flow.tvl1_scheme import DUAL_STEP, PRIMAL_STEP, RELAXATION, Scheme

__all__ = ["solve"]

BATCH_PIXELS = 2**23  # of pairs that are solved together: about a gigabyte


def solve(gray: NDArray[np.uint8], scheme: Scheme, *, device: str) -> NDArray[np.float32]:
    """Computes the flow from every frame to the next, as `study.data.flow.tvl1.solve` does.

    Args:
        gray: Frames (F, H, W), F ≥ 2.
        scheme: How to solve it.
        device: The torch device to compute on.
    """
    frames, height, width = gray.shape
    flow = np.empty((frames - 1, 2, height, width), np.float32)
    batch = max(1, BATCH_PIXELS // (height * width))
    for start in range(0, frames - 1, batch):
        images = torch.from_numpy(gray[start : start + batch + 1]).to(device).float()[:, None]
        pyramid = _pyramid(images, scheme)
        u = images.new_zeros(len(images) - 1, 2, 1, 1)
        for image in reversed(pyramid):
            ratios = (u.shape[-2] / image.shape[-2], u.shape[-1] / image.shape[-1])
            u = _resize(u, tuple(image.shape[-2:]), ratios) / scheme.scale_step
            u = _solve_level(image, u, scheme)
        flow[start : start + batch] = u.cpu().numpy()
    return flow


def _resize(images: Tensor, size: tuple[int, ...], ratios: tuple[float, float]) -> Tensor:
    """Resizes bilinearly; a ratio is source pixels a target pixel, down and across."""
    for axis, length, ratio in ((-2, size[0], ratios[0]), (-1, size[1], ratios[1])):
        last = images.shape[axis] - 1
        at = (torch.arange(length, device=images.device, dtype=torch.float32) + 0.5) * ratio - 0.5
        at = at.clamp(0, last)
        low = at.floor().long()
        weight = (at - low).unsqueeze(-1) if axis == -2 else at - low
        high = (low + 1).clamp(max=last)
        first, second = images.index_select(axis, low), images.index_select(axis, high)
        images = first + weight * (second - first)
    return images


def _pyramid(images: Tensor, scheme: Scheme) -> list[Tensor]:
    """Returns levels (F, 1, h, w), finest first."""
    levels = [images]
    ratio = 1 / scheme.scale_step
    for size in scheme.sizes(*images.shape[-2:])[1:]:
        levels.append(_resize(levels[-1], size, (ratio, ratio)))
    return levels


def _solve_level(
    images: Tensor,  # (B+1, 1, h, w)
    u: Tensor,  # (B, 2, h, w)
    scheme: Scheme,
) -> Tensor:
    """Computes the flow of each pair at one level, from that of the coarser one."""
    iterate = _iterate
    if u.is_cuda and find_spec("triton"):
        from study.data.flow.tvl1_triton import iterate
    first, second = images[:-1], _with_differences(images[1:])
    p = u.new_zeros(len(u), 4, *u.shape[-2:])
    going = torch.ones(len(u), 1, 1, 1, dtype=torch.bool, device=u.device)
    for _ in range(scheme.warps):
        gradient, rho, inverse = _linearise(first, second, u)
        new, new_p = iterate(
            u,
            p,
            gradient,
            rho,
            inverse,
            scheme.iterations,
            sigma=DUAL_STEP,
            tau=PRIMAL_STEP,
            clip=scheme.clip,
            pull=scheme.pull,
            relaxation=RELAXATION,
        )
        moved = (new - u).square().sum(1).mean((1, 2))[:, None, None, None]
        u, p = torch.where(going, new, u), torch.where(going, new_p, p)
        going = going & (moved >= scheme.epsilon**2)
        if not going.any():
            break
    return u


def _with_differences(images: Tensor) -> Tensor:
    """Adds centred differences and borders to (B, 1, h, w), which becomes (B, 3, h+4, w+4)."""
    padded = F.pad(images, (3, 3, 3, 3), mode="replicate")
    across = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    down = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    return torch.cat([padded[..., 1:-1, 1:-1], across, down], 1)


def _linearise(first: Tensor, second: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns gradient (B, 2, h, w), ρ(0) and 1 / squared gradient (B, 1, h, w) at the flow."""
    height, width = u.shape[-2:]
    x = torch.arange(width, device=u.device) + u[:, 0]
    y = torch.arange(height, device=u.device)[:, None] + u[:, 1]
    in_x, in_y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    inside = ((in_x == x) & (in_y == y))[:, None]
    grid = torch.stack(
        [(in_x + 2) * (2 / (width + 3)) - 1, (in_y + 2) * (2 / (height + 3)) - 1], -1
    )
    warped = F.grid_sample(second, grid, "bicubic", "border", align_corners=True)
    gradient = warped[:, 1:] * inside
    rho = warped[:, :1] - first - (gradient * u).sum(1, keepdim=True)
    return gradient, rho, 1 / (gradient.square().sum(1, keepdim=True) + 1e-6)


def _iterate(
    u: Tensor,
    p: Tensor,
    gradient: Tensor,
    rho: Tensor,
    inverse: Tensor,
    iterations: int,
    *,
    sigma: float,
    tau: float,
    clip: float,
    pull: float,
    relaxation: float,
) -> tuple[Tensor, Tensor]:
    """Runs primal-dual iterations from `u` and `p` (B, 4, h, w: x and y of each component)."""
    bar = u
    for _ in range(iterations):
        across = F.pad(bar[..., 1:] - bar[..., :-1], (0, 1))
        down = F.pad(bar[..., 1:, :] - bar[..., :-1, :], (0, 0, 0, 1))
        q = p.unflatten(1, (2, 2)) + sigma * torch.stack([across, down], 2)
        q = q * q.square().sum(2, keepdim=True).clamp(min=1).rsqrt()
        p = torch.lerp(p, q.flatten(1, 2), relaxation)
        px, py = p[:, 0::2], p[:, 1::2]
        divergence = px - F.pad(px[..., :-1], (1, 0)) + py - F.pad(py[..., :-1, :], (0, 0, 1, 0))
        new = u + tau * divergence
        residual = (rho + (gradient * new).sum(1, keepdim=True)) * inverse
        new = new - pull * residual.clamp(-clip, clip) * gradient
        bar = 2 * new - u
        u = torch.lerp(u, new, relaxation)
    return u, p
