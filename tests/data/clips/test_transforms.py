import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.transforms.v2 import functional as tv

from study.data.clips.transforms import (
    Crop,
    cut,
    model_inputs,
    normalise,
    sampling,
    training_crop,
)
from study.data.clips.transforms import (
    test_crops as crops_of_test,
)
from study.data.flow.compute import FlowSettings, compute_flow, quantise


def _image(height: int = 40, width: int = 60, channels: tuple[int, ...] = ()) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, *channels), dtype=np.uint8)


def _cut(image: NDArray[np.uint8], crop: Crop, size: int) -> NDArray[np.uint8]:
    out = np.zeros((size, size, *image.shape[2:]), np.uint8)
    cut(image, crop, out)
    return out


def _test_crops(height: int, width: int, size: int, crops: str, **options: object) -> list[Crop]:
    settings: dict = {"scales": (1.0, 0.875, 0.75, 0.66), **options}
    return crops_of_test(height, width, size=size, crops=crops, **settings)


def _training_crops(height: int, width: int, count: int = 2000, **options: object) -> list[Crop]:
    rng = np.random.default_rng(0)
    settings: dict = {"size": 224, "scales": (1.0, 0.875, 0.75, 0.66), "flip": True, **options}
    return [training_crop(height, width, rng=rng, **settings) for _ in range(count)]


def test_training_crops_are_at_the_corners_and_the_centre_distorted_by_one_step_at_most() -> None:
    sides = [256, 224, 192, 169]  # fractions of 256 pixels
    crops = _training_crops(256, 340)
    shapes = {(crop.height, crop.width) for crop in crops}
    assert shapes == {(a, b) for i, a in enumerate(sides) for b in sides[max(0, i - 1) : i + 2]}
    for crop in crops:
        bottom, right = 256 - crop.height, 340 - crop.width
        assert (crop.top, crop.left) in {
            (0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2),
        }  # fmt: skip
    assert abs(np.mean([crop.mirrored for crop in crops]) - 0.5) < 0.05


def test_without_flip_the_crops_are_the_same_but_not_mirrored() -> None:
    for one, other in zip(
        _training_crops(64, 80), _training_crops(64, 80, flip=False), strict=True
    ):
        assert not other.mirrored
        assert (one.top, one.left, one.height) == (other.top, other.left, other.height)


def test_a_crop_side_within_two_pixels_of_the_models_input_becomes_it() -> None:
    # 0.875 · 254 = 222.25 and 0.875 · 250 = 218.75
    assert {c.height for c in _training_crops(254, 300, scales=(0.875,))} == {224}
    assert {c.height for c in _training_crops(250, 300, scales=(0.875,))} == {219}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 200), (17, 5), (64, 64), (719, 1281)])
@pytest.mark.parametrize("crops", ["centre", "three", "ten"])
def test_every_crop_lies_within_its_frame(height: int, width: int, crops: str) -> None:
    every = _training_crops(height, width, count=200)
    every += _test_crops(height, width, 224, crops)
    for crop in every:
        assert crop.height >= 1
        assert crop.width >= 1
        assert 0 <= crop.top <= height - crop.height
        assert 0 <= crop.left <= width - crop.width


def test_the_centre_crop_of_256_pixels_is_the_middle_224() -> None:
    assert _test_crops(256, 340, 224, "centre") == [Crop(top=16, left=58, height=224, width=224)]


@pytest.mark.parametrize(
    ("scales", "side"),
    [((1.0,), 64), ((1.0, 0.875), 56), ((1.0, 0.5), 56), ((0.75, 0.5), 48), ((1.0, 0.95), 61)],
)
def test_a_test_crop_is_of_a_scale_that_training_saw(scales: tuple[float, ...], side: int) -> None:
    for crops in ("centre", "ten"):
        assert {c.height for c in _test_crops(64, 80, 40, crops, scales=scales)} == {side}


