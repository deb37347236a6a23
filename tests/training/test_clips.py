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
