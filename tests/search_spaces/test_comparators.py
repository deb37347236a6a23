"""The comparators' tests as their papers have them."""

import pytest

import search_spaces
from study.plan import Target, make_training, settings_of
from study.training.clips import clip_settings

TARGET = Target(dataset="d", store_fingerprint="f", split="1")


@pytest.mark.parametrize(
    ("arm", "views"),
    [
        ("two-stream-cnn-svm", 250),
        ("vgg16-fused", 250),
        ("tsn-2", 250),
        ("tsn-flow", 250),
        ("tsn-resnet50-rgb", 25),
        ("tsm-resnet50-8", 8),
    ],
)
def test_frames_and_crops_of_a_test_video_are_those_of_the_published_number(
    arm: str, views: int
) -> None:
    space = search_spaces.get("comparators")
    one = space.arm(arm)
    training = make_training(
        one.model, settings_of(one, space.settings, space=space), target=TARGET, seed=0
    )
    clips = clip_settings(training.hyperparameters, views=True)
    crops = {"centre": 1, "three": 3, "ten": 10}[clips.crops]
    assert clips.segments * clips.clips * crops == views
