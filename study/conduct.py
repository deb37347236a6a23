"""Does a study: asks the agenda, hands jobs to the cluster, and writes rows as they are known.

What is finished is never done again, so a killed study that is started again does what is left.
"""

import contextlib
import math
import os
import shutil
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from models import model_options
from study.agenda import ArmSearch, Outlook, next_jobs
from study.cluster.connection import at_once_on, check_shared, running_ray
from study.cluster.queue import JobSource, Placement, run_jobs
from study.driver_lock import only_driver
from study.job import Job, checkpoint_path, record_failure
from study.ledger import Ledger
from study.plan import Target, Training
from study.request import Study
from study.results.status import RunningJob, Status, write_status
from study.results.store import ResultStore
from study.rows import write_row, write_trial
from study.search import Trial
from study.searches import agenda_of, objective_of, searches_of
from study.terminal import StudyDisplay, Terminal

__all__ = ["Conductor", "describe", "run_study"]

STATUS_EVERY_SECONDS = 5.0
SCRATCH = "run-"
RESTARTS = 2  # of a job whose process was lost before it came an epoch further


def run_study(study: Study, *, address: str | None, terminal: Terminal) -> list[str]:
    """Runs what is missing of a study and writes its rows.

    Args:
        study: The study.
        address: A Ray cluster's address; None starts a local Ray.
        terminal: Shows what happens.

    Returns:
        The trainings that failed, each with its reason; the rows that need them are missing.

    Raises:
        StudyRunsError: If another process is running the study.
    """
    request = study.request
    with (
        only_driver(study.folder / "locks" / f"{study.name}.lock"),
        _scratch(study.folder / "ray" / study.name) as scratch,
    ):
        with (
            running_ray(address, nested=request.resources.workers > 1) as cluster,
            terminal.at_work() as display,
        ):
            if address is not None:
                check_shared(study.folder.resolve())
            at_once = at_once_on(
                cluster, request.resources, asked=request.at_once, may_grow=address is not None
            )
            conductor = Conductor(study, display, at_once=at_once)
            if not conductor.done:
                placement = Placement(
                    resources=request.resources, at_once=at_once, scratch=str(scratch)
                )
                run_jobs(conductor, placement)
            conductor.publish_end()
        ResultStore(request.results).compact()
    return conductor.failures


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Makes a folder for what Ray writes of its own, which is never read again.

    The study's lock is held, so whatever runs before this one have left there is nobody's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(f"{SCRATCH}*"):
        shutil.rmtree(left, ignore_errors=True)
    own = Path(tempfile.mkdtemp(prefix=SCRATCH, dir=folder.resolve()))
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)
        with contextlib.suppress(OSError):  # not ours, if there is anything else in it
            folder.rmdir()


