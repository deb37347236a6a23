"""What a study's rows say of their trainings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from models.fusion import C_GRID
from search_spaces.space import Settings
from study.plan import Target, make_training
from study.results.rows import load_scores
from study.results.store import ResultStore
from study.rows import views_of, write_row
from study.scores import Scores
from tests.fake_jobs import run_fake_job
from tests.test_conduct import Runner, study_of

TARGET = Target(dataset="d", store_fingerprint="f", split="1")


@pytest.mark.parametrize(
    ("settings", "views"),
    [
        ({"test_segments": 25}, "25 frames × centre crop"),
        (
            {"test_segments": 3, "test_clips": 10, "test_crops": "three"},
            "10 clips × 3 frames × three crop",
        ),
        ({"test_segments": 8, "frame_stride": 8}, "8 frames at stride 8 × centre crop"),
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


def l2_weights(scores: Scores, fusion_lambda: float) -> np.ndarray:
    """Adaptively weighted fusion's weights, class by class (eqs. 5-7, ‖w‖ <= 1)."""
    weights = []
    for label in sorted(set(scores.labels)):
        of_class = scores.labels == label
        gain = np.array(
            [
                scores.scores[stream][of_class, label].mean()
                - fusion_lambda * scores.scores[stream][~of_class, label].mean()
                for stream in ("spatial", "temporal")
            ]
        )
        weights.append(np.maximum(gain, 0) / np.linalg.norm(np.maximum(gain, 0)))
    return np.array(weights)


def joined(scores: Scores) -> np.ndarray:
    return np.hstack([scores.features["spatial"], scores.features["temporal"]])


def svm_decisions(c: float, train: Scores, judged: Scores) -> np.ndarray:
    scaler = StandardScaler().fit(joined(train))
    x, y = (
        scaler.transform(joined(one)) / np.sqrt(joined(one).shape[1]) for one in (train, judged)
    )
    svm = LinearSVC(C=c, dual="auto", tol=1e-3, random_state=0).fit(x, train.labels)
    return svm.decision_function(y)


def predicted(results: ResultStore, arm: str) -> list[int]:
    """The test videos' predictions, in the order of their names."""
    lines = results.read("predictions", arm=arm, part="test").sort_by("video")
    return list(lines["predicted"].to_pylist())


def test_refitted_rows_are_scores_of_one_training_fused_as_was_fitted_on_another(
    tiny_store: Path, tmp_path: Path
) -> None:
    arms = ("spatial", "two-stream-awf-l2", "two-stream-early")
    study = study_of(
        tiny_store,
        tmp_path,
        arms=arms,
        tuning="fixed",
        seeds=1,
        refit=True,
        changes={"fusion_lambda": 0.3},
    )
    Runner(study, 2).run()
    results, planned = ResultStore(tmp_path), {row.arm.name: row for row in study.plan().rows}
    rows = {(line["arm"], line["part"]): line for line in results.read("rows").to_pylist()}
    assert rows.keys() == {(arm, "test") for arm in arms} | {
        (arm, "validation") for arm in arms[1:]
    }
    (fitted,) = {one.scoring_id: one for one in planned[arms[1]].fitted_on.values()}.values()
    (tested,) = {one.scoring_id: one for one in planned[arms[1]].trainings.values()}.values()
    for (arm, part), line in rows.items():
        of = tested if part == "test" else fitted
        assert (line["training_id"], line["scoring_id"]) == (of.training_id, of.scoring_id)
        assert ("fitted_on" in line["details"]) == (arm != "spatial")
        assert fitted.training_id in line["details"] or arm == "spatial"
    held_out = load_scores(results, fitted.scoring_id)
    assert held_out.keys() == {"train", "validation"}, "test is scored once"
    on_all = load_scores(results, tested.scoring_id)
    listed = study.store.annotations.splits["1"].train
    assert on_all["train"].videos == sorted(video.name for video in listed)
    test, validation = on_all["test"], held_out["validation"]
    assert predicted(results, "spatial") == test.scores["spatial"].argmax(axis=1).tolist()
    spatial, temporal = l2_weights(validation, 0.3).T
    by_hand = spatial * test.scores["spatial"] + temporal * test.scores["temporal"]
    assert predicted(results, "two-stream-awf-l2") == by_hand.argmax(axis=1).tolist()
    right = [
        svm_decisions(c, held_out["train"], validation).argmax(axis=1) == validation.labels
        for c in C_GRID
    ]
    best = C_GRID[int(np.argmax(np.sum(right, axis=1)))]
    decisions = svm_decisions(best, on_all["train"], test)
    assert predicted(results, "two-stream-early") == decisions.argmax(axis=1).tolist()
