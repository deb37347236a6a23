"""What is finished, read back from results that jobs wrote."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.fusion import FUSIONS
from study.agenda import Agenda, Outlook
from study.job import rung_key
from study.ledger import Ledger, Objective, look
from study.request import Study
from study.results.rows import load_validation_scores
from study.results.store import ResultStore
from study.searches import agenda_of, objective_of, searches_of
from tests.fake_jobs import run_fake_job
from tests.test_conduct import study_of


class Opened:
    """A study with its agenda, results and ledger."""

    def __init__(self, study: Study) -> None:
        self.study, self.results = study, ResultStore(study.request.results)
        searches = searches_of(study)
        self.agenda: Agenda = agenda_of(study, searches)
        self.objectives: dict[str, Objective] = {
            one.search.name: objective_of(study, key) for key, one in searches.items()
        }
        self.ledger = Ledger(self.results, self.objectives)

    def look(self) -> Outlook:
        return look(self.agenda, self.ledger)

    def run(self, outlook: Outlook, count: int) -> list[str]:
        """Runs the first jobs; returns their trainings' ids."""
        for job in outlook.jobs[:count]:
            run_fake_job(self.study, self.study.job(job.training, until=job.until, parts=job.parts))
        return [job.training.training_id for job in outlook.jobs[:count]]


def top1_of_average(results: ResultStore, training_id: str, epoch: int) -> float:
    """Top-1 of the streams' average, from the stored lines alone."""
    lines = results.read("validation_scores", keys=[rung_key(training_id, epoch)]).to_pylist()
    fused: dict[str, Any] = {}
    labels = {line["video"]: line["label"] for line in lines}
    for line in lines:
        fused[line["video"]] = fused.get(line["video"], 0) + np.asarray(line["scores"], float)
    return float(np.mean([np.argmax(sums) == labels[video] for video, sums in fused.items()]))


def test_a_rung_is_worth_the_top1_of_its_stored_scores(tiny_store: Path, tmp_path: Path) -> None:
    opened = Opened(study_of(tiny_store, tmp_path, tuning="own", arms=("two-stream",)))
    identities = opened.run(opened.look(), 3)
    for identity in identities:
        opened.ledger.forget(identity)
    opened.look()
    values = opened.ledger.finished.values
    read = {key.split()[0]: by_epoch for (_, key), by_epoch in values.items() if by_epoch}
    assert read == {
        identity: {1: top1_of_average(opened.results, identity, 1)} for identity in identities
    }


def test_what_a_training_is_worth_is_read_for_each_lambda(tiny_store: Path, tmp_path: Path) -> None:
    opened = Opened(study_of(tiny_store, tmp_path, tuning="own", arms=("stil-awf-l2",)))
    (one,) = opened.agenda.searches
    outlook = opened.look()
    (identity,) = opened.run(outlook, 1)
    trial = next(
        trial
        for trial in outlook.searches[one.search.name]
        if opened.agenda.training(one, trial.values).training_id == identity
    )
    values = {}
    for fusion_lambda in (0.01, 10.0):
        # Two trials may propose one training with different λ.
        other = replace(trial, values={**trial.values, "fusion_lambda": fusion_lambda})
        again = replace(outlook, searches={one.search.name: (other,)})
        assert opened.agenda.training(one, other.values).training_id == identity
        assert opened.ledger.read(opened.agenda, again)
        key = (one.search.name, one.reading_key(identity, other.values))
        values[fusion_lambda] = opened.ledger.finished.values[key][1]
    scores = load_validation_scores(opened.results, identity, {1: rung_key(identity, 1)})[1]
    for fusion_lambda, value in values.items():
        groups = opened.objectives[one.search.name].groups
        fused = FUSIONS["awf-l2"].fuse(
            {"validation": scores},
            groups=[groups[video] for video in scores.videos],
            fusion_lambda=fusion_lambda,
        )
        right = fused.parts["validation"].argmax(axis=1) == scores.labels
        assert value == right.mean()


def test_results_are_read_once_and_again_when_forgotten(tiny_store: Path, tmp_path: Path) -> None:
    opened = Opened(study_of(tiny_store, tmp_path))
    outlook = opened.look()
    identities = opened.run(outlook, 2)
    assert opened.look() == outlook, "nobody said that jobs ended"
    opened.ledger.forget(identities[0])
    assert [identity in _running(opened.look()) for identity in identities] == [False, True]
    opened.ledger.forget(identities[1])
    assert [identity in _running(opened.look()) for identity in identities] == [False, False]
    fresh = Opened(opened.study)
    assert fresh.look() == opened.look(), "a new driver reads the same"


def _running(outlook: Outlook) -> set[str]:
    """The trainings whose first rung may run."""
    return {job.training.training_id for job in outlook.jobs if job.until == 1}


@pytest.mark.parametrize("view", ["scores", "features", "trainings"])
def test_a_training_whose_results_are_lost_is_not_finished(
    tiny_store: Path, tmp_path: Path, view: str
) -> None:
    asked = {"tuning": "fixed", "trials": 0, "seeds": 1, "arms": ("stil", "stil-early")}
    opened = Opened(study_of(tiny_store, tmp_path, **asked))
    opened.run(opened.look(), 1)
    assert Opened(opened.study).look().done
    for path in (tmp_path / view).rglob("*.parquet"):
        path.unlink()
    outlook = Opened(opened.study).look()
    (job,) = outlook.jobs
    lost = {"scores": {"test", "validation"}, "features": {"train"}}
    assert set(job.parts) == lost.get(view, {"train", "test", "validation"})
    ready = {row.arm.name for row in outlook.rows}
    assert ready == ({"stil"} if view == "features" else set())


def test_a_training_that_failed_stays_failed_in_this_run_alone(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, tuning="fixed", trials=0, seeds=1, arms=("stil",))
    opened = Opened(study)
    (job,) = opened.look().jobs
    opened.ledger.fail(job.training.training_id, "out of memory")
    outlook = opened.look()
    assert outlook.done
    assert [failure.reason for failure in outlook.failures] == ["out of memory"]
    assert Opened(study).look().jobs == (job,)
