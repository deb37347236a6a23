"""A camera's motion that is known, removed before flow is computed."""

import cv2
import numpy as np
import pytest

from study.data.flow.camera_motion import camera_homography, without_camera_motion
from study.data.flow.compute import FlowSettings, compute_flow
from tests.data.flow.test_compute import textured

HEIGHT, WIDTH = 96, 128
STILL: list[list[float]] = [[1.0, 0, 0], [0, 1, 0], [0, 0, 1]]
MOTIONS: dict[str, list[list[float]]] = {
    "a pan": [[1, 0, 3.0], [0, 1, -2.0], [0, 0, 1]],
    "a roll and a zoom": [[1.02, -0.02, 1.0], [0.02, 1.02, -1.0], [0, 0, 1]],
    "a tilt": [[1, 0, 1.0], [0, 1, 0.5], [1e-4, 5e-5, 1]],
}
every_motion = pytest.mark.parametrize("motion", MOTIONS.values(), ids=MOTIONS)


def seen_by(camera: list[list[float]], scene: np.ndarray) -> np.ndarray:
    """What a camera sees of a scene in whose middle the first camera's picture lies."""
    centre = np.array([[1, 0, 32.0], [0, 1, 32.0], [0, 0, 1]])
    moved = centre @ np.linalg.inv(np.array(camera))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpPerspective(scene, moved, (WIDTH, HEIGHT), flags=flags)


@every_motion
def test_the_cameras_homography_is_found(motion: list[list[float]]) -> None:
    scene = textured(HEIGHT + 64, WIDTH + 64)
    found = camera_homography(seen_by(STILL, scene), seen_by(motion, scene))
    corners = np.array([[[0, 0]], [[WIDTH, 0]], [[0, HEIGHT]], [[WIDTH, HEIGHT]]], np.float64)
    expected = cv2.perspectiveTransform(corners, np.array(motion))
    np.testing.assert_allclose(cv2.perspectiveTransform(corners, found), expected, atol=0.3)


@every_motion
def test_warped_flow_is_that_of_what_moves_before_the_camera(motion: list[list[float]]) -> None:
    scene, disc = textured(HEIGHT + 64, WIDTH + 64), textured(28, 28, seed=1)
    later = scene.copy()
    scene[66:94, 80:108] = disc
    later[66:94, 84:112] = disc  # four pixels to the right
    frames = np.stack([seen_by(STILL, scene), seen_by(motion, later)])
    warped, plain = (
        np.abs(compute_flow(frames, FlowSettings(backend=backend))[0])
        for backend in ("tvl1-warped", "tvl1")
    )
    background = np.ones((HEIGHT, WIDTH), bool)
    background[24:72, 38:90] = False
    background[:8], background[-8:], background[:, :8], background[:, -8:] = (False,) * 4
    assert np.median(warped[:, background]) < 0.1
    assert np.median(plain[:, background]) > 0.3
    inside = warped[:, 42:54, 58:66]
    np.testing.assert_allclose(np.median(inside, axis=(1, 2)), [4, 0], atol=0.4)


def test_frames_without_points_to_follow_stay_as_they_are() -> None:
    first, second = np.full((2, 40, 50), 7, np.uint8)
    second[10:20, 10:20] = 90
    assert camera_homography(first, second) is None
    np.testing.assert_array_equal(without_camera_motion(first, second), second)


def test_what_the_second_frame_does_not_show_has_no_motion() -> None:
    scene = textured(HEIGHT + 64, WIDTH + 64)
    first, second = (seen_by(camera, scene) for camera in (STILL, MOTIONS["a pan"]))
    seen = without_camera_motion(first, second)
    np.testing.assert_array_equal(seen[:, -3:], first[:, -3:])
    assert np.abs(seen[2:, :-3].astype(int) - first[2:, :-3]).max() < 30
