"""The TV-L1 solver against closed-form motion, OpenCV's solver and its own definition."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numba
import numpy as np
import pytest
import torch

from benchmarks.flow import energy, grey_levels
from study.data.flow import tvl1, tvl1_torch
from study.data.flow.compute import PRESETS, FlowSettings, compute_flow
from study.data.flow.tvl1_scheme import Scheme

SCHEME = Scheme(
    lambda_=0.15, theta=0.3, scales=5, scale_step=0.8, warps=7, iterations=20, epsilon=0.02
)
INNER = np.s_[16:-16, 16:-16]


def texture(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth texture known at every point of the plane: a sum of 60 random waves."""
    rng = np.random.default_rng(3)
    image = np.zeros_like(x, dtype=np.float64)
    for _ in range(60):
        angle, phase = rng.uniform(0, 2 * np.pi, 2)
        frequency = rng.uniform(0.05, 0.7)  # radians a pixel
        image += np.cos(frequency * (np.cos(angle) * x + np.sin(angle) * y) + phase)
    return np.clip(np.rint(127 + 11 * image), 0, 255).astype(np.uint8)


def moving(matrix: list[list[float]], shift: tuple[float, float], size: int = 120) -> tuple:
    """Two frames of an affine motion about the centre, and that motion's flow (2, H, W)."""
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    forward = np.array(matrix, float)
    to_x, to_y = np.einsum("ij,jhw->ihw", forward, [x, y]) + np.array(shift)[:, None, None]
    back = np.linalg.inv(forward)
    from_x, from_y = np.einsum("ij,jhw->ihw", back, [x - shift[0], y - shift[1]])
    frames = np.stack([texture(x, y), texture(from_x, from_y)])
    return frames, np.stack([to_x - x, to_y - y])


def endpoint_error(flow: np.ndarray, truth: np.ndarray) -> float:
    return float(np.hypot(*(flow - truth))[INNER].mean())


@pytest.mark.parametrize("shift", [(1.0, 0.0), (0.0, -1.0), (0.5, 0.25), (-2.3, 1.7), (0.1, 0.0)])
def test_translation_is_found(shift: tuple[float, float]) -> None:
    frames, truth = moving([[1, 0], [0, 1]], shift)
    assert endpoint_error(tvl1.solve(frames, SCHEME)[0], truth) < 0.07


@pytest.mark.parametrize("shift", [(4.0, -5.0), (6.0, 2.0)])
def test_large_translation_is_found_as_well_as_by_opencv(shift: tuple[float, float]) -> None:
    frames, truth = moving([[1, 0], [0, 1]], shift)
    theirs = endpoint_error(compute_flow(frames, PRESETS["opencv"])[0], truth)
    assert endpoint_error(tvl1.solve(frames, SCHEME)[0], truth) < 1.1 * theirs


@pytest.mark.parametrize("degrees", [1.0, -4.0])
def test_rotation_is_found(degrees: float) -> None:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    frames, truth = moving([[c, -s], [s, c]], (0, 0))
    assert endpoint_error(tvl1.solve(frames, SCHEME)[0], truth) < 0.07


@pytest.mark.parametrize("zoom", [1.04, 0.95])
def test_zoom_is_found(zoom: float) -> None:
    frames, truth = moving([[zoom, 0], [0, zoom]], (0.5, 0))
    assert endpoint_error(tvl1.solve(frames, SCHEME)[0], truth) < 0.07


def test_small_preset_finds_translation_in_64_pixels() -> None:
    frames, truth = moving([[1, 0], [0, 1]], (2.0, -1.0), size=64)
    assert endpoint_error(compute_flow(frames, PRESETS["small"])[0], truth) < 0.1


@pytest.mark.parametrize("value", [0, 200])
def test_constant_and_identical_frames_have_no_flow(value: int) -> None:
    still = np.full((3, 40, 50), value, np.uint8)
    assert np.abs(tvl1.solve(still, SCHEME)).max() == 0
    y, x = np.mgrid[:40, :50]
    same = np.stack([texture(x, y)] * 2)
    assert np.abs(tvl1.solve(same, SCHEME)).max() < 1e-4


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 3), (15, 17), (33, 47), (64, 65)])
def test_any_size_is_solved_as_the_reference_solves_it(size: tuple[int, int]) -> None:
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    frames = np.stack([texture(x, y), texture(x - 0.7, y + 0.4)])
    scheme = replace(SCHEME, warps=2, iterations=10)
    flow = tvl1.solve(frames, scheme)
    assert flow.shape == (1, 2, *size)
    reference = tvl1_torch.solve(frames, scheme, device="cpu")
    assert np.abs(flow - reference).mean() < 2e-3


