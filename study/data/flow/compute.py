"""Optical flow of a video's frames, and its 8-bit form.

TV-L1 flow (Zach, Pock and Bischof, "A duality based approach for realtime TV-L1 optical flow",
2007) or RAFT (Teed and Deng, "RAFT: recurrent all-pairs field transforms for optical flow", 2020)
between each frame and the next, TV-L1 also without the camera's motion, and the storage of
two-stream practice: displacements clipped to ±bound pixels and mapped linearly to 0..255.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
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
    "runs_on_gpu",
]

# Torchvision's files. Another one is another flow, so it would be a backend of another name.
_RAFT_WEIGHTS = {
    "raft": "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
    "raft-small": "raft_small_C_T_V2-01064c6d.pth",
}
_RAFT_OPTIONS = ("updates", "bound")


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowSettings:
    """How flow is computed.

    The defaults of TV-L1 solve the functional of OpenCV's defaults; their effort (warps,
    iterations, epsilon) is set so that on real clips the energy is nowhere notably above OpenCV's.
    RAFT takes `updates` and `bound` alone, and TV-L1 all others and `bound`.

    Attributes:
        backend: One of `BACKENDS`; ``tvl1-warped`` is TV-L1 without the camera's motion.
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
        updates: Recurrent updates of RAFT; 12 is torchvision's default.
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
    updates: int = 12
    bound: float = 20.0

    def __post_init__(self) -> None:
        check_one_of("flow.backend", self.backend, sorted(BACKENDS))
        for name in ("lambda_", "theta", "epsilon", "tau", "bound"):
            check_number(f"flow.{name}", getattr(self, name), above=0)
        for name in ("scales", "warps", "iterations", "outer_iterations", "updates"):
            check_number(f"flow.{name}", getattr(self, name), whole=True, least=1)
        check_number("flow.scale_step", self.scale_step, above=0, below=1)
        check_one_of("flow.median_filtering", self.median_filtering, (1, 3, 5))

    @property
    def scheme(self) -> Scheme:
        """What our own solvers take of it."""
        return Scheme(**{option.name: getattr(self, option.name) for option in fields(Scheme)})

    @property
    def weights(self) -> str | None:
        """The name of the file of RAFT's weights; None of TV-L1."""
        return _RAFT_WEIGHTS.get(self.backend)

    @property
    def in_colour(self) -> bool:
        """Whether flow is computed from RGB frames, not from their luma."""
        return self.backend in _RAFT_WEIGHTS

    def to_dict(self) -> dict[str, Any]:
        """Returns the backend and the settings that the family of its backends takes."""
        if self.weights is not None:
            options = {name: getattr(self, name) for name in _RAFT_OPTIONS}
            return {"backend": self.backend, "weights": self.weights, **options}
        return {name: value for name, value in asdict(self).items() if name != "updates"}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> "FlowSettings":
        """Reads what `to_dict` returns."""
        return cls(**{name: value for name, value in plain.items() if name != "weights"})

    def with_backend(self, backend: str) -> "FlowSettings":
        """Returns the settings with another backend; options that it doesn't take are dropped.

        Raises:
            ValueError: If the backend is unknown.
        """
        changed = replace(self, backend=backend)
        if changed.in_colour != self.in_colour:
            return FlowSettings(backend=backend, bound=self.bound)
        return changed

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
            if name not in self.to_dict():
                raise ValueError(f"flow option {name} has no effect on backend {self.backend!r}")
            try:
                changes[name] = options[name](value)
            except ValueError:
                kind = "a whole number" if options[name] is int else "a number"
                raise ValueError(f"flow option {name} takes {kind}, got {value!r}") from None
        return replace(self, **changes)


def compute_flow(
    frames: NDArray[np.uint8], settings: FlowSettings | None = None
) -> NDArray[np.float32]:
    """Computes the flow from every frame to the next.

    Args:
        frames: (F, H, W) uint8, F ≥ 2, gray; (F, H, W, 3) RGB for settings `in_colour`.
        settings: How to compute it; None means the defaults.

    Returns:
        (F-1, 2, H, W) float32, x then y, in pixels: frame t at (x, y) is found again in frame
        t+1 at (x + flow_x, y + flow_y), in a warped flow as if the camera stood still. Each pair's
        flow depends on its two frames alone.

    Raises:
        ValueError: If `frames` is not uint8 of that shape with at least two frames and a pixel.
        FileNotFoundError: If RAFT's weights are missing.
    """
    frames = np.ascontiguousarray(frames)
    settings = settings or FlowSettings()
    kind = "RGB frames (F, H, W, 3)" if settings.in_colour else "gray frames (F, H, W)"
    fits = frames.ndim >= 3 and frames.shape[3:] == ((3,) if settings.in_colour else ())
    if not fits or frames.dtype != np.uint8:
        raise ValueError(f"flow needs {kind} of uint8, got shape {frames.shape} of {frames.dtype}")
    if frames.shape[0] < 2 or 0 in frames.shape:
        raise ValueError(
            f"flow needs at least two frames of at least one pixel, got {frames.shape} frames"
        )
    return BACKENDS[settings.backend](frames, settings)


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
        FileNotFoundError: If RAFT's weights are missing and can't be downloaded.
    """
    if settings is None:
        return
    if settings.backend == "opencv":
        _opencv_flow()
    elif settings.backend == "tvl1-gpu":
        _check_gpu()
    elif settings.weights is not None:
        from study.data.flow import raft

        raft.find_weights(settings.backend, settings.weights)


def runs_on_gpu(settings: FlowSettings) -> bool:
    """Returns whether this machine computes the flow on a GPU."""
    if settings.in_colour:
        import torch

        return torch.cuda.is_available()
    return settings.backend == "tvl1-gpu"


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


def _warped_flow_by_tvl1(gray: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs our solver on each frame and the next as the camera of the first would have seen it."""
    from study.data.flow.camera_motion import without_camera_motion

    flow = np.empty((len(gray) - 1, 2, *gray.shape[1:]), np.float32)
    for t, (first, second) in enumerate(pairwise(gray)):
        pair = np.stack([first, without_camera_motion(first, second)])
        flow[t] = _flow_by_tvl1(pair, settings)[0]
    return flow


def _flow_by_tvl1_gpu(gray: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs our solver on a GPU."""
    from study.data.flow import tvl1_torch

    _check_gpu()
    return tvl1_torch.solve(gray, settings.scheme, device="cuda")


def _flow_by_raft(frames: NDArray[np.uint8], settings: FlowSettings) -> NDArray[np.float32]:
    """Runs torchvision's RAFT, on a GPU where there is one."""
    from study.data.flow import raft

    assert settings.weights is not None
    return raft.solve(frames, settings.backend, weights=settings.weights, updates=settings.updates)


BACKENDS: dict[str, Callable[[NDArray[np.uint8], FlowSettings], NDArray[np.float32]]] = {
    "tvl1": _flow_by_tvl1,
    "tvl1-gpu": _flow_by_tvl1_gpu,
    "tvl1-warped": _warped_flow_by_tvl1,
    "opencv": _flow_by_opencv,
    "raft": _flow_by_raft,
    "raft-small": _flow_by_raft,
}

PRESETS = {
    "default": FlowSettings(),
    "small": FlowSettings(scales=3, warps=3, iterations=15),  # for frames of 64 pixels or so
    "opencv": FlowSettings(  # OpenCV's own defaults
        backend="opencv", warps=5, iterations=30, epsilon=0.01
    ),
}
