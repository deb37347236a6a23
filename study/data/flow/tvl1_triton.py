"""A TV-L1 iteration as one GPU kernel: what `study.data.flow.tvl1_torch` runs on CUDA with Triton.

A program updates the dual of its pixels and, again, that of their left and upper neighbours,
which the primal update needs; so an iteration is one launch, and its neighbours are read from the
dual and the extrapolated flow of the iteration before, which lie in a second buffer.
"""

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

__all__ = ["iterate"]

BLOCK = 512  # pixels of a program


@triton.jit
def _dual(bar, dual, pixels, at, x, y, inside, height, width, sigma, relaxation):  # type: ignore[no-untyped-def]
    """Returns one component's updated dual (x, y) at pixels `at`, in planes of `pixels` pixels."""
    here = tl.load(bar + at, inside, 0.0)
    right = tl.load(bar + at + 1, inside & (x < width - 1), 0.0)
    below = tl.load(bar + at + width, inside & (y < height - 1), 0.0)
    old_x = tl.load(dual + at, inside, 0.0)
    old_y = tl.load(dual + pixels + at, inside, 0.0)
    new_x = old_x + sigma * tl.where(x < width - 1, right - here, 0.0)
    new_y = old_y + sigma * tl.where(y < height - 1, below - here, 0.0)
    scale = 1.0 / tl.sqrt(tl.maximum(new_x * new_x + new_y * new_y, 1.0))
    new_x = old_x + relaxation * (new_x * scale - old_x)
    new_y = old_y + relaxation * (new_y * scale - old_y)
    return new_x, new_y


@triton.jit
def _component(  # type: ignore[no-untyped-def]
    u, dual, new_dual, bar, pixels, at, x, y, inside, height, width, sigma, tau, relaxation
):
    """Updates one component's dual; returns its flow and the same after the dual's step."""
    here_x, here_y = _dual(bar, dual, pixels, at, x, y, inside, height, width, sigma, relaxation)
    left, _ = _dual(
        bar, dual, pixels, at - 1, x - 1, y, inside & (x > 0), height, width, sigma, relaxation
    )
    _, up = _dual(
        bar, dual, pixels, at - width, x, y - 1, inside & (y > 0), height, width, sigma, relaxation
    )
    tl.store(new_dual + at, here_x, inside)
    tl.store(new_dual + pixels + at, here_y, inside)
    old = tl.load(u + at, inside, 0.0)
    divergence = here_x - tl.where(x > 0, left, 0.0) + here_y - tl.where(y > 0, up, 0.0)
    return old, old + tau * divergence


@triton.jit
def _iteration(  # type: ignore[no-untyped-def]
    u, dual, new_dual, bar, new_bar, gradient, rho, inverse,
    height, width, sigma, tau, clip, pull, relaxation,
    BLOCK: tl.constexpr,
):  # fmt: skip
    pixels = height * width
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x, y = at % width, at // width
    inside = at < pixels
    pair = tl.program_id(1).to(tl.int64) * pixels
    u, bar, new_bar, gradient = (
        u + 2 * pair,
        bar + 2 * pair,
        new_bar + 2 * pair,
        gradient + 2 * pair,
    )
    dual, new_dual = dual + 4 * pair, new_dual + 4 * pair
    old1, new1 = _component(
        u, dual, new_dual, bar, pixels, at, x, y, inside, height, width, sigma, tau, relaxation
    )
    old2, new2 = _component(
        u + pixels, dual + 2 * pixels, new_dual + 2 * pixels, bar + pixels, pixels, at, x, y,
        inside, height, width, sigma, tau, relaxation,
    )  # fmt: skip
    across = tl.load(gradient + at, inside, 0.0)
    down = tl.load(gradient + pixels + at, inside, 0.0)
    residual = tl.load(rho + pair + at, inside, 0.0) + across * new1 + down * new2
    step = residual * tl.load(inverse + pair + at, inside, 0.0)
    step = pull * tl.minimum(tl.maximum(step, -clip), clip)
    new1, new2 = new1 - step * across, new2 - step * down
    tl.store(u + at, old1 + relaxation * (new1 - old1), inside)
    tl.store(u + pixels + at, old2 + relaxation * (new2 - old2), inside)
    tl.store(new_bar + at, 2 * new1 - old1, inside)
    tl.store(new_bar + pixels + at, 2 * new2 - old2, inside)


def iterate(
    u: Tensor,  # (B, 2, h, w)
    p: Tensor,  # (B, 4, h, w)
    gradient: Tensor,  # (B, 2, h, w)
    rho: Tensor,  # (B, 1, h, w)
    inverse: Tensor,  # (B, 1, h, w)
    iterations: int,
    *,
    sigma: float,
    tau: float,
    clip: float,
    pull: float,
    relaxation: float,
) -> tuple[Tensor, Tensor]:
    """Returns flow and dual after primal-dual iterations; the arguments stay as they are."""
    batch, _, height, width = u.shape
    bar, u = u.contiguous(), u.clone(memory_format=torch.contiguous_format)
    gradient, rho, inverse, p = (t.contiguous() for t in (gradient, rho, inverse, p))
    duals, bars = [torch.empty_like(p) for _ in range(2)], [torch.empty_like(u) for _ in range(2)]
    grid = (triton.cdiv(height * width, BLOCK), batch)
    for k in range(iterations):
        new_p, new_bar = duals[k % 2], bars[k % 2]
        _iteration[grid](
            u, p, new_p, bar, new_bar, gradient, rho, inverse,
            height, width, sigma, tau, clip, pull, relaxation, BLOCK=BLOCK,
        )  # fmt: skip
        p, bar = new_p, new_bar
    return u, p