@pytest.mark.parametrize("iterations", [1, 7, 40])
def test_a_level_equals_a_plain_evaluation_of_its_formulas(iterations: int) -> None:
    frames, _ = moving([[1, 0], [0, 1]], (0.6, -0.3), size=50)
    scheme = replace(SCHEME, scales=1, warps=1, iterations=iterations)
    flow = tvl1.solve(frames, scheme)[0]
    np.testing.assert_allclose(flow, plain_level(frames, iterations), atol=2e-4)


def plain_level(frames: np.ndarray, iterations: int) -> np.ndarray:
    """One linearisation at zero flow and its iterations, in float64 and scalar loops over axes."""
    first, second = frames.astype(float)
    padded = np.pad(second, 1, mode="edge")
    gradient = np.stack(
        [padded[1:-1, 2:] - padded[1:-1, :-2], padded[2:, 1:-1] - padded[:-2, 1:-1]]
    )
    gradient /= 2
    square = (gradient**2).sum(0) + 1e-6
    tau, sigma, relax, theta, lambda_ = 0.25, 0.5, 1.7, 0.3, 0.15
    u, bar = np.zeros_like(gradient), np.zeros_like(gradient)
    p = np.zeros((2, 2, *first.shape))  # axis of the gradient, component of the flow
    for _ in range(iterations):
        forward = np.zeros_like(p)
        forward[0, :, :, :-1] = np.diff(bar, axis=2)
        forward[1, :, :-1] = np.diff(bar, axis=1)
        ahead = p + sigma * forward
        ahead /= np.maximum(1, np.sqrt((ahead**2).sum(0)))
        p = p + relax * (ahead - p)
        divergence = np.diff(p[0], axis=2, prepend=0) + np.diff(p[1], axis=1, prepend=0)
        new = u + tau * divergence
        rho = second - first + (gradient * new).sum(0)
        # Proximal map of min_v λ|ρ(v)| + |u−v|²/2θ, by that of λ|ρ| at step τ+θ (Moreau).
        bound = lambda_ * (tau + theta) * square
        step = np.where(
            rho < -bound,
            lambda_ * (tau + theta),
            np.where(rho > bound, -lambda_ * (tau + theta), -rho / square),
        )
        new = new + tau / (tau + theta) * step * gradient
        bar = 2 * new - u
        u = u + relax * (new - u)
    return u


def test_tiles_of_the_cache_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    frames, _ = moving([[1, 0], [0, 1]], (0.6, -0.3), size=50)
    expected = tvl1.solve(frames, SCHEME)
    monkeypatch.setattr(tvl1, "CACHE_BYTES", 50_000)
    compiled: Any = tvl1._solve_level
    monkeypatch.setattr(tvl1, "_solve_level", numba.njit(compiled.py_func))
    np.testing.assert_array_equal(tvl1.solve(frames, SCHEME), expected)


def test_same_bits_from_every_thread_and_process(tmp_path: Path) -> None:
    frames, _ = moving([[1, 0], [0, 1]], (0.6, -0.3), size=70)
    np.save(tmp_path / "frames.npy", frames)
    expected = compute_flow(frames)
    with ThreadPoolExecutor(4) as pool:
        for flow in pool.map(compute_flow, [frames] * 8):
            np.testing.assert_array_equal(flow, expected)
    code = (
        "import sys, numpy as np; from study.data.flow.compute import compute_flow;"
        "np.save(sys.argv[2], compute_flow(np.load(sys.argv[1])))"
    )
    paths = [str(tmp_path / "frames.npy"), str(tmp_path / "flow.npy")]
    cache = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    for _ in ("compiles the kernel", "loads it from the cache"):
        subprocess.run([sys.executable, "-c", code, *paths], check=True, env=cache)
        np.testing.assert_array_equal(np.load(paths[1]), expected)


