"""Does a study: asks the agenda, hands jobs to the cluster, and writes rows as they are known.

What is finished is never done again, so a killed study that is started again does what is left.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from models import model_options
from study.agenda import ArmSearch, Outlook, next_jobs
from study.cluster.connection import at_once_on, check_shared, running_ray
from study.cluster.queue import JobSource, Placement, run_jobs
from study.driver_lock import only_driver
from study.job import Job, record_failure
from study.ledger import Ledger
from study.plan import Target, Training
from study.request import Study
from study.results.store import ResultStore
from study.rows import write_row, write_trial
from study.search import Trial
from study.searches import agenda_of, objective_of, searches_of
from study.terminal import StudyDisplay, Terminal

__all__ = ["Conductor", "describe", "run_study"]

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
    scratch = (study.folder / "ray" / study.name).resolve()
    with only_driver(study.folder / "locks" / f"{study.name}.lock"):
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
        shutil.rmtree(scratch, ignore_errors=True)  # what Ray wrote of its own is never read again
        ResultStore(request.results).compact()
    return conductor.failures


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
        self._running: dict[str, Job] = {}
        self._reached: dict[str, int] = {}
        self._lost: Counter[str] = Counter()
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
        return self._outlook.done and not self._running

    def next_job(self) -> Job | None:
        """Returns the most urgent job that doesn't run yet; None while nothing may start."""
        for one in self._outlook.jobs:
            identity = one.training.training_id
            if identity not in self._running:
                job = self._study.job(one.training, until=one.until, parts=one.parts)
                self._running[identity] = job
                return job
        return None

    def started(self, job: Job) -> None:
        """Receives that a job's process runs."""
        self._display.started(job.training.training_id, self._label(job), job.until)
        self._display.stands(standing(self._outlook, len(self._running)))

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Receives what an epoch came to."""
        identity = job.training.training_id
        self._reached[identity] = metrics["epoch"]
        self._display.reported(identity, metrics["epoch"], metrics["validation_top1"])
        self._display.stands(standing(self._outlook, len(self._running)))

    def ended(self, job: Job) -> None:
        """Receives that a job did all that it had to."""
        self._stop(job)
        if job.parts:
            self._display.ended(self._label(job), "complete", f"{job.until} epochs")
        self._look()

    def failed(self, job: Job, reason: str) -> None:
        """Receives that a job can't be done: it would fail again."""
        self._ledger.fail(job.training.training_id, reason)
        self._stop(job)
        self._display.ended(self._label(job), "failed", reason)
        self._look()

    def lost(self, job: Job, reason: str) -> None:
        """Has the job started again from its checkpoint, unless it gets no further."""
        identity = job.training.training_id
        if self._reached.pop(identity, 0):
            self._lost[identity] = 0
        self._lost[identity] += 1
        if self._lost[identity] > RESTARTS:
            reason = f"its process was lost {self._lost[identity]} times: {reason}"
            record_failure(job, reason)
            self.failed(job, reason)
        else:
            self._stop(job)
            self._look()

    def _stop(self, job: Job) -> None:
        identity = job.training.training_id
        self._running.pop(identity, None)
        self._display.stopped(identity)
        self._ledger.forget(identity)

    def _look(self) -> None:
        """Asks what is next until the results have no more to say, then writes what is new."""
        self._outlook = next_jobs(self._agenda, self._ledger.finished)
        while self._ledger.read(self._agenda, self._outlook):
            self._outlook = next_jobs(self._agenda, self._ledger.finished)
        for one in self._agenda.searches:
            for trial in self._outlook.searches[one.search.name]:
                if trial.ended and self._is_new((one.search.name, trial.number)):
                    self._write_trial(one, trial)
        for row in self._outlook.rows:
            if self._is_new((row.arm.name, row.training.target, row.training.seed)):
                write_row(self._study, self._results, row)

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


def standing(outlook: Outlook, running: int) -> str:
    """Where a study stands, in a line."""
    trials = [trial for own in outlook.searches.values() for trial in own]
    said = [f"{running} running"]
    if unproposed := sum(one.unproposed for one in outlook.waiting):
        said.append(f"{unproposed} trials to come")
    if at_rungs := sum(one.at_rungs for one in outlook.waiting):
        said.append(f"{at_rungs} wait for earlier trials")
    complete = [trial.readings[max(trial.readings)] for trial in trials if trial.readings]
    if complete:
        said.append(f"best so far {100 * max(complete):.1f} %")
    said.append(f"{len(outlook.rows)} rows")
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