def test_ten_crops_are_those_of_torchvision() -> None:
    image = _image(64, 80)
    ours = [_cut(image, c, 56) for c in _test_crops(64, 80, 56, "ten")]
    theirs = tv.ten_crop(torch.from_numpy(image)[None], [56, 56])
    for one, other in zip(ours[:5], theirs[:5], strict=True):
        assert (one == other[0].numpy()).all()
    # theirs mirrors the frame before it cuts, ours after
    assert {one.tobytes() for one in ours} == {other.numpy().tobytes() for other in theirs}


def test_three_crops_cover_the_frame_along_its_longer_side() -> None:
    assert [c.left for c in _test_crops(60, 100, 56, "three")] == [0, 20, 40]
    assert [c.top for c in _test_crops(100, 60, 56, "three")] == [0, 20, 40]
    assert {c.height for c in _test_crops(100, 60, 56, "three")} == {60}


@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_of_the_models_size_is_a_slice(channels: tuple[int, ...], mirrored: bool) -> None:
    image = _image(channels=channels)
    crop = Crop(top=3, left=7, height=20, width=20, mirrored=mirrored)
    expected = image[3:23, 7:27][:, :: -1 if mirrored else 1]
    assert (_cut(image, crop, 20) == expected).all()


@pytest.mark.parametrize("size", [16, 48])
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_crop_of_another_size_is_resized_as_torch_interpolates(size: int, mirrored: bool) -> None:
    image = cv2.GaussianBlur(_image(channels=(3,)), (9, 9), 3)
    crop = Crop(top=3, left=7, height=32, width=24, mirrored=mirrored)
    part = torch.from_numpy(image[3:35, 7:31].copy()).permute(2, 0, 1)[None].float()
    resized = torch.nn.functional.interpolate(part, (size, size), mode="bilinear")[0]
    expected = resized.permute(1, 2, 0).numpy()[:, :: -1 if mirrored else 1]
    assert np.abs(_cut(image, crop, size) - expected).max() <= 1


def test_mirroring_stored_flow_is_the_flow_of_the_mirrored_video() -> None:
    rng = np.random.default_rng(0)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (60, 90), dtype=np.uint8), (0, 0), 2)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    frames = np.stack([texture[5:53, 10 + 2 * t : 74 + 2 * t] for t in range(2)])  # 2 px a frame
    settings = FlowSettings(scales=2)
    stored = quantise(compute_flow(frames, settings)[0])
    expected = quantise(compute_flow(np.ascontiguousarray(frames[..., ::-1]), settings)[0])
    crop = Crop(top=4, left=4, height=40, width=40, mirrored=True)
    expected_crop = Crop(top=4, left=64 - 4 - 40, height=40, width=40)
    x, y = 255 - _cut(stored[0], crop, 40), _cut(stored[1], crop, 40)
    assert abs(float(stored[0].mean()) - 115) < 3  # it does move: -2 px is byte 114.75
    for ours, theirs in zip((x, y), expected, strict=True):
        difference = ours.astype(int) - _cut(theirs, expected_crop, 40)
        assert np.abs(difference).mean() < 1


