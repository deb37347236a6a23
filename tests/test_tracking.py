"""What a study logs to trackers: each epoch and row once, by whoever is asked, never fatally."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from study.conduct import Conductor
from study.request import Study
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal
from study.tracking import EPOCH_METRICS, Tracker, open_trackers, tracking
from tests.fake_jobs import run_fake_job
from tests.test_conduct import study_of


@pytest.fixture
def study(tiny_store: Path, tmp_path: Path) -> Study:
    """One training that serves two arms."""
    changes = {"epochs": 3}
    arms = ("spatial", "two-stream")
    asked: dict[str, Any] = {"trials": 0, "tuning": "fixed", "seeds": 1}
    return study_of(tiny_store, tmp_path / "results", arms=arms, changes=changes, **asked)


def metrics(epoch: int) -> dict[str, Any]:
    losses = {"spatial": 1 / epoch, "temporal": 2 / epoch}
    rest = {"lr": 0.1, "clips_per_second": 10.0, "train_loss": 3 / epoch}
    return {"epoch": epoch, "validation_top1": epoch / 10, "losses": losses, **rest}


def run(study: Study, trackers: list[Tracker], *, epochs: range = range(1, 4)) -> list[str]:
    """Does the study with a job that reports epochs; returns what it warned of."""
    warned: list[str] = []
    with (
        Terminal(Console(quiet=True)).at_work() as display,
        tracking(trackers, warned.append) as tracked,
    ):
        conductor = Conductor(study, searches_of(study), display, tracked=tracked)
        while job := conductor.next_job():
            conductor.started(job)
            for epoch in (1, *epochs):  # the first is reported again, as after a lost process
                conductor.reported(job, metrics(epoch))
            run_fake_job(study, job)
            conductor.ended(job)
        assert conductor.done
    assert ResultStore(study.request.results).read("rows").num_rows == 4
    return warned


def expected(study: Study) -> dict[str, list[tuple[int, float]]]:
    """By name, what a tracker must have of the study's training: epochs and values."""
    every = [metrics(epoch) for epoch in (1, 2, 3)]
    found = {name: [(m["epoch"], m[key]) for m in every] for key, name in EPOCH_METRICS.items()}
    for stream in ("spatial", "temporal"):
        found[f"train/loss/{stream}"] = [(m["epoch"], m["losses"][stream]) for m in every]
    for row in ResultStore(study.request.results).read("rows").to_pylist():
        for metric in ("top1", "mean_class_accuracy"):
            found[f"{row['part']}/{metric}/{row['arm']}"] = [(3, row[metric])]
    return found


def test_tensorboard_reads_every_epoch_and_row_once_from_the_results(study: Study) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not run(study, open_trackers(["tensorboard", "tensorboard"], study))
    (folder,) = Path(study.request.results, "tensorboard", "fake").iterdir()
    (training,) = study.plan().trainings
    assert folder.name.endswith(training[:8])
    events = EventAccumulator(str(folder))
    events.Reload()
    wanted = expected(study)
    assert sorted(events.Tags()["scalars"]) == sorted(wanted)
    for name, points in wanted.items():
        steps, values = zip(*points, strict=True)
        assert [event.step for event in events.Scalars(name)] == list(steps)
        assert [event.value for event in events.Scalars(name)] == pytest.approx(values)
    assert "_hparams_/session_start_info" in events.summary_metadata


def run_one_epoch(study: Study, tracker: str, epoch: int = 1) -> None:
    (training,) = study.plan().trainings.values()
    with tracking(open_trackers([tracker], study), pytest.fail) as tracked:
        tracked.epoch(training, "fake", "stil", metrics(epoch))


def test_nothing_is_written_before_the_first_epoch(study: Study) -> None:
    pytest.importorskip("tensorboard")
    with tracking(open_trackers(["tensorboard"], study), pytest.fail):
        pass
    assert not Path(study.request.results).exists()


