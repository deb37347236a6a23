"""Where studies stand, written by a driver and read by whoever sees the results."""

import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from study import query
from study.results.status import (
    RunningJob,
    Status,
    other_driver,
    read_statuses,
    render_status,
    write_status,
)
from study.results.store import ResultStore
from tests.sample_results import training

RUNNING = Status(
    study="stilt-ucf101",
    state="running",
    host="node7",
    process=4711,
    updated_at=1000.0,
    arms=["spatial", "stil"],
    jobs=[
        RunningJob(label="stil trial 3: lr 0.01", epoch=4, until=9),
        RunningJob(
            label="stil trial 4: lr 0.1",
            epoch=3,
            until=27,
            seconds_per_epoch=300.0,
            validation_top1=0.3751,
        ),
    ],
    trials={"stil on ucf101 split 1": {"complete": 2, "pruned": 1, "failed": 0, "to come": 5}},
    best={"stil on ucf101 split 1": 0.5},
    rows=1,
    rows_planned=6,
    waits=["2 trials of stil on ucf101 split 1 wait for trial 3"],
    seconds_left=9000.0,
)
DONE = Status(
    study="cstm", state="done", host="node8", process=12, updated_at=2000.0, rows=3, rows_planned=3
)
FAILED = Status(
    study="tsn",
    state="failed",
    host="node8",
    process=13,
    updated_at=500.0,
    rows=2,
    rows_planned=3,
    failures=["stil: NonFiniteLossError: the loss became nan"],
)


