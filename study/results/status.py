"""Where running studies stand: what each driver says of its own, for whoever sees the results."""

import json
import os
import socket
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from study.durations import told_duration, told_left
from study.results.store import ResultStore

__all__ = [
    "LIFE_EVERY_SECONDS",
    "FailedTraining",
    "RunningJob",
    "Status",
    "is_running",
    "other_driver",
    "read_failed",
    "read_statuses",
    "render_status",
    "write_status",
]

LIFE_EVERY_SECONDS = 30.0
"""A driver that lives writes its study's status at least so often."""

FOLDER = "status"
WATCHED_SECONDS = 1.5 * LIFE_EVERY_SECONDS
OLD_SECONDS = 600.0  # a status that is older is nobody's, by whatever clock it was written
TRACEBACKS = 5  # failed trainings that are shown unless all are asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningJob:
    """A job that runs.

    Attributes:
        label: What it is, in a few words.
        epoch: Epochs that it has finished.
        until: The epoch at whose end it ends.
        seconds_per_epoch: How long its epochs take, or None where none is known.
        validation_top1: The validation accuracy of its last epoch, 0..1, or None.
        training_id: The training that it is of, by which view ``epochs`` has its curve.
    """

    label: str
    epoch: int
    until: int
    seconds_per_epoch: float | None = None
    validation_top1: float | None = None
    training_id: str = ""

    @property
    def seconds_left(self) -> float | None:
        """How long its epochs will still take, or None where that isn't known."""
        if self.seconds_per_epoch is None or self.epoch >= self.until:
            return None
        return self.seconds_per_epoch * (self.until - self.epoch)


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a study stands.

    Attributes:
        study: Its name.
        state: ``running``, ``done``, ``failed`` (done, but rows are missing) or ``stopped`` (at
            ``--max-hours``). One that was killed or interrupted still says ``running``.
        host: The machine of its driver.
        process: The driver's process there.
        updated_at: When this was true, in seconds since 1970.
        arms: Its arms' names.
        jobs: What runs.
        trials: By search, named in a few words, how many trials are in each state, and ``to come``.
        best: By search, the best validation accuracy so far, 0..1.
        rows: Rows that are there.
        rows_planned: Rows that will be there, as far as is planned.
        waits: What waits and for what, in words.
        failures: What failed and why.
        seconds_left: An estimate, or None where nothing is known yet.
    """

    study: str
    state: str
    host: str
    process: int
    updated_at: float
    arms: Sequence[str] = ()
    jobs: Sequence[RunningJob] = ()
    trials: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    best: Mapping[str, float] = field(default_factory=dict)
    rows: int = 0
    rows_planned: int = 0
    waits: Sequence[str] = ()
    failures: Sequence[str] = ()
    seconds_left: float | None = None

    @property
    def interrupted(self) -> bool:
        """Whether it says that it runs, but its driver was on this machine and has ended."""
        if self.state != "running" or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.process, 0)
        except ProcessLookupError:
            return True
        except PermissionError:  # another user's
            return False
        return False


def write_status(results: ResultStore, status: Status) -> None:
    """Writes a study's status in the place of its last."""
    results.put_file(f"{FOLDER}/{status.study}.json", json.dumps(asdict(status)).encode())


def read_statuses(results: ResultStore) -> list[Status]:
    """Returns the status of each study in the results, the latest first."""
    known = {field.name for field in fields(Status)}
    found = []
    for content in results.files(FOLDER).values():
        said = {name: value for name, value in json.loads(content).items() if name in known}
        jobs = [RunningJob(**job) for job in said.pop("jobs")]
        found.append(Status(**said, jobs=jobs))
    return sorted(found, key=lambda status: -status.updated_at)


def is_running(results: ResultStore, study: str) -> bool:
    """Returns whether a study runs, as far as its status and this machine tell."""
    return any(
        one.state == "running" and not one.interrupted
        for one in read_statuses(results)
        if one.study == study
    )


def other_driver(
    results: ResultStore,
    study: str,
    *,
    say: Callable[[str], None],
    wait: Callable[[float], None] = time.sleep,
) -> str | None:
    """Returns which process runs a study, as its status tells; None where none does.

    A status of a machine that can't be asked is watched for a new one, whatever its clock says.

    Args:
        results: The results.
        study: The study's name.
        say: Told why it takes some time.
        wait: Waits for some seconds.
    """

    def latest() -> Status | None:
        return next((one for one in read_statuses(results) if one.study == study), None)

    seen = latest()
    if seen is None or seen.state != "running" or seen.interrupted:
        return None
    if abs(time.time() - seen.updated_at) > OLD_SECONDS:
        return None
    say(f"study {study!r} may still run on {seen.host}: watching it for {WATCHED_SECONDS:g} s")
    wait(WATCHED_SECONDS)
    now = latest()
    if now is None or now.state != "running" or now.updated_at == seen.updated_at:
        return None
    return f"process {now.process} on {now.host}"


