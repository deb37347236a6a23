"""What a study's rows say of their trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from search_spaces.space import Settings
from study.plan import Target, make_training
from study.results.rows import load_scores
from study.results.store import ResultStore
from study.rows import views_of, write_row
from tests.fake_jobs import run_fake_job
from tests.test_conduct import study_of

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


def test_a_row_of_two_trainings_needs_no_features_that_one_has_for_another_arm(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, tuning="fixed", trials=0, arms=("two-stream",))
    row, other = study.plan().rows  # two seeds stand for two trials' settings
    scored = {"spatial": row.training, "temporal": other.training}
    for training, parts in zip(
        scored.values(), [("train", "validation", "test"), ("validation", "test")], strict=True
    ):
        run_fake_job(study, study.job(training, until=9, parts=parts))
    results = ResultStore(tmp_path)
    write_row(study, results, replace(row, trainings=scored), source=lambda one: one.training_id)
    lines = {line["part"]: line for line in results.read("rows").to_pylist()}
    assert lines.keys() == {"validation", "test"}
    assert lines["test"]["tuning"] == "fixed"
    spatial, temporal = (load_scores(results, one.scoring_id)["test"] for one in scored.values())
    fused = spatial.scores["spatial"] + temporal.scores["temporal"]
    assert lines["test"]["top1"] == np.mean(fused.argmax(axis=1) == spatial.labels)
