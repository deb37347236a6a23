"""Where in a video the segments of a clip are taken."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["clip_positions", "dense_positions", "segment_positions", "view_positions"]


def clip_positions(
    positions: int,
    segments: int,
    *,
    stride: int | None,
    clips: int = 1,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Returns the positions of the clips of a video.

    Args:
        positions: Positions P that the video has.
        segments: Positions T of a clip.
        stride: From one position of a clip to the next; None takes one from each of T equal parts
            of the video.
        clips: Number of test clips K.
        rng: Draws one training clip in their place.

    Returns:
        (K, T) positions in 0..P-1.

    Raises:
        ValueError: If the video has no position, or there is no segment or clip.
    """
    if stride is not None:
        return dense_positions(positions, segments, stride=stride, clips=clips, rng=rng)
    if rng is not None:
        return segment_positions(positions, segments, rng=rng)[None]
    return view_positions(positions, segments, clips=clips)


def dense_positions(
    positions: int,
    segments: int,
    *,
    stride: int,
    clips: int = 1,
    rng: np.random.Generator | None = None,
) -> NDArray[np.int64]:
    """Returns clips of positions in a row, a fixed stride apart, as networks of volumes see them.

    Test clips are spread evenly from the video's first possible clip to its last (Feichtenhofer et
    al., "SlowFast networks for video recognition", ICCV 2019); one alone is the middle one. A video
    that is shorter than a clip gives its last position several times.

    Args:
        positions: Positions P that the video has.
        segments: Positions T of a clip.
        stride: From one position to the next.
        clips: Number of test clips K.
        rng: Draws the start of one training clip uniformly in their place.

    Returns:
        (K, T) positions in 0..P-1, never falling.

    Raises:
        ValueError: If the video has no position, or there is no segment or clip.
    """
    _check(positions, segments, clips)
    last_start = max(0, positions - (segments - 1) * stride - 1)
    if rng is not None:
        starts = rng.integers(0, last_start + 1, 1)
    elif clips == 1:
        starts = np.array([last_start // 2])
    else:
        starts = np.arange(clips) * last_start // (clips - 1)
    row: NDArray[np.int64] = starts[:, None] + stride * np.arange(segments)
    return row.clip(max=positions - 1)


def segment_positions(
    positions: int, segments: int, *, rng: np.random.Generator | None = None
) -> NDArray[np.int64]:
    """Returns one position in each of T equal parts of a video.

    A video of fewer positions than segments gives some position several times.

    Args:
        positions: Positions P that the video has.
        segments: Number of parts T.
        rng: Draws each position uniformly from its part, as in training; None takes the parts'
            centres, as in testing (Wang et al., "Temporal segment networks", 2016).

    Returns:
        (T,) positions in 0..P-1, never falling.

    Raises:
        ValueError: If the video has no position or there is no segment.
    """
    if rng is None:
        centres: NDArray[np.int64] = view_positions(positions, segments, clips=1)[0]
        return centres
    _check(positions, segments, 1)
    starts = np.arange(segments) * positions
    return (starts + rng.integers(0, positions, segments)) // segments


def view_positions(positions: int, segments: int, *, clips: int) -> NDArray[np.int64]:
    """Returns positions of several test clips of a video, evenly shifted within the segments.

    Args:
        positions: Positions P that the video has.
        segments: Segments T of a clip.
        clips: Number of clips K; clip k takes the point (k + ½)/K of every segment.

    Returns:
        (K, T) positions in 0..P-1; one clip takes the segments' centres.

    Raises:
        ValueError: If the video has no position, or there is no segment or clip.
    """
    _check(positions, segments, clips)
    points = np.arange(segments * clips).reshape(segments, clips).T
    return ((2 * points + 1) * positions) // (2 * segments * clips)


def _check(positions: int, segments: int, clips: int) -> None:
    if clips < 1:
        raise ValueError(f"a video needs at least one test clip, got {clips}")
    if positions < 1 or segments < 1:
        raise ValueError(
            f"a clip needs at least one position and one segment, got {positions} positions and "
            f"{segments} segments"
        )