def status(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    code = query.main([str(argument) for argument in ("--status", *arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_what_is_written_is_read_the_latest_first(tmp_path: Path) -> None:
    results = ResultStore(tmp_path)
    for one in (RUNNING, DONE, FAILED):
        write_status(results, one)
    assert read_statuses(ResultStore(tmp_path)) == [_listed(one) for one in (DONE, RUNNING, FAILED)]
    later = Status(study="tsn", state="running", host="node8", process=14, updated_at=3000.0)
    write_status(results, later)
    assert [one.process for one in read_statuses(results)] == [14, 12, 4711], "one each"


def test_a_driver_on_another_machine_runs_its_study_if_its_status_is_renewed(
    tmp_path: Path,
) -> None:
    results, now = ResultStore(tmp_path), time.time()
    waited: list[float] = []

    def asked(*, renewed: Status | None = None) -> str | None:
        def wait(seconds: float) -> None:
            waited.append(seconds)
            if renewed is not None:
                write_status(results, renewed)

        return other_driver(results, RUNNING.study, say=lambda text: None, wait=wait)

    assert asked() is None, "it was never run"
    for ended in (
        replace(RUNNING, state="done", updated_at=now),
        replace(RUNNING, host=socket.gethostname(), process=_dead(), updated_at=now),
        RUNNING,  # of long ago
    ):
        write_status(results, ended)
        assert asked() is None
    assert not waited
    latest = replace(RUNNING, updated_at=now - 60)  # by a clock that is a minute late
    write_status(results, latest)
    assert asked() is None
    assert asked(renewed=replace(latest, state="stopped", updated_at=now - 30)) is None
    write_status(results, latest)
    assert asked(renewed=replace(latest, updated_at=now - 30)) == "process 4711 on node7"
    assert len(waited) == 3


def _dead() -> int:
    """Returns the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def _listed(one: Status) -> Status:
    """The status with its sequences as JSON has them."""
    kept = {name: list(getattr(one, name)) for name in ("arms", "jobs", "waits", "failures")}
    return Status(**{**vars(one), **kept})


def test_a_running_study_shows_jobs_searches_and_time() -> None:
    assert render_status(RUNNING, now=1042.0).splitlines() == [
        "stilt-ucf101: running, about 2 h left, 42 s ago (process 4711 on node7)",
        "  arms     spatial, stil",
        "  rows     1 of 6",
        "  search   stil on ucf101 split 1: 2 complete, 1 pruned, 5 to come; best 50.0 %",
        "  running  stil trial 3: lr 0.01: epoch 4/9",
        # 24 epochs of 300 s are two hours.
        "  running  stil trial 4: lr 0.1: epoch 3/27, validation 37.5 %, about 2 h left",
        "  waits    2 trials of stil on ucf101 split 1 wait for trial 3",
    ]
    unknown = render_status(replace(RUNNING, seconds_left=None), now=1042.0)
    assert "stilt-ucf101: running, estimating the time left, 42 s ago" in unknown.splitlines()[0]


def test_a_done_a_failed_and_a_stopped_study_say_so() -> None:
    assert render_status(DONE, now=2600.0).splitlines()[0] == (
        "cstm: done, 10 min ago (process 12 on node8)"
    )
    lines = render_status(FAILED, now=500.0, width=100).splitlines()
    assert lines[0].startswith("tsn: failed; rows are missing, which the same command tries again")
    assert lines[-1] == "  MISSING  stil: NonFiniteLossError: the loss became nan"
    stopped = render_status(replace(RUNNING, state="stopped"), now=1000.0, width=100)
    assert stopped.startswith("stilt-ucf101: stopped by --max-hours; the same command goes on")
    assert "left" not in stopped
    assert "running" not in stopped, "what ran was stopped too"


def test_a_study_whose_driver_is_gone_is_interrupted() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    here = replace(RUNNING, host=socket.gethostname(), process=child.pid)
    child.wait()
    gone = render_status(here, now=1042.0, width=200)
    assert gone.startswith(
        f"stilt-ucf101: interrupted, last seen 42 s ago; process {child.pid} on {here.host} is gone"
    )
    assert "epoch" not in gone
    alive = replace(here, process=os.getpid())
    assert render_status(alive, now=1042.0).startswith("stilt-ucf101: running")


TRACE = """Traceback (most recent call last):
  File "/somewhere/study/cluster/queue.py", line 160, in _run_one
    execute(job)
    ~~~~~~~^^^^^
  File "/somewhere/study/training/loop.py", line 541, in _flush
    raise NonFiniteLossError(
        f"the {name} loss became {loss}"
    )
study.training.loop.NonFiniteLossError: the spatial loss became nan in epoch 1, step 2
"""


def test_a_failed_training_shows_where_and_all_of_it_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = ResultStore(tmp_path)
    write_status(results, FAILED)
    error = TRACE.splitlines()[-1]
    for number in range(7):
        line = training(f"t{number}", study="tsn", status="failed", error=error, traceback=TRACE)
        results.write("trainings", f"t{number}", [line])
    results.write("trainings", "t6", [training("t6", study="tsn")])  # it succeeded since
    lost = training("lost", study="cstm", status="failed", error="its process was lost 3 times")
    results.write("trainings", "lost", [lost])
    code, out, _ = status(capsys, "tsn", "--results", tmp_path)
    assert code == 0
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    at = lines.index("  failed   stilt split 1 seed 0 (t0)")
    shown = " ".join(" ".join(lines[at + 1 :]).split())
    assert shown.startswith('File "/somewhere/study/training/loop.py", line 541, in _flush raise')
    assert "the spatial loss became nan in epoch 1, step 2" in shown
    assert "queue.py" not in out
    assert "… and 1 more failed trainings" in out
    assert lines[-1] == "  whole tracebacks: --status tsn --traceback"
    _, out, _ = status(capsys, "tsn", "--traceback", "--results", tmp_path)
    indented = "\n".join(f"      {line}" for line in TRACE.splitlines())
    assert out.count(indented) == 6
    write_status(results, DONE)
    _, out, _ = status(capsys, "cstm", "--results", tmp_path)
    assert "           its process was lost 3 times" in out.splitlines()


def test_a_traceback_without_a_status_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        query.main(["--list", "--traceback"])
    assert stopped.value.code == 2
    assert "--traceback goes with --status" in capsys.readouterr().err


def test_the_command_shows_all_studies_or_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for one in (RUNNING, DONE):
        write_status(ResultStore(tmp_path), one)
    code, out, err = status(capsys, "--results", tmp_path)
    assert (code, err) == (0, "")
    assert [line.split(":")[0] for line in out.splitlines() if "process" in line] == [
        "cstm",
        "stilt-ucf101",
    ]
    code, out, _ = status(capsys, "cstm", "--results", tmp_path)
    assert code == 0
    assert "stilt-ucf101" not in out


def test_an_unknown_study_is_refused_with_those_that_there_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_status(ResultStore(tmp_path), DONE)
    code, out, err = status(capsys, "stilt", "--results", tmp_path)
    assert (code, out) == (2, "")
    assert err == "study.query: there is no study 'stilt' with a status; there are cstm\n"


def test_results_without_a_status_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = status(capsys, "--results", tmp_path)
    assert code == 2
    assert err.count("\n") == 1
    code, _, err = status(capsys, "--results", tmp_path / "nowhere")
    assert code == 2
    assert "nowhere" in err
    assert err.count("\n") == 1
