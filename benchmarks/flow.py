"""Optical flow: our TV-L1 against OpenCV's, on the same frame pairs and one core each.

    python -m benchmarks.flow [--videos FOLDER]

Where there is a CUDA device, our solver runs on it too: in the table on a clip at a time, and below
it on 512 pairs of 340×256 at once, beside OpenCV on one core at that size. It needs an OpenCV with
``cv2.optflow`` (opencv-contrib-python-headless) and numba.

The solvers take turns on each clip, and each clip's time is its median over the rounds. Energy is
the TV-L1 functional of the images themselves (not linearised, λ = 0.15), a pixel; the endpoint
difference is to OpenCV's flow; grey levels are the mean difference of the stored bytes where the
image has texture; astray are the pairs that are neither within 0.1 px of OpenCV's flow nor at a
lower energy. Below stand what an iteration costs beside what the core's arithmetic and its
second-level cache allow, and what the cores do together beside one alone. The last line is OpenCV's
time over ours, and what that would be if multiply-adds at their peak were all that ours took: no
form of these iterations is faster. On a core of an AMD EPYC (Zen 4, under other load), on six clips
of UCF101: 26.5×, 81 % of the roofline, and 47× by multiply-adds alone; no pair astray; two cores at
once 96 % of linear.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numba
import numpy as np
import torch

from study.data.flow import tvl1
from study.data.flow.compute import PRESETS, FlowSettings, compute_flow, quantise

SUFFIXES = {".avi", ".mp4", ".mkv", ".webm"}
START, FRAMES = 20, 4  # of each clip
# A pixel-iteration: channels read and written once by each of its two passes, and operations
# (a fused multiply-add is two, the reciprocal root five) as written in tvl1._iterate_row.
BYTES = 4 * ((6 + 4) + (10 + 4))
OPERATIONS = 2 * 23 + 32
GPU = FlowSettings(backend="tvl1-gpu")
# Reads flow, extrapolated flow, dual, gradient, ρ(0), inverse; writes the first three.
GPU_CHANNELS = 2 + 2 + 4 + 2 + 1 + 1, 2 + 2 + 4


def main() -> None:
    parser = argparse.ArgumentParser(description="our TV-L1 flow against OpenCV's")
    parser.add_argument("--videos", type=Path, help="folder of videos; without it, made frames")
    parser.add_argument("--clips", type=int, default=10, help="clips of four frames")
    parser.add_argument("--side", type=int, default=240, help="short side in pixels")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each solver")
    args = parser.parse_args()
    if args.videos and not args.videos.is_dir():
        parser.error(f"--videos {args.videos}: no such folder")
    if not hasattr(cv2, "optflow"):
        parser.error("cv2.optflow is missing: install opencv-contrib-python-headless")
    cv2.setNumThreads(1)
    if args.videos:
        clips = list(real_clips(args.videos, args.clips, args.side))
    else:
        clips = [made_clip(args.side, seed) for seed in range(args.clips)]
    if not clips:
        parser.error(f"--videos {args.videos}: no video of at least {START + FRAMES} frames in it")
    height, width = np.median([clip.shape[1:] for clip in clips], axis=0).astype(int)
    kind = "real" if args.videos else "made"
    print(
        f"{len(clips) * (FRAMES - 1)} {kind} frame pairs of about {width}×{height}, "
        f"one core of {processor()}"
    )
    solvers = {"opencv": PRESETS["opencv"], "tvl1": PRESETS["default"], "small": PRESETS["small"]}
    if torch.cuda.is_available():
        solvers["tvl1-gpu"] = GPU
    seconds, flows = measure(clips, solvers, args.rounds)
    report(clips, seconds, flows)
    slack = roofline(240, 320)
    together(clips[0])
    if torch.cuda.is_available():
        gpu_pace(clips)
    ratio = np.sum(seconds["opencv"]) / np.sum(seconds["tvl1"])
    print(f"{ratio:.1f}×, by multiply-adds alone {ratio * slack:.0f}×")


def processor() -> str:
    """The processor's name, as the system gives it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def real_clips(folder: Path, count: int, side: int) -> Iterator[np.ndarray]:
    """Consecutive gray frames (F, H, W) of `count` videos spread over the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    for path in paths[:: max(1, len(paths) // count)][:count]:
        capture = cv2.VideoCapture(str(path))
        read = [capture.read()[1] for _ in range(START + FRAMES)]
        frames = [frame for frame in read[START:] if frame is not None]
        if len(frames) == FRAMES:
            scale = side / min(frames[0].shape[:2])
            size = (round(frames[0].shape[1] * scale), round(frames[0].shape[0] * scale))
            gray = [cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in frames]
            yield np.stack([cv2.resize(g, size, interpolation=cv2.INTER_AREA) for g in gray])


def made_clip(height: int, seed: int) -> np.ndarray:
    """A texture that shifts and turns, with a square of another one moving across it."""
    width = height * 4 // 3
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(2, height, width))
    smooth = np.stack([cv2.GaussianBlur(n, (0, 0), 2) for n in noise])
    back, front = np.clip(128 + 45 * smooth / smooth.std(), 0, 255).astype(np.uint8)
    side, turn, shift = height // 3, rng.uniform(-1, 1), rng.uniform(-3, 3, 2)
    place, step = rng.uniform(side / 2, height - 1.5 * side, 2), rng.uniform(-5, 5, 2)
    frames = []
    for t in range(FRAMES):
        matrix = cv2.getRotationMatrix2D((width / 2, height / 2), t * turn, 1)
        matrix[:, 2] += t * shift
        frame = cv2.warpAffine(back, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
        y, x = np.clip(np.rint(place + t * step), 0, height - side).astype(int)
        frame[y : y + side, x : x + side] = front[:side, :side]
        frames.append(frame)
    return np.stack(frames)


def measure(
    clips: list[np.ndarray], solvers: dict[str, FlowSettings], rounds: int
) -> tuple[dict[str, np.ndarray], dict[str, list[np.ndarray]]]:
    """Each solver's median seconds of each clip, and each pair's flow."""
    start = time.perf_counter()
    compute_flow(clips[0][:, :20, :20])
    print(f"first call, with compiling or loading the kernel: {time.perf_counter() - start:.1f} s")
    times = {name: np.zeros((rounds, len(clips))) for name in solvers}
    flows: dict[str, list[np.ndarray]] = {name: [] for name in solvers}
    for k in range(rounds):
        for i, clip in enumerate(clips):
            for name, settings in solvers.items():
                start = time.perf_counter()
                flow = compute_flow(clip, settings)
                times[name][k, i] = time.perf_counter() - start
                if k == 0:
                    flows[name].extend(flow)
    return {name: np.median(t, axis=0) for name, t in times.items()}, flows


def report(
    clips: list[np.ndarray], seconds: dict[str, np.ndarray], flows: dict[str, list[np.ndarray]]
) -> None:
    """One row a solver."""
    pairs = [clip[t : t + 2] for clip in clips for t in range(FRAMES - 1)]
    energies = {
        name: np.array([energy(pair, flow) for pair, flow in zip(pairs, flows[name], strict=True)])
        for name in flows
    }
    print(
        "solver    ms/pair  pairs/s  energy/px  of opencv's (worst)  endpoint px (worst)"
        "  grey levels  astray"
    )
    for name in flows:
        pace = seconds[name].sum() / len(pairs)
        relative = energies[name] / energies["opencv"]
        both = list(zip(pairs, flows[name], flows["opencv"], strict=True))
        endpoint = np.array([np.hypot(*(ours - theirs)).mean() for _, ours, theirs in both])
        astray = int(np.sum((endpoint > 0.1) & (relative >= 1)))
        levels = np.nanmean([grey_levels(*each) for each in both])
        print(
            f"{name:8} {1e3 * pace:8.1f} {1 / pace:8.1f} {energies[name].mean():10.4f} "
            f"{relative.mean():12.3f} ({relative.max():.3f}) {endpoint.mean():12.3f} "
            f"({endpoint.max():.3f}) {levels:12.2f} {astray:7}"
        )


def energy(pair: np.ndarray, flow: np.ndarray, lambda_: float = 0.15) -> float:
    """The TV-L1 functional a pixel."""
    y, x = np.mgrid[: flow.shape[1], : flow.shape[2]].astype(np.float32)
    warped = cv2.remap(
        pair[1].astype(np.float32),
        x + flow[0],
        y + flow[1],
        cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REPLICATE,
    )
    total = lambda_ * np.abs(warped - pair[0])
    for u in flow:
        across = np.diff(u, axis=1, append=u[:, -1:])
        total = total + np.hypot(across, np.diff(u, axis=0, append=u[-1:]))
    return float(total.mean())


def grey_levels(pair: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> float:
    slopes = [cv2.Sobel(pair[0], cv2.CV_32F, *axis, scale=1 / 8) for axis in ((1, 0), (0, 1))]
    change = np.abs(quantise(ours).astype(float) - quantise(theirs))[:, np.hypot(*slopes) > 8]
    return float(change.mean()) if change.size else float("nan")


def roofline(height: int, width: int) -> float:
    """Say what a pixel-iteration costs beside what this core's arithmetic and caches allow.

    Returns:
        How many times faster it would be if it took its multiply-adds alone.
    """
    iterations = 20
    pitch = tvl1.LANES + -(-width // tvl1.LANES) * tvl1.LANES
    state = tvl1._aligned_zeros((height + 2) * tvl1.CHANNELS * pitch)
    numbers = [np.float32(x) for x in (0.5, 0.25, 0.08, 0.45, 1.7)]
    sweep = numba.njit(nogil=True)(tvl1._iterate.py_func)
    swept = best(lambda: sweep(state, height, width, pitch, iterations, *numbers))
    ours = swept / (height * width * iterations)
    rounds = 20_000
    arithmetic = OPERATIONS * best(lambda: _multiply_add(state, rounds)) / (rounds * 8 * 16 * 2)
    source, target = np.ones(2**16, np.float32), np.zeros(2**16, np.float32)  # 2 × 256 KiB
    traffic = BYTES * best(lambda: np.copyto(target, source), 200) / (2 * source.nbytes)
    print(
        f"a pixel-iteration: {OPERATIONS} operations and {BYTES} bytes to and from the cache "
        f"({BYTES / iterations:.0f} to and from memory, {iterations} iterations a sweep)\n"
        f"  takes {1e9 * ours:.2f} ns; this core's multiply-adds alone would allow "
        f"{1e9 * arithmetic:.2f} ns, its second-level cache {1e9 * traffic:.2f} ns: "
        f"{max(arithmetic, traffic) / ours:.0%} of the roofline"
    )
    return float(ours / arithmetic)


def together(clip: np.ndarray, rounds: int = 5) -> None:
    """Say how the cores do together: a clip's processor time on one, over that on each of all."""
    cores = len(os.sched_getaffinity(0))

    def solve(_: int) -> float:
        started = time.thread_time()
        compute_flow(clip)
        return time.thread_time() - started

    with ThreadPoolExecutor(cores) as pool:
        alone = min(solve(0) for _ in range(rounds))
        all_at_once = min(np.mean(list(pool.map(solve, range(cores)))) for _ in range(rounds))
    print(f"{cores} cores at once: {alone / all_at_once:.0%} of linear")


