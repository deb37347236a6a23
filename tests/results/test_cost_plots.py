"""Accuracy against cost: that it can be read, and stands where it is."""

from typing import Any

import numpy as np
import pytest

from study.results.budget import ArmCost
from study.results.cost_plots import cost_grid, cost_plot
from study.results.statistics import Estimate
from tests.drawn import check_drawn


def estimate_of(value: float) -> Estimate:
    return Estimate(
        value=value,
        seeds=3,
        groups=40,
        seed_variance=1e-4,
        seed_freedom=4,
        group_variance=1e-4,
        noise_variance=0,
    )


@pytest.mark.parametrize("arms", [1, 2, 40])
@pytest.mark.parametrize("spread", [0.0, 1.0, 4.0])
def test_few_and_many_arms_of_like_and_unlike_costs_can_be_read(arms: int, spread: float) -> None:
    factors = 10 ** np.linspace(0, spread, arms)
    costs = [
        ArmCost(f"arm-{i}", 4.12 * f, 25_557_032 * f, 3.3 * f, 123.456 * f)
        for i, f in enumerate(factors.tolist())
    ]
    accuracies = {cost.arm: estimate_of(0.5 + 0.4 * i / arms) for i, cost in enumerate(costs)}
    figure = cost_plot(costs, accuracies, {})
    check_drawn(figure)
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for accuracy in accuracies.values():
            interval = accuracy.interval()
            assert interval is not None
            assert low <= 100 * interval.low < 100 * interval.high <= high


def test_points_intervals_and_front_stand_where_they_are() -> None:
    costs = [ArmCost("cheap", 1, None, None, None), ArmCost("dear", 3, None, None, None)]
    costs += [ArmCost("worse", 2, None, None, None)]
    accuracies = {"cheap": estimate_of(0.5), "dear": estimate_of(0.7), "worse": estimate_of(0.4)}
    axes: Any = cost_plot(costs, accuracies, {}).axes[0]
    front, *lines = axes.lines
    assert front.get_xydata().tolist() == [[1, 50], [3, 70]]
    interval = accuracies["cheap"].interval()
    assert interval is not None
    assert lines[0].get_ydata() == pytest.approx([100 * interval.low, 100 * interval.high])
    assert lines[1].get_xydata().tolist() == [[1, 50]]


def test_what_the_results_lack_is_said() -> None:
    costs = [ArmCost("a", 1, None, None, None)]
    without = cost_plot(costs, {"a": estimate_of(0.5)}, {}).axes[1]
    assert [text.get_text() for text in without.texts] == ["not in these results"]


def test_the_table_has_the_figures_numbers_in_its_units() -> None:
    costs = [ArmCost("a", 4.12, 25_557_032, 7200, None), ArmCost("b", 1, None, 1, 90.04)]
    grid = cost_grid(costs, {"a": estimate_of(0.5), "b": estimate_of(0.25)}, {"a": "Arm A"})
    assert [line[0] for line in grid.rows] == ["Arm A", "b"]
    assert [line[1] for line in grid.rows] == ["50.0", "25.0"]
    assert grid.rows[0][3:] == ["4.12", "25.56", "2", "–"]
    assert grid.rows[1][3:] == ["1", "–", "0.0002778", "90.04"]