class Conductor(JobSource):
    """A study at work: which jobs run, and what is written when they end.

    Args:
        study: The study.
        display: Shows what happens.
        at_once: How many jobs run at once, for the time left.
    """

    def __init__(self, study: Study, display: StudyDisplay, *, at_once: int = 1) -> None:
        self._study = study
        self._display = display
        self._at_once = at_once
        self._results = ResultStore(study.request.results)
        searches = searches_of(study)
        self._agenda = agenda_of(study, searches)
        self._key = {one.search.name: key for key, one in searches.items()}
        objectives = {name: objective_of(study, key) for name, key in self._key.items()}
        self._ledger = Ledger(self._results, objectives)
        self._epochs = {one.search.name: one.search.rungs[-1] for one in self._agenda.searches}
        self._rows_planned = len(study.arms) * len(study.targets) * study.request.seeds
        self._running: dict[str, _Running] = {}
        self._pace: dict[str, float] = {}  # seconds an epoch, by model
        self._stop_at = _deadline(study.request.max_hours)
        self._published = 0.0
        self._lost: Counter[str] = Counter()
        self._furthest: dict[str, int] = {}  # the epoch that a lost job had come to
        self._written: set[tuple[object, ...]] = set()
        self._look()

    @property
    def outlook(self) -> Outlook:
        """Where the study stands."""
        return self._outlook

    @property
    def failures(self) -> list[str]:
        """What failed and why, for a person."""
        return [
            f"{', '.join(failure.arms)}: {failure.reason}" for failure in self._outlook.failures
        ]

    @property
    def done(self) -> bool:
        """Whether no job will come any more."""
        return not self._running and (self._outlook.done or self._is_late())

    @property
    def stopped(self) -> bool:
        """Whether the time that the user gave ended before the study did."""
        return self._is_late() and not self._outlook.done

    def next_job(self) -> Job | None:
        """Returns the most urgent job that doesn't run yet; None while nothing may start."""
        for one in () if self._is_late() else self._outlook.jobs:
            identity = one.training.training_id
            if identity not in self._running:
                job = self._study.job(one.training, until=one.until, parts=one.parts)
                self._running[identity] = _Running(job=job, label=self._label(job))
                return job
        return None

    def started(self, job: Job) -> None:
        """Receives that a job's process runs."""
        identity = job.training.training_id
        self._display.started(identity, self._running[identity].label, job.until)
        self._publish()

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Receives what an epoch came to."""
        running = self._running[job.training.training_id]
        running.report(metrics["epoch"], metrics["validation_top1"])
        if running.seconds_per_epoch is not None:
            self._pace[job.training.model] = running.seconds_per_epoch
        self._display.reported(
            job.training.training_id, metrics["epoch"], metrics["validation_top1"]
        )
        self._publish()

    def ended(self, job: Job) -> None:
        """Receives that a job did all that it had to."""
        running = self._take_off(job)
        if job.parts:
            self._display.ended(running.label, "complete", f"{job.until} epochs")
        self._look()

    def failed(self, job: Job, reason: str) -> None:
        """Receives that a job can't be done: it would fail again."""
        self._ledger.fail(job.training.training_id, reason)
        self._display.ended(self._take_off(job).label, "failed", reason)
        self._look()

    def lost(self, job: Job, reason: str) -> None:
        """Has the job started again from its checkpoint, unless it gets no further."""
        identity = job.training.training_id
        reached = self._running[identity].epoch
        if reached > self._furthest.get(identity, 0):
            self._furthest[identity], self._lost[identity] = reached, 0
        self._lost[identity] += 1
        if self._lost[identity] > RESTARTS:
            reason = f"its process was lost {self._lost[identity]} times: {reason}"
            record_failure(job, reason)
            self.failed(job, reason)
        else:
            self._take_off(job)
            self._look()

    def _take_off(self, job: Job) -> "_Running":
        identity = job.training.training_id
        self._display.stopped(identity)
        self._ledger.forget(identity)
        return self._running.pop(identity)

    def _is_late(self) -> bool:
        return time.monotonic() > self._stop_at

    def _look(self) -> None:
        """Asks what is next until the results have no more to say, then writes what is new."""
        self._outlook = next_jobs(self._agenda, self._ledger.finished)
        while self._ledger.read(self._agenda, self._outlook):
            self._outlook = next_jobs(self._agenda, self._ledger.finished)
        for one in self._agenda.searches:
            for trial in self._outlook.searches[one.search.name]:
                if trial.ended and self._is_new((one.search.name, trial.number)):
                    self._write_trial(one, trial)
            self._drop_checkpoints(one)
        for row in self._outlook.rows:
            if self._is_new((row.arm.name, row.training.target, row.training.seed)):
                write_row(self._study, self._results, row)
        self._publish(at_once=True)

    def _drop_checkpoints(self, one: ArmSearch) -> None:
        """Deletes those of a finished search's trials that no row needs."""
        if any(what.search == one.search.name for what in self._outlook.waiting):
            return
        for trial in self._outlook.searches[one.search.name]:
            training = self._agenda.training(one, trial.values)
            identity = training.training_id
            busy = identity in self._running or identity in self._outlook.plan.trainings
            if not busy and self._is_new(("checkpoint", identity)):
                checkpoint_path(self._study.checkpoints, identity).unlink(missing_ok=True)

    def publish_end(self) -> None:
        """Writes how the study ended."""
        state = "stopped" if self.stopped else "failed" if self._outlook.failures else "done"
        write_status(self._results, self._status(state))

    def _publish(self, *, at_once: bool = False) -> None:
        """Shows and writes where the study stands, now and then."""
        now = time.monotonic()
        if not at_once and now - self._published < STATUS_EVERY_SECONDS:
            return
        self._published = now
        status = self._status("running")
        self._display.stands(standing(status))
        write_status(self._results, status)

    def _status(self, state: str) -> Status:
        outlook = self._outlook
        trials: dict[str, dict[str, int]] = {}
        for name, own in outlook.searches.items():
            counts: Counter[str] = Counter(trial.state for trial in own)
            unproposed = sum(one.unproposed for one in outlook.waiting if one.search == name)
            trials[name] = {**counts, "to come": unproposed}
        return Status(
            study=self._study.name,
            state=state,
            host=socket.gethostname(),
            process=os.getpid(),
            updated_at=time.time(),
            arms=[arm.name for arm in self._study.arms],
            jobs=[running.status for running in self._running.values()],
            trials=trials,
            best={
                name: max(_last_values(own))
                for name, own in outlook.searches.items()
                if _last_values(own)
            },
            rows=len(outlook.rows),
            rows_planned=len(self._study.arms)
            * len(self._study.targets)
            * self._study.request.seeds,
            waits=[
                f"{one.at_rungs} trials of {one.search} wait for trial {one.blocking + 1}"
                for one in outlook.waiting
                if one.at_rungs
            ],
            failures=self.failures,
            seconds_left=self._seconds_left(),
        )

    def _seconds_left(self) -> float | None:
        """What is known to be left, at the pace of each model's epochs so far."""
        if not self._pace:
            return None
        usual = sum(self._pace.values()) / len(self._pace)
        left = 0.0
        for one in self._outlook.jobs:
            running = self._running.get(one.training.training_id)
            epochs = one.until - (0 if running is None else running.epoch)
            left += epochs * self._pace.get(one.training.model, usual)
        for waiting in self._outlook.waiting:
            own = self._outlook.searches[waiting.search]
            reached = [max(trial.readings) for trial in own if trial.ended and trial.readings]
            rungs = next(
                one.search.rungs
                for one in self._agenda.searches
                if one.search.name == waiting.search
            )
            expected = sum(reached) / len(reached) if reached else rungs[-1]
            left += (waiting.unproposed + waiting.at_rungs) * expected * usual
        return left / self._at_once

    def _is_new(self, key: tuple[object, ...]) -> bool:
        """Whether this is the first time that something is to be written."""
        if key in self._written:
            return False
        self._written.add(key)
        return True

    def _write_trial(self, one: ArmSearch, trial: Trial) -> None:
        target, arm = self._key[one.search.name]
        write_trial(
            self._results,
            trial,
            training_id=self._agenda.training(one, trial.values).training_id,
            search=one.search.name,
            identity={
                "study": self._study.name,
                "arm": arm,
                "dataset": target.dataset,
                "split": target.split,
            },
        )
        if trial.state != "failed":
            reached = max(trial.readings)
            said = f"validation {100 * trial.readings[reached]:.1f} %"
            if trial.state == "pruned":
                said += f", stopped at epoch {reached}"
            self._display.ended(trial_label(target, arm, trial), trial.state, said)

    def _label(self, job: Job) -> str:
        identity = job.training.training_id
        for one in self._agenda.searches:
            for trial in self._outlook.searches[one.search.name]:
                own = self._agenda.training(one, trial.values).training_id
                if own == identity and not trial.ended:
                    return trial_label(*self._key[one.search.name], trial)
        return describe(job.training, self._outlook.plan.trainings.values())