def gpu_pace(clips: list[np.ndarray], pairs: int = 512) -> None:
    """Say how many pairs of 340×256 a second the GPU solves, beside OpenCV on one core."""
    sized = [np.stack([cv2.resize(frame, (340, 256)) for frame in clip]) for clip in clips]
    there_and_back = np.concatenate([np.concatenate([clip, clip[-2:0:-1]]) for clip in sized])
    frames = np.resize(there_and_back, (pairs + 1, 256, 340))
    ours = best(lambda: compute_flow(frames, GPU), 3) / pairs
    theirs = best(lambda: compute_flow(sized[0], PRESETS["opencv"]), 1) / (FRAMES - 1)
    iterations = GPU.warps * GPU.iterations  # as nearly every real pair takes at every level
    pixels = sum(height * width for height, width in GPU.scheme.sizes(256, 340))
    memory = gpu_bytes() * pixels * iterations / copied_bytes_a_second()
    print(
        f"tvl1-gpu on {torch.cuda.get_device_name()}, {pairs} pairs of 340×256: {1 / ours:.0f} "
        f"pairs a second, {theirs / ours:.0f}× OpenCV on one core ({1e3 * theirs:.0f} ms a pair)\n"
        f"  a pixel-iteration: {gpu_bytes():.0f} bytes to and from memory, which would allow "
        f"{1 / memory:.0f} pairs a second: {memory / ours:.0%} of the roofline"
    )


