"""One search as a function of its finished trials: what is proposed, pruned and found.

Nothing here knows of processes, clocks or disks. ``trials_of`` replays a search from the values
that its trainings have reached so far. Two rules make the outcome independent of how many trials
run at once, of the order in which they end and of where the search was killed:

- Trial i is proposed by a sampler of its own, seeded by the search and i, that knows the results
  of trials 0…i - ``lag`` and the proposed values of those between, and nothing more.
- Trial i is judged at a rung among trials 0…i that reached it, once all of these are known.

The second is asynchronous successive halving (Li et al., "A system for massively parallel
hyperparameter tuning", MLSys 2020) with the order of proposal in the place of the order of arrival.
"""

import hashlib
import math
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise, takewhile
from typing import Any, Literal, get_args

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from search_spaces.space import Parameter

__all__ = [
    "Chosen",
    "Readings",
    "Sampler",
    "Search",
    "State",
    "Trial",
    "best_trial",
    "default_rungs",
    "distributions",
    "ended_in_optunas_form",
    "trials_of",
]

Sampler = Literal["tpe", "random", "gp", "qmc"]
State = Literal["waiting", "running", "complete", "pruned", "failed"]

# Ours: results that a model-based sampler needs before it takes over from the Sobol points. With
# the default lag the first 20 trials (0…19) are Sobol points at the least, as many as space-filling
# designs were seen to beat TPE for. It depends on nothing else of the search, so that a search of
# more trials begins with the same ones.
STARTUP = 13

optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for each study made in memory

STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One proposal of a search and how far it has come.

    Attributes:
        number: Its place in the order of proposal, from 0.
        values: The proposed values by parameter name, in the form that Optuna stores.
        state: ``running`` while it may train, ``waiting`` while a decision at a rung waits for an
            earlier trial, else how it ended.
        readings: The objective by epoch, at each rung that the trial reached.
        next_rung: The epoch that it trains to, or would if it goes on; None when it has ended.
    """

    number: int
    values: Mapping[str, Any]
    state: State
    readings: Mapping[int, float]
    next_rung: int | None

    @property
    def ended(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.next_rung is None


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What is known of the training of some proposed values.

    Attributes:
        values: The objective by epoch, finite; the greater the better.
        failed: Whether the training failed, so that no epoch will be added.
    """

    values: Mapping[int, float] = field(default_factory=dict)
    failed: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Chosen:
    """What an arm chose among a search's complete trials by an objective of its own.

    Attributes:
        trials: The trial's number by stream that the arm reads.
        candidates: How many it chose among.
        top1: Validation top-1 of such a choice, each video judged by a choice that was made
            without it.
    """

    trials: Mapping[str, int]
    candidates: int
    top1: float


class _Proposed:
    """A proposed trial as the samplers see it while it runs."""

    __slots__ = ("distributions", "values")

    def __init__(self, trial: optuna.Trial) -> None:
        self.values = dict(trial.params)
        self.distributions = dict(trial.distributions)

    def frozen(self, result: "_Result | None") -> FrozenTrial:
        """The trial in Optuna's form; without a result it runs."""
        state, readings = result or (None, ())
        return create_trial(
            state=TrialState.RUNNING if state is None else STATES[state],
            value=readings[-1][1] if state == "complete" else None,
            params=self.values,
            distributions=self.distributions,
            intermediate_values=dict(readings),
        )


_Result = tuple[State, tuple[tuple[int, float], ...]]


