"""A search as a function of its finished trials, against brute force and in any order."""

import itertools
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from search_spaces.space import Choice, Real
from study.search import (
    STARTUP,
    Readings,
    Search,
    Trial,
    best_trial,
    default_rungs,
    trials_of,
)

PARAMETERS = (
    Real(name="learning_rate", low=1e-4, high=1e-1, log=True),
    Real(name="fusion_lambda", low=0.5, high=2.0),
    Choice(name="options.attention_dim", choices=(64, 128, 256)),
)
FIRST = {"learning_rate": 1e-3, "options.attention_dim": 128}


def make_search(**changes: Any) -> Search:
    asked = {
        "name": "a search",
        "parameters": PARAMETERS,
        "first": FIRST,
        "trials": 12,
        "rungs": (1, 3, 9),
        "sampler": "random",
    }
    return Search(**{**asked, **changes})


class Curves:
    """The objective of proposed values at every epoch, and which of them fail; few ties."""

    def __init__(self, seed: int, *, failing: float = 0.0, grid: int = 1000) -> None:
        self.seed, self.failing, self.grid = seed, failing, grid

    def key(self, values: Mapping[str, Any]) -> str:
        return f"{self.seed}/{sorted(values.items())}"

    def value(self, values: Mapping[str, Any], epoch: int) -> float:
        final = random.Random(self.key(values)).random()
        noise = random.Random(f"{self.key(values)}/{epoch}").random()
        return round(self.grid * (final + noise / epoch)) / self.grid

    def fails_after(self, values: Mapping[str, Any]) -> int | None:
        """The epoch after which a training fails, or None."""
        chance = random.Random(f"{self.key(values)}/failure")
        return chance.choice((0, 1, 2, 3, 5)) if chance.random() < self.failing else None


class Trainings:
    """What is known while trainings run: readings that may be taken up again after a kill."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves
        self.known: dict[str, Readings] = {}

    def __call__(self, values: Mapping[str, Any]) -> Readings:
        return self.known.get(self.curves.key(values), Readings())

    def train(self, values: Mapping[str, Any], until: int | None) -> None:
        assert until is not None
        last = self.curves.fails_after(values)
        reached = until if last is None else min(until, last)
        self.known[self.curves.key(values)] = Readings(
            values={epoch: self.curves.value(values, epoch) for epoch in range(1, reached + 1)},
            failed=reached < until,
        )


def run_in_order(search: Search, curves: Curves) -> tuple[Trial, ...]:
    """The search with one place: always the first trial that may run."""
    trainings = Trainings(curves)
    while True:
        trials = trials_of(search, trainings)
        running = [trial for trial in trials if trial.state == "running"]
        if not running:
            return trials
        trainings.train(running[0].values, running[0].next_rung)


def run_at_random(search: Search, curves: Curves, chance: random.Random) -> tuple[Trial, ...]:
    """The search with a random number of places that end in any order, with kills."""
    trainings, places = Trainings(curves), chance.choice((1, 2, 4, 64))
    jobs: dict[int, Trial] = {}
    while True:
        if chance.random() < 0.1:
            jobs.clear()
        if chance.random() < 0.01:
            search = replace(search)  # a new process remembers no proposals
        trials = trials_of(search, trainings)
        running = [trial for trial in trials if trial.state == "running"]
        if not running:
            return trials
        for trial in running:
            if len(jobs) < places:
                jobs.setdefault(trial.number, trial)
        ended = jobs.pop(chance.choice(sorted(jobs)))
        trainings.train(ended.values, ended.next_rung)


@pytest.mark.parametrize("failing", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("grid", [4, 1000])
def test_the_same_trials_in_any_order_with_any_places_and_kills(failing: float, grid: int) -> None:
    for seed in range(40):
        chance = random.Random(seed)
        search = make_search(
            seed=seed,
            trials=chance.randint(1, 14),
            lag=chance.choice((1, 2, 4, 8, 32)),
            rungs=chance.choice(((9,), (3, 9), (1, 3, 9))),
            prune_from=chance.choice((1, 4)),
        )
        curves = Curves(seed, failing=failing, grid=grid)
        expected = run_in_order(search, curves)
        assert len(expected) == search.trials
        assert all(trial.ended for trial in expected)
        for _ in range(8):
            assert run_at_random(search, curves, chance) == expected


@pytest.mark.parametrize("sampler", ["tpe", "gp", "qmc"])
def test_samplers_propose_the_same_to_the_last_bit_in_any_order(sampler: str) -> None:
    search = make_search(sampler=sampler, trials=30, lag=4, rungs=(1, 9), prune_from=30)
    search = replace(search, trials=19) if sampler == "gp" else search
    curves, chance = Curves(0, failing=0.1), random.Random(0)
    expected = run_in_order(search, curves)
    for _ in range(1 if sampler == "gp" else 5):
        assert run_at_random(replace(search), curves, chance) == expected


def goes_on_by_brute_force(
    search: Search, curves: Curves, values: list[Mapping[str, Any]]
) -> list[tuple[str, int]]:
    """State and last epoch of each trial, straight from the rule's words, trial by trial."""
    reached: list[dict[int, float]] = []
    ends: list[tuple[str, int]] = []
    for number, own in enumerate(values):
        reached.append({})
        for epoch in search.rungs:
            last = curves.fails_after(own)
            if last is not None and last < epoch:
                ends.append(("failed", epoch))
                break
            reached[number][epoch] = curves.value(own, epoch)
            if epoch == search.rungs[-1]:
                ends.append(("complete", epoch))
                break
            there = sorted((one[epoch] for one in reached if epoch in one), reverse=True)
            if len(there) < search.prune_from:
                continue
            worst_that_goes_on = there[math.ceil(len(there) / search.eta) - 1]
            if reached[number][epoch] < worst_that_goes_on:
                ends.append(("pruned", epoch))
                break
    return ends