def gpu_bytes() -> float:
    """Bytes to and from memory of a pixel-iteration: a program reads more than its own pixels."""
    from study.data.flow.tvl1_triton import COLUMNS, ROWS, TOGETHER

    around = 2 * TOGETHER
    read = COLUMNS / (COLUMNS - around) * (ROWS + around) / ROWS
    reads, writes = GPU_CHANNELS
    return 4 * (reads * read + writes) / TOGETHER


def copied_bytes_a_second() -> float:
    """Bytes that the GPU reads and writes a second when it copies a gigabyte."""
    source = torch.zeros(2**28, device="cuda")
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        torch.cuda.synchronize()

    return 2 * source.nbytes / best(copy)


@numba.njit(nogil=True)
def _multiply_add(s, rounds):  # type: ignore[no-untyped-def]
    """Eight independent chains of fused multiply-adds of 16 lanes, to find the core's peak."""
    a = b = c = d = e = f = g = h = tvl1.load(s, 0)
    k = tvl1.load(s, 64)
    for _ in range(rounds):
        a, b, c, d = a * k + k, b * k + k, c * k + k, d * k + k
        e, f, g, h = e * k + k, f * k + k, g * k + k, h * k + k
    tvl1.store(s, 0, a + b + c + d + e + f + g + h)


def best(call: Callable[[], object], repeats: int = 15) -> float:
    """Least seconds of a call, after one to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


if __name__ == "__main__":
    main()
