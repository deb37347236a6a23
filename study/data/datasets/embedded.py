"""The embedded dataset: small rendered clips whose classes need both streams.

Textured discs move over a still, dim, textured background on a torus (what leaves the picture at
one side comes back at the other). Ten classes in three groups:

- **what**: a disc is yellow or cyan and moves along a random diagonal. The class is its colour. The
  two colours have exactly the same grey value, so flow sees no difference.
- **how**: a grey disc moves left, right, up or down. The class is the direction.
- **which**: a large and a small disc, one red and one blue, move in opposite directions on lanes of
  their own. The class is which *colour* moves which way: "red right, blue left" against "red left,
  blue right", and the same up and down. The frames tell which size has which colour, the flow tells
  which size moves which way, and only the two together tell the class.

No single frame shows a class of "how" or "which": the discs' places are uniform on the torus at
every moment, whatever the class; and a clip of one direction played backwards is a clip of the
opposite one. Videos are stored without loss (FFV1), so that no trace of compression tells what the
design hides.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from study.data.datasets.annotations import Annotations, Split, Video, mirror_classes
from study.data.datasets.reader import register_dataset
from study.data.flow.compute import PRESETS

__all__ = [
    "CEILINGS",
    "CLASSES",
    "CLASS_GROUPS",
    "FRAMES",
    "SIZE",
    "annotate",
    "ceiling",
    "render_clip",
    "render_dataset",
]

SIZE = 64
"""Width and height of a frame in pixels."""

FRAMES = 25
"""Frames of a clip: odd, so that a clip has a middle frame and turns back into itself."""

CLASS_GROUPS = {
    "what_yellow": "what",
    "what_cyan": "what",
    "how_left": "how",
    "how_right": "how",
    "how_up": "how",
    "how_down": "how",
    "which_red_right_blue_left": "which",
    "which_red_left_blue_right": "which",
    "which_red_down_blue_up": "which",
    "which_red_up_blue_down": "which",
}
"""The group of each class."""

CLASSES = tuple(CLASS_GROUPS)

CEILINGS = {
    "spatial": {"what": 1.0, "how": 1 / 2, "which": 1 / 2},
    "temporal": {"what": 1 / 2, "how": 1.0, "which": 1 / 2},
    "independent": {"what": 1.0, "how": 1.0, "which": 1 / 2},
    "joint": {"what": 1.0, "how": 1.0, "which": 1.0},
}
"""The best expected top-1 accuracy for each group of classes, by construction.

- spatial, from a clip's frames without their order. "what" shows its colour. A "how" clip and the
  same clip played backwards are equally likely and hold the same frames, so at best the axis is
  known: 1/2 (and 1/4 where frames are judged one by one, since a single frame shows no motion). Of
  "which" the lanes show the axis, and no more is to be known: 1/2.
- temporal, from the grey frames. "what" clips of both colours are the same in grey: 1/2. "how" is
  seen. A "which" clip with its colours exchanged is the same in grey: the axis alone, 1/2.
- independent, both streams' scores added, each trained by itself. "which" stays at 1/2: given
  either stream alone both classes of a pair are equally likely, so both scores are level.
- joint, streams that see each other's content. All is seen.
"""

_CLIPS_PER_CLASS = 90
_SEED = 20
_SMALL, _LARGE = 16, 38  # diameters; on lanes half a picture apart the discs never meet
_LANE_JITTER = 4
_SPEEDS = (2, 3)

_COLOURS = {
    "grey": (0, 0, 0),
    "yellow": (20, 3, -70),
    "cyan": (-70, 32, 19),
    "red": (70, -32, -19),
    "blue": (-20, -3, 70),
}
"""What a colour adds to a grey pixel's (R, G, B); .299 R + .587 G + .114 B of it is under 0.3."""

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def ceiling(knowledge: str) -> float:
    """Returns the best expected top-1 accuracy over all classes for one row of `CEILINGS`."""
    by_group = CEILINGS[knowledge]
    return sum(by_group[group] for group in CLASS_GROUPS.values()) / len(CLASS_GROUPS)


def render_dataset(folder: Path, videos: Iterable[Video] | None = None) -> None:
    """Writes the dataset's videos below a folder.

    Args:
        folder: Videos folder, made where it is missing.
        videos: The videos to write; all of them where None.
    """
    if videos is None:
        split = annotate().splits["1"]
        videos = (*split.train, *split.test)

    def write(video: Video) -> None:
        path = folder / video.path
        path.parent.mkdir(parents=True, exist_ok=True)
        clip = render_clip(CLASSES[video.label], (_SEED, video.label, int(path.stem)))
        _write_video(path, clip)

    with ThreadPoolExecutor() as threads:  # FFV1's encoder, half of the time, runs beside Python
        for _ in threads.map(write, videos):
            pass


