"""Optical flow of a video's frames, and its 8-bit form.

TV-L1 flow (Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow",
2007) between each frame and the next, and the storage of two-stream practice: displacements
clipped to ±bound pixels and mapped linearly to 0..255.
"""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.checks import check_number, check_one_of
from study.data.flow.tvl1_scheme import Scheme

__all__ = [
    "BACKENDS",
    "PRESETS",
    "FlowSettings",
    "check_backend",
    "compute_flow",
    "dequantise",
    "quantise",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSettings:
    """How flow is computed.

    The defaults solve the functional of OpenCV's defaults; their effort (warps, iterations,
    epsilon) is set so that on real clips the energy is nowhere notably above OpenCV's.

    Attributes:
        backend: One of `BACKENDS`.
        lambda_: Weight of the data term, for intensities in 0..255.
        theta: Tightness of the coupling between the flow and its auxiliary copy.
        scales: Levels of the pyramid at most; levels under 16 pixels are left out.
        scale_step: Size of a level relative to the finer one, in (0, 1).
        warps: Linearisations of the data term at each level.
        iterations: Iterations at each warp (for `opencv` its inner ones).
        epsilon: Root mean square change of the flow, in pixels, that counts as none: in a warp,
            which then is its level's last (for `opencv` in an iteration, its warp's last).
        tau: Time step of the dual update; `opencv` alone.
        outer_iterations: Rounds of median filter and iterations at each warp; `opencv` alone.
        median_filtering: Side of the median filter in pixels: 1 (none), 3 or 5; `opencv` alone.
        bound: Displacement in pixels at which the stored flow is clipped.

    Raises:
        ValueError: If the backend is unknown or a value is out of range.
    """

    backend: str = "tvl1"
    lambda_: float = 0.15
    theta: float = 0.3
    scales: int = 5
    scale_step: float = 0.8
    warps: int = 7
    iterations: int = 20
    epsilon: float = 0.02
    tau: float = 0.25
    outer_iterations: int = 10
    median_filtering: int = 5
    bound: float = 20.0

    def __post_init__(self) -> None:
        check_one_of("flow.backend", self.backend, sorted(BACKENDS))
        for name in ("lambda_", "theta", "epsilon", "tau", "bound"):
            check_number(f"flow.{name}", getattr(self, name), above=0)
        for name in ("scales", "warps", "iterations", "outer_iterations"):
            check_number(f"flow.{name}", getattr(self, name), whole=True, least=1)
        check_number("flow.scale_step", self.scale_step, above=0, below=1)
        check_one_of("flow.median_filtering", self.median_filtering, (1, 3, 5))

    @property
    def scheme(self) -> Scheme:
        """What our own solvers take of it."""
        return Scheme(**{option.name: getattr(self, option.name) for option in fields(Scheme)})

    @classmethod
    def options(cls) -> dict[str, type]:
        """Returns the names and types of the settings other than the backend."""
        return {one.name: type(one.default) for one in fields(cls) if one.name != "backend"}

    def with_options(self, assignments: Iterable[str]) -> "FlowSettings":
        """Returns the settings with others in their place, each given as "NAME=VALUE".

        Raises:
            ValueError: If a name is none of `options()`, or a value isn't allowed.
        """
        options, changes = self.options(), {}
        for assignment in assignments:
            name, _, value = assignment.partition("=")
            if name not in options:
                raise ValueError(f"unknown flow option {name!r}; there are: {', '.join(options)}")
            try:
                changes[name] = options[name](value)
            except ValueError:
                kind = "a whole number" if options[name] is int else "a number"
                raise ValueError(f"flow option {name} takes {kind}, got {value!r}") from None
        return replace(self, **changes)


def compute_flow(
    gray: NDArray[np.uint8], settings: FlowSettings | None = None
) -> NDArray[np.float32]:
    """Computes the flow from every frame to the next.

    Args:
        gray: Frames, (F, H, W) uint8, F ≥ 2.
        settings: How to compute it; None means the defaults.

    Returns:
        (F-1, 2, H, W) float32, x then y, in pixels: frame t at (x, y) is found again in frame
        t+1 at (x + flow_x, y + flow_y). Each pair's flow depends on its two frames alone.

    Raises:
        ValueError: If `gray` is not (F, H, W) uint8 with at least two frames and a pixel.
    """
    gray = np.ascontiguousarray(gray)
    if gray.ndim != 3 or gray.dtype != np.uint8:
        raise ValueError(
            f"flow needs gray frames (F, H, W) of uint8, got shape {gray.shape} of {gray.dtype}"
        )
    if gray.shape[0] < 2 or 0 in gray.shape:
        raise ValueError(
            f"flow needs at least two frames of at least one pixel, got {gray.shape} frames"
        )
    settings = settings or FlowSettings()
    return BACKENDS[settings.backend](gray, settings)


def quantise(flow: NDArray[np.floating[Any]], bound: float = 20.0) -> NDArray[np.uint8]:
    """Turns pixels into bytes: b means (b/255 · 2 bound − bound) px; beyond ±bound is clipped."""
    scaled = (flow + bound) * (255.0 / (2.0 * bound))
    stored: NDArray[np.uint8] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return stored


def dequantise(stored: NDArray[np.uint8], bound: float = 20.0) -> NDArray[np.float32]:
    """Turns stored bytes into pixels: the inverse of `quantise` up to rounding."""
    return (stored * np.float32(2.0 * bound / 255.0) - np.float32(bound)).astype(np.float32)


def check_backend(settings: FlowSettings | None) -> None:
    """Refuses a backend that can't run on this machine; None, precomputed flow, needs none.

    Raises:
        ValueError: If it lacks what the backend needs.
    """
    if settings is None:
        return
    if settings.backend == "opencv":
        _opencv_flow()
    elif settings.backend == "tvl1-gpu":
        _check_gpu()


def _opencv_flow() -> Any:
    try:
        import cv2

        return cv2.optflow
    except (ImportError, AttributeError):
        raise ValueError(
            "flow backend 'opencv' needs cv2.optflow, which is missing here: install "
            "opencv-contrib-python-headless in place of any other OpenCV"
        ) from None


def _check_gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        raise ValueError("flow backend 'tvl1-gpu' needs a CUDA device and finds none: use 'tvl1'")


def _flow_by_opencv(gray: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs OpenCV's DualTVL1."""
    solver = _opencv_flow().DualTVL1OpticalFlow_create(
        tau=settings.tau,
        lambda_=settings.lambda_,
        theta=settings.theta,
        nscales=settings.scales,
        warps=settings.warps,
        epsilon=settings.epsilon,
        innnerIterations=settings.iterations,  # OpenCV's own name
        outerIterations=settings.outer_iterations,
        scaleStep=settings.scale_step,
        medianFiltering=settings.median_filtering,
    )
    frames, height, width = gray.shape
    flow = np.empty((frames - 1, 2, height, width), np.float32)
    for t in range(frames - 1):
        flow[t] = np.moveaxis(solver.calc(gray[t], gray[t + 1], None), -1, 0)
    return flow


def _flow_by_tvl1(gray: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs our solver on the CPU; the same scheme in torch where numba or OpenCV is missing."""
    try:
        from study.data.flow import tvl1
    except ImportError as error:
        warnings.warn(
            f"flow backend 'tvl1' runs many times slower than it could ({error}): install numba "
            "and OpenCV",
            stacklevel=3,
        )
        from study.data.flow import tvl1_torch

        return tvl1_torch.solve(gray, settings.scheme, device="cpu")
    return tvl1.solve(gray, settings.scheme)


def _flow_by_tvl1_gpu(gray: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs our solver on a GPU."""
    from study.data.flow import tvl1_torch

    _check_gpu()
    return tvl1_torch.solve(gray, settings.scheme, device="cuda")


BACKENDS: dict[str, Callable[[NDArray[np.uint8], FlowSettings], NDArray[np.float32]]] = {
    "tvl1": _flow_by_tvl1,
    "tvl1-gpu": _flow_by_tvl1_gpu,
    "opencv": _flow_by_opencv,
}

PRESETS = {
    "default": FlowSettings(),
    "small": FlowSettings(scales=3, warps=3, iterations=15),  # for frames of 64 pixels or so
    "opencv": FlowSettings(  # OpenCV's own defaults
        backend="opencv", warps=5, iterations=30, epsilon=0.01
    ),
}
