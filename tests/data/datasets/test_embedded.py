from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.stats import binomtest, kstest

from study.data.datasets import embedded
from study.data.datasets.annotations import Video
from study.data.datasets.embedded import CLASS_GROUPS, CLASSES, FRAMES, SIZE, render_clip

WHAT, HOW, WHICH = (
    [name for name in CLASSES if CLASS_GROUPS[name] == group] for group in ("what", "how", "which")
)


def grey(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])


def coloured(frames: np.ndarray, towards: tuple[int, int]) -> np.ndarray:
    """Where one channel, `towards[0]`, is far above another: (F, H, W)."""
    high, low = (frames[..., channel].astype(int) for channel in towards)
    return high - low > 50


def red(frames: np.ndarray) -> np.ndarray:
    return coloured(frames, (0, 2))


def blue(frames: np.ndarray) -> np.ndarray:
    return coloured(frames, (2, 0))


def step(mask: np.ndarray) -> tuple[int, int]:
    """The (x, y) shift on the torus that takes a mask (F, H, W) from each frame to the next."""
    spectrum = np.fft.fft2(mask.astype(float))
    correlation = np.fft.ifft2(spectrum[:-1].conj() * spectrum[1:]).real.sum(0)
    y, x = np.unravel_index(correlation.argmax(), correlation.shape)
    half = SIZE // 2
    return int((x + half) % SIZE - half), int((y + half) % SIZE - half)


def direction(mask: np.ndarray) -> str:
    x, y = step(mask)
    assert (x == 0) != (y == 0)
    return {(1, 0): "right", (-1, 0): "left", (0, 1): "down", (0, -1): "up"}[
        int(np.sign(x)), int(np.sign(y))
    ]


def foreground(frames: np.ndarray) -> np.ndarray:
    """Where a frame isn't what the clip mostly shows there, the still background: (F, H, W)."""
    values = grey(frames)
    return values != np.median(values, axis=0)


@pytest.mark.parametrize("name", CLASSES)
def test_a_clip_is_a_function_of_its_class_and_seed(name: str) -> None:
    clip = render_clip(name, (1, 2))
    assert clip.shape == (FRAMES, SIZE, SIZE, 3)
    assert clip.dtype == np.uint8
    assert np.array_equal(clip, render_clip(name, (1, 2)))
    assert not np.array_equal(clip, render_clip(name, (1, 3)))


@pytest.mark.parametrize("seed", range(20))
def test_what_moves_cannot_be_seen_in_grey(seed: int) -> None:
    clips = [render_clip(name, seed) for name in WHAT]
    for clip in clips[1:]:
        assert not np.array_equal(clip, clips[0])
        assert np.array_equal(grey(clip), grey(clips[0]))


@pytest.mark.parametrize("seed", range(20))
def test_which_of_two_moves_how_cannot_be_seen_in_grey(seed: int) -> None:
    for one, other in (WHICH[:2], WHICH[2:]):
        clips = render_clip(one, seed), render_clip(other, seed)
        assert not np.array_equal(*clips)
        assert np.array_equal(grey(clips[0]), grey(clips[1]))


@pytest.mark.parametrize("seed", range(20))
def test_how_a_disc_moves_cannot_be_seen_without_the_order_of_frames(seed: int) -> None:
    for one, other in (("how_left", "how_right"), ("how_up", "how_down")):
        assert np.array_equal(render_clip(one, seed)[::-1], render_clip(other, seed))


def test_what_moves_is_shown_by_each_frame() -> None:
    """One colour each, of its own in each class, in every frame; all else is grey."""
    colours = set()
    for name in WHAT:
        for seed in range(5):
            frames = render_clip(name, seed)
            chroma = frames.astype(int) - grey(frames)[..., None]
            on_disc = chroma.any(axis=-1)
            assert on_disc.any(axis=(1, 2)).all()
            (colour,) = {tuple(pixel.tolist()) for pixel in np.unique(chroma[on_disc], axis=0)}
            colours.add((name, colour))
    assert len(colours) == len({colour for _, colour in colours}) == len(WHAT)


@pytest.mark.parametrize("name", HOW)
def test_how_a_disc_moves_is_shown_by_its_grey_frames(name: str) -> None:
    for seed in range(10):
        assert direction(foreground(render_clip(name, seed))) == name.removeprefix("how_")


@pytest.mark.parametrize("name", WHICH)
def test_colour_and_motion_together_tell_which_of_two_moves_how(name: str) -> None:
    for seed in range(10):
        clip = render_clip(name, seed)
        shown = f"which_red_{direction(red(clip))}_blue_{direction(blue(clip))}"
        assert shown == name


