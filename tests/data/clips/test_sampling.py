import numpy as np
import pytest
from scipy.stats import chisquare

from study.data.clips.sampling import (
    clip_positions,
    dense_positions,
    segment_positions,
    view_positions,
)


@pytest.mark.parametrize(("positions", "segments"), [(1, 1), (1, 3), (2, 3), (10, 3), (299, 25)])
def test_random_positions_lie_in_their_segments_and_reach_every_position(
    positions: int, segments: int
) -> None:
    rng = np.random.default_rng(0)
    drawn = np.array([segment_positions(positions, segments, rng=rng) for _ in range(3000)])
    for t in range(segments):
        part = [
            p for p in range(positions) if t * positions < (p + 1) * segments
            and p * segments < (t + 1) * positions
        ]  # fmt: skip
        assert set(drawn[:, t]) == set(part)


def test_random_positions_are_uniform_over_a_segment() -> None:
    rng = np.random.default_rng(1)
    drawn = np.array([segment_positions(12, 3, rng=rng) for _ in range(4000)])
    for t in range(3):
        counts = np.bincount(drawn[:, t], minlength=12)[4 * t : 4 * t + 4]
        assert counts.sum() == 4000
        assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("positions", [1, 2, 7, 25, 300])
@pytest.mark.parametrize("segments", [1, 3, 25])
def test_test_positions_are_the_segments_centres(positions: int, segments: int) -> None:
    centres = [int((t + 0.5) * positions / segments) for t in range(segments)]
    assert segment_positions(positions, segments).tolist() == centres


def test_clips_of_a_video_shift_evenly_within_the_segments() -> None:
    assert view_positions(40, 2, clips=4).tolist() == [[2, 22], [7, 27], [12, 32], [17, 37]]


def test_one_clip_is_the_centre_clip() -> None:
    assert (view_positions(37, 5, clips=1)[0] == segment_positions(37, 5)).all()


@pytest.mark.parametrize(("positions", "segments", "clips"), [(0, 3, 1), (5, 0, 1), (5, 3, 0)])
def test_nothing_to_sample_is_refused(positions: int, segments: int, clips: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        view_positions(positions, segments, clips=clips)


def test_a_dense_clip_has_frames_a_stride_apart_and_starts_anywhere_that_it_fits() -> None:
    rng = np.random.default_rng(0)
    clips = np.concatenate([dense_positions(20, 4, stride=5, rng=rng) for _ in range(500)])
    assert (np.diff(clips, axis=1) == 5).all()
    assert set(clips[:, 0]) == {0, 1, 2, 3, 4}
    assert chisquare(np.bincount(clips[:, 0])).pvalue > 1e-3


def test_dense_test_clips_reach_from_the_first_to_the_last() -> None:
    assert dense_positions(100, 64, stride=1, clips=3)[:, [0, -1]].tolist() == [
        [0, 63],
        [18, 81],
        [36, 99],
    ]
    assert dense_positions(100, 8, stride=8)[0].tolist() == list(range(21, 78, 8))


@pytest.mark.parametrize("clips", [1, 3])
def test_a_video_shorter_than_a_dense_clip_ends_with_its_last_frame(clips: int) -> None:
    expected = [[0, 2, 4, 4, 4]] * clips
    assert dense_positions(5, 5, stride=2, clips=clips).tolist() == expected
    rng = np.random.default_rng(0)
    assert dense_positions(5, 5, stride=2, rng=rng).tolist() == expected[:1]


def test_without_a_stride_a_clip_takes_one_frame_of_each_segment() -> None:
    test = clip_positions(30, 3, stride=None, clips=2)
    np.testing.assert_array_equal(test, view_positions(30, 3, clips=2))
    train, same = (np.random.default_rng(1) for _ in range(2))
    expected = segment_positions(30, 3, rng=same)[None]
    np.testing.assert_array_equal(clip_positions(30, 3, stride=None, rng=train), expected)