def test_rgb_is_normalised_as_torchvision_normalises_it() -> None:
    frames = torch.from_numpy(_image(8, 9, (3,))).permute(2, 0, 1)
    expected = tv.normalize(frames / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(normalise(frames, "rgb"), expected)


def test_a_negation_of_flow_negates_the_input() -> None:
    stored = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(normalise(255 - stored, "flow"), -normalise(stored, "flow"))
    assert normalise(stored, "flow")[-1].item() == pytest.approx(0.5 / 0.226)


def test_views_become_clips_of_a_batch() -> None:
    rgb = torch.randint(0, 256, (2, 5, 3, 3, 8, 8), dtype=torch.uint8)  # 5 views of 3 segments
    inputs = model_inputs({"rgb": rgb, "label": torch.zeros(2)}, torch.device("cpu"))
    assert set(inputs) == {"rgb"}
    assert torch.equal(inputs["rgb"][7], normalise(rgb[1, 2], "rgb"))


def test_crops_of_an_unknown_kind_are_refused() -> None:
    with pytest.raises(ValueError, match="crops must be 'centre', 'three' or 'ten', got 'five'"):
        crops_of_test(24, 30, size=21, scales=(1.0,), crops="five")


CROPS_OF_A_BATCH = [
    Crop(top=1, left=2, height=20, width=20),
    Crop(top=0, left=9, height=20, width=20, mirrored=True),
    Crop(top=3, left=7, height=37, width=31, mirrored=True),
    Crop(top=0, left=0, height=40, width=60),  # exactly twice and thrice the input
    Crop(top=5, left=3, height=11, width=17, mirrored=True),
    Crop(top=39, left=0, height=1, width=60),
]


def _as_cut(
    images: NDArray[np.uint8], crops: list[Crop], size: int, beyond: int
) -> dict[str, torch.Tensor]:
    """Crops of images (T, C, H, W), unresized in one batch with some byte beyond them."""
    batch = np.full((len(crops), *images.shape), beyond, np.uint8)
    for crop, out in zip(crops, batch, strict=True):
        rows, columns = (
            slice(crop.top, crop.top + crop.height),
            slice(crop.left, crop.left + crop.width),
        )
        out[..., : crop.height, : crop.width] = images[..., rows, columns]
    kind = "rgb" if images.shape[1] == 3 else "flow"
    return {kind: torch.from_numpy(batch)} | sampling(crops, size)


def _as_bytes(inputs: torch.Tensor, kind: str) -> torch.Tensor:
    """What `normalise` made (..., 3 or 2L, S, S) inputs of."""
    ends = torch.tensor([0, 255], dtype=torch.uint8)[:, None, None, None]
    black, white = normalise(ends.expand(2, inputs.shape[-3], 1, 1), kind)
    return (inputs - black) / (white - black) * 255


@pytest.mark.parametrize("size", [20, 33])
@pytest.mark.parametrize(("kind", "channels"), [("rgb", 3), ("flow", 4)])
def test_crops_finished_on_the_device_are_those_that_opencv_makes(
    kind: str, channels: int, size: int
) -> None:
    first = _image(channels=(channels,)).transpose(2, 0, 1)
    images = np.stack([first, first[::-1]])
    inputs = model_inputs(_as_cut(images, CROPS_OF_A_BATCH, size, 255), torch.device("cpu"))[kind]
    assert inputs.dtype == torch.float32
    assert inputs.shape == (len(CROPS_OF_A_BATCH), 2, channels, size, size)
    assert inputs.flatten(0, 1).is_contiguous(memory_format=torch.channels_last)
    for b, crop in enumerate(CROPS_OF_A_BATCH):
        for t, k in np.ndindex(2, channels):
            expected = _cut(images[t, k], crop, size)
            if kind == "flow" and k % 2 == 0 and crop.mirrored:
                expected = 255 - expected
            difference = _as_bytes(inputs, kind)[b, t, k].numpy() - expected.astype(float)
            assert np.abs(difference).max() < 1
            if (crop.height, crop.width) == (size, size):
                assert np.abs(difference).max() < 1e-4


def test_what_lies_beyond_a_crop_and_autocast_do_not_change_a_bit() -> None:
    images = _image(channels=(4,)).transpose(2, 0, 1)[None]
    expected, other = (
        model_inputs(_as_cut(images, CROPS_OF_A_BATCH, 20, beyond), torch.device("cpu"))["flow"]
        for beyond in (0, 255)
    )
    assert torch.equal(other, expected)
    with torch.autocast("cpu", torch.bfloat16):
        batch = _as_cut(images, CROPS_OF_A_BATCH, 20, 0)
        assert torch.equal(model_inputs(batch, torch.device("cpu"))["flow"], expected)
