"""What a study's rows say of their trainings."""

import pytest

from search_spaces.space import Settings
from study.plan import Target, make_training
from study.rows import views_of

TARGET = Target(dataset="d", store_fingerprint="f", split="1")


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        ({"test_segments": 25}, "25 frames × centre crop"),
        (
            {"test_segments": 3, "test_clips": 10, "test_crops": "three"},
            "10 clips × 3 frames × three crop",
        ),
    ],
)
def test_views_say_clips_frames_and_crops(settings: dict, views: str) -> None:
    training = make_training("tsn", Settings(hyperparameters=settings), target=TARGET, seed=0)
    assert views_of(training) == views
