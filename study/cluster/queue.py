"""Runs a study's jobs on Ray Tune, whatever order they end in.

Tune starts processes, restarts none and decides nothing: it asks a ``JobSource`` what to start
whenever resources are free, and reports to it how each job ends. Tune's own records are never read.
"""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray import tune
from ray.tune import Callback, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.search import Searcher

from study.cluster.resources import Resources
from study.cluster.worker import REPEATING, execute
from study.job import Job, record_failure

__all__ = ["JobSource", "Placement", "run_jobs"]

METRIC = "epoch"


class JobSource(Protocol):
    """Says which job runs next, and receives how each ends."""

    @property
    def done(self) -> bool:
        """Whether no job will come any more."""

    def next_job(self) -> Job | None:
        """Returns the next job to start; None while nothing may start."""

    def started(self, job: Job) -> None:
        """Receives that a job's process runs."""

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Receives an epoch's metrics: ``epoch``, ``validation_top1`` and more."""

    def ended(self, job: Job) -> None:
        """Receives that a job is finished."""

    def failed(self, job: Job, reason: str) -> None:
        """Receives that a job failed and would fail again, and why."""

    def lost(self, job: Job, reason: str) -> None:
        """Receives that a job's process ended before the job was finished, and why."""

    def time_passed(self) -> None:
        """Is called several times a second, whether or not anything happened."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how jobs run.

    Attributes:
        resources: What each takes.
        at_once: How many run at the same time.
        scratch: A folder of each node's own, for the study's plug-ins and Ray's files.
        sources: The plug-ins' source, see ``study.cluster.plugins.ship``.
    """

    resources: Resources
    at_once: int
    scratch: str
    sources: Mapping[str, bytes] = field(default_factory=dict)


def run_jobs(source: JobSource, placement: Placement, *, seconds: float = math.inf) -> None:
    """Runs jobs until the source is done, or for some seconds; what runs then is stopped."""
    tuner = Tuner(
        tune.with_resources(
            tune.with_parameters(_run_one, placement=placement), placement.resources.of_driver
        ),
        tune_config=TuneConfig(
            search_alg=_Asking(source),
            metric=METRIC,
            mode="max",
            num_samples=-1,
            time_budget_s=None if seconds == math.inf else seconds,
            max_concurrent_trials=placement.at_once,
            reuse_actors=placement.resources.workers == 1,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=RunConfig(
            storage_path=placement.scratch, callbacks=[_Telling(source)], verbose=0
        ),
    )
    tuner.fit()


class _Asking(Searcher):
    """Hands the source's jobs to Tune, one a trial."""

    def __init__(self, source: JobSource) -> None:
        super().__init__(metric=METRIC, mode="max")
        self._source = source

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Tune saves its searcher, but the file is never read."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        if self._source.done:
            return Searcher.FINISHED
        job = self._source.next_job()
        return None if job is None else {"job": job}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Does nothing: the callback reports to the source, and knows more."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the results hold what is finished."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing: no searcher is saved."""


class _Telling(Callback):
    """Reports the progress and the end of Tune's trials to the source."""

    def __init__(self, source: JobSource) -> None:
        self._source = source

    def __getstate__(self) -> dict[str, Any]:
        """Returns nothing: Tune saves its callbacks, but the file is never read."""
        return {}

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._source.started(trial.config["job"])

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        if "failed" not in result:
            self._source.reported(trial.config["job"], result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        job, result = trial.config["job"], trial.last_result or {}
        if "failed" in result:
            self._source.failed(job, result["failed"])
        elif result.get(METRIC, 0) < job.until:
            self._source.lost(job, "it was stopped")
        else:
            self._source.ended(job)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        error = str(trial.get_error() or "its process was lost").strip().splitlines()[-1]
        self._source.lost(trial.config["job"], error)

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self._source.time_passed()


def _run_one(config: dict[str, Any], *, placement: Placement) -> None:
    """Runs a job; a failure that would only repeat itself is recorded and reported, not raised."""
    job: Job = config["job"]
    try:
        execute(
            job,
            placement.resources,
            tune.report,
            at_once=placement.at_once,
            storage=placement.scratch,
            sources=placement.sources,
        )
    except REPEATING as error:
        reason = f"{type(error).__name__}: {error}"
        record_failure(job, reason, traceback=traceback.format_exc())
        tune.report({"failed": reason, METRIC: 0})
