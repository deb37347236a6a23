"""TV-L1 iterations as one GPU kernel: what `study.data.flow.tvl1_torch` runs on CUDA with Triton.

A program is one warp. It goes down a strip of a pair's pixels and does `TOGETHER` iterations on the
way, each a row behind the one before it, as `study.data.flow.tvl1` does on the CPU: a row's dual
update reads the extrapolated flow of the row below, and its primal update the dual of the row
above. So what an iteration hands to the next stays in registers, neighbours within a row are read
by warp shuffles, and memory is read and written once for all of the iterations. Around its own
pixels a program reads as many rows and columns as it does iterations, and what it computes of them
isn't kept.
"""

import torch
import triton  # type: ignore[import-untyped, import-not-found, unused-ignore]
import triton.language as tl  # type: ignore[import-untyped, import-not-found, unused-ignore]
from torch import Tensor

__all__ = ["iterate"]

TOGETHER = 4  # iterations of a launch: with more, fewer programs' registers fit on the device
COLUMNS = 32  # that a program reads: one of each of a warp's lanes
ROWS = 64  # that a program writes


@triton.jit
def _dual(bar, below, px, py, right, more_x, more_y, sigma, relaxation):  # type: ignore[no-untyped-def]
    """Returns one component's updated dual (x, y) in a row."""
    new_x = px + sigma * tl.where(more_x, tl.gather(bar, right, 0) - bar, 0.0)
    new_y = py + sigma * tl.where(more_y, below - bar, 0.0)
    scale = tl.rsqrt(tl.maximum(new_x * new_x + new_y * new_y, 1.0))
    return px + relaxation * (new_x * scale - px), py + relaxation * (new_y * scale - py)


@triton.jit
def _iterate_row(  # type: ignore[no-untyped-def]
    row, below, above, y, x, height, width, left, right, sigma, tau, clip, pull, relaxation
):
    """Returns a row after an iteration, and its dual's y parts for the row below it.

    `row` and `below`, the row below before the iteration, are as `_load_row` gives them; `above`
    is the dual's y parts of the row above after the iteration.
    """
    u1, u2, bar1, bar2, p11, p12, p21, p22, ix, iy, rho, inverse = row
    more_x, more_y = x < width - 1, y < height - 1
    p11, p12 = _dual(bar1, below[2], p11, p12, right, more_x, more_y, sigma, relaxation)
    p21, p22 = _dual(bar2, below[3], p21, p22, right, more_x, more_y, sigma, relaxation)
    left1 = tl.where(x > 0, tl.gather(p11, left, 0), 0.0)
    left2 = tl.where(x > 0, tl.gather(p21, left, 0), 0.0)
    new1 = u1 + tau * (p11 - left1 + p12 - tl.where(y > 0, above[0], 0.0))
    new2 = u2 + tau * (p21 - left2 + p22 - tl.where(y > 0, above[1], 0.0))
    step = (rho + ix * new1 + iy * new2) * inverse
    step = pull * tl.minimum(tl.maximum(step, -clip), clip)
    new1, new2 = new1 - step * ix, new2 - step * iy
    bar1, bar2 = 2 * new1 - u1, 2 * new2 - u2
    u1, u2 = u1 + relaxation * (new1 - u1), u2 + relaxation * (new2 - u2)
    return (u1, u2, bar1, bar2, p11, p12, p21, p22, ix, iy, rho, inverse), (p12, p22)


@triton.jit
def _load_row(u, bar, dual, gradient, rho, inverse, y, x, height, width):  # type: ignore[no-untyped-def]
    """Returns a row's flow, extrapolated flow, dual and data term; zeros beyond the image."""
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    at, pixels = y * width + x, height * width
    return (
        tl.load(u + at, inside, 0.0),
        tl.load(u + pixels + at, inside, 0.0),
        tl.load(bar + at, inside, 0.0),
        tl.load(bar + pixels + at, inside, 0.0),
        tl.load(dual + at, inside, 0.0),
        tl.load(dual + pixels + at, inside, 0.0),
        tl.load(dual + 2 * pixels + at, inside, 0.0),
        tl.load(dual + 3 * pixels + at, inside, 0.0),
        tl.load(gradient + at, inside, 0.0),
        tl.load(gradient + pixels + at, inside, 0.0),
        tl.load(rho + at, inside, 0.0),
        tl.load(inverse + at, inside, 0.0),
    )


