"""TV-L1 optical flow on the CPU, by over-relaxed primal-dual iterations over cache-sized tiles.

The functional is that of Zach, Pock and Bischof ("A duality based approach for realtime TV-L1
optical flow", 2007), coarse to fine, linearised again at each warp, with ρ(u) the linearised
difference of intensities:

    E(u) = Σ min_v [ λ|ρ(v)| + |u − v|² / 2θ ] + |∇u_x| + |∇u_y|

Where that paper alternates between u and v, the minimum over v is taken in closed form here and
the rest is solved by the primal-dual iteration of Chambolle and Pock ("A first-order primal-dual
algorithm for convex problems", 2011) in Condat's over-relaxed form (2013). It reaches a lower
energy than the alternation in a fraction of the iterations. As in OpenCV, images and their centred
differences are interpolated by cubic convolution, and a pixel that moves out of the frame has no
data term. Decisions of ours: dual variables live on from warp to warp, and there is no median
filter, which changed nothing measurable.

The state of a level is one array (rows, channels, pitch): a row's channels lie together, so that
the rows of many iterations fit in the second-level cache, and iteration k+1 follows one row
behind iteration k. Inner loops are written in vectors of 16 lanes, which LLVM maps to whatever
the machine has, because numba can't know that arrays don't overlap and so leaves such loops
scalar. What is compiled stays in this one file, and takes what it needs from others as arguments:
numba's cache on disk watches no other file.

Results are the same to the bit for any number of processes and threads on the same kind of CPU.
"""

import operator
from collections.abc import Callable
from typing import Any

import cv2
import numba
import numpy as np
from llvmlite import ir  # type: ignore[import-untyped, unused-ignore]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, overload, register_model
from numpy.typing import NDArray

from study.data.flow.tvl1_scheme import DUAL_STEP, PRIMAL_STEP, RELAXATION, Scheme

__all__ = ["solve"]

CACHE_BYTES = 512 * 1024  # of the rows in flight: a second-level cache that every machine has

BORDER = (1, 2)  # pixels before and behind an image: reach of its interpolation
LANES = 16  # of 32 bits: one register of AVX-512, two of AVX2, four of NEON
# Channels of a row.
U1, U2 = 0, 1  # flow
BAR1, BAR2 = 2, 3  # flow, extrapolated
P11, P12, P21, P22 = 4, 5, 6, 7  # dual of each component's gradient, x and y
IX, IY, RHO, INVERSE = 8, 9, 10, 11  # gradient, ρ(0), 1 / squared gradient
START1, START2 = 12, 13  # flow at which the data term was linearised
CHANNELS = 14


# ---- vectors of float32 lanes -------------------------------------------------------------

# No "reassoc": it lets the same source give other bits where it is compiled again.
FAST = ("nnan", "ninf", "nsz", "contract", "arcp", "afn")


class Vector(types.Type):
    """A fixed number of float32 lanes in one LLVM vector."""

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        super().__init__(name=f"Float32x{lanes}")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        super().__init__(dmm, fe_type, ir.VectorType(ir.FloatType(), fe_type.lanes))


F32X16, F32X4 = Vector(LANES), Vector(4)


def _address(context: Any, builder: Any, array: Any, value: Any, index: Any) -> Any:
    data = context.make_array(array)(context, builder, value).data
    vector = ir.PointerType(ir.VectorType(ir.FloatType(), LANES))
    return builder.bitcast(builder.gep(data, [index]), vector)


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        return builder.load(address, align=4)

    return F32X16(array, types.intp), generate


@intrinsic
def store(typing: Any, array: Any, index: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        address = _address(context, builder, signature.args[0], args[0], args[1])
        builder.store(args[2], address, align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


def _call_lanewise(builder: Any, function: str, value: Any, flags: tuple[str, ...] = ()) -> Any:
    vector = value.type
    lanewise = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector]), f"llvm.{function}.v{vector.count}f32"
    )
    return builder.call(lanewise, [value], fastmath=flags)


def _permute(builder: Any, value: Any, lanes: list[int]) -> Any:
    undefined = ir.Constant(value.type, ir.Undefined)
    mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
    return builder.shuffle_vector(value, undefined, mask)


