"""The embedded dataset: small rendered clips whose classes need both streams.

A textured disc moves over a still, dim, textured background on a torus (what leaves the picture at
one side comes back at the other). Twelve classes in three groups:

- **what**: the disc is yellow, cyan, green or magenta and moves along a random diagonal. The class
  is its colour. The four colours have exactly the same grey value, so flow sees no difference.
- **how**: a grey disc moves left, right, up or down. The class is the direction.
- **which**: a large and a small disc, one red and one blue, are seen in turn and move in opposite
  directions. The class is which *colour* moves which way: "red right, blue left" against "red left,
  blue right", and the same up and down. The frames tell which size has which colour, the flow tells
  which size moves which way, and only the two together tell the class.

No single frame shows a class of "how" or "which": the discs' places are uniform on the torus at
every moment, whatever the class; and a clip of one direction played backwards is a clip of the
opposite one. Videos are stored without loss (FFV1), so that no trace of compression tells what the
design hides.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np

from study.data.annotations import Annotations, Split, Video

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
    "what_green": "what",
    "what_magenta": "what",
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
    "temporal": {"what": 1 / 4, "how": 1.0, "which": 1 / 2},
    "independent": {"what": 1.0, "how": 1.0, "which": 1 / 2},
    "joint": {"what": 1.0, "how": 1.0, "which": 1.0},
}
"""The best expected top-1 accuracy for each group of classes, by construction.

- spatial, from a clip's frames without their order. "what" shows its colour. A "how" clip and the
  same clip played backwards are equally likely and hold the same frames, so at best the axis is
  known: 1/2 (and 1/4 where frames are judged one by one, since a single frame shows no motion). So
  it is with "which".
- temporal, from the grey frames. "what" clips of the four colours are the same in grey: 1/4. "how"
  is seen. A "which" clip with its colours exchanged is the same in grey: the axis alone, 1/2.
- independent, both streams' scores added, each trained by itself. "which" stays at 1/2: given
  either stream alone both classes of a pair are equally likely, so both scores are level.
- joint, streams that see each other's content. All is seen.
"""

_CLIPS_PER_CLASS = 30
_FOLDS = 3
_SEED = 20
_SMALL, _LARGE = 18, 30
_SPEEDS = (2, 3)

_COLOURS = {
    "grey": (0, 0, 0),
    "yellow": (20, 3, -70),
    "cyan": (-70, 32, 19),
    "green": (-40, 34, -70),
    "magenta": (40, -34, 70),
    "red": (70, -32, -19),
    "blue": (-20, -3, 70),
}
"""What a colour adds to a grey pixel's (R, G, B); .299 R + .587 G + .114 B of it is under 0.3."""

_DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}


def ceiling(knowledge: str) -> float:
    """The best expected top-1 accuracy over all classes for one row of `CEILINGS`."""
    by_group = CEILINGS[knowledge]
    return sum(by_group[group] for group in CLASS_GROUPS.values()) / len(CLASS_GROUPS)


def annotate() -> Annotations:
    """The dataset's classes and its three splits, each testing on another third of every class."""
    clips = {
        class_name: [
            Video(
                name=f"{class_name}/{index:03d}",
                path=f"{class_name}/{index:03d}.avi",
                label=label,
                group=f"{class_name}/{index:03d}",
            )
            for index in range(_CLIPS_PER_CLASS)
        ]
        for label, class_name in enumerate(CLASSES)
    }
    splits = {}
    for fold in range(_FOLDS):
        is_test = [index % _FOLDS == fold for index in range(_CLIPS_PER_CLASS)]
        splits[str(fold + 1)] = Split(
            name=str(fold + 1),
            train=tuple(
                v for c in clips.values() for v, test in zip(c, is_test, strict=True) if not test
            ),
            test=tuple(
                v for c in clips.values() for v, test in zip(c, is_test, strict=True) if test
            ),
        )
    mirror = {"left": "right", "right": "left"}
    mirrored = ["_".join(mirror.get(word, word) for word in c.split("_")) for c in CLASSES]
    return Annotations(
        dataset="synthetic",
        classes=CLASSES,
        splits=splits,
        flip_classes=tuple(CLASSES.index(name) for name in mirrored),
        class_groups=dict(CLASS_GROUPS),
    )