@pytest.mark.parametrize("eta", [2, 3, 4])
@pytest.mark.parametrize("grid", [5, 1000])
def test_pruning_is_the_rule_by_brute_force(eta: int, grid: int) -> None:
    states = set()
    for seed in range(25):
        search = make_search(seed=seed, trials=20, eta=eta, prune_from=1 + seed % 5)
        curves = Curves(seed, failing=0.2, grid=grid)
        trials = run_in_order(search, curves)
        expected = goes_on_by_brute_force(search, curves, [trial.values for trial in trials])
        for trial, (state, epoch) in zip(trials, expected, strict=True):
            assert trial.state == state
            if state != "failed":
                assert max(trial.readings) == epoch
            states.add(state)
    assert states == {"complete", "pruned", "failed"}


def test_a_trial_sees_nothing_beyond_the_rung_where_it_was_pruned() -> None:
    search, curves = make_search(trials=20), Curves(3)
    expected = run_in_order(search, curves)
    assert any(trial.state == "pruned" for trial in expected)
    everything = Trainings(curves)
    for trial in expected:
        everything.train(trial.values, search.rungs[-1])
    assert trials_of(search, everything) == expected


def test_a_training_that_fails_past_the_rung_leaves_its_trial_pruned() -> None:
    search, curves = make_search(trials=20), Curves(3)
    expected = run_in_order(search, curves)
    trainings = Trainings(curves)
    for trial in expected:
        trainings.train(trial.values, max(trial.readings))
    for key, known in trainings.known.items():
        if max(known.values) < search.rungs[-1]:
            trainings.known[key] = replace(known, failed=True)
    assert trials_of(search, trainings) == expected


def test_of_fewer_results_than_asked_none_is_pruned() -> None:
    search = make_search(trials=9, prune_from=4)
    worse_and_worse = iter(range(100, 0, -1))
    values: dict[str, float] = {}

    def readings(proposed: Mapping[str, Any]) -> Readings:
        key = str(proposed)
        values.setdefault(key, next(worse_and_worse) / 100)
        return Readings(values={1: values[key], 3: values[key], 9: values[key]})

    trials = trials_of(search, readings)
    assert [trial.state for trial in trials] == ["complete"] * 3 + ["pruned"] * 6


