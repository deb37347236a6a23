"""The study as its users run it: whole commands on a tiny clip store, a local Ray under them."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from models.fusion import LAMBDAS
from study import conduct
from study.results.store import ResultStore
from study.run import main
from tests.integration.conftest import environment, small, study_command
from tests.integration.kills import wait_until_gone
from tests.integration.processes import open_to_others, session

ARMS = ("spatial", "stil", "stil-weighted", "stil-awf-entropy")


def lines(folder: Path, view: str) -> list[dict]:
    return ResultStore(folder).read(view).to_pylist()


@pytest.mark.slow
def test_a_study_searches_trains_twice_fills_every_row_and_repeats_nothing(
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Given by relative paths, as a person types them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    Path("store").symlink_to(tiny_store)
    asked = ("--trials", "2", "--arms", *ARMS)
    assert main(study_command(Path("store"), Path("results"), *asked)[3:]) == 0
    shown = capsys.readouterr().out
    results = tmp_path / "results"

    trials = lines(results, "trials")
    nets = {trial["arm"] for trial in trials}
    assert len(nets) == 2
    assert sorted(trial["trial"] for trial in trials) == [0, 0, 1, 1]
    complete = [trial for trial in trials if trial["state"] == "complete"]
    best = {
        net: max(
            (trial for trial in complete if trial["arm"] == net),
            key=lambda trial: (trial["validation_top1"], -trial["trial"]),
        )
        for net in nets
    }

    rows = lines(results, "rows")
    assert len(rows) == len(ARMS) * 2
    assert {row["part"] for row in rows} == {"validation", "test"}
    assert {row["tuning"] for row in rows} == {"net"}
    assert {row["seed"] for row in rows} == {1}
    used = {row["training_id"] for row in rows}
    assert len(used) == 2
    assert not used & {trial["training_id"] for trial in trials}, "what is reported is fresh"

    trainings = {line["training_id"]: line for line in lines(results, "trainings")}
    for row in rows:
        training = trainings[row["training_id"]]
        assert training["status"] == "finished"
        rate = json.loads(training["hyperparameters"])["learning_rate"]
        assert rate == json.loads(best[row["tuned_by"]]["parameters"])["learning_rate"]
    lambdas = {row["fusion_lambda"] for row in rows if row["fusion"].startswith("awf")}
    assert lambdas <= set(LAMBDAS)

    assert "Two-stream + STIL" in shown
    assert "2 searches of 2 trials" in shown
    assert not (results / "ray").exists(), "what Ray writes of its own lies with Ray"

    monkeypatch.setattr(conduct, "running_ray", lambda *_, **__: nullcontext([{"CPU": 2.0}]))
    monkeypatch.setattr(conduct, "node_folder", lambda: nullcontext(str(tmp_path)))
    monkeypatch.setattr(conduct, "run_jobs", lambda *_, **__: pytest.fail("a job was to run"))
    assert main(study_command(tiny_store, results, *asked, "--resume")[3:]) == 0
    assert lines(results, "trials") == trials
    assert {line["training_id"]: line for line in lines(results, "trainings")} == trainings


@pytest.mark.slow
def test_an_interrupted_study_says_so_in_a_line_and_keeps_what_finished(
    tiny_store: Path, tmp_path: Path
):
    """As long as it runs, its Ray hears this machine alone.

    Ctrl-C does the same: see ``tests/test_run.py`` and ``tests/cluster/test_connection.py``.
    """
    results = tmp_path / "results"
    study = subprocess.Popen(
        study_command(tiny_store, results, "--trials", "1000", "--arms", "stil", "--at-once", "1"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
    )
    while not (results.exists() and lines(results, "trials")):
        assert study.poll() is None, "the study ended before it could be interrupted"
        time.sleep(0.1)
    processes = session(study.pid)
    assert any("raylet" in line for line in processes.values())
    assert open_to_others(processes) == []
    kept = lines(results, "trials")
    os.kill(study.pid, signal.SIGTERM)
    error = study.communicate()[1].strip()
    assert study.returncode == 1
    assert error.startswith("study.run: interrupted. What finished is kept")
    assert "\n" not in error
    assert all(trial in lines(results, "trials") for trial in kept)
    wait_until_gone(study.pid)


@pytest.fixture
def another_ray() -> Iterator[None]:
    """A Ray that has nothing to do with the study, as on a machine that is shared."""
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,
        "dashboard_agent_listen_port": None,
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield
    cluster.shutdown()


@pytest.mark.slow
def test_two_workers_train_through_ray_train_beside_another_ray_and_free_their_place(
    tiny_store: Path, tmp_path: Path, another_ray: None
):
    """The workers fill the machine: were a training's place kept, the next would wait for ever."""
    command = study_command(
        *(tiny_store, tmp_path / "results"),
        *("--workers", "2", "--cpus-per-worker", "0.9", "--at-once", "1"),
        *("--tuning", "fixed", "--seeds", "2", "--arms", "stil", "--set", *small("epochs=1")),
    )
    assert main(command[3:]) == 0
    trainings = lines(tmp_path / "results", "trainings")
    assert [(line["status"], line["workers"]) for line in trainings] == [("finished", 2)] * 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--space", "stilts"), "no space 'stilts'; there are all, "),
        (("--dataset", "ucf"), "is a store of 'folder', but --dataset says 'ucf'"),
        (("--split", "9"), "has no split '9'; it has 1"),
        (("--arms", "spatail"), "no arm 'spatail'; it has spatial"),
        (("--seeds", "0"), "--seeds must be a whole number of at least 1"),
        (("--set", "learning_rat=1"), "learning_rat"),
        (("--set", "learning_rate"), "--set takes NAME=VALUE"),
        (("--set", "options.backbone=resnet19"), "resnet19"),
        (("--set", "flow_length=10"), "stacks of 3 flow fields"),
        (("--data", "nowhere"), "nowhere"),
        (("--weights", "temporal=nowhere.pt"), "there is no such file"),
        (("--weights", "temporal=other.pt"), "other.pt"),
        (("--weights", "other.pt"), "--weights says twice where all streams and arms start"),
        (("--train-on", "all"), "--train-on all leaves no validation part"),
        (("--resume", "--name", "never"), "no study 'never'"),
        (("--workers", "0"), "--workers must be a whole number of at least 1"),
        (("--name", "a/b"), "--name begins with a letter or digit"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_what_exists(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tiny_store: Path,
    tmp_path: Path,
    arguments,
    said,
):
    torch.save({"other.weight": torch.zeros(1)}, tmp_path / "other.pt")
    monkeypatch.chdir(tmp_path)
    command = study_command(tiny_store, tmp_path / "results", *arguments)
    assert main(command[3:]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not (tmp_path / "results").exists()


def test_a_dry_run_prints_arms_and_trainings_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], tiny_store: Path, tmp_path: Path
):
    assert main(study_command(tiny_store, tmp_path / "results", "--dry-run")[3:]) == 0
    output = capsys.readouterr().out
    assert "16 arms × 1 seed from 2 trainings" in output
    assert "stil-awf-entropy" in output
    assert not (tmp_path / "results").exists()