@register_dataset(
    "embedded",
    title="embedded",
    render=render_dataset,
    # Three stacks, one of each of a clip's thirds; flow at settings for its 64 pixels, and as JPEG,
    # which the recorded results were trained on.
    store={
        "short_side": SIZE,
        "stacks": 3,
        "flow_length": 4,
        "flow": PRESETS["small"],
        "flow_codec": "jpeg",
    },
)
def annotate() -> Annotations:
    """Returns the dataset's classes and three splits, each testing on another third of a class."""
    clips = [
        [_video(label, class_name, index) for index in range(_CLIPS_PER_CLASS)]
        for label, class_name in enumerate(CLASSES)
    ]
    splits = {
        str(fold + 1): Split(
            name=str(fold + 1),
            train=tuple(v for c in clips for i, v in enumerate(c) if i % 3 != fold),
            test=tuple(v for c in clips for i, v in enumerate(c) if i % 3 == fold),
        )
        for fold in range(3)
    }
    return Annotations(
        dataset="embedded",
        classes=CLASSES,
        splits=splits,
        flip_classes=mirror_classes(CLASSES),
        class_groups=dict(CLASS_GROUPS),
    )


def _video(label: int, class_name: str, index: int) -> Video:
    name = f"{class_name}/{index:03d}"
    return Video(name=name, path=f"{name}.avi", label=label, group=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Disc:
    diameter: int
    colour: str
    centre: tuple[int, int]  # (x, y) in the clip's middle frame
    velocity: tuple[int, int]  # pixels a frame


def render_clip(class_name: str, seed: int | Sequence[int]) -> NDArray[np.uint8]:
    """Renders one clip of a class.

    All that chance decides is drawn from `seed` in the same way for each class, so clips of one
    seed differ only in what the class says: those of "what" in the colour, those of "how" in the
    direction, those of a pair of "which" in the two colours being exchanged.

    Args:
        class_name: One of `CLASSES`.
        seed: What `numpy.random.default_rng` takes.

    Returns:
        RGB frames, (FRAMES, SIZE, SIZE, 3).
    """
    rng = np.random.default_rng(seed)
    background = _texture(rng, mean=75, deviation=12)
    textures = [_texture(rng, mean=130, deviation=30) for _ in range(2)]
    discs = _draw_discs(class_name, rng)
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    frames[:] = background[..., None]
    for disc, texture in zip(discs, textures, strict=False):
        _paint(frames, disc, texture)
    return frames


def _draw_discs(class_name: str, rng: np.random.Generator) -> list[_Disc]:
    """Draws the disc of a clip; for "which" two, first the small one."""
    speed = int(rng.choice(_SPEEDS))
    size = int(rng.choice((_SMALL, _LARGE)))
    signs = [int(sign) for sign in rng.choice((-1, 1), 2)]
    x, y, other_x, other_y = (int(place) for place in rng.integers(0, SIZE, 4))
    lane = SIZE // 2 + int(rng.integers(-_LANE_JITTER, _LANE_JITTER + 1))

    def disc(
        diameter: int, colour: str, centre: tuple[int, int], direction: tuple[int, int]
    ) -> _Disc:
        velocity = (speed * direction[0], speed * direction[1])
        return _Disc(diameter=diameter, colour=colour, centre=centre, velocity=velocity)

    group, *words = class_name.split("_")
    if group == "what":
        return [disc(size, words[0], (x, y), (signs[0], signs[1]))]
    if group == "how":
        return [disc(size, "grey", (x, y), _DIRECTIONS[words[0]])]
    colours = {words[1]: words[0], words[3]: words[2]}  # by direction
    small, large = sorted(colours, key=lambda name: signs[0] * sum(_DIRECTIONS[name]))
    elsewhere = (other_x, y + lane) if "right" in colours else (x + lane, other_y)
    return [
        disc(_SMALL, colours[small], (x, y), _DIRECTIONS[small]),
        disc(_LARGE, colours[large], elsewhere, _DIRECTIONS[large]),
    ]


def _paint(frames: NDArray[np.uint8], disc: _Disc, texture: NDArray[np.int64]) -> None:
    """Paints the disc into every frame; its texture moves with it."""
    from_middle = np.arange(disc.diameter) - (disc.diameter - 1) / 2
    inside = from_middle[:, None] ** 2 + from_middle**2 <= (disc.diameter / 2) ** 2
    ys, xs = inside.nonzero()
    coloured = (texture[ys, xs, None] + np.array(_COLOURS[disc.colour])).astype(np.uint8)
    corner_x, corner_y = (middle - disc.diameter // 2 for middle in disc.centre)
    for index, frame in enumerate(frames):
        time = index - FRAMES // 2
        at_x = (xs + corner_x + time * disc.velocity[0]) % SIZE
        at_y = (ys + corner_y + time * disc.velocity[1]) % SIZE
        frame[at_y, at_x] = coloured


def _texture(rng: np.random.Generator, *, mean: float, deviation: float) -> NDArray[np.int64]:
    """Returns smooth noise that tiles, integers (SIZE, SIZE) to which any colour can be added."""
    noise = rng.standard_normal((SIZE, SIZE))
    padded = np.pad(noise, 8, mode="wrap")
    smooth = cv2.GaussianBlur(padded, (0, 0), 1.5)[8:-8, 8:-8]
    smooth = (smooth - smooth.mean()) / smooth.std()
    low = max(-min(offset) for offset in _COLOURS.values())
    high = 255 - max(max(offset) for offset in _COLOURS.values())
    levels: NDArray[np.float64] = np.clip(np.rint(mean + deviation * smooth), low, high)
    return levels.astype(np.int64)


def _write_video(path: Path, frames: NDArray[np.uint8]) -> None:
    import av  # here, as all processes that prepare videos import this module

    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "bgr0"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