class FakeMLflow:
    """The calls of ``mlflow.MlflowClient`` that are used, on runs in memory."""

    def __init__(self, tracking_uri: str) -> None:
        self.uri = tracking_uri
        self.runs: list[Any] = []

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, name: str) -> str:
        assert name == "fake"
        return "1"

    def search_runs(self, experiment_ids: list[str], filter_string: str) -> list[Any]:
        assert experiment_ids == ["1"]
        return [r for r in self.runs if filter_string == f"tags.training_id = '{r.training_id}'"]

    def create_run(self, experiment_id: str, *, tags: dict[str, str], run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"run{len(self.runs)}")
        made = SimpleNamespace(info=info, name=run_name, params={}, metrics={}, ended=0, **tags)
        self.runs.append(made)
        return made

    def _run(self, run_id: str) -> Any:
        return self.runs[int(run_id.removeprefix("run"))]

    def log_param(self, run_id: str, key: str, value: Any) -> None:
        self._run(run_id).params[key] = value

    def log_metric(self, run_id: str, key: str, value: float, *, step: int) -> None:
        self._run(run_id).metrics.setdefault(key, []).append((step, value))

    def set_terminated(self, run_id: str) -> None:
        self._run(run_id).ended += 1


def fake(monkeypatch: pytest.MonkeyPatch, name: str, **calls: Any) -> None:
    module = ModuleType(name)
    vars(module).update(calls, __spec__=SimpleNamespace(name=name))
    monkeypatch.setitem(sys.modules, name, module)


def test_mlflow_has_an_experiment_a_study_and_a_run_a_training(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the client that records its calls."""
    clients: list[FakeMLflow] = []

    def client(tracking_uri: str) -> FakeMLflow:
        clients.append(FakeMLflow(tracking_uri))
        return clients[-1]

    fake(monkeypatch, "mlflow", MlflowClient=client)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert not run(study, open_trackers(["mlflow"], study))
    (one,) = clients
    (logged,) = one.runs
    assert one.uri == f"sqlite:///{Path(study.request.results).resolve()}/mlflow/mlflow.db"
    assert logged.metrics == expected(study)
    assert (logged.params["model"], logged.params["options.backbone"]) == ("stilt", "small")
    assert logged.ended == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    run_one_epoch(study, "mlflow")
    assert clients[-1].uri == "http://server"


def test_mlflow_goes_on_with_the_run_of_an_earlier_session(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = FakeMLflow("")
    fake(monkeypatch, "mlflow", MlflowClient=lambda tracking_uri: client)
    for epoch in (1, 2):
        run_one_epoch(study, "mlflow", epoch)
    (logged,) = client.runs
    assert [step for step, _ in logged.metrics["train/loss"]] == [1, 2]
    assert logged.ended == 2


def test_wandb_has_a_project_a_study_and_a_run_a_training(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the client that records its calls."""
    runs: list[Any] = []

    def init(**asked: Any) -> Any:
        made = SimpleNamespace(asked=asked, logged={}, finished=0)
        made.log = lambda values, *, step: made.logged.setdefault(step, {}).update(values)
        made.finish = lambda: vars(made).update(finished=made.finished + 1)
        runs.append(made)
        return made

    logins: list[int] = []
    fake(monkeypatch, "wandb", init=init, login=lambda *, timeout: logins.append(timeout))
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert not run(study, open_trackers(["wandb"], study))
    assert not logins
    (logged,) = runs
    (training,) = study.plan().trainings
    assert (logged.asked["project"], logged.asked["id"]) == ("fake", training)
    assert Path(logged.asked["dir"]) == Path(study.request.results) / "wandb"
    assert logged.finished == 1
    found: dict[str, list[tuple[int, float]]] = {}
    for step, values in logged.logged.items():
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    assert found == expected(study)
    monkeypatch.delenv("WANDB_MODE")
    run_one_epoch(study, "wandb")
    assert len(logins) == 1, "nobody is asked for a key without an end"


class Broken:
    """A tracker that fails in one of its calls."""

    name = "broken"

    def __init__(self, call: str) -> None:
        self.call, self.asked = call, 0

    def _maybe(self, call: str) -> None:
        self.asked += 1
        if call == self.call:
            raise OSError("the server is gone")

    def begin(self, *_: Any) -> None:
        self._maybe("begin")

    def log(self, *_: Any) -> None:
        self._maybe("log")

    def end(self, *_: Any) -> None:
        self._maybe("end")


@pytest.mark.parametrize(("call", "asked"), [("begin", 1), ("log", 2)])
def test_a_tracker_that_fails_is_said_once_asked_nothing_more_and_harms_nobody(
    study: Study, call: str, asked: int
) -> None:
    broken = Broken(call)
    [said] = run(study, [broken])
    assert said == (
        "--log broken failed and logs nothing more in this run; the study goes on: "
        "OSError: the server is gone"
    )
    assert broken.asked == asked


def test_a_finished_study_logs_nothing_again(study: Study) -> None:
    run(study, [])
    broken = Broken("none")
    assert not run(study, [broken])
    assert broken.asked == 0
