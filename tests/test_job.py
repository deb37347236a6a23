"""Jobs that really train, on a few rendered clips."""

import pickle
from pathlib import Path
from typing import Any

import pytest

from models import registry
from study import plan
from study.data.store.clip_store import ClipStore
from study.job import Job, record_failure, run_job, stored_parts, trained_again
from study.networks import Network, write_network
from study.plan import Training
from study.results.rows import load_scores
from study.results.store import ResultStore
from study.training.checkpoint import load_checkpoint
from tests.test_conduct import study_of

PARTS = ("validation", "test")


def job_of(store: Path, results: Path, **changes: Any) -> Job:
    study = study_of(
        store,
        results,
        tuning="fixed",
        trials=0,
        seeds=1,
        arms=("spatial",),
        changes={"epochs": 2, "segments": 2, **changes},
    )
    (training,) = study.plan().trainings.values()
    return study.job(training, until=2, parts=PARTS)


def epochs_of(results: ResultStore, training: Training) -> list[dict[str, Any]]:
    """The epochs with their wall times, which no second training would repeat."""
    lines = results.read("epochs", keys=[training.training_id]).sort_by("epoch").to_pylist()
    return list(lines)


def delete(results: Path, view: str) -> None:
    paths = list((results / view).glob("*.parquet"))
    assert paths
    for path in paths:
        path.unlink()


def keep_network(job: Job) -> None:
    training, store = job.training, ClipStore.open(job.store)
    network = Network(
        training_id=training.training_id,
        model=training.model,
        options=training.options,
        hyperparameters=training.hyperparameters,
        classes=store.annotations.classes,
        flip_classes=store.annotations.flip_classes,
        store=store.settings,
        state=load_checkpoint(job.checkpoint)["model"],
    )
    write_network(ResultStore(job.results), network)


def parts_stored(results: ResultStore, job: Job) -> frozenset[str]:
    return stored_parts(results, job.training.training_id, job.training.scoring_id)


def test_other_views_score_the_kept_checkpoint_and_train_nothing(
    tiny_store: Path, tmp_path: Path
) -> None:
    results = ResultStore(tmp_path)
    first = job_of(tiny_store, tmp_path, test_segments=2)
    run_job(first)
    before = epochs_of(results, first.training), results.read("trainings").to_pylist()
    other = job_of(tiny_store, tmp_path, test_segments=1, test_crops="three")
    assert other.training.training_id == first.training.training_id
    assert parts_stored(results, other) == set()
    assert not trained_again(other)
    run_job(other)
    assert (epochs_of(results, first.training), results.read("trainings").to_pylist()) == before
    for job in (first, other):
        assert parts_stored(results, job) == set(PARTS)
    ours, theirs = (
        load_scores(results, job.training.scoring_id)["test"].scores["spatial"]
        for job in (first, other)
    )
    assert (ours != theirs).any()


@pytest.mark.parametrize("checkpoint", ["kept", "gone", "its network is kept"])
def test_lost_scores_are_made_again(tiny_store: Path, tmp_path: Path, checkpoint: str) -> None:
    results = ResultStore(tmp_path)
    job = job_of(tiny_store, tmp_path)
    run_job(job)
    before = epochs_of(results, job.training)
    made = load_scores(results, job.training.scoring_id)
    delete(tmp_path, "scores")
    assert parts_stored(results, job) == set()
    if checkpoint == "its network is kept":
        keep_network(job)
    if checkpoint != "kept":
        Path(job.checkpoint).unlink()
    assert trained_again(job) == (checkpoint == "gone")
    run_job(job)
    assert parts_stored(results, job) == set(PARTS)
    again = load_scores(results, job.training.scoring_id)
    for part in PARTS:
        assert (again[part].scores["spatial"] == made[part].scores["spatial"]).all()
    (line,) = results.read("trainings").to_pylist()
    if checkpoint != "gone":
        assert epochs_of(results, job.training) == before
        assert line["notes"] is None
    else:
        assert epochs_of(results, job.training) != before
        assert "trained again" in line["notes"]


def test_a_training_says_where_it_ran(tiny_store: Path, tmp_path: Path) -> None:
    job = job_of(tiny_store, tmp_path)
    run_job(job)
    (line,) = ResultStore(tmp_path).read("trainings").to_pylist()
    assert (line["device_kind"], line["workers"], line["compiled"]) == ("cpu", 1, False)
    assert line["torch"].split(".")[0] == "2"
    assert line["protocol"] == job.protocol


def test_a_finished_training_that_cannot_be_scored_again_stays_finished(
    tiny_store: Path, tmp_path: Path
) -> None:
    results, job = ResultStore(tmp_path), job_of(tiny_store, tmp_path)
    record_failure(job, "no room", traceback="here")
    assert results.read("trainings")["status"].to_pylist() == ["failed"]
    run_job(job)
    before = results.read("trainings").to_pylist()
    record_failure(job, "no room", traceback="here")
    assert results.read("trainings").to_pylist() == before


def test_a_failure_is_recorded_where_the_model_is_not_known(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a machine that lacks a library that a plug-in imports."""
    job = job_of(tiny_store, tmp_path)
    identity = job.training.training_id
    sent = pickle.dumps(job)
    monkeypatch.setattr(registry, "_MODELS", {})
    plan._build_net.cache_clear()
    record_failure(pickle.loads(sent), "it can't be imported")
    (line,) = ResultStore(tmp_path).read("trainings").to_pylist()
    assert (line["training_id"], line["status"]) == (identity, "failed")
    assert line["error"] == "it can't be imported"
