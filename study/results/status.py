"""Where running studies stand: what each driver says of its own, for whoever sees the results."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from study.results.store import ResultStore

__all__ = ["RunningJob", "Status", "read_statuses", "render_status", "write_status"]

FOLDER = "status"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningJob:
    """A job that runs.

    Attributes:
        label: What it is, in a few words.
        epoch: Epochs that it has finished.
        until: The epoch at whose end it ends.
        seconds_per_epoch: How long its epochs take, or None where none is known.
        validation_top1: The validation accuracy of its last epoch, 0..1, or None.
    """

    label: str
    epoch: int
    until: int
    seconds_per_epoch: float | None = None
    validation_top1: float | None = None


@dataclass(frozen=True, kw_only=True)
class Status:
    """Where a study stands.

    Attributes:
        study: Its name.
        state: ``running``, ``done``, ``failed`` (done, but rows are missing) or ``stopped``.
        host: The machine of its driver.
        process: The driver's process there.
        updated_at: When this was true, in seconds since 1970.
        arms: Its arms' names.
        jobs: What runs.
        trials: By search, how many trials are in each state, and ``to come``.
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


def render_status(status: Status, *, now: float | None = None) -> str:
    """Returns a study's status as lines of text."""
    now = time.time() if now is None else now
    ago = _duration(max(0.0, now - status.updated_at))
    lines = [
        f"{status.study}: {status.state}, {ago} ago (process {status.process} on {status.host})",
        f"  arms: {', '.join(status.arms)}",
        f"  rows: {status.rows} of {status.rows_planned}",
    ]
    for name, counts in status.trials.items():
        said = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        best = f"; best {100 * status.best[name]:.1f} %" if name in status.best else ""
        lines.append(f"  search {name}: {said}{best}")
    for job in status.jobs:
        accuracy = job.validation_top1
        said = "" if accuracy is None else f", validation {100 * accuracy:.1f} %"
        if job.seconds_per_epoch is not None and job.epoch < job.until:
            left = job.seconds_per_epoch * (job.until - job.epoch)
            said += f", about {_duration(left)} left"
        lines.append(f"  running: {job.label}: epoch {job.epoch}/{job.until}{said}")
    lines += [f"  waits: {what}" for what in status.waits]
    if status.seconds_left and status.state == "running":
        lines.append(f"  about {_duration(status.seconds_left)} left")
    lines += [f"  FAILED: {failure}" for failure in status.failures]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
