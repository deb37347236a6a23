"""What a study logs to trackers: each epoch and row once, by whoever is asked, never fatally."""

import json
import struct
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

from study.conduct import Conductor
from study.request import Study
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal
from study.tracking import (
    EPOCH_METRICS,
    MLflow,
    Tracker,
    WeightsAndBiases,
    open_trackers,
    tracking,
)
from tests.fake_jobs import run_fake_job
from tests.test_conduct import study_of

BLOCK = 32768  # of LevelDB's log format


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


def test_mlflow_has_an_experiment_a_study_and_a_run_a_training(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from the database; what a later session logs goes on in the same run."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    assert not run(study, open_trackers(["mlflow"], study))
    folder = Path(study.request.results).resolve() / "mlflow"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
    number = client.get_experiment_by_name("fake").experiment_id
    (logged,) = client.search_runs([number])

    def points(name: str) -> list[tuple[int, float]]:
        history = client.get_metric_history(logged.info.run_id, name)
        return [(one.step, one.value) for one in history]

    assert {name: points(name) for name in logged.data.metrics} == expected(study)
    params = logged.data.params
    assert (params["model"], params["options.backbone"]) == ("stilt", "small")
    assert logged.info.status == "FINISHED"
    run_one_epoch(study, "mlflow", 4)
    assert len(client.search_runs([number])) == 1
    assert [step for step, _ in points("train/loss")] == [1, 2, 3, 4]


def test_mlflow_logs_to_the_server_that_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = ModuleType("mlflow")
    vars(mlflow)["MlflowClient"] = lambda *, tracking_uri: tracking_uri
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server")
    assert MLflow(tmp_path)._client == "http://server"


def test_wandb_has_a_project_a_study_and_a_run_a_training(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read back from what the client writes without a network."""
    wandb = pytest.importorskip("wandb")
    for name in ("WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    assert not run(study, open_trackers(["wandb"], study))
    wandb.teardown()
    (file,) = Path(study.request.results, "wandb").rglob("*.wandb")
    records = list(offline_records(file))
    (begun,) = (one.run for one in records if one.HasField("run"))
    (training,) = study.plan().trainings
    assert (begun.project, begun.run_id) == ("fake", training)
    config = {one.key: json.loads(one.value_json) for one in begun.config.update}
    assert (config["model"], config["options.backbone"]) == ("stilt", "small")
    found: dict[str, list[tuple[int, float]]] = {}
    for record in records:
        values = {
            one.key or one.nested_key[0]: json.loads(one.value_json) for one in record.history.item
        }
        for name in values.keys() & expected(study).keys():
            found.setdefault(name, []).append((values["_step"], values[name]))
    assert found == expected(study)


def offline_records(file: Path) -> Iterator[Any]:
    """Yields what wandb has written to a file: LevelDB's log format, with records of its own."""
    parse = import_module("wandb.proto.wandb_internal_pb2").Record.FromString
    content, place, record = file.read_bytes(), 7, b""  # behind wandb's own header
    while place + 7 <= len(content):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK  # what is left of a block holds no header
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # it is whole, or its last piece
            yield parse(record)
            record = b""


def test_wandb_asks_for_a_key_but_not_without_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logins: list[int] = []
    wandb = ModuleType("wandb")
    vars(wandb)["login"] = lambda *, timeout: logins.append(timeout)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert WeightsAndBiases(tmp_path)._client is wandb
    assert len(logins) == 1


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