class _Known:
    """What a search proposes once the first trials' results are known: a node of a tree.

    Each edge is the next trial's result. A replay walks from the root and finds the proposals
    that were made before; only those of results never seen before are computed.
    """

    __slots__ = ("after", "proposals", "told")

    def __init__(self, told: tuple[FrozenTrial, ...] = ()) -> None:
        self.told = told
        self.proposals: dict[int, _Proposed] = {}
        self.after: dict[_Result, _Known] = {}

    def with_result(self, proposed: _Proposed, result: _Result) -> "_Known":
        """The node where one more trial's result is known."""
        if result not in self.after:
            self.after[result] = _Known((*self.told, proposed.frozen(result)))
        return self.after[result]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What is searched, and how.

    Attributes:
        name: The identity of what is asked: two searches of one name ask the same.
        parameters: What is proposed.
        first: Trial 0's values by parameter name, in the form that Optuna stores; the sampler
            proposes those that it doesn't name.
        trials: How many proposals. More of them extend a search and change none of the earlier.
        rungs: Ascending epochs at which trials are judged; the last is the training's last.
        eta: η: the best 1/η of the trials at a rung go on.
        lag: How many of the latest trials' results a proposal doesn't know, counting itself; so
            as many trials run at once.
        sampler: ``tpe``, ``gp`` and ``qmc`` begin with scrambled Sobol points, and ``qmc`` stays
            with them; ``gp`` learns from complete trials alone.
        seed: Seeds every proposal.
        prune_from: The fewest trials at a rung among which one may be pruned.
        prior: Values, in the form that Optuna stores, and objectives of complete trials of an
            older search, which every proposal knows.

    Raises:
        ValueError: If a number is out of its range, the rungs don't ascend or the sampler is
            unknown.
    """

    name: str
    parameters: tuple[Parameter, ...]
    first: Mapping[str, Any] = field(default_factory=dict)
    trials: int
    rungs: tuple[int, ...]
    eta: int = 3
    lag: int = 8
    sampler: Sampler = "tpe"
    seed: int = 0
    prune_from: int = 4
    prior: tuple[tuple[Mapping[str, Any], float], ...] = ()
    _proposals: _Known = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, least in (("trials", 1), ("eta", 2), ("lag", 1), ("prune_from", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} of search {self.name!r} is {getattr(self, name)}; give at least "
                    f"{least}"
                )
        if not self.rungs or any(low >= high for low, high in pairwise((0, *self.rungs))):
            raise ValueError(
                f"rungs of search {self.name!r} are {self.rungs}; give ascending epochs from 1"
            )
        if self.sampler not in get_args(Sampler):
            raise ValueError(
                f"unknown sampler {self.sampler!r}; known are {', '.join(get_args(Sampler))}"
            )
        known = distributions(self.parameters) if self.prior else {}
        told = tuple(
            create_trial(params=dict(values), distributions=known, value=value)
            for values, value in self.prior
        )
        object.__setattr__(self, "_proposals", _Known(told))


def distributions(parameters: Sequence[Parameter]) -> dict[str, BaseDistribution]:
    """Returns what each parameter's values are drawn from, by name."""
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    for parameter in parameters:
        parameter.suggest(trial)
    return dict(trial.distributions)


def ended_in_optunas_form(search: Search, trials: Sequence[Trial]) -> list[FrozenTrial]:
    """Returns the trials before the first that hasn't ended, as Optuna's own tools read them."""
    known = distributions(search.parameters)
    return [
        create_trial(
            state=STATES[trial.state],
            value=trial.readings[max(trial.readings)] if trial.state == "complete" else None,
            params=dict(trial.values),
            distributions=known,
            intermediate_values=dict(trial.readings),
        )
        for trial in takewhile(lambda trial: trial.ended, trials)
    ]


