"""Removal of a camera's motion, before flow is computed.

Wang and Schmid, "Action recognition with improved trajectories", ICCV 2013, and what temporal
segment networks take from it as their third modality, warped flow (Wang et al., ECCV 2016): a
homography between two frames, found among matched points by RANSAC, is undone in the second. Theirs
matches SURF features and dense flow; ours tracks corners, which needs OpenCV's free part alone.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["camera_homography", "without_camera_motion"]

CORNERS = 1000  # at most
QUALITY = 0.01  # of a corner, relative to the best
DISTANCE = 5.0  # between corners, in pixels
ERROR = 1.0  # in pixels, of a match that follows the camera
FEWEST_MATCHES = 20  # that follow the camera; with fewer nothing is removed


def camera_homography(
    first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> NDArray[np.float64] | None:
    """Returns where the second frame has the points of the first that the camera alone moves.

    Args:
        first: (H, W) uint8, gray.
        second: (H, W) uint8, the frame after it.

    Returns:
        (3, 3) homography from pixels of the first to pixels of the second, or None where fewer
        than `FEWEST_MATCHES` points follow one.
    """
    corners = cv2.goodFeaturesToTrack(first, CORNERS, QUALITY, DISTANCE)
    if corners is None or len(corners) < FEWEST_MATCHES:
        return None
    tracked, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, np.empty_like(corners))
    matched = found.ravel().astype(bool)
    if matched.sum() < FEWEST_MATCHES:
        return None
    homography, follows = cv2.findHomography(corners[matched], tracked[matched], cv2.RANSAC, ERROR)
    if homography is None or follows.sum() < FEWEST_MATCHES:
        return None
    return np.asarray(homography, np.float64)


def without_camera_motion(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the second frame as the first frame's camera would have seen it.

    What that camera saw and the second doesn't show is the first frame's (ours): no motion.

    Args:
        first: (H, W) uint8, gray.
        second: (H, W) uint8, the frame after it.
    """
    homography = camera_homography(first, second)
    if homography is None:
        return second
    warped: NDArray[np.uint8] = cv2.warpPerspective(
        second,
        homography,
        first.shape[::-1],
        dst=first.copy(),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    return warped
