"""A whole study without Ray or training: jobs that write random scores, in any order."""

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import search_spaces
from study.conduct import RESTARTS, Conductor
from study.job import Job
from study.request import Request, Study, check_request
from study.results.status import read_statuses
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal
from tests.fake_jobs import run_fake_job

SETTINGS = {"epochs": 9, "warmup_epochs": 0, "batch_size": 8}


def study_of(store: Path, results: Path, **request: Any) -> Study:
    asked = {"trials": 6, "tuning": "net", "seeds": 2, "sampler": "random", **request}
    asked["changes"] = {**SETTINGS, **asked.get("changes", {})}
    return check_request(
        Request(
            space=search_spaces.get("stilt").on("embedded"),
            store=store,
            results=str(results),
            name="fake",
            **asked,
        )
    )


class KilledError(Exception):
    """The driver is killed."""


class Runner:
    """Runs a study's jobs some at a time and ends them in random order.

    Args:
        study: The study.
        places: How many jobs run at once.
        seed: Of the order.
    """

    def __init__(self, study: Study, places: int, seed: int = 0) -> None:
        self.study, self.places = study, places
        self.rng = random.Random(seed)
        self.console = Console(quiet=True)
        self.ran: Counter[tuple[str, int, tuple[str, ...]]] = Counter()
        self.conductor: Conductor

    def run(self, *, kill_after: int | None = None) -> Conductor:
        with Terminal(self.console).at_work() as display:
            self.conductor = Conductor(self.study, searches_of(self.study), display)
            running: list[Job] = []
            ended = 0
            while not self.conductor.done:
                while len(running) < self.places and (job := self.conductor.next_job()):
                    self.conductor.started(job)
                    running.append(job)
                assert running, "something may always run until all is done"
                if ended == kill_after:
                    raise KilledError
                self.end(running.pop(self.rng.randrange(len(running))))
                ended += 1
        return self.conductor

    def end(self, job: Job) -> None:
        identity, checkpoint = job.training.training_id, Path(job.checkpoint)
        if any(identity == earlier for earlier, _, _ in self.ran):
            assert checkpoint.exists(), "what one job trained, the next goes on from"
        self.ran[identity, job.until, job.parts] += 1
        checkpoint.parent.mkdir(exist_ok=True, parents=True)
        checkpoint.touch()
        run_fake_job(self.study, job)
        self.conductor.ended(job)


def outcome(results: Path) -> dict[str, list[Mapping[str, Any]]]:
    """All rows, predictions and trials in one order."""
    store = ResultStore(results)
    return {
        view: sorted(store.read(view).to_pylist(), key=repr)
        for view in ("rows", "predictions", "trials", "validation_scores", "scores")
    }


@pytest.mark.parametrize(
    ("tuning", "vary", "refit"),
    [
        ("net", (), False),
        ("shared", (), False),
        ("own", ("split-carve", "search"), False),
        ("own", ("split-carve",), True),
    ],
)
def test_places_order_and_kills_change_no_row_and_no_trial(
    tiny_store: Path, tmp_path: Path, tuning: str, vary: tuple[str, ...], refit: bool
) -> None:
    arms = ("spatial", "temporal", "two-stream", "two-stream-awf-l2", "stil", "stil-early")
    expected = None
    for number, places in enumerate((1, 3, 64)):
        results = tmp_path / f"{number}"
        study = study_of(tiny_store, results, tuning=tuning, vary=vary, refit=refit, arms=arms)
        runner = Runner(study, places, seed=number)
        for kill_after in (3, 5) if places == 3 else ():
            with pytest.raises(KilledError):
                runner.run(kill_after=kill_after)
        conductor = runner.run()
        assert not conductor.failures
        assert max(runner.ran.values()) == 1, "no job runs twice"
        expected = expected or outcome(results)
        assert outcome(results) == expected
    assert expected is not None
    fitted = 2  # of the arms; the others have nothing to validate where they trained on all
    assert len(expected["rows"]) == 2 * (len(arms) + (fitted if refit else len(arms)))


def test_a_finished_study_does_nothing_and_a_larger_one_what_is_missing(
    tiny_store: Path, tmp_path: Path
) -> None:
    Runner(study_of(tiny_store, tmp_path, seeds=1), 2).run()
    before = outcome(tmp_path)
    again = Runner(study_of(tiny_store, tmp_path, seeds=1), 2)
    again.run()
    assert not again.ran
    assert outcome(tmp_path) == before
    larger = Runner(study_of(tiny_store, tmp_path, seeds=2), 2)
    larger.run()
    assert len(larger.ran) == 2, "the two nets with another seed"


def test_rows_are_written_as_soon_as_their_training_is_finished(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=3)
    runner = Runner(study, 1)
    seen = []
    end = runner.end

    def look(job: Job) -> None:
        end(job)
        seen.append(ResultStore(tmp_path).read("rows").num_rows)

    runner.end = look  # type: ignore[method-assign]
    runner.run()
    assert len(seen) == 6
    assert seen == sorted(set(seen)), "each training's end adds rows"