def render_dataset(folder: Path, videos: Iterable[Video] | None = None) -> None:
    """Writes the dataset's videos below `folder`; those that are there already are kept.

    Args:
        folder: Videos folder, made where it is missing.
        videos: The videos to write; all of them where None.
    """
    if videos is None:
        split = annotate().splits["1"]
        videos = (*split.train, *split.test)
    for video in videos:
        path = folder / video.path
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        index = int(path.stem)
        unfinished = path.with_name(f".{path.name}.part")
        _write_video(unfinished, render_clip(CLASSES[video.label], (_SEED, video.label, index)))
        unfinished.rename(path)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Disc:
    diameter: int
    colour: str
    centre: tuple[int, int]  # (x, y) in the clip's middle frame
    velocity: tuple[int, int]  # pixels a frame


def render_clip(class_name: str, seed: int | tuple[int, ...]) -> np.ndarray:
    """One clip of a class.

    All that chance decides is drawn from `seed` in the same way for each class, so clips of one
    seed differ only in what the class says.

    Returns:
        RGB frames, uint8 (FRAMES, SIZE, SIZE, 3).
    """
    rng = np.random.default_rng(seed)
    background = _texture(rng, mean=75, deviation=12)
    discs = _draw_discs(class_name, rng)
    textures = [_texture(rng, mean=130, deviation=30) for _ in range(2)]
    frames = np.empty((FRAMES, SIZE, SIZE, 3), np.uint8)
    for index in range(FRAMES):
        shown = 0 if len(discs) == 1 or abs(index - FRAMES // 2) > FRAMES // 6 else 1
        frames[index] = _draw_frame(background, textures[shown], discs[shown], index)
    return frames


def _draw_discs(class_name: str, rng: np.random.Generator) -> list[_Disc]:
    """The discs of a clip, in the order in which they are seen: first, second, first."""
    speed = int(rng.choice(_SPEEDS))
    diameters = [int(d) for d in rng.permutation((_SMALL, _LARGE))]
    centres = [(int(x), int(y)) for x, y in rng.integers(0, SIZE, (2, 2))]
    signs = [int(s) for s in rng.choice((-1, 1), 2)]
    group, *words = class_name.split("_")
    if group == "which":
        first_is_positive = signs[0] > 0
        towards = {words[1]: words[0], words[3]: words[2]}  # direction -> colour
        order = sorted(towards, key=lambda name: sum(_DIRECTIONS[name]), reverse=first_is_positive)
        moves = [(towards[name], _DIRECTIONS[name]) for name in order]
    elif group == "how":
        moves = [("grey", _DIRECTIONS[words[0]])]
    else:
        moves = [(words[0], (signs[0], signs[1]))]
    return [
        _Disc(
            diameter=diameter,
            colour=colour,
            centre=centre,
            velocity=(speed * direction[0], speed * direction[1]),
        )
        for (colour, direction), diameter, centre in zip(moves, diameters, centres, strict=False)
    ]


def _draw_frame(background: np.ndarray, texture: np.ndarray, disc: _Disc, index: int) -> np.ndarray:
    """The frame with the disc at its place; the texture moves with the disc."""
    x, y = (c + v * (index - FRAMES // 2) for c, v in zip(disc.centre, disc.velocity, strict=True))
    axis = np.arange(SIZE) - SIZE // 2
    mask = axis[:, None] ** 2 + axis[None, :] ** 2 <= (disc.diameter / 2) ** 2  # (H, W)
    shift = (y - SIZE // 2, x - SIZE // 2)
    mask = np.roll(mask, shift, (0, 1))[..., None]
    coloured = np.roll(texture, shift, (0, 1))[..., None] + np.array(_COLOURS[disc.colour])
    return np.where(mask, coloured, background[..., None]).astype(np.uint8)


def _texture(rng: np.random.Generator, *, mean: float, deviation: float) -> np.ndarray:
    """Smooth noise that tiles, as integers (SIZE, SIZE) to which any colour can be added."""
    noise = rng.standard_normal((SIZE, SIZE))
    padded = np.pad(noise, 8, mode="wrap")
    smooth = cv2.GaussianBlur(padded, (0, 0), 1.5)[8:-8, 8:-8]
    smooth = (smooth - smooth.mean()) / smooth.std()
    low = max(-min(offset) for offset in _COLOURS.values())
    high = 255 - max(max(offset) for offset in _COLOURS.values())
    return np.clip(np.rint(mean + deviation * smooth), low, high).astype(np.int64)


def _write_video(path: Path, frames: np.ndarray) -> None:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = SIZE, SIZE, "bgr0"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
