"""What searches and trainings cost, counted again from their lines."""

import itertools
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from study.results.budget import (
    ArmCost,
    arm_costs,
    budgets,
    expected_best,
    pareto_front,
    search_costs,
)
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


def test_the_pareto_front_is_what_no_other_point_beats() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        costs, values = rng.integers(0, 6, (2, 12)).tolist()
        unbeaten = {
            i
            for i in range(12)
            if not any(
                costs[j] <= costs[i]
                and values[j] >= values[i]
                and (costs[j], values[j]) != (costs[i], values[i])
                for j in range(12)
            )
        }
        front = pareto_front(costs, values)
        assert set(front) == unbeaten
        assert [costs[i] for i in front] == sorted(costs[i] for i in front)


def test_an_arms_cost_is_that_of_the_networks_that_its_rows_read() -> None:
    def of(identity: str, **values: Any) -> dict[str, Any]:
        line = {"gflops": 4.0, "parameters": 10, "seconds": 100.0, "workers": 2, "serves": "[]"}
        return {"training_id": identity, **line, **values}

    trainings = [
        of("joint", serves='["s", "t"]'),
        of("again", serves='["s", "t"]', seconds=300.0, workers=None),
        of("spatial", gflops=1.0),
        of("temporal", gflops=2.0, parameters=None),
    ]
    rows = [
        {"arm": "alone", "training_id": "joint", "fusion": "spatial"},
        {"arm": "both", "training_id": "joint", "fusion": "average"},
        {"arm": "both", "training_id": "again", "fusion": "average"},
        {"arm": "apart", "training_id": "spatial+temporal", "fusion": "average"},
        {"arm": "lost", "training_id": "nowhere", "fusion": "average"},
    ]
    epochs = [
        {"training_id": name, "clips_per_second": speed}
        for name, speed in [("joint", 50.0), ("joint", 70.0), ("spatial", 30.0), ("temporal", 60.0)]
    ]
    both, apart = arm_costs(rows, trainings, epochs)
    assert both == ArmCost("both", 4.0, 10, 250.0, 60.0)
    # A clip through the one and then the other takes 1/30 + 1/60 of a second.
    assert replace(apart, clips_per_second=None) == ArmCost("apart", 3.0, None, 400.0, None)
    assert apart.clips_per_second == pytest.approx(20.0)
