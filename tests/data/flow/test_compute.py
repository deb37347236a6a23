"""Flow's interface, its 8-bit form, and OpenCV's backend."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from study.data.flow.compute import (
    BACKENDS,
    PRESETS,
    FlowSettings,
    compute_flow,
    dequantise,
    quantise,
)

FAST = FlowSettings(scales=2, warps=2, iterations=5)


def textured(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(height, width))
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    return np.clip(128 + 40 * smooth / smooth.std(), 0, 255).astype(np.uint8)


def test_every_stored_byte_survives_the_way_there_and_back() -> None:
    stored = np.arange(256, dtype=np.uint8)
    flow = dequantise(stored)
    np.testing.assert_allclose(flow, stored / 255 * 40 - 20, atol=1e-5)
    np.testing.assert_array_equal(quantise(flow), stored)
    assert flow.dtype == np.float32


@pytest.mark.parametrize("bound", [20.0, 15.0, 7.5])
def test_quantising_is_off_by_half_a_step_at_most_and_clips_at_the_bound(bound: float) -> None:
    flow = np.random.default_rng(0).uniform(-2 * bound, 2 * bound, (3, 2, 20, 30))
    restored = dequantise(quantise(flow, bound), bound)
    step = 2 * bound / 255
    np.testing.assert_allclose(restored, np.clip(flow, -bound, bound), atol=step / 2 + 1e-5)


def test_negated_flow_is_stored_as_255_minus_the_byte() -> None:
    flow = np.random.default_rng(0).normal(0, 8, 10_000).astype(np.float32)
    np.testing.assert_array_equal(quantise(-flow), 255 - quantise(flow))


@pytest.mark.parametrize("backend", ["tvl1", "opencv"])
def test_flow_is_one_pair_shorter_than_the_frames_and_each_pair_stands_alone(backend: str) -> None:
    wide = textured(40, 60)
    gray = np.stack([wide[:, k : k + 48] for k in (0, 2, 3, 3)])
    settings = FlowSettings(backend=backend, scales=2, warps=2, iterations=5)
    flow = compute_flow(gray, settings)
    assert flow.shape == (3, 2, 40, 48)
    assert flow.dtype == np.float32
    for t in range(3):
        np.testing.assert_array_equal(flow[t], compute_flow(gray[t : t + 2], settings)[0])


def test_non_contiguous_frames_give_the_flow_of_their_copy() -> None:
    frames = np.stack([textured(40, 48, seed=seed) for seed in range(4)])
    odd = np.asfortranarray(frames)[::2, ::-1]
    expected = compute_flow(odd.copy(order="C"), FAST)
    np.testing.assert_array_equal(compute_flow(odd, FAST), expected)


@pytest.mark.parametrize(
    "gray",
    [
        np.zeros((2, 8, 8), np.float32),
        np.zeros((8, 8), np.uint8),
        np.zeros((2, 8, 8, 3), np.uint8),
        np.zeros((1, 8, 8), np.uint8),
        np.zeros((2, 0, 8), np.uint8),
    ],
)
def test_wrong_frames_are_refused_with_their_shape(gray: np.ndarray) -> None:
    with pytest.raises(ValueError, match="flow needs") as error:
        compute_flow(gray)
    assert str(gray.shape) in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "fast"}, "backend must be one of .*tvl1.*got 'fast'"),
        ({"lambda_": 0.0}, "lambda_ must be a number above 0, got 0.0"),
        ({"bound": float("nan")}, "bound must be a number above 0, got nan"),
        ({"warps": 0}, "warps must be a whole number of at least 1, got 0"),
        ({"scale_step": 1.0}, "scale_step must be a number above 0 and below 1, got 1.0"),
        ({"median_filtering": 4}, "median_filtering must be one of 1, 3, 5, got 4"),
    ],
)
def test_wrong_settings_are_refused_with_what_is_allowed(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowSettings(**options)


def test_opencv_preset_is_opencvs_own_default() -> None:
    gray = np.stack([textured(40, 48), np.roll(textured(40, 48), 1, 1)])
    optflow: Any = cv2.optflow  # its type declarations lack TV-L1
    expected = optflow.DualTVL1OpticalFlow_create().calc(gray[0], gray[1], None)
    flow = compute_flow(gray, PRESETS["opencv"])[0]
    np.testing.assert_array_equal(flow, np.moveaxis(expected, -1, 0))


def test_opencv_without_contrib_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(cv2, "optflow")
    with pytest.raises(ValueError, match="install opencv-contrib-python-headless"):
        compute_flow(np.zeros((2, 20, 20), np.uint8), PRESETS["opencv"])


def test_gpu_backend_without_a_gpu_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "tvl1-gpu" in BACKENDS
    with pytest.raises(ValueError, match="needs a CUDA device"):
        compute_flow(np.zeros((2, 20, 20), np.uint8), FlowSettings(backend="tvl1-gpu"))


def test_without_numba_the_same_scheme_runs_in_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    gray = np.stack([textured(40, 48), np.roll(textured(40, 48), 1, 1)])
    expected = compute_flow(gray, FAST)
    monkeypatch.delattr("study.data.flow.tvl1")
    monkeypatch.setitem(__import__("sys").modules, "study.data.flow.tvl1", None)
    with pytest.warns(UserWarning, match="install numba"):
        flow = compute_flow(gray, FAST)
    assert np.abs(flow - expected).mean() < 1e-3


def test_torch_and_numpy_are_enough() -> None:
    absent = ("cv2", "decord", "duckdb", "numba", "optuna", "PIL", "pyarrow", "ray")
    code = f"""
import sys, warnings
sys.modules |= dict.fromkeys({absent})
import numpy as np
from study.data.flow.compute import FlowSettings, compute_flow
warnings.simplefilter("ignore")
stripes = np.tile(np.arange(40) * 30 % 199, (40, 1)).astype(np.uint8)
flow = compute_flow(np.stack([stripes, np.roll(stripes, 1, 1)]), FlowSettings(warps=3))
assert abs(np.median(flow[0, 0]) - 1) < 0.1, np.median(flow[0, 0])
try:
    compute_flow(np.stack([stripes] * 2), FlowSettings(backend="opencv"))
except ValueError as error:
    assert "install opencv-contrib" in str(error)
else:
    raise AssertionError("OpenCV's flow without OpenCV")
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_real_frames_keep_their_motion_through_storage(real_data: Path) -> None:
    video = sorted((real_data / "videos" / "ucf101").rglob("*.avi"))[0]
    capture = cv2.VideoCapture(str(video))
    frames = [cv2.cvtColor(capture.read()[1], cv2.COLOR_BGR2GRAY)[::2, ::2] for _ in range(3)]
    flow = compute_flow(np.stack(frames))
    assert np.abs(dequantise(quantise(flow)) - flow.clip(-20, 20)).max() <= 20 / 255 + 1e-5
