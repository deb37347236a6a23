"""Where in a video the segments of a clip are taken."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["segment_positions", "view_positions"]


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
    _check(positions, segments)
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
    _check(positions, segments)
    if clips < 1:
        raise ValueError(f"a video needs at least one test clip, got {clips}")
    points = np.arange(segments * clips).reshape(segments, clips).T
    return ((2 * points + 1) * positions) // (2 * segments * clips)


def _check(positions: int, segments: int) -> None:
    if positions < 1 or segments < 1:
        raise ValueError(
            f"a clip needs at least one position and one segment, got {positions} positions and "
            f"{segments} segments"
        )