@dataclass(frozen=True, kw_only=True, slots=True)
class FailedTraining:
    """A training that failed and hasn't succeeded since.

    Attributes:
        label: Its model, split, seed and id.
        error: Why, in a line.
        traceback: Where in the code, or None where its process was lost.
    """

    label: str
    error: str
    traceback: str | None


def read_failed(results: ResultStore, study: str) -> list[FailedTraining]:
    """Returns the trainings of a study that failed, in the order in which they did."""
    order = [("started_at", "ascending"), ("training_id", "ascending")]
    lines = results.read("trainings", study=study, status="failed").sort_by(order)
    return [
        FailedTraining(
            label=f"{line['model']} split {line['split']} seed {line['seed']} "
            f"({line['training_id']})",
            error=line["error"] or "",
            traceback=line["traceback"],
        )
        for line in lines.to_pylist()
    ]


def render_status(
    status: Status,
    failed: Sequence[FailedTraining] = (),
    *,
    whole: bool = False,
    width: int = 80,
    now: float | None = None,
) -> str:
    """Returns a study's status as text.

    Args:
        status: The status.
        failed: Its trainings that failed.
        whole: Whether to show all of their tracebacks rather than the last lines of a few.
        width: Columns of the terminal.
        now: Seconds since 1970; None for the clock.
    """
    lines = [*_fill(_heading(status, time.time() if now is None else now), width, indent=2)]
    for name, said in _said(status):
        lines += _fill(f"  {name:<8} {said}", width, indent=11)
    for number, training in enumerate(failed):
        if number == TRACEBACKS and not whole:
            lines.append(f"  … and {len(failed) - number} more failed trainings")
            break
        lines += _fill(f"  {'failed':<8} {training.label}", width, indent=11)
        lines += _trace(training, width, whole=whole)
    if failed and not whole:
        lines.append(f"  whole tracebacks: --status {status.study} --traceback")
    return "\n".join(lines)


def _heading(status: Status, now: float) -> str:
    ago = told_duration(max(0.0, now - status.updated_at))
    driver = f"process {status.process} on {status.host}"
    if status.interrupted:
        return (
            f"{status.study}: interrupted, last seen {ago} ago; {driver} is gone. The same command "
            "goes on from there"
        )
    said = {
        "running": "",
        "stopped": " by --max-hours; the same command goes on from there",
        "failed": "; rows are missing, which the same command tries again",
    }
    left = ""
    if status.state == "running":
        left = f", {told_left(status.seconds_left)}"
    return f"{status.study}: {status.state}{said.get(status.state, '')}{left}, {ago} ago ({driver})"


def _said(status: Status) -> Iterator[tuple[str, str]]:
    """What a status holds, each with its name."""
    yield "arms", ", ".join(status.arms)
    yield "rows", f"{status.rows} of {status.rows_planned}"
    for name, counts in status.trials.items():
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        best = f"; best {100 * status.best[name]:.1f} %" if name in status.best else ""
        yield "search", f"{name}: {said}{best}"
    if status.state == "running" and not status.interrupted:
        for job in status.jobs:
            yield "running", _told_job(job)
        for what in status.waits:
            yield "waits", what
    for failure in status.failures:
        yield "MISSING", failure


def _told_job(job: RunningJob) -> str:
    said = f"{job.label}: epoch {job.epoch}/{job.until}"
    if job.validation_top1 is not None:
        said += f", validation {100 * job.validation_top1:.1f} %"
    if job.seconds_left is not None:
        said += f", about {told_duration(job.seconds_left)} left"
    return said


def _trace(training: FailedTraining, width: int, *, whole: bool) -> list[str]:
    """The end of a traceback, from its last file on, or the whole of it."""
    trace = (training.traceback or training.error).rstrip().splitlines()
    if whole:
        return [f"      {line}" for line in trace]
    last = max((i for i, line in enumerate(trace) if line.startswith("  File ")), default=0)
    lines = [line.strip() for line in trace[last:] if line.strip(" ^~")]
    return [part for line in lines for part in _fill(f"{'':11}{line}", width, indent=13)]


def _fill(text: str, width: int, *, indent: int) -> list[str]:
    return textwrap.wrap(
        text, width, subsequent_indent=" " * indent, break_on_hyphens=False, drop_whitespace=True
    )