def test_a_failed_training_loses_its_rows_alone_and_is_tried_again_the_next_time(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=1)
    runner = Runner(study, 2)
    end = runner.end

    def fail(job: Job) -> None:
        if job.training.options["interaction"]:
            runner.conductor.failed(job, "NonFiniteLossError: the loss became nan")
        else:
            end(job)

    runner.end = fail  # type: ignore[method-assign]
    [failure] = runner.run().failures
    assert failure.startswith("stil, stil-weighted, ")
    assert failure.endswith("NonFiniteLossError: the loss became nan")
    assert ResultStore(tmp_path).read("rows").num_rows == 2 * 9
    again = Runner(study, 2)
    assert not again.run().failures
    assert len(again.ran) == 1
    assert ResultStore(tmp_path).read("rows").num_rows == 2 * 16


def test_a_lost_process_is_started_again_while_it_gets_on_and_given_up_where_it_does_not(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=1, arms=("stil",))
    for gets_on, tries in ((True, 12), (False, RESTARTS + 1)):
        with Terminal(Console(quiet=True)).at_work() as display:
            conductor = Conductor(study, searches_of(study), display)
            for number in range(tries):
                job = conductor.next_job()
                assert job is not None, number
                conductor.started(job)
                if gets_on:
                    conductor.reported(job, {"epoch": number + 1, "validation_top1": 0.5})
                conductor.lost(job, "the node was taken away")
            assert bool(conductor.failures) is not gets_on
            assert conductor.done is not gets_on
    assert "its process was lost 3 times: the node was taken away" in conductor.failures[0]


def test_a_checkpoint_stays_while_another_study_needs_it(tiny_store: Path, tmp_path: Path) -> None:
    def checkpoints() -> set[str]:
        return {path.stem for path in (tmp_path / "checkpoints").iterdir()}

    first = Runner(study_of(tiny_store, tmp_path), 2)
    with pytest.raises(KilledError):
        first.run(kill_after=4)
    begun = {path.parent.name for path in (tmp_path / "claims").glob(f"*/{first.study.name}")}
    assert begun > {identity for identity, _, _ in first.ran}, "those that were killed"
    other = Runner(replace(first.study, name="other"), 2)
    other.run()
    reported = set(other.conductor.outlook.plan.trainings)
    assert begun - reported, "trials, which the other study has finished"
    assert checkpoints() == begun | reported
    first.run()
    assert checkpoints() == reported


def test_a_trial_is_stored_with_its_search_and_shown_by_its_net(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, arms=("stil",), seeds=1)
    runner = Runner(study, 2)
    runner.run()
    (one,) = searches_of(study).values()
    trials = ResultStore(tmp_path).read("trials")
    assert set(trials["search"].to_pylist()) == {one.search.name}
    (status,) = read_statuses(ResultStore(tmp_path))
    assert list(status.trials) == list(status.best) == ["stil on folder split 1"]


@pytest.mark.parametrize("checkpoints", ["kept", "gone"])
def test_a_study_whose_scores_are_lost_makes_all_of_its_rows_again(
    tiny_store: Path, tmp_path: Path, checkpoints: str
) -> None:
    study = study_of(tiny_store, tmp_path, tuning="fixed", trials=0)
    Runner(study, 2).run()
    made = outcome(tmp_path)
    for view in ("scores", "rows", "predictions"):
        for path in (tmp_path / view).glob("*.parquet"):
            path.unlink()
    if checkpoints == "gone":
        for path in (tmp_path / "checkpoints").iterdir():
            path.unlink()
    runner = Runner(study, 2)
    runner.console = Console(width=200, record=True, file=StringIO())
    runner.run()
    assert outcome(tmp_path) == made
    said = runner.console.export_text().count("trained again, as its scores")
    assert said == (len(runner.ran) if checkpoints == "gone" else 0)


def test_away_from_a_terminal_a_line_comes_every_half_minute_whatever_happens(
    tiny_store: Path, tmp_path: Path
) -> None:
    """An epoch may take hours, in which nothing is reported."""
    study = study_of(tiny_store, tmp_path, trials=0, tuning="fixed", seeds=1, arms=("stil",))
    file, now, printed = StringIO(), [0.0], []
    terminal = Terminal(Console(file=file, force_terminal=False, width=80), clock=lambda: now[0])
    with terminal.at_work() as display:
        conductor = Conductor(study, searches_of(study), display)
        job = conductor.next_job()
        assert job is not None
        conductor.started(job)
        for tenth in range(950):
            now[0], before = tenth / 10, file.getvalue()
            conductor.time_passed()
            if file.getvalue() != before:
                printed.append(now[0])
    assert printed == [30, 60, 90]
    assert (
        file.getvalue().splitlines()
        == ["  … 1 running · 0 of 1 rows · estimating the time left"] * 3
    )