@dataclass
class _Running:
    """A job that runs, and how far it has come."""

    job: Job
    label: str
    epoch: int = 0
    accuracy: float | None = None
    _first: tuple[int, float] | None = None
    seconds_per_epoch: float | None = None

    def report(self, epoch: int, accuracy: float | None) -> None:
        """Notes an epoch; the first may be one that the checkpoint held."""
        now = time.monotonic()
        if self._first is None:
            self._first = (epoch, now)
        elif epoch > self._first[0]:
            self.seconds_per_epoch = (now - self._first[1]) / (epoch - self._first[0])
        self.epoch, self.accuracy = epoch, accuracy

    @property
    def status(self) -> RunningJob:
        return RunningJob(
            label=self.label,
            epoch=self.epoch,
            until=self.job.until,
            seconds_per_epoch=self.seconds_per_epoch,
            validation_top1=self.accuracy,
        )


def _deadline(hours: float | None) -> float:
    return math.inf if hours is None else time.monotonic() + 3600 * hours


def _last_values(trials: Iterable[Trial]) -> list[float]:
    return [trial.readings[max(trial.readings)] for trial in trials if trial.readings]


def standing(status: Status) -> str:
    """Where a study stands, in a line."""
    to_come = sum(counts["to come"] for counts in status.trials.values())
    said = [f"{len(status.jobs)} running"]
    said += [f"{to_come} trials to come"] if to_come else []
    said += list(status.waits)
    said += [f"best so far {100 * max(status.best.values()):.1f} %"] if status.best else []
    said.append(f"{status.rows} of {status.rows_planned} rows")
    if status.seconds_left is not None:
        said.append(f"about {max(1, round(status.seconds_left / 60))} min left")
    return " · ".join(said)


def trial_label(target: Target, arm: str, trial: Trial) -> str:
    """A trial in a few words for the terminal."""
    values = ", ".join(f"{_short(name)} {_shown(value)}" for name, value in trial.values.items())
    return f"{arm} split {target.split} trial {trial.number + 1}: {values}"


def _short(name: str) -> str:
    """A parameter's name as a line of the terminal has room for it."""
    short = {"learning_rate": "lr", "fusion_lambda": "λ"}
    head, _, rest = name.partition(".")
    return f"{rest} loss" if head == "loss_weights" else rest or short.get(name, name)


def _shown(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def describe(training: Training, among: Iterable[Training] = ()) -> str:
    """A training in a few words for the terminal: what tells it apart from those beside it."""
    others = [other for other in among if other.model == training.model]
    usual = asdict(model_options(training.model)())
    told = []
    for name, value in training.options.items():
        varies = any(other.options[name] != value for other in others)
        if (varies and value != usual[name]) or name in ("interaction", "backbone"):
            told.append(_told(name, value))
    segments = training.hyperparameters.segments
    if any(other.hyperparameters.segments != segments for other in others):
        told.append(f"{segments} segments")
    what = f"{training.model} ({', '.join(told)})" if told else training.model
    return f"{what} split {training.target.split} seed {training.seed}"


def _told(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return name if value else f"no {name}"
    return f"{name} {'+'.join(map(str, value)) or 'none' if isinstance(value, tuple) else value}"
