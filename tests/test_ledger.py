"""What is finished, read back from results that jobs wrote."""

from dataclasses import replace
from itertools import product
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
from study.scores import Scores
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
        self.ledger = Ledger(self.results, self.objectives, checkpoints=study.checkpoints)

    def look(self) -> Outlook:
        return look(self.agenda, self.ledger)

    def run(self, outlook: Outlook, count: int) -> list[str]:
        """Runs the first jobs; returns their trainings' ids."""
        for job in outlook.jobs[:count]:
            run_fake_job(self.study, self.study.job(job.training, until=job.until, parts=job.parts))
        return [job.training.training_id for job in outlook.jobs[:count]]

    def finish_searches(self) -> Outlook:
        """Runs all trials; returns the outlook when they have ended and the arms have chosen."""
        while (outlook := self.look()).waiting:
            for identity in self.run(outlook, len(outlook.jobs)):
                self.ledger.forget(identity)
        return outlook

    def last_scores(self, training_id: str) -> Scores:
        """A training's validation scores at its last epoch."""
        keys = {9: rung_key(training_id, 9)}
        return load_validation_scores(self.results, training_id, keys)[9]


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
    read = {key: by_epoch for (_, key), by_epoch in values.items() if by_epoch}
    assert read == {
        identity: {1: top1_of_average(opened.results, identity, 1)} for identity in identities
    }


def test_a_trial_that_was_lost_before_its_trainings_line_was_written_is_not_finished(
    tiny_store: Path, tmp_path: Path
) -> None:
    opened = Opened(study_of(tiny_store, tmp_path, tuning="own", arms=("two-stream",)))
    outlook = opened.finish_searches()
    (one,) = opened.agenda.searches
    trial = next(t for t in outlook.searches[one.search.name] if t.state == "complete")
    identity = opened.agenda.training(one, trial.values).training_id
    (line,) = (tmp_path / "trainings").rglob(f"*{identity}*.parquet")
    line.unlink()
    again = Opened(opened.study)
    (job,) = again.look().jobs
    assert (job.training.training_id, job.until) == (identity, 9)
    assert again.finish_searches().searches == outlook.searches


def test_arms_choose_by_their_own_fusion_and_each_independent_stream_by_itself(
    tiny_store: Path, tmp_path: Path
) -> None:
    """Against an enumeration of all pairs of complete trials."""
    arms = ("spatial", "temporal", "two-stream", "two-stream-awf-entropy")
    opened = Opened(
        study_of(tiny_store, tmp_path, tuning="own", arms=arms, changes={"fusion_lambda": 1.0})
    )
    (one,) = opened.agenda.searches
    outlook = opened.finish_searches()
    chosen = opened.ledger.finished.choices[one.search.name]
    complete = [trial for trial in outlook.searches[one.search.name] if trial.state == "complete"]
    last = {
        trial.number: opened.last_scores(opened.agenda.training(one, trial.values).training_id)
        for trial in complete
    }
    assert len(last) >= 2
    for arm, streams in {
        "spatial": ("spatial",),
        "temporal": ("temporal",),
        "two-stream": ("spatial", "temporal"),
        "two-stream-awf-entropy": ("spatial", "temporal"),
    }.items():
        fusion = FUSIONS[opened.study.space.arm(arm).fusion]
        right = {}
        for pick in product(last, repeat=len(streams)):
            scores = {s: last[number].scores[s] for s, number in zip(streams, pick, strict=True)}
            held_out = replace(last[pick[0]], scores=scores)
            groups = [opened.objectives[one.search.name].groups[v] for v in held_out.videos]
            fused = fusion.fuse({"validation": held_out}, groups=groups, fusion_lambda=1.0)
            right[pick] = (fused.parts["validation"].argmax(axis=1) == held_out.labels).sum()
        best = max(right, key=lambda pick: (right[pick], [-number for number in pick]))
        assert tuple(chosen[arm].trials.values()) == best
        assert chosen[arm].candidates == len(last) ** len(streams)
        assert chosen[arm].top1 <= right[best] / len(held_out.videos)


def test_streams_that_interact_are_of_one_trial(tiny_store: Path, tmp_path: Path) -> None:
    opened = Opened(study_of(tiny_store, tmp_path, tuning="own", arms=("stil", "stil-awf-l2")))
    outlook = opened.finish_searches()
    for (_, trials), choices in zip(
        outlook.searches.items(), opened.ledger.finished.choices.values(), strict=True
    ):
        complete = sum(trial.state == "complete" for trial in trials)
        for chosen in choices.values():
            assert len(set(chosen.trials.values())) == 1
            assert chosen.candidates == complete


def test_a_finished_training_of_both_streams_serves_one_of_either(
    tiny_store: Path, tmp_path: Path
) -> None:
    fixed = {"tuning": "fixed", "seeds": 2, "changes": {"loss_weights.spatial": 0.5}}
    both = Opened(study_of(tiny_store, tmp_path, arms=("two-stream", "two-stream-early"), **fixed))
    (identity,) = both.run(both.look(), 1)
    both.ledger.forget(identity)
    seeds = {job.training.seed for job in both.look().jobs}
    spatial = Opened(study_of(tiny_store, tmp_path, arms=("spatial",), **fixed))
    outlook = spatial.look()
    assert {job.training.seed for job in outlook.jobs} == seeds, "but for what isn't finished"
    (row,) = outlook.rows
    (served,) = row.distinct_trainings
    (finished,) = spatial.results.read("trainings")["training_id"].to_pylist()
    assert spatial.ledger.source(served) == finished != served.training_id
    # Streams that learn from each other don't serve, and neither do other settings.
    for changes in ({"loss_weights.spatial": 0.25}, {}):
        other = {**fixed, "changes": changes}
        assert (
            len(Opened(study_of(tiny_store, tmp_path, arms=("spatial",), **other)).look().jobs) == 2
        )


def test_trials_of_one_stream_are_served_by_those_of_both(tiny_store: Path, tmp_path: Path) -> None:
    both = Opened(study_of(tiny_store, tmp_path, arms=("two-stream",)))
    both.finish_searches()
    complete = both.results.read("trainings", status="finished").num_rows
    spatial = Opened(study_of(tiny_store, tmp_path, arms=("spatial",)))
    outlook = spatial.look()
    (trials,) = outlook.searches.values()
    assert sum(bool(trial.readings) for trial in trials) >= complete > 0


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
    lost = {"features": {"train"}}
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
