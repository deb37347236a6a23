"""Does a study: asks the agenda, hands jobs to the cluster, and writes rows as they are known.

What is finished is never done again, so a killed study that is started again does what is left.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from typing import Any

from study.agenda import ArmSearch, Outlook
from study.calibration import device_of, earlier_paces
from study.claims import claim, release
from study.cluster.connection import (
    at_once_on,
    check_seen,
    check_shared,
    node_folder,
    running_ray,
)
from study.cluster.plugins import check_received, ship
from study.cluster.queue import JobSource, Placement, run_jobs
from study.configuration import write_request
from study.data.store.remote import is_uri
from study.driver_lock import StudyRunsError, only_driver
from study.job import Job, checkpoint_place, record_failure, trained_again
from study.keeping import keep_networks
from study.labels import describe, trial_label
from study.ledger import Ledger, look
from study.plan import PlannedRow
from study.progress import Progress
from study.request import Request, Study
from study.results.status import other_driver
from study.results.store import ResultStore
from study.rows import write_ensemble, write_protocol, write_row, write_trial
from study.search import Trial
from study.search_journal import write_journal
from study.searches import SearchKey, agenda_of, objective_of
from study.shared_weights import share_weights
from study.terminal import StudyDisplay, Terminal
from study.tracking import Tracker, Tracking, tracking
from study.training.checkpoint import delete_checkpoint

__all__ = ["Conductor", "ray_for", "run_study"]

RESTARTS = 2  # of a job whose process was lost before it came an epoch further
COMPACT_EVERY = 100  # jobs


def run_study(
    study: Study,
    searches: Mapping[SearchKey, ArmSearch],
    *,
    address: str | None,
    terminal: Terminal,
    request_file: str | None = None,
    trackers: Sequence[Tracker] = (),
) -> list[str]:
    """Runs what is missing of a study and writes its rows.

    Args:
        study: The study.
        searches: Its searches.
        address: A Ray cluster's address; None starts a local Ray.
        terminal: Shows what happens.
        request_file: The study's request as a file's text, to be kept with its results.
        trackers: Receive epochs and rows as they are known.

    Returns:
        The trainings that failed, each with its reason; the rows that need them are missing.

    Raises:
        StudyRunsError: If another process is running the study.
    """
    request = study.request
    results = ResultStore(request.results)
    with only_driver(study.folder / "locks" / f"{study.name}.lock"):
        if is_uri(request.results) and (
            driver := other_driver(results, study.name, say=terminal.say)
        ):
            raise StudyRunsError(study.name, driver)
        if request_file is not None:
            write_request(results, study.name, request_file)
        with (
            ray_for(request, address) as cluster,
            node_folder() as scratch,
            terminal.at_work() as display,
            tracking(trackers, display.warn) as tracked,
        ):
            sources = ship(study.plugins)
            if address is not None:
                _check_nodes(study, sources, scratch)
            at_once = at_once_on(
                cluster, request.resources, asked=request.at_once, may_grow=address is not None
            )
            conductor = Conductor(study, searches, display, at_once=at_once, tracked=tracked)
            if not conductor.done:
                placement = Placement(
                    resources=request.resources, at_once=at_once, scratch=scratch, sources=sources
                )
                run_jobs(conductor, placement, seconds=conductor.seconds_left())
            if not conductor.stopped:
                conductor.keep_networks()
            conductor.close()
        results.compact()
    return conductor.failures


def _check_nodes(study: Study, sources: Mapping[str, bytes], scratch: str) -> None:
    """Checks that all nodes see the results and the clip store, and can import the plug-ins."""
    check_shared(study.request.results)
    if not is_uri(study.store.path):
        check_seen(study.store.path, "manifest.json")
    check_received(study.plugins, sources, scratch)


def ray_for(
    request: Request, address: str | None
) -> AbstractContextManager[list[dict[str, float]]]:
    """Connects to Ray, or starts it, as a study's trainings need it.

    Where the study itself has to be prepared first, this can surround that: the processes that
    are to train come up meanwhile.

    Args:
        request: What is asked for.
        address: As of `run_study`.

    Returns:
        What `study.cluster.connection.running_ray` returns.
    """
    resources = request.resources
    one_a_core = request.at_once is None and resources.total == {"CPU": 1}
    return running_ray(address, nested=resources.workers > 1, ready=one_a_core)


class Conductor(JobSource):
    """A study at work: which jobs run, and what is written when they end.

    Args:
        study: The study.
        searches: Its searches.
        display: Shows what happens.
        at_once: How many jobs run at once, for the time left.
        tracked: Receives epochs and rows as they are known.
    """

    def __init__(
        self,
        study: Study,
        searches: Mapping[SearchKey, ArmSearch],
        display: StudyDisplay,
        *,
        at_once: int = 1,
        tracked: Tracking | None = None,
    ) -> None:
        self._study = study
        self._display = display
        self._tracked = tracked or Tracking((), display.warn)
        self._results = ResultStore(study.request.results)
        write_protocol(study, self._results)
        self._agenda = agenda_of(study, searches)
        self._key = {one.search.name: key for key, one in searches.items()}
        objectives = {name: objective_of(study, key) for name, key in self._key.items()}
        self._ledger = Ledger(self._results, objectives, checkpoints=study.checkpoints)
        earlier, _ = earlier_paces(self._results, device_of(study))
        self._progress = Progress(
            study, self._agenda, self._results, display, at_once=at_once, earlier=earlier
        )
        hours = study.request.max_hours
        self._stop_at = math.inf if hours is None else time.monotonic() + 3600 * hours
        self._lost: Counter[str] = Counter()
        self._furthest: dict[str, int] = {}  # the epoch that a lost job had come to
        self._written: set[tuple[object, ...]] = set()
        self._ended = 0
        self._look()

    @property
    def outlook(self) -> Outlook:
        """Where the study stands."""
        return self._outlook

    @property
    def failures(self) -> list[str]:
        """What failed and why, for a person."""
        lost = {arm for failure in self._outlook.failures for arm in failure.arms}
        return [
            *map(str, self._outlook.failures),
            *(
                f"{ensemble.name}: its members {', '.join(missing)} have no rows"
                for ensemble in self._study.ensembles
                if (missing := [name for name in ensemble.arms if name in lost])
            ),
        ]

    @property
    def done(self) -> bool:
        """Whether no job will come any more."""
        return not self._progress and (self._outlook.done or self.seconds_left() <= 0)

    @property
    def stopped(self) -> bool:
        """Whether the time that the user gave ended before the study did."""
        return self.seconds_left() <= 0 and not self._outlook.done

    def seconds_left(self) -> float:
        """Returns how much of the time that the user gave is left."""
        return self._stop_at - time.monotonic()

    def next_job(self) -> Job | None:
        """Returns the most urgent job that doesn't run yet; None while nothing may start."""
        for one in self._outlook.jobs if self.seconds_left() > 0 else ():
            if one.training.training_id not in self._progress:
                job = self._study.job(
                    one.training,
                    until=one.until,
                    parts=one.parts,
                    network=one.network,
                    sources=self._ledger.sources(one.training),
                )
                job = share_weights(job)
                claim(self._results, one.training.training_id, self._study.name)
                self._progress.add(job, self._label(job))
                if trained_again(job):
                    self._display.say(
                        f"{self._label(job)}: trained again, as its scores are to be made or "
                        "another training starts from it, and its network is gone"
                    )
                return job
        return None

    def started(self, job: Job) -> None:
        """Receives that a job's process runs."""
        self._progress.started(job)
        self._progress.publish(self._outlook)

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        """Receives what an epoch came to."""
        self._progress.reported(job, metrics["epoch"], metrics["validation_top1"])
        self._tracked.epoch(job.training, self._study.name, self._progress.label(job), metrics)
        self._progress.publish(self._outlook)

    def ended(self, job: Job) -> None:
        """Receives that a job did all that it had to."""
        label = self._progress.remove(job)
        if job.parts:
            self._display.ended(label, "complete", f"{job.until} epochs")
        self._look_again(job)

    def failed(self, job: Job, reason: str) -> None:
        """Receives that a job can't be done: it would fail again."""
        self._ledger.fail(job.training.training_id, reason)
        self._display.ended(self._progress.remove(job), "failed", reason)
        self._look_again(job)

    def lost(self, job: Job, reason: str) -> None:
        """Has the job started again from its checkpoint, unless it gets no further.

        Further is an epoch further: a checkpoint within an epoch doesn't count. What is lost with a
        node that was drained isn't reported here, for Ray starts that again by itself.
        """
        identity, reached = job.training.training_id, self._progress.reached(job)
        if reached > self._furthest.get(identity, 0):
            self._furthest[identity], self._lost[identity] = reached, 0
        self._lost[identity] += 1
        if self._lost[identity] > RESTARTS and self.seconds_left() > 0:
            reason = f"its process was lost {self._lost[identity]} times: {reason}"
            record_failure(job, reason)
            self.failed(job, reason)
        else:
            self._progress.remove(job)
            self._look_again(job)

    def time_passed(self) -> None:
        """Shows where the study stands, if it is time to."""
        self._progress.time_passed(self._outlook)

    def keep_networks(self) -> None:
        """Keeps the networks that the request says, and deletes what training left of the rows."""
        planned, done = self._outlook.plan.rows, set(map(id, self._outlook.rows))
        left = [one for row in planned if id(row) not in done for one in row.distinct_trainings]
        trials = [
            self._agenda.training(one, trial.values)
            for one in self._agenda.searches
            for trial in self._outlook.searches[one.search.name]
        ]
        lost = keep_networks(
            self._study,
            self._outlook.rows,
            source=self._ledger.source,
            stages=self._ledger.stages,
            trials=trials,
            needed=set().union(*map(self._ledger.stages, left)),
        )
        if lost:
            self._display.say(
                f"{len(lost)} networks can't be kept, as an earlier run didn't keep them; with "
                "another --results they are trained again"
            )

    def close(self) -> None:
        """Writes how the study ended."""
        state = "stopped" if self.stopped else "failed" if self._outlook.failures else "done"
        self._progress.publish(self._outlook, state=state, at_once=True)

    def _look_again(self, job: Job) -> None:
        """Asks where the study stands after the end of a job."""
        self._ledger.forget(job.training.training_id)
        self._ended += 1
        if self._ended % COMPACT_EVERY == 0:
            self._results.compact()
        self._look()
        self._tracked.ended(job.training)

    def _look(self) -> None:
        """Asks where the study stands, then writes what is new."""
        self._outlook = look(self._agenda, self._ledger)
        for one in self._agenda.searches:
            self._write_search(one, self._outlook.searches[one.search.name])
        for job in (*self._outlook.jobs, *self._outlook.held_up):
            for source in self._ledger.sources(job.training).values():
                if self._is_new(("claim", source)):
                    claim(self._results, source, self._study.name)
        for row in self._outlook.rows:
            self._claim_networks(row)
            if self._is_new((row.arm.name, row.training.target, row.training.seed)):
                lines = write_row(self._study, self._results, row, source=self._ledger.source)
                self._tracked.row(row, lines)
        self._write_ensembles()
        self._progress.publish(self._outlook, at_once=True)

    def _write_ensembles(self) -> None:
        """Writes the rows of ensembles whose members' rows are all written."""
        judged = {(row.training.target, row.training.seed): None for row in self._outlook.rows}
        for ensemble, (target, seed) in product(self._study.ensembles, judged):
            members = ((arm, target, seed) for arm in ensemble.arms)
            key = (ensemble.name, target, seed)
            if self._written.issuperset(members) and self._is_new(key):
                write_ensemble(self._study, self._results, ensemble, target=target, seed=seed)

    def _claim_networks(self, row: PlannedRow) -> None:
        """Notes that this study is to keep a finished row's networks, whoever trained them."""
        for training in row.distinct_trainings if self._study.request.keep != "none" else ():
            if self._is_new(("claim", training.training_id)):
                claim(self._results, self._ledger.source(training), self._study.name)

    def _write_search(self, one: ArmSearch, trials: Sequence[Trial]) -> None:
        """Writes the trials that have newly ended; releases checkpoints that it needs no more.

        While any search goes on, it may propose a training that is a trial of another one too.
        """
        name = one.search.name
        ended = [trial for trial in trials if trial.ended and self._is_new((name, trial.number))]
        for trial in ended:
            self._write_trial(one, trial)
        if ended:
            journal = self._study.folder / "searches" / f"{self._study.name}.journal"
            write_journal(journal, one.search, trials)
        if self._outlook.waiting:
            return
        for trial in trials:
            identity = self._agenda.training(one, trial.values).training_id
            if identity in self._progress or identity in self._outlook.plan.trainings:
                continue
            new = self._is_new(("checkpoint", identity))
            if new and release(self._results, identity, self._study.name):
                delete_checkpoint(checkpoint_place(self._study.checkpoints, identity))

    def _is_new(self, key: tuple[object, ...]) -> bool:
        """Whether this is the first time that something is to be written."""
        if key in self._written:
            return False
        self._written.add(key)
        return True

    def _write_trial(self, one: ArmSearch, trial: Trial) -> None:
        target, net, search_seed = self._key[one.search.name]
        write_trial(
            self._results,
            trial,
            training_id=self._agenda.training(one, trial.values).training_id,
            search=one.search.name,
            identity={
                "study": self._study.name,
                "arm": net,
                "dataset": target.dataset,
                "split": target.split,
                "protocol": self._study.protocol,
                "search_seed": search_seed,
            },
        )
        if trial.state != "failed":
            reached = max(trial.readings)
            said = f"validation {100 * trial.readings[reached]:.1f} %"
            if trial.state == "pruned":
                said += f", stopped at epoch {reached}"
            self._display.ended(trial_label(target, net, search_seed, trial), trial.state, said)

    def _label(self, job: Job) -> str:
        identity = job.training.training_id
        for one in self._agenda.searches:
            for trial in self._outlook.searches[one.search.name]:
                own = self._agenda.training(one, trial.values).training_id
                if own == identity and not trial.ended:
                    return trial_label(*self._key[one.search.name], trial)
        return describe(job.training, self._outlook.plan.trainings.values())
