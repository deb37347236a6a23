"""Searches and trainings on Ray Tune: Optuna proposes, ASHA stops, results go to Parquet.

A search and the trainings of an ablation are the same thing to Ray: a set of jobs, each of which
reports its epochs. The search differs in that Optuna makes its jobs up as it goes. What is kept
of both is ours (Optuna's own storage and Parquet files); Tune's records are not read again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import optuna
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from study.cluster.resources import Resources
from study.cluster.worker import execute
from study.job import Job, record_failure
from study.provenance import canonical_json
from study.results.store import ResultStore

__all__ = [
    "Found",
    "Placement",
    "Search",
    "SearchFailedError",
    "Watcher",
    "run_trainings",
    "search",
]

optuna.logging.set_verbosity(optuna.logging.WARNING)

METRIC = "validation_top1"
INTERRUPTED = "interrupted"  # marks trials that a killed run left; they are proposed again
TRIAL_RESTARTS = 2  # a lost process's training goes on from its checkpoint this many times


class SearchFailedError(RuntimeError):
    """No trial of a search completed."""


class Watcher(Protocol):
    """Is told what happens, as it happens; a terminal's progress display is one."""

    def started(self, name: str, label: str) -> None: ...

    def reported(self, name: str, metrics: Mapping[str, Any]) -> None: ...

    def ended(self, name: str, state: str, metrics: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where and how trainings run.

    Attributes:
        resources: What each takes.
        at_once: How many run at the same time.
        scratch: A folder that every node sees, for what Ray writes of its own.
    """

    resources: Resources
    at_once: int
    scratch: str


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search: what proposes, what runs a proposal, and where it is remembered.

    Attributes:
        name: Names the search in Optuna's storage; equal for searches that ask the same thing.
        study: The study's name.
        arm: The arm whose validation accuracy is maximised.
        dataset: The dataset's name.
        split: The split's name.
        propose: Suggests a value for each parameter; a function of a module or a bound method
            of a dataclass, for it goes to other processes.
        make_job: Turns proposed values into a job.
        first: Values to try first, such as the paper's.
        trials: How many proposals.
        epochs: Epochs of a trial that isn't stopped early.
        seed: Seeds the sampler.
        storage: The SQLite file of Optuna's storage.
    """

    name: str
    study: str
    arm: str
    dataset: str
    split: str
    propose: Callable[[optuna.Trial], dict[str, Any]]
    make_job: Callable[[Mapping[str, Any]], Job]
    first: Mapping[str, Any]
    trials: int
    epochs: int
    seed: int
    storage: Path


@dataclass(frozen=True, kw_only=True)
class Found:
    """The best complete trial of a search."""

    values: dict[str, Any]
    validation_top1: float
    trial: int
    trials: int


class _Optuna(OptunaSearch):
    """Ray's Optuna searcher with the truth told to Optuna about how a trial ended.

    Ray's own tells every stopped trial as complete with its early value, and a failed one's
    sentinel as a result.
    """

    def __init__(self, *, epochs: int, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._epochs = epochs

    def number_of(self, trial_id: str) -> int:
        return self._ot_trials[trial_id].number

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        self._ot_trials[trial_id].report(result[METRIC], result["epoch"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        trial = self._ot_trials[trial_id]
        if error or not result or result.get("failed"):
            self._ot_study.tell(trial, state=TrialState.FAIL)
        elif result["epoch"] < self._epochs:
            trial.report(result[METRIC], result["epoch"])
            self._ot_study.tell(trial, state=TrialState.PRUNED)
        else:
            self._ot_study.tell(trial, result[METRIC])
        self._completed_trials.add(trial_id)


def search(
    asked: Search,
    *,
    placement: Placement,
    watcher: Watcher,
    results: str,
) -> Found:
    """Runs what is missing of a search and returns its best trial.

    Trials that an earlier, interrupted run left unfinished are proposed again first; they go on
    from their checkpoints.

    Args:
        results: The results folder or address, where each ended trial becomes a line.

    Raises:
        SearchFailedError: If no trial completed.
    """
    asked.storage.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{asked.storage}")
    remembered = optuna.create_study(
        storage=storage, study_name=asked.name, direction="maximize", load_if_exists=True
    )
    left = asked.trials - _take_up(remembered, asked.first)
    if left > 0:
        _run_search(asked, left, storage, placement, watcher, results)
    complete = remembered.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not complete:
        raise SearchFailedError(
            f"none of the {asked.trials} trials of the search completed; the `trials` and "
            "`trainings` views say why each failed"
        )
    best = max(complete, key=lambda trial: (trial.value, -trial.number))
    _drop_checkpoints(asked, remembered, keep=best.params)
    return Found(
        values=dict(best.params),
        validation_top1=float(best.value or 0.0),
        trial=best.number,
        trials=len(remembered.get_trials(deepcopy=False)),
    )


def _take_up(remembered: optuna.Study, first: Mapping[str, Any]) -> int:
    """Queues what to try before anything new is proposed; returns how many trials count as done.

    Queued are the first values, and what a killed run left. Failed trials count, so that each
    search has the same budget; but where all of them failed the cause may be gone by now, and
    they are tried again, in place of the first time.
    """
    trials = remembered.get_trials(deepcopy=False)
    if not trials and first:
        remembered.enqueue_trial(dict(first))
    again = [trial.params for trial in trials if trial.state == TrialState.RUNNING]
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            optuna.Trial(remembered, trial._trial_id).set_user_attr(INTERRUPTED, True)
            remembered.tell(trial.number, state=TrialState.FAIL)
    ended = [
        trial
        for number, trial in enumerate(trials)
        if trial.state.is_finished()
        and INTERRUPTED not in trial.user_attrs
        and not _is_tried_again(trial, trials[number + 1 :])
    ]
    if all(trial.state == TrialState.FAIL for trial in ended):
        again += [trial.params for trial in ended]
        ended = []
    queued = [_values(trial) for trial in trials if trial.state == TrialState.WAITING]
    for params in again:
        if params and params not in queued:
            remembered.enqueue_trial(params)
            queued.append(params)
    return len(ended)


def _is_tried_again(
    trial: optuna.trial.FrozenTrial, later: Sequence[optuna.trial.FrozenTrial]
) -> bool:
    """Whether a trial failed and a later one tries the same."""
    return trial.state == TrialState.FAIL and any(_values(one) == trial.params for one in later)


def _values(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """What a trial tries, or will try first of all where it waits."""
    return trial.params or trial.system_attrs.get("fixed_params", {})


def _drop_checkpoints(asked: Search, remembered: optuna.Study, *, keep: Mapping[str, Any]) -> None:
    """Deletes the checkpoints of all trials but the best, which the ablation goes on from."""
    kept = asked.make_job(keep).checkpoint
    for trial in remembered.get_trials(deepcopy=False):
        if trial.params and (checkpoint := asked.make_job(trial.params).checkpoint) != kept:
            checkpoint.unlink(missing_ok=True)


def _run_search(
    asked: Search,
    left: int,
    storage: optuna.storages.BaseStorage,
    placement: Placement,
    watcher: Watcher,
    results: str,
) -> None:
    known = len(storage.get_all_trials(storage.get_study_id_from_name(asked.name), deepcopy=False))
    searcher = _Optuna(
        epochs=asked.epochs,
        space=asked.propose,
        metric=METRIC,
        mode="max",
        # The same seed after a restart would propose the same first values again.
        sampler=TPESampler(
            seed=asked.seed + known,
            multivariate=True,
            constant_liar=True,
            n_startup_trials=max(4, asked.trials // 4),
        ),
        storage=storage,
        study_name=asked.name,
    )
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=asked.epochs + 1,  # at max_t itself ASHA would stop a complete trial
        grace_period=max(1, asked.epochs // 3),
        reduction_factor=3,
    )
    _run(
        tune.with_parameters(_run_proposed, make_job=asked.make_job, placement=placement),
        tune_config=TuneConfig(
            search_alg=searcher,
            scheduler=scheduler,
            num_samples=left,
            max_concurrent_trials=placement.at_once,
            reuse_actors=placement.resources.workers == 1,
        ),
        callback=_SearchNarrator(watcher, asked, searcher, results),
        placement=placement,
    )


def run_trainings(
    jobs: Sequence[tuple[str, Job]],
    *,
    placement: Placement,
    watcher: Watcher,
) -> list[str]:
    """Runs jobs, each with a label for the terminal; returns which failed, and why."""
    if not jobs:
        return []
    by_id = {job.training.training_id: (label, job) for label, job in jobs}
    callback = _Narrator(watcher, {key: label for key, (label, _) in by_id.items()})
    _run(
        tune.with_parameters(
            _run_planned,
            jobs={key: job for key, (_, job) in by_id.items()},
            placement=placement,
        ),
        param_space={"training_id": tune.grid_search(list(by_id))},
        tune_config=TuneConfig(
            metric=METRIC,
            mode="max",
            max_concurrent_trials=placement.at_once,
            reuse_actors=placement.resources.workers == 1,
        ),
        callback=callback,
        placement=placement,
    )
    return callback.failed


def _run_proposed(
    config: dict[str, Any],
    *,
    make_job: Callable[[Mapping[str, Any]], Job],
    placement: Placement,
) -> None:
    _run_one(make_job(config), placement)


def _run_planned(config: dict[str, Any], *, jobs: Mapping[str, Job], placement: Placement) -> None:
    _run_one(jobs[config["training_id"]], placement)


def _run_one(job: Job, placement: Placement) -> None:
    """Runs a job; a failure that would only repeat itself is recorded and reported, not raised.

    What is raised, Tune takes for a lost process and starts again from the checkpoint.
    """
    try:
        execute(job, placement.resources, tune.report, storage=placement.scratch)
    except (ArithmeticError, ValueError, TypeError, LookupError, FileNotFoundError) as error:
        reason = f"{type(error).__name__}: {error}"
        record_failure(job, reason)
        # A finite sentinel: Optuna keeps a trial that reports NaN running for ever.
        tune.report(
            {
                "failed": reason,
                "epoch": 0,
                METRIC: 0.0,
                "training_id": job.training.training_id,
            }
        )


def _run(
    trainable: Callable[..., None],
    *,
    tune_config: TuneConfig,
    callback: Callback,
    placement: Placement,
    param_space: dict[str, Any] | None = None,
) -> None:
    tuner = Tuner(
        tune.with_resources(trainable, placement.resources.of_driver),
        param_space=param_space,
        tune_config=tune_config,
        run_config=RunConfig(
            storage_path=placement.scratch,
            failure_config=FailureConfig(max_failures=TRIAL_RESTARTS),
            callbacks=[callback],
            verbose=0,
        ),
    )
    tuner.fit()


class _Narrator(Callback):
    """Tells a watcher what Tune's trials do, and remembers which failed."""

    def __init__(self, watcher: Watcher, labels: Mapping[str, str] | None = None) -> None:
        self._watcher = watcher
        self._labels = labels or {}
        self.failed: list[str] = []

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune saves its callbacks, but what it saves is never read again."""
        return {}

    def label(self, trial: Trial) -> str:
        return self._labels[trial.config["training_id"]]

    def on_trial_start(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        self._watcher.started(trial.trial_id, self.label(trial))

    def on_trial_result(
        self,
        iteration: int,
        trials: list[Trial],
        trial: Trial,
        result: dict[str, Any],
        **info: Any,
    ) -> None:
        self._watcher.reported(trial.trial_id, result)

    def on_trial_complete(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        result = trial.last_result or {}
        self.end(trial, "failed" if result.get("failed") else self.state_of(trial), result)

    def on_trial_error(
        self, iteration: int, trials: list[Trial], trial: Trial, **info: Any
    ) -> None:
        error = str(trial.get_error() or "the process was lost").strip().splitlines()[-1]
        self.end(trial, "failed", {**(trial.last_result or {}), "failed": error})

    def state_of(self, trial: Trial) -> str:
        return "complete"

    def end(self, trial: Trial, state: str, result: Mapping[str, Any]) -> None:
        if state == "failed":
            self.failed.append(f"{self.label(trial)}: {result['failed']}")
        self._watcher.ended(trial.trial_id, state, result)


class _SearchNarrator(_Narrator):
    """Also writes each trial that ended to the ``trials`` view."""

    def __init__(self, watcher: Watcher, asked: Search, searcher: _Optuna, results: str) -> None:
        super().__init__(watcher)
        self._asked = asked
        self._searcher = searcher
        self._results = ResultStore(results)

    def label(self, trial: Trial) -> str:
        values = ", ".join(f"{_short(name)} {_shown(v)}" for name, v in trial.config.items())
        return f"trial {self._searcher.number_of(trial.trial_id) + 1}: {values}"

    def state_of(self, trial: Trial) -> str:
        early = (trial.last_result or {}).get("epoch", 0) < self._asked.epochs
        return "pruned" if early else "complete"

    def end(self, trial: Trial, state: str, result: Mapping[str, Any]) -> None:
        super().end(trial, state, result)
        number = self._searcher.number_of(trial.trial_id)
        asked = self._asked
        self._results.write(
            "trials",
            f"{asked.name}-{number}",
            [
                {
                    "study": asked.study,
                    "arm": asked.arm,
                    "dataset": asked.dataset,
                    "split": asked.split,
                    "trial": number,
                    "training_id": result.get("training_id"),
                    "parameters": canonical_json(trial.config),
                    "validation_top1": None if state == "failed" else result.get(METRIC),
                    "state": state,
                    "epochs": result.get("epoch", 0),
                    "seconds": result.get("time_total_s", 0.0),
                }
            ],
        )


def _short(name: str) -> str:
    """A parameter's name as a line of the terminal has room for it."""
    short = {"learning_rate": "lr", "fusion_lambda": "λ"}
    head, _, rest = name.partition(".")
    return f"{rest} loss" if head == "loss_weights" else rest or short.get(name, name)


def _shown(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)
