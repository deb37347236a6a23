"""What searches and trainings cost, counted again from their lines."""

import itertools
from pathlib import Path
from statistics import fmean

import pytest

from study.results.budget import budgets, expected_best, search_costs
from study.results.store import ResultStore
from tests.sample_results import ARMS, PROTOCOL, write_study


@pytest.mark.parametrize("trials", [1, 2, 4])
def test_the_expected_best_is_that_of_all_draws_with_replacement(trials: int) -> None:
    values = [0.3, 0.7, 0.5, 0.7, 0.1]
    every = fmean(max(drawn) for drawn in itertools.product(values, repeat=trials))
    assert expected_best(values, trials) == pytest.approx(every)


def test_an_expectation_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="got 0 values and trials = 3"):
        expected_best([], 3)
    with pytest.raises(ValueError, match="trials = 0"):
        expected_best([0.5], 0)


def test_a_searchs_cost_is_that_of_its_trials(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store)
    lines = store.read("trials").to_pylist()
    (cost,) = search_costs(store, study="stilt-ucf101", dataset="ucf101", protocol=PROTOCOL)
    assert (cost.arm, cost.split, cost.trials) == ("stil-awf-simplex", "1", len(lines))
    assert cost.epochs == sum(line["epochs"] for line in lines)
    assert cost.seconds == pytest.approx(400 * 20)
    assert list(cost.best) == [1, 2, 5, 10, 20]
    values = [line["validation_top1"] or 0 for line in lines]  # a failed trial is worth nothing
    assert cost.best[1] == pytest.approx(fmean(values))
    assert cost.best[20] == pytest.approx(expected_best(values, 20))


def test_an_arms_budget_is_that_of_the_trainings_that_it_reads(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store)
    found = budgets(store, study="stilt-ucf101", dataset="ucf101", protocol=PROTOCOL)
    assert found.keys() == ARMS.keys()
    assert {(one.trainings, one.epochs, one.seconds) for one in found.values()} == {(3, 36, 2520.0)}


def test_searches_of_several_seeds_are_told_apart(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store)
    again = [{**line, "search_seed": 1} for line in store.read("trials").to_pylist()[:4]]
    store.write("trials", "another search", again)
    costs = search_costs(store, study="stilt-ucf101", dataset="ucf101", protocol=PROTOCOL)
    assert [(cost.seed, cost.trials) for cost in costs] == [(0, 20), (1, 4)]