def test_a_value_that_ties_goes_on() -> None:
    trials = trials_of(make_search(), lambda values: Readings(values={1: 0.5, 3: 0.5, 9: 0.5}))
    assert {trial.state for trial in trials} == {"complete"}
    assert best_trial(trials) is trials[0]


def test_the_best_is_the_greatest_last_value_of_the_complete_trials() -> None:
    search, curves = make_search(trials=20), Curves(5, failing=0.2)
    trials = run_in_order(search, curves)
    complete = {t.number: t.readings[9] for t in trials if t.state == "complete"}
    best = best_trial(trials)
    assert best is not None
    assert best.readings[9] == max(complete.values())
    assert best.number == min(n for n, value in complete.items() if value == best.readings[9])
    assert best_trial([trial for trial in trials if trial.state != "complete"]) is None


def test_a_trial_is_proposed_once_all_that_it_hears_of_have_ended() -> None:
    search, trainings = make_search(trials=12, lag=4), Trainings(Curves(0))
    assert [trial.number for trial in trials_of(search, trainings)] == [0, 1, 2, 3]
    for trial in trials_of(search, trainings)[1:]:
        trainings.train(trial.values, 9)
    assert len(trials_of(search, trainings)) == 4
    trainings.train(trials_of(search, trainings)[0].values, 9)
    assert len(trials_of(search, trainings)) == 8


def test_a_rung_is_decided_once_all_earlier_trials_are_known_there() -> None:
    search = make_search(prune_from=1, lag=3)
    proposed = [trial.values for trial in trials_of(search, lambda values: Readings())]

    def states(*values: float | None) -> list[str]:
        known = [Readings(values={} if value is None else {1: value}) for value in values]
        trials = trials_of(search, lambda asked: known[proposed.index(asked)])
        return [trial.state for trial in trials]

    assert states(None, 0.1, None) == ["running", "waiting", "running"]
    assert states(None, 0.1, 0.9) == ["running", "waiting", "waiting"]
    assert states(0.2, None, 0.9) == ["running", "running", "waiting"]
    assert states(0.2, 0.1, 0.9) == ["running", "pruned", "running"]
    assert states(0.2, 0.3, 0.1) == ["running", "running", "pruned"]


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe"])
def test_a_longer_search_begins_with_the_shorter_ones_trials(sampler: str) -> None:
    curves = Curves(1)
    long = run_in_order(make_search(sampler=sampler, trials=36, lag=4), curves)
    short = run_in_order(make_search(sampler=sampler, trials=25, lag=4), curves)
    assert long[:25] == short


@pytest.mark.parametrize("lag", [1, 3, 8])
def test_a_proposal_depends_on_the_results_up_to_its_lag_alone(lag: int) -> None:
    search = make_search(sampler="tpe", trials=STARTUP + 2 * lag + 6, lag=lag, rungs=(9,))
    curves = Curves(0)
    expected = [trial.values for trial in run_in_order(search, curves)]
    number = STARTUP + lag + 3
    told = {str(values) for values in expected[: number - lag + 1]}

    class Changed(Trainings):
        def train(self, values: Mapping[str, Any], until: int | None) -> None:
            assert until is not None
            value = curves.value(values, until)
            if str(values) not in told:
                value += 2  # better than all that was told
            self.known[self.curves.key(values)] = Readings(values={until: value})

    trainings = Changed(curves)
    while running := [t for t in trials_of(search, trainings) if t.state == "running"]:
        trainings.train(running[0].values, running[0].next_rung)
    changed = [trial.values for trial in trials_of(search, trainings)]
    assert changed[: number + 1] == expected[: number + 1]
    assert changed[number + 1 :] != expected[number + 1 :]