@intrinsic
def splat(typing: Any, scalar: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        empty = ir.Constant(ir.VectorType(ir.FloatType(), LANES), ir.Undefined)
        first = builder.insert_element(empty, args[0], ir.Constant(ir.IntType(32), 0))
        return _permute(builder, first, [0] * LANES)

    return F32X16(types.float32), generate


def _make_spread(lane: int) -> Callable[..., Any]:
    @intrinsic
    def spread(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return _permute(builder, args[0], [lane] * LANES)

        return F32X16(value), generate

    return spread


def _make_pick(lane: int) -> Callable[..., Any]:
    @intrinsic
    def pick(typing: Any, value: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return builder.extract_element(args[0], ir.Constant(ir.IntType(32), lane))

        return types.float32(value), generate

    return pick


@intrinsic
def sum_of_quarters(typing: Any, value: Any) -> Any:
    """Returns the sum of lanes 0..3, 4..7, 8..11 and 12..15, in 4 lanes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = (_permute(builder, args[0], list(range(k, k + 8))) for k in (0, 8))
        half = builder.fadd(low, high, flags=FAST)
        low, high = (_permute(builder, half, list(range(k, k + 4))) for k in (0, 4))
        return builder.fadd(low, high, flags=FAST)

    return F32X4(value), generate


def _make_binary(emit: Callable[[Any, Any, Any], Any], *symbols: Any) -> Callable[..., Any]:
    @intrinsic
    def binary(typing: Any, left: Any, right: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return emit(builder, *args)

        return left(left, right), generate

    for symbol in symbols:

        @overload(symbol)
        def of_vectors(left, right):  # type: ignore[no-untyped-def]  # numba compares signatures
            if isinstance(left, Vector) and left == right:
                return lambda left, right: binary(left, right)
            return None

    return binary


@intrinsic
def reciprocal_root(typing: Any, value: Any) -> Any:
    """Returns 1/√x; as fast arithmetic, so that LLVM may refine the machine's own estimate."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        one = ir.Constant(vector, [1.0] * vector.count)
        return builder.fdiv(one, _call_lanewise(builder, "sqrt", args[0], FAST), flags=FAST)

    return value(value), generate


@intrinsic
def floor(typing: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call_lanewise(builder, "floor", args[0])

    return value(value), generate


@intrinsic
def within(typing: Any, value: Any, low: Any, high: Any) -> Any:
    """Returns 1 in lanes where low ≤ value ≤ high, else 0."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = args[0].type
        one, zero = (ir.Constant(vector, [c] * vector.count) for c in (1.0, 0.0))
        above = builder.select(builder.fcmp_ordered(">=", args[0], args[1]), one, zero)
        return builder.select(builder.fcmp_ordered("<=", args[0], args[2]), above, zero)

    return value(value, value, value), generate


spread0, spread4, spread8, spread12 = (_make_spread(lane) for lane in (0, 4, 8, 12))
pick0, pick1, pick2, pick3 = (_make_pick(lane) for lane in range(4))
_make_binary(lambda b, x, y: b.fadd(x, y, flags=FAST), operator.add)
_make_binary(lambda b, x, y: b.fsub(x, y, flags=FAST), operator.sub)
_make_binary(lambda b, x, y: b.fmul(x, y, flags=FAST), operator.mul)
_make_binary(lambda b, x, y: b.fdiv(x, y, flags=FAST), operator.truediv)
smaller = _make_binary(lambda b, x, y: b.select(b.fcmp_ordered("<", x, y, flags=FAST), x, y))
larger = _make_binary(lambda b, x, y: b.select(b.fcmp_ordered(">", x, y, flags=FAST), x, y))


# ---- a level of the pyramid ---------------------------------------------------------------

f32 = np.float32


def _cubic_taps(a: float = -0.75) -> NDArray[np.float32]:
    """Returns the weights of four pixels as cubic polynomials of the offset from the second.

    Cubic convolution (Keys, 1981) with OpenCV's a: powers 0 to 3, each tap in 4 lanes. Flat, (64,).
    """
    powers = [[0, 1, 0, 0], [a, 0, -a, 0], [-2 * a, -a - 3, 2 * a + 3, a], [a, a + 2, -a - 2, -a]]
    return np.repeat(np.array(powers, f32), 4, axis=1).ravel()


_TAPS = _cubic_taps()
_RAMP = np.arange(LANES, dtype=f32)


@numba.njit(nogil=True, forceinline=True)
def _iterate_row(s, row, below, above, pitch, width, sigma, tau, clip, pull, relaxation):  # type: ignore[no-untyped-def]
    """Iterates once over a row. `s` is the flat state; the rows are offsets of their pixel 0."""
    one, two = splat(f32(1)), splat(f32(2))
    v_sigma, v_tau, v_relaxation = splat(sigma), splat(tau), splat(relaxation)
    v_clip, v_minus_clip, v_pull = splat(clip), splat(-clip), splat(pull)
    for bar in (BAR1, BAR2):  # no difference across the right border
        end = row + bar * pitch + width
        s[end] = s[end - 1]
    for x in range(0, width, LANES):
        for c in range(2):
            bar = row + (BAR1 + c) * pitch + x
            dual = row + (P11 + 2 * c) * pitch + x
            here = load(s, bar)
            old_x, old_y = load(s, dual), load(s, dual + pitch)
            new_x = old_x + v_sigma * (load(s, bar + 1) - here)
            new_y = old_y + v_sigma * (load(s, below + (BAR1 + c) * pitch + x) - here)
            scale = reciprocal_root(larger(one, new_x * new_x + new_y * new_y))
            store(s, dual, old_x + v_relaxation * (new_x * scale - old_x))
            store(s, dual + pitch, old_y + v_relaxation * (new_y * scale - old_y))
    for x in range(0, width, LANES):
        at = row + x
        up = above + x
        old1, old2 = load(s, at + U1 * pitch), load(s, at + U2 * pitch)
        divergence1 = (load(s, at + P11 * pitch) - load(s, at + P11 * pitch - 1)) + (
            load(s, at + P12 * pitch) - load(s, up + P12 * pitch)
        )
        divergence2 = (load(s, at + P21 * pitch) - load(s, at + P21 * pitch - 1)) + (
            load(s, at + P22 * pitch) - load(s, up + P22 * pitch)
        )
        new1, new2 = old1 + v_tau * divergence1, old2 + v_tau * divergence2
        ix, iy = load(s, at + IX * pitch), load(s, at + IY * pitch)
        rho = load(s, at + RHO * pitch) + ix * new1 + iy * new2
        step = v_pull * larger(v_minus_clip, smaller(v_clip, rho * load(s, at + INVERSE * pitch)))
        new1, new2 = new1 - step * ix, new2 - step * iy
        store(s, at + U1 * pitch, old1 + v_relaxation * (new1 - old1))
        store(s, at + U2 * pitch, old2 + v_relaxation * (new2 - old2))
        store(s, at + BAR1 * pitch, two * new1 - old1)
        store(s, at + BAR2 * pitch, two * new2 - old2)


@numba.njit(nogil=True, forceinline=True)
def _iterate(s, height, width, pitch, iterations, sigma, tau, clip, pull, relaxation):  # type: ignore[no-untyped-def]
    """Runs all iterations in one sweep, each a row behind the one before it.

    A row's dual update reads the flow of the row below, and its primal update the dual of the
    row above; so when iteration k has done row r, iteration k+1 can do row r−1.
    """
    stride = CHANNELS * pitch
    for front in range(1, height + iterations):
        for k in range(max(0, front - height), min(iterations, front)):
            r = front - k
            row = r * stride + LANES
            below = row + stride if r < height else row
            _iterate_row(
                s, row, below, row - stride, pitch, width, sigma, tau, clip, pull, relaxation
            )


@numba.njit(nogil=True, forceinline=True)
def _linearise(s, height, width, pitch, first, second):  # type: ignore[no-untyped-def]
    """Sets the data term at the present flow; the images are flat, as of `_fill_pyramid`."""
    stride = CHANNELS * pitch
    image_pitch = 4 * (width + BORDER[0] + BORDER[1])
    zero, ramp = splat(f32(0)), load(_RAMP, 0)
    right, bottom = splat(f32(width - 1)), splat(f32(height - 1))
    c0, c1, c2, c3 = load(_TAPS, 0), load(_TAPS, 16), load(_TAPS, 32), load(_TAPS, 48)
    for r in range(height):
        row = (r + 1) * stride + LANES
        for x in range(0, width, LANES):  # where each pixel goes: whole and fractional parts
            at = row + x
            to_x = load(s, at + U1 * pitch) + ramp + splat(f32(x))
            to_y = load(s, at + U2 * pitch) + splat(f32(r))
            to_x = smaller(larger(to_x, zero), right)
            to_y = smaller(larger(to_y, zero), bottom)
            left, top = floor(to_x), floor(to_y)
            store(s, at + IX * pitch, to_x - left)
            store(s, at + IY * pitch, to_y - top)
            store(s, at + RHO * pitch, left)
            store(s, at + INVERSE * pitch, top)
        here = (r + BORDER[0]) * image_pitch + 4 * BORDER[0]
        for x in range(width):
            at = row + x
            tap = int(s[at + INVERSE * pitch]) * image_pitch + 4 * int(s[at + RHO * pitch])
            t = splat(s[at + IX * pitch])
            wx = ((c3 * t + c2) * t + c1) * t + c0
            t = splat(s[at + IY * pitch])
            wy = ((c3 * t + c2) * t + c1) * t + c0
            column = spread0(wy) * load(second, tap) + spread4(wy) * load(second, tap + image_pitch)
            column = column + spread8(wy) * load(second, tap + 2 * image_pitch)
            column = column + spread12(wy) * load(second, tap + 3 * image_pitch)
            sample = sum_of_quarters(wx * column)
            s[at + IX * pitch] = pick1(sample)
            s[at + IY * pitch] = pick2(sample)
            s[at + RHO * pitch] = pick0(sample) - first[here + 4 * x]
        for x in range(0, width, LANES):
            at = row + x
            u1, u2 = load(s, at + U1 * pitch), load(s, at + U2 * pitch)
            to_x, to_y = u1 + ramp + splat(f32(x)), u2 + splat(f32(r))
            inside = within(to_x, zero, right) * within(to_y, zero, bottom)
            ix, iy = load(s, at + IX * pitch) * inside, load(s, at + IY * pitch) * inside
            store(s, at + IX * pitch, ix)
            store(s, at + IY * pitch, iy)
            store(s, at + RHO * pitch, load(s, at + RHO * pitch) - ix * u1 - iy * u2)
            store(s, at + INVERSE * pitch, splat(f32(1)) / (ix * ix + iy * iy + splat(f32(1e-6))))
            store(s, at + BAR1 * pitch, u1)
            store(s, at + BAR2 * pitch, u2)
            store(s, at + START1 * pitch, u1)
            store(s, at + START2 * pitch, u2)


@numba.njit(nogil=True, forceinline=True)
def _moved(s, height, width, pitch):  # type: ignore[no-untyped-def]
    """Returns the mean squared change of the flow since the linearisation, in square pixels."""
    ramp, zero, last = load(_RAMP, 0), splat(f32(0)), splat(f32(width - 1))
    moved = np.float64(0)
    for r in range(1, height + 1):
        row = r * CHANNELS * pitch + LANES
        squares = zero
        for x in range(0, width, LANES):
            at = row + x
            change1 = load(s, at + U1 * pitch) - load(s, at + START1 * pitch)
            change2 = load(s, at + U2 * pitch) - load(s, at + START2 * pitch)
            inside = within(ramp + splat(f32(x)), zero, last)
            squares = squares + (change1 * change1 + change2 * change2) * inside
        quarter = sum_of_quarters(squares)
        moved += pick0(quarter) + pick1(quarter) + pick2(quarter) + pick3(quarter)
    return moved / (height * width)


def _solve_level(  # type: ignore[no-untyped-def]
    s, first, second, height, width, pitch, warps, iterations, epsilon,
    sigma, tau, clip, pull, relaxation,
):  # fmt: skip
    """Solves a level from the flow in its state, in place; the dual variables start at zero."""
    stride = CHANNELS * pitch
    together = max(1, CACHE_BYTES // (4 * stride) - 2)
    for row in range(stride, (height + 1) * stride, stride):
        s[row + P11 * pitch : row + (P22 + 1) * pitch] = f32(0)
    for _ in range(warps):
        _linearise(s, height, width, pitch, first, second)
        for done in range(0, iterations, together):
            n = min(together, iterations - done)
            _iterate(s, height, width, pitch, n, sigma, tau, clip, pull, relaxation)
        if _moved(s, height, width, pitch) < epsilon * epsilon:
            break


try:
    _solve_level = numba.njit(nogil=True, cache=True)(_solve_level)
except RuntimeError:  # no folder that a cache could be written to
    _solve_level = numba.njit(nogil=True)(_solve_level)


# ---- a video ------------------------------------------------------------------------------


def solve(gray: NDArray[np.uint8], scheme: Scheme) -> NDArray[np.float32]:
    """Computes the flow from every frame to the next.

    Args:
        gray: Frames (F, H, W), F ≥ 2.
        scheme: How to solve it.

    Returns:
        (F-1, 2, H, W) float32, x then y, in pixels.
    """
    sizes = scheme.sizes(*gray.shape[1:])
    steps = [f32(x) for x in (DUAL_STEP, PRIMAL_STEP, scheme.clip, scheme.pull, RELAXATION)]
    # Buffers are made once a video: fresh pages would cost as much as a fifth of the solving.
    first, second = (
        [np.empty((height + sum(BORDER), width + sum(BORDER), 4), f32) for height, width in sizes]
        for _ in range(2)
    )
    pitches = [LANES + -(-width // LANES) * LANES for _, width in sizes]
    states = [
        _aligned_zeros((height + 2) * CHANNELS * pitch)
        for (height, _), pitch in zip(sizes, pitches, strict=True)
    ]
    flow = np.empty((len(gray) - 1, 2, *gray.shape[1:]), f32)
    _fill_pyramid(second, gray[0], scheme.scale_step)
    for t in range(len(flow)):
        first, second = second, first
        _fill_pyramid(second, gray[t + 1], scheme.scale_step)
        coarser = np.zeros((2, 1, 1), f32)
        for level in reversed(range(len(sizes))):
            (height, width), pitch, s = sizes[level], pitches[level], states[level]
            rows = s.reshape(height + 2, CHANNELS, pitch)
            here = rows[1:-1, :2, LANES : LANES + width].swapaxes(0, 1)  # (2, height, width)
            for c in range(2):
                enlarged = cv2.resize(coarser[c], (width, height), interpolation=cv2.INTER_LINEAR)
                here[c] = enlarged * f32(1 / scheme.scale_step)
            _solve_level(
                s, first[level].ravel(), second[level].ravel(), height, width, pitch,
                scheme.warps, scheme.iterations, scheme.epsilon, *steps,
            )  # fmt: skip
            coarser = here
        flow[t] = here
    return flow


def _aligned_zeros(size: int) -> NDArray[np.float32]:
    """Zeros that start at a cache line, so that no aligned vector lies across two."""
    padded = np.zeros(size + LANES, f32)
    start = -padded.ctypes.data // padded.itemsize % LANES
    return padded[start : start + size]


def _fill_pyramid(
    levels: list[NDArray[np.float32]], frame: NDArray[np.uint8], scale_step: float
) -> None:
    """Fills levels (h+3, w+3, 4), finest first, with borders: image, differences, image again."""
    image = frame.astype(f32)
    for level in levels:
        if level is not levels[0]:
            image = cv2.resize(
                image, None, fx=scale_step, fy=scale_step, interpolation=cv2.INTER_LINEAR
            )
        padded = cv2.copyMakeBorder(image, *BORDER, *BORDER, cv2.BORDER_REPLICATE)
        across, down = (
            cv2.Sobel(padded, -1, *axis, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
            for axis in ((1, 0), (0, 1))
        )
        cv2.merge([padded, across, down, padded], level)