def test_batches_of_torch_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    y, x = np.mgrid[:30, :40].astype(float)
    frames = np.stack([texture(x - k, y) for k in (0.0, 0.5, 2.0, 2.0)])
    scheme = replace(SCHEME, warps=3, iterations=5)
    together = tvl1_torch.solve(frames, scheme, device="cpu")
    monkeypatch.setattr(tvl1_torch, "BATCH_PIXELS", 30 * 40)
    alone = tvl1_torch.solve(frames, scheme, device="cpu")
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_triton_kernel_equals_plain_torch_under_its_interpreter() -> None:
    pytest.importorskip("triton")
    code = """
import torch
from study.data.flow import tvl1_torch
from study.data.flow import tvl1_triton
torch.manual_seed(0)
tvl1_triton.ROWS = 4  # so that the programs of an image have neighbours on every side
u, p, gradient = (torch.randn(2, channels, 11, 40) for channels in (2, 4, 2))
p[:, 0::2, :, -1] = p[:, 1::2, -1] = 0  # no dual across the borders
rho, inverse = torch.randn(2, 1, 11, 40), torch.rand(2, 1, 11, 40)
steps = dict(sigma=0.5, tau=0.25, clip=0.08, pull=0.45, relaxation=1.7)
arguments = (u, p, gradient, rho, inverse)
before = [argument.clone() for argument in arguments]
iterations = tvl1_triton.TOGETHER + 1
fused = tvl1_triton.iterate(*arguments, iterations, **steps)
torch.testing.assert_close(arguments, tuple(before), rtol=0, atol=0)
plain = tvl1_torch._iterate(*arguments, iterations, **steps)
torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-4)
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("capability", [80, 89, 90])
def test_the_triton_kernel_keeps_sixteen_warps_on_a_multiprocessor(
    capability: int, tmp_path: Path
) -> None:
    """What the design counts on: all in registers, and enough warps to hide a load's latency."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    from study.data.flow import tvl1_triton

    images = ("u", "bar", "dual", "new_u", "new_bar", "new_dual", "gradient", "rho", "inverse")
    steps = ("sigma", "tau", "clip", "pull", "relaxation")
    sizes = {"COUNT": tvl1_triton.TOGETHER, "ROWS": 64, "COLUMNS": tvl1_triton.COLUMNS}
    signature = (
        dict.fromkeys(images, "*fp32")
        | dict.fromkeys(("height", "width"), "i32")
        | dict.fromkeys(steps, "fp32")
        | dict.fromkeys(sizes, "constexpr")
    )
    program = triton.compile(
        compiler.ASTSource(tvl1_triton._iterations, signature, sizes),
        target=pytest.importorskip("triton.backends.compiler").GPUTarget("cuda", capability, 32),
        options={"num_warps": 1},
    )
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(program.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    usage = subprocess.run(
        [tool, "-res-usage", binary], check=True, capture_output=True, text=True
    ).stdout
    registers, spilled = (int(re.findall(rf"{name}:(\d+)", usage)[0]) for name in ("REG", "STACK"))
    assert registers * 32 * 16 <= 65536
    assert spilled == 0
    assert program.metadata.shared == 0
    assert "bar.sync" not in program.asm["ptx"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_agrees_with_the_cpu() -> None:
    frames, _ = moving([[1, 0], [0, 1]], (0.6, -0.3))
    flow = compute_flow(frames, FlowSettings(backend="tvl1-gpu"))
    assert np.abs(flow - compute_flow(frames)).mean() < 2e-3


@pytest.fixture(scope="module")
def real_pairs(real_data: Path) -> list[np.ndarray]:
    """A pair of 240-pixel frames from clips of several datasets, as (2, H, W) gray."""
    videos = [
        path
        for dataset, pick in (("ucf101", slice(5, None, 37)), ("hmdb51", slice(1, 8, 4)))
        for path in sorted((real_data / "videos" / dataset).rglob("*.avi"))[pick]
    ]
    pairs = []
    for path in videos:
        capture = cv2.VideoCapture(str(path))
        frames = [capture.read()[1] for _ in range(22)][20:]
        pairs.append(np.stack([cv2.cvtColor(f, cv2.COLOR_BGR2GRAY) for f in frames]))
    return pairs


def test_real_clips_agree_with_opencv_at_no_higher_energy(real_pairs: list[np.ndarray]) -> None:
    distances, energies, levels = [], [], []
    for frames in real_pairs:
        ours = compute_flow(frames)[0]
        theirs = compute_flow(frames, PRESETS["opencv"])[0]
        distances.append(np.hypot(*(ours - theirs)).mean())
        energies.append((energy(frames, ours), energy(frames, theirs)))
        levels.append(grey_levels(frames, ours, theirs))
    assert np.mean(distances) < 0.1
    assert all(ours <= 1.02 * theirs for ours, theirs in energies)
    assert np.mean([ours / theirs for ours, theirs in energies]) < 1
    assert np.mean(levels) < 1


def test_settings_reach_the_solver() -> None:
    frames, _ = moving([[1, 0], [0, 1]], (0.6, -0.3), size=50)
    base = compute_flow(frames)
    for change in (
        {"lambda_": 0.05},
        {"theta": 0.1},
        {"scales": 1},
        {"warps": 1},
        {"iterations": 5},
    ):
        assert np.abs(compute_flow(frames, FlowSettings(**change)) - base).max() > 1e-4


def test_torch_runs_at_float32_whatever_the_default_is() -> None:
    y, x = np.mgrid[:20, :24].astype(float)
    frames = np.stack([texture(x, y), texture(x - 1, y)])
    scheme = replace(SCHEME, warps=1, iterations=3)
    expected = tvl1_torch.solve(frames, scheme, device="cpu")
    torch.set_default_dtype(torch.float64)
    try:
        flow = tvl1_torch.solve(frames, scheme, device="cpu")
    finally:
        torch.set_default_dtype(torch.float32)
    assert flow.dtype == np.float32
    np.testing.assert_allclose(flow, expected, atol=1e-4)
