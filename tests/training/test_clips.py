"""Clips and their crops as hyperparameters ask for them."""

from study.data.clips.transforms import test_crops as crops_of
from study.training.clips import clip_settings
from study.training.hyperparameters import Hyperparameters


def test_settings_follow_the_hyperparameters() -> None:
    hyperparameters = Hyperparameters(
        segments=4,
        test_segments=7,
        test_clips=2,
        test_crops="ten",
        flow_length=5,
        crop_size=99,
        frame_stride=3,
    )
    trained, tested = clip_settings(hyperparameters), clip_settings(hyperparameters, views=True)
    assert (trained.segments, trained.clips, trained.crops) == (4, 1, "centre")
    assert (tested.segments, tested.clips, tested.crops) == (7, 2, "ten")
    assert trained.stride == tested.stride == 3
    assert trained.flow_length == tested.flow_length == 5
    assert trained.crop_size == tested.crop_size == 99


def test_three_crops_at_256_are_cut_from_a_short_side_of_256_and_not_resized() -> None:
    hyperparameters = Hyperparameters(crop_size=224, test_crops="three", test_crop_size=256)
    trained, tested = clip_settings(hyperparameters), clip_settings(hyperparameters, views=True)
    assert (trained.crop_size, tested.crop_size) == (224, 256)
    crops = crops_of(256, 340, size=tested.crop_size, scales=tested.scales, crops=tested.crops)
    assert [(crop.top, crop.left) for crop in crops] == [(0, 0), (0, 42), (0, 84)]
    assert {(crop.height, crop.width) for crop in crops} == {(256, 256)}