def default_rungs(epochs: int, eta: int = 3) -> tuple[int, ...]:
    """Returns 1/η² and 1/η of the epochs, rounded down, and their last; without those below 1.

    Ours: a value from before 1/η² of a training says little of its end, and one from above half
    of it saves little.

    Raises:
        ValueError: If the epochs are less than 1 or η is less than 2.
    """
    if epochs < 1 or eta < 2:
        raise ValueError(
            f"rungs need at least 1 epoch and an eta of at least 2, got {epochs} and {eta}"
        )
    early = {epochs // eta**2, epochs // eta} - {0}
    return (*sorted(early), epochs)


def trials_of(
    search: Search, readings: Callable[[Mapping[str, Any]], Readings]
) -> tuple[Trial, ...]:
    """Replays a search from what is known of its trainings.

    Args:
        search: The search.
        readings: What is known of the training of proposed values. It may know of epochs beyond
            those that a trial has to do with, for a training may serve others too: a trial sees
            its rungs alone, and none beyond that at which it was pruned.

    Returns:
        The trials proposed so far, by number. The search is done when there are ``search.trials``
        of them and all have ended.
    """
    trials: list[Trial] = []
    rungs = [_Rung(search) for _ in search.rungs]
    proposed: list[_Proposed] = []
    known, told = search._proposals, 0
    for number in range(search.trials):
        while told <= number - search.lag:
            earlier = trials[told]
            if not earlier.ended:
                return tuple(trials)
            result = (earlier.state, tuple(earlier.readings.items()))
            known = known.with_result(proposed[told], result)
            told += 1
        if number not in known.proposals:
            known.proposals[number] = _propose(search, number, known.told, proposed[told:])
        proposed.append(known.proposals[number])
        values = proposed[number].values
        trials.append(_judge(search, number, values, readings(values), rungs))
    return tuple(trials)


def best_trial(trials: Sequence[Trial]) -> Trial | None:
    """Returns the complete trial of the greatest last value, the earliest of equals, or None."""
    complete = [trial for trial in trials if trial.state == "complete"]
    return max(complete, key=lambda trial: trial.readings[max(trial.readings)], default=None)


class _Rung:
    """What earlier trials reached at a rung, for the judgement of the next."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._values: list[float] = []  # ascending
        self.open = False  # whether an earlier trial may still reach it

    def goes_on(self, value: float) -> bool | None:
        """Adds a trial's value and tells whether the trial goes on; None while it isn't known.

        It does where fewer than ⌈n/η⌉ of the n values are better than its own, so that one that
        ties with the last of the best goes on too. Rounding up is what Tune's ASHA comes to,
        which takes a percentile; where nobody is good yet, the first goes on.
        """
        insort(self._values, value)
        if self.open:
            return None
        count = len(self._values)
        better = count - bisect_right(self._values, value)
        return count < self._search.prune_from or better < -(-count // self._search.eta)


def _judge(
    search: Search,
    number: int,
    values: Mapping[str, Any],
    known: Readings,
    rungs: Sequence[_Rung],
) -> Trial:
    """Follows a trial from rung to rung, as far as is known.

    Raises:
        ValueError: If a reading is not a finite number.
    """
    seen: dict[int, float] = {}

    def at(state: State, next_rung: int | None = None) -> Trial:
        return Trial(number=number, values=values, state=state, readings=seen, next_rung=next_rung)

    for level, epoch in enumerate(search.rungs):
        if epoch not in known.values:
            if known.failed:
                return at("failed")
            _leave_open(rungs[level:])
            return at("running", epoch)
        seen[epoch] = known.values[epoch]
        if not math.isfinite(seen[epoch]):
            raise ValueError(
                f"trial {number} of search {search.name!r} has the value {seen[epoch]} at epoch "
                f"{epoch}; give finite values and mark a training that diverged as failed"
            )
        if epoch == search.rungs[-1]:
            break
        goes_on = rungs[level].goes_on(seen[epoch])
        if goes_on is None:
            _leave_open(rungs[level + 1 :])
            return at("waiting", search.rungs[level + 1])
        if not goes_on:
            return at("pruned")
    return at("complete")


def _leave_open(rungs: Sequence[_Rung]) -> None:
    for rung in rungs:
        rung.open = True


def _propose(
    search: Search, number: int, told: Sequence[FrozenTrial], running: Sequence[_Proposed]
) -> _Proposed:
    """Proposes a trial from the results told and the values of the trials that may still run."""
    sampler = _sampler(search, number, told)
    study = optuna.create_study(direction="maximize", sampler=sampler, study_name=search.name)
    if not isinstance(sampler, RandomSampler | _SobolSampler):  # these two look at no results
        study.add_trials([*told, *(proposed.frozen(None) for proposed in running)])
    if number == 0 and search.first:
        study.enqueue_trial(dict(search.first))
    trial = study.ask()
    for parameter in search.parameters:
        parameter.suggest(trial)
    return _Proposed(trial)


def _sampler(search: Search, number: int, told: Sequence[FrozenTrial]) -> BaseSampler:
    digest = hashlib.sha256(f"{search.seed}/{number}".encode()).digest()
    seed = int.from_bytes(digest[:4])
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    states = [TrialState.COMPLETE] if search.sampler == "gp" else list(STATES.values())[:2]
    if search.sampler == "qmc" or sum(trial.state in states for trial in told) < STARTUP:
        names = [parameter.name for parameter in search.parameters]
        return _SobolSampler(names, number, seed=search.seed)
    if search.sampler == "gp":
        return GPSampler(seed=seed, n_startup_trials=STARTUP)
    # The trials that may still run are told too (constant liar), so that not all that are proposed
    # from the same results are alike.
    return TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True)


class _SobolSampler(BaseSampler):
    """Proposes point ``number`` of a scrambled Sobol sequence, one coordinate a parameter.

    Optuna's own takes the number from its storage and draws the first trial at random.
    """

    def __init__(self, names: Sequence[str], number: int, *, seed: int) -> None:
        from scipy.stats.qmc import Sobol  # half a second, for searches alone

        sequence = Sobol(len(names), scramble=True, rng=np.random.default_rng(seed))
        if number > 0:
            sequence.fast_forward(number)
        self._point = dict(zip(names, sequence.random(1)[0].tolist(), strict=True))

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return {}

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return {}

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return _quantile(param_distribution, self._point[param_name])


def _quantile(distribution: BaseDistribution, share: float) -> Any:
    """Returns the value below which ``share`` (in [0, 1)) of a uniform distribution lies."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[int(share * len(distribution.choices))]
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise TypeError(f"no Sobol points for {distribution}; use a float, an int or choices")
    # A step takes the half to either side of it, as in Optuna's own samplers.
    half = 0.0 if distribution.step is None else distribution.step / 2
    low, high = distribution.low - half, distribution.high + half
    value = low * (high / low) ** share if distribution.log else low + (high - low) * share
    if distribution.step is not None:
        steps = round((value - distribution.low) / distribution.step)
        value = distribution.low + steps * distribution.step
    return min(max(value, distribution.low), distribution.high)
