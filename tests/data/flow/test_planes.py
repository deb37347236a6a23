import cv2
import numpy as np

from study.data.flow.compute import quantise
from study.data.flow.planes import CODECS, pack_plane, unpack_plane


def a_field(seed: int = 0) -> np.ndarray:
    """A smooth plane as TV-L1 makes them, (48, 70) uint8."""
    noise = np.random.default_rng(seed).normal(size=(48, 70)).astype(np.float32)
    return quantise(60 * cv2.GaussianBlur(noise, (0, 0), 8))


def test_an_lz4_plane_comes_back_as_it_was_from_strided_memory_too() -> None:
    noise = np.random.default_rng(1).integers(0, 256, (48, 70, 2), np.uint8)
    for plane in (a_field(), noise[..., 0], noise[::2, ::-1, 1], np.zeros((1, 1), np.uint8)):
        packed = pack_plane(plane, "lz4", jpeg_quality=95)
        got = unpack_plane(packed, *plane.shape)
        assert got is not None
        np.testing.assert_array_equal(got, plane)


def test_a_jpeg_plane_is_what_opencv_makes_of_it() -> None:
    plane = a_field()
    for quality, wrong in ((100, 1), (50, 12)):
        packed = pack_plane(plane, "jpeg", jpeg_quality=quality)
        got = unpack_plane(packed, *plane.shape)
        by_opencv = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_GRAYSCALE)
        assert got is not None
        assert by_opencv is not None
        assert np.abs(got.astype(int) - plane).max() <= wrong
        np.testing.assert_array_equal(got, by_opencv)


def test_a_damaged_plane_is_none() -> None:
    plane = a_field()
    packed = {codec: pack_plane(plane, codec, jpeg_quality=95) for codec in CODECS}
    assert unpack_plane(b"", *plane.shape) is None
    assert unpack_plane(b"noise", *plane.shape) is None
    assert unpack_plane(packed["lz4"][:-9], *plane.shape) is None
    assert unpack_plane(packed["lz4"], 47, 70) is None
    assert unpack_plane(packed["jpeg"][:2], *plane.shape) is None
