"""A clip store in memory, for tests of what reads one; images are PNG, so that nothing is lost."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.datasets.annotations import Annotations, Video


class MemoryRecord:
    """One video: RGB frames (F, H, W, 3) and flow bytes (F, 2, H, W)."""

    def __init__(self, name: str, rgb: NDArray[np.uint8], flow: NDArray[np.uint8]) -> None:
        self.name = name
        self.positions, self.height, self.width = rgb.shape[:3]
        self._rgb = [_png(frame[..., ::-1]) for frame in rgb]
        self._flow = [(_png(x), _png(y)) for x, y in flow]

    def rgb(self, position: int) -> bytes:
        return self._rgb[position]

    def flow(self, position: int, length: int) -> list[tuple[bytes, bytes]]:
        last = self.positions - 1
        return [self._flow[min(position + k, last)] for k in range(length)]


class MemoryStore:
    def __init__(
        self,
        frames: dict[Video, tuple[NDArray[np.uint8], NDArray[np.uint8]]],
        *,
        classes: int,
        flip_classes: Sequence[int] | None = None,
    ) -> None:
        self.records = {
            video.name: MemoryRecord(video.name, rgb, flow) for video, (rgb, flow) in frames.items()
        }
        self.videos = list(frames)
        self.annotations = Annotations(
            dataset="memory",
            classes=tuple(f"class {label}" for label in range(classes)),
            splits={},
            flip_classes=tuple(flip_classes or range(classes)),
        )

    def record(self, name: str) -> MemoryRecord:
        return self.records[name]


def make_store(
    *,
    videos: int = 8,
    classes: int = 4,
    frames: int = 4,
    size: tuple[int, int] = (24, 30),
    seed: int = 0,
) -> MemoryStore:
    """Noise, on which each class has its own brightness, in RGB and in flow."""
    rng = np.random.default_rng(seed)
    content = {}
    for index in range(videos):
        label = index % classes
        shade = 200 * label // classes
        rgb = shade + rng.integers(0, 56, (frames, *size, 3))
        flow = shade + rng.integers(0, 56, (frames, 2, *size))
        video = make_video(index, label=label)
        content[video] = (rgb.astype(np.uint8), flow.astype(np.uint8))
    return MemoryStore(content, classes=classes)


def make_video(index: int, *, label: int = 0) -> Video:
    return Video(name=f"class {label}/{index}", path=f"{index}.avi", label=label, group=f"g{index}")


def _png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", np.ascontiguousarray(image))[1].tobytes()
