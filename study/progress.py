"""How far a study has come: what runs, how fast, and about how long the rest takes."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from study.agenda import Agenda, Outlook
from study.durations import told_left
from study.estimate import Paces, epoch_passes, estimate_study
from study.job import Job
from study.labels import describe
from study.plan import stages_left
from study.request import Study
from study.results.status import LIFE_EVERY_SECONDS, RunningJob, Status, write_status
from study.results.store import ResultStore
from study.search import Trial
from study.terminal import StudyDisplay

__all__ = ["Progress"]

STATUS_EVERY_SECONDS = 5.0


class Progress:
    """The running jobs of a study, shown on a display and written to the results.

    Args:
        study: The study.
        agenda: Its agenda.
        results: Its results.
        display: Shows what happens.
        at_once: How many jobs run at once, for the time left.
        earlier: What earlier trainings tell of the networks' speed.
    """

    def __init__(
        self,
        study: Study,
        agenda: Agenda,
        results: ResultStore,
        display: StudyDisplay,
        *,
        at_once: int,
        earlier: Paces,
    ) -> None:
        self._study = study
        self._agenda = agenda
        self._results = results
        self._display = display
        self._at_once = at_once
        self._paces = earlier
        self._running: dict[str, _Running] = {}
        self._untuned = study.plan()
        self._published = 0.0

    def __bool__(self) -> bool:
        """Whether a job runs."""
        return bool(self._running)

    def __contains__(self, training_id: str) -> bool:
        """Whether a job of the training runs."""
        return training_id in self._running

    def add(self, job: Job, label: str) -> None:
        """Counts a job as running from when it is handed out."""
        self._running[job.training.training_id] = _Running(job=job, label=label)

    def started(self, job: Job) -> None:
        """Shows a job whose process runs."""
        running = self._running[job.training.training_id]
        self._display.started(job.training.training_id, running.label, job.until)

    def reported(self, job: Job, epoch: int, accuracy: float | None) -> None:
        """Shows an epoch that a job finished."""
        running = self._running[job.training.training_id]
        running.report(epoch, accuracy)
        if (seconds := running.seconds_per_epoch) is not None:
            passes = epoch_passes(job.training, self._study.parts_of(job.training))
            workers = self._study.request.resources.workers
            self._paces.renew(job.training, seconds=seconds * workers / passes)
        self._display.reported(job.training.training_id, epoch, accuracy)

    def label(self, job: Job) -> str:
        """Returns a running job's label."""
        return self._running[job.training.training_id].label

    def reached(self, job: Job) -> int:
        """Returns the last epoch that a running job has reported."""
        return self._running[job.training.training_id].epoch

    def remove(self, job: Job) -> str:
        """Takes a job off and returns its label."""
        self._display.stopped(job.training.training_id)
        return self._running.pop(job.training.training_id).label

    def publish(self, outlook: Outlook, *, state: str = "running", at_once: bool = False) -> None:
        """Shows and writes where the study stands, now and then or at once."""
        now = time.monotonic()
        if not at_once and now - self._published < STATUS_EVERY_SECONDS:
            return
        self._published = now
        status = self._status(outlook, state)
        self._display.stands(_standing(status))
        write_status(self._results, status)

    def time_passed(self, outlook: Outlook) -> None:
        """Shows and writes where the study stands if a line of it, or a sign of life, is due."""
        if self._display.due or time.monotonic() - self._published > LIFE_EVERY_SECONDS:
            self.publish(outlook, at_once=True)

    def _status(self, outlook: Outlook, state: str) -> Status:
        study = self._study
        unproposed = {one.search: one.unproposed for one in outlook.waiting}
        labels = {one.search.name: one.label for one in self._agenda.searches}
        values = {labels[name]: _last_values(own) for name, own in outlook.searches.items()}
        return Status(
            study=study.name,
            state=state,
            host=socket.gethostname(),
            process=os.getpid(),
            updated_at=time.time(),
            arms=[arm.name for arm in study.arms],
            jobs=[running.status for running in self._running.values()],
            trials={
                labels[name]: {
                    **Counter[str](trial.state for trial in own),
                    "to come": unproposed.get(name, 0),
                }
                for name, own in outlook.searches.items()
            },
            best={name: max(reached) for name, reached in values.items() if reached},
            rows=len(outlook.rows),
            rows_planned=len(study.arms) * len(study.targets) * study.request.seeds,
            waits=[
                f"{one.at_rungs} trials of {labels[one.search]} wait for trial {one.blocking + 1}"
                for one in outlook.waiting
                if one.at_rungs
            ]
            + self._held_up(outlook),
            failures=list(map(str, outlook.failures)),
            seconds_left=self._seconds_left(outlook),
        )

    def _held_up(self, outlook: Outlook) -> list[str]:
        """What trainings wait to start from, in a line."""
        if not outlook.held_up:
            return []
        every = outlook.plan.trainings.values()
        first = dict.fromkeys(
            describe(stage, every)
            for job in outlook.held_up
            for stage in stages_left(job.training, outlook.networks).values()
        )
        names = ", ".join([*first][:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")
        return [f"{len(outlook.held_up)} trainings wait for what they start from: {names}"]

    def _seconds_left(self, outlook: Outlook) -> float | None:
        """What is left at the pace of epochs so far, or earlier: the middle of what is expected."""
        left = estimate_study(
            self._study,
            self._agenda,
            outlook,
            self._paces,
            untuned=self._untuned,
            at_once=self._at_once,
            reached={key: running.epoch for key, running in self._running.items()},
        )
        return None if left.unknown else sum(left.wall) / 2


@dataclass
class _Running:
    """A job that runs, and how far it has come."""

    job: Job
    label: str
    epoch: int = 0
    accuracy: float | None = None
    first: tuple[int, float] | None = None
    seconds_per_epoch: float | None = None

    def report(self, epoch: int, accuracy: float | None) -> None:
        """Notes an epoch; the first may be one that the checkpoint held."""
        now = time.monotonic()
        if self.first is None:
            self.first = (epoch, now)
        elif epoch > self.first[0]:
            self.seconds_per_epoch = (now - self.first[1]) / (epoch - self.first[0])
        self.epoch, self.accuracy = epoch, accuracy

    @property
    def status(self) -> RunningJob:
        return RunningJob(
            label=self.label,
            epoch=self.epoch,
            until=self.job.until,
            seconds_per_epoch=self.seconds_per_epoch,
            validation_top1=self.accuracy,
            training_id=self.job.training.training_id,
        )


def _last_values(trials: Iterable[Trial]) -> list[float]:
    return [trial.readings[max(trial.readings)] for trial in trials if trial.readings]


def _standing(status: Status) -> str:
    """Where a study stands, in a line."""
    to_come = sum(counts["to come"] for counts in status.trials.values())
    said = [f"{len(status.jobs)} running"]
    said += [f"{to_come} trials to come"] if to_come else []
    said += list(status.waits)
    said += [f"best so far {100 * max(status.best.values()):.1f} %"] if status.best else []
    said.append(f"{status.rows} of {status.rows_planned} rows")
    if status.state == "running":
        said.append(told_left(status.seconds_left))
    return " · ".join(said)