@pytest.mark.parametrize("name", WHICH)
def test_one_streams_clue_to_which_is_even_in_every_class(name: str) -> None:
    """Which size is red (frames) and which size moves which way (flow): each a fair coin."""
    clips = [render_clip(name, seed) for seed in range(100)]
    large_is_red = [red(clip).sum() > blue(clip).sum() for clip in clips]
    large_is_positive = []
    for clip, is_red in zip(clips, large_is_red, strict=True):
        large = direction(red(clip) if is_red else blue(clip))
        large_is_positive.append(large in ("right", "down"))
    for clue in (large_is_red, large_is_positive):
        assert binomtest(int(sum(clue)), len(clue)).pvalue > 0.01
    red_is_positive = "red_right" in name or "red_down" in name
    assert all(
        (a == b) == red_is_positive for a, b in zip(large_is_red, large_is_positive, strict=True)
    )


@pytest.mark.parametrize("name", CLASSES)
def test_no_frame_tells_a_class_by_the_discs_place(name: str) -> None:
    """At every moment the discs' places are uniform on the torus, whatever the class."""
    moments = (0, FRAMES // 2, FRAMES - 1)
    places: list[list[tuple[float, float]]] = [[] for _ in moments]
    for seed in range(100):
        clip = render_clip(name, seed)
        for mask in [red(clip), blue(clip)] if name in WHICH else [foreground(clip)]:
            for found, moment in zip(places, moments, strict=True):
                found.append(place(mask[moment]))
    for found in places:
        for along in np.array(found).T:
            assert kstest(along, "uniform").pvalue > 1e-4


def place(mask: np.ndarray) -> tuple[float, float]:
    """The (x, y) of a mask's middle on the torus, 0 to 1: the mean phase of its pixels."""
    turns = [np.exp(2j * np.pi * (p + 0.5) / SIZE).sum() for p in np.nonzero(mask)[::-1]]
    x, y = (float(np.angle(turn) / (2 * np.pi) % 1) for turn in turns)
    return x, y


@pytest.mark.parametrize("name", WHICH)
def test_two_discs_never_meet(name: str) -> None:
    for seed in range(30):
        clip = render_clip(name, seed)
        sizes = [{int(area) for area in mask.sum(axis=(1, 2))} for mask in (red(clip), blue(clip))]
        assert all(len(areas) == 1 for areas in sizes)
        assert sizes[0] != sizes[1]


def test_annotations_name_three_splits_that_test_on_every_clip_once() -> None:
    annotations = embedded.annotate()
    assert annotations.classes == CLASSES
    assert annotations.class_groups == CLASS_GROUPS
    assert list(annotations.splits) == ["1", "2", "3"]
    tested: Counter[str] = Counter()
    for split in annotations.splits.values():
        assert set(Counter(v.label for v in split.train).values()) == {60}
        assert set(Counter(v.label for v in split.test).values()) == {30}
        assert not {v.name for v in split.train} & {v.name for v in split.test}
        tested.update(v.name for v in split.test)
    assert set(tested.values()) == {1}
    assert len(tested) == 10 * 90


def test_a_flip_swaps_left_and_right_alone() -> None:
    annotations = embedded.annotate()
    swapped = {CLASSES[a]: CLASSES[b] for a, b in enumerate(annotations.flip_classes) if a != b}
    assert swapped == {
        "how_left": "how_right",
        "how_right": "how_left",
        "which_red_right_blue_left": "which_red_left_blue_right",
        "which_red_left_blue_right": "which_red_right_blue_left",
    }


@pytest.mark.parametrize("name", [*HOW, *WHICH])
def test_a_flipped_clip_shows_the_class_that_its_flip_is_said_to_be(name: str) -> None:
    flipped = CLASSES[embedded.annotate().flip_classes[CLASSES.index(name)]]
    clip = render_clip(name, 4)[:, :, ::-1]
    if name in HOW:
        assert direction(foreground(clip)) == flipped.removeprefix("how_")
    else:
        assert flipped == f"which_red_{direction(red(clip))}_blue_{direction(blue(clip))}"


def test_ceilings_follow_from_the_groups() -> None:
    assert embedded.ceiling("spatial") == pytest.approx(6 / 10)
    assert embedded.ceiling("temporal") == pytest.approx(7 / 10)
    assert embedded.ceiling("independent") == pytest.approx(8 / 10)
    assert embedded.ceiling("joint") == 1


def some_videos() -> list[Video]:
    return list(embedded.annotate().splits["1"].test[::40])


def test_video_files_decode_to_exactly_what_was_rendered(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    videos = some_videos()
    embedded.render_dataset(tmp_path, videos)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == {
        v.path for v in videos
    }
    for video in videos:
        expected = render_clip(CLASSES[video.label], (20, video.label, int(video.name[-3:])))
        with av.open(str(tmp_path / video.path)) as container:
            assert container.streams.video[0].frames == FRAMES
            decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
        assert np.array_equal(np.stack(decoded), expected)


def test_decord_decodes_video_files_to_the_same_frames(tmp_path: Path) -> None:
    decord = pytest.importorskip("decord")
    video = some_videos()[3]
    embedded.render_dataset(tmp_path, [video])
    reader = decord.VideoReader(str(tmp_path / video.path), num_threads=1)
    expected = render_clip(CLASSES[video.label], (20, video.label, int(video.name[-3:])))
    assert np.array_equal(reader.get_batch(range(len(reader))).asnumpy(), expected)