def test_tpe_is_told_the_results_in_order_and_what_still_runs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    search, curves = make_search(sampler="tpe", trials=24, lag=4), Curves(0, failing=0.1)
    seen = {}
    ask = TPESampler.infer_relative_search_space

    def spy(self: TPESampler, study: Any, trial: Any) -> Any:
        seen[trial.number] = study.get_trials(deepcopy=False)[: trial.number]
        return ask(self, study, trial)

    monkeypatch.setattr(TPESampler, "infer_relative_search_space", spy)
    trials = run_in_order(search, curves)
    assert set(seen) == set(range(min(seen), 24))
    states = {
        "complete": TrialState.COMPLETE,
        "pruned": TrialState.PRUNED,
        "failed": TrialState.FAIL,
    }
    for number, history in seen.items():
        for trial, told in zip(trials, history, strict=False):
            assert told.params == trial.values
            if trial.number > number - 4:
                assert told.state == TrialState.RUNNING
                assert not told.intermediate_values
            else:
                assert told.state == states[trial.state]
                assert told.intermediate_values == trial.readings
                assert told.value == (
                    trial.readings[9] if trial.state == "complete" else told.value
                )


def test_trial_0_takes_the_first_values_and_fills_the_rest() -> None:
    for sampler in ("random", "qmc", "tpe", "gp"):
        values = trials_of(make_search(sampler=sampler), lambda values: Readings())[0].values
        assert {**values, **FIRST} == values
        assert 0.5 <= values["fusion_lambda"] <= 2.0


def test_sobol_points_fill_the_space_evenly() -> None:
    search = make_search(sampler="qmc", first={}, trials=64, lag=64)
    values = [trial.values for trial in trials_of(search, lambda values: Readings())]
    rates = np.array([np.log10(one["learning_rate"]) + 4 for one in values]) / 3
    lambdas = np.array([one["fusion_lambda"] - 0.5 for one in values]) / 1.5
    # A Sobol sequence puts equally many of 2^k points into each dyadic interval.
    for unit in (rates, lambdas):
        assert np.bincount((unit * 16).astype(int), minlength=16).tolist() == [4] * 16
    boxes = (rates * 4).astype(int) * 4 + (lambdas * 4).astype(int)
    assert np.bincount(boxes, minlength=16).tolist() == [4] * 16
    dims = [one["options.attention_dim"] for one in values]
    assert {dims.count(64), dims.count(128), dims.count(256)} <= {21, 22}


def test_searches_of_other_seeds_propose_other_values() -> None:
    firsts = [
        trials_of(make_search(sampler=sampler, first={}, seed=seed), lambda v: Readings())[0].values
        for sampler, seed in itertools.product(("random", "tpe"), (0, 1))
    ]
    assert len({str(values) for values in firsts}) == 4


@pytest.mark.parametrize(
    ("epochs", "eta", "rungs"),
    [(1, 3, (1,)), (2, 3, (2,)), (3, 3, (1, 3)), (20, 3, (2, 6, 20)), (100, 3, (11, 33, 100))],
)
def test_rungs_are_a_ninth_a_third_and_the_end(
    epochs: int, eta: int, rungs: tuple[int, ...]
) -> None:
    assert default_rungs(epochs, eta) == rungs


def test_no_rung_but_the_last_is_above_half_the_epochs() -> None:
    for epochs, eta in itertools.product(range(1, 300), (2, 3, 4)):
        rungs = default_rungs(epochs, eta)
        assert rungs[-1] == epochs
        assert all(1 <= rung <= epochs / 2 for rung in rungs[:-1])
        assert list(rungs) == sorted(set(rungs))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials .* is 0; give at least 1"),
        ({"lag": 0}, "lag .* is 0; give at least 1"),
        ({"eta": 1}, "eta .* is 1; give at least 2"),
        ({"rungs": ()}, "give ascending epochs"),
        ({"rungs": (3, 3, 9)}, "give ascending epochs"),
        ({"rungs": (0, 9)}, "give ascending epochs"),
        ({"sampler": "cma"}, "unknown sampler 'cma'; known are tpe, random, gp, qmc"),
    ],
)
def test_a_search_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_search(**changes)


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="trial 0 of search 'a search' has the value nan"):
        trials_of(make_search(), lambda values: Readings(values={1: math.nan}))