@triton.jit
def _iterations(  # type: ignore[no-untyped-def]
    u, bar, dual, new_u, new_bar, new_dual, gradient, rho, inverse,
    height, width, sigma, tau, clip, pull, relaxation,
    COUNT: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, COLUMNS)
    left, right = tl.maximum(lane - 1, 0), tl.minimum(lane + 1, COLUMNS - 1)
    x = tl.program_id(0) * (COLUMNS - 2 * COUNT) - COUNT + lane
    own_x = (lane >= COUNT) & (lane < COLUMNS - COUNT) & (x < width)
    first = tl.program_id(1) * ROWS - COUNT
    pixels = height * width
    pair = tl.program_id(2).to(tl.int64) * pixels
    u, bar, dual = u + 2 * pair, bar + 2 * pair, dual + 4 * pair
    new_u, new_bar, new_dual = new_u + 2 * pair, new_bar + 2 * pair, new_dual + 4 * pair
    gradient, rho, inverse = gradient + 2 * pair, rho + pair, inverse + pair
    zero = tl.zeros((COLUMNS,), tl.float32)
    nothing = (zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero)
    # For each iteration: the row that waits for the one below it, and the dual of the one above.
    waiting, above = (nothing,) * COUNT, ((zero, zero),) * COUNT
    ahead = _load_row(u, bar, dual, gradient, rho, inverse, first, x, height, width)
    for k in range(ROWS + 2 * COUNT):
        y = first + k
        row = ahead  # what comes next is on its way while this is worked on
        ahead = _load_row(u, bar, dual, gradient, rho, inverse, y + 1, x, height, width)
        still_waiting, still_above = (), ()  # Triton has no starred tuples
        for i in tl.static_range(COUNT):
            still_waiting = still_waiting + (row,)  # type: ignore[assignment]  # noqa: RUF005
            row, passed = _iterate_row(
                waiting[i], row, above[i], y - 1 - i, x, height, width, left, right,
                sigma, tau, clip, pull, relaxation,
            )  # fmt: skip
            still_above = still_above + (passed,)  # type: ignore[assignment]  # noqa: RUF005
        waiting, above = still_waiting, still_above
        y -= COUNT
        own = own_x & (k >= 2 * COUNT) & (y < height)
        at = y * width + x
        tl.store(new_u + at, row[0], own)
        tl.store(new_u + pixels + at, row[1], own)
        tl.store(new_bar + at, row[2], own)
        tl.store(new_bar + pixels + at, row[3], own)
        tl.store(new_dual + at, row[4], own)
        tl.store(new_dual + pixels + at, row[5], own)
        tl.store(new_dual + 2 * pixels + at, row[6], own)
        tl.store(new_dual + 3 * pixels + at, row[7], own)


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
    u, p, gradient, rho, inverse = (t.contiguous() for t in (u, p, gradient, rho, inverse))
    bar = u
    spare = [[torch.empty_like(t) for t in (u, u, p)] for _ in range(2)]
    for done in range(0, iterations, TOGETHER):
        count = min(TOGETHER, iterations - done)
        new_u, new_bar, new_p = spare[0]
        grid = (triton.cdiv(width, COLUMNS - 2 * count), triton.cdiv(height, ROWS), batch)
        _iterations[grid](
            u, bar, p, new_u, new_bar, new_p, gradient, rho, inverse,
            height, width, sigma, tau, clip, pull, relaxation,
            COUNT=count, ROWS=ROWS, COLUMNS=COLUMNS, num_warps=1,
        )  # fmt: skip
        u, bar, p = spare[0]
        spare.reverse()
    return u, p
