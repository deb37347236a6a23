"""Figures of a search: what they are drawn from, and that they can be read."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from study.results.drawing import svg
from study.results.importance import importances
from study.results.search_plots import (
    expected_best_plot,
    expected_curves,
    importances_plot,
    parallel_plot,
    search_plot,
)
from tests.drawn import check_drawn, words

NASTY = "<script>alert(1)</script> & $x_1$ \\frac"


@pytest.mark.parametrize("state", ["complete", "pruned", "failed"])
def test_a_search_of_one_trial_of_any_end_is_drawn(state: str) -> None:
    value = None if state == "failed" else 0.5
    parameters = {"learning_rate": 0.01, "flag": True, "schedule": NASTY}
    trial = {"trial": 0, "parameters": parameters, "validation_top1": value, "state": state}
    said = words(svg(search_plot([trial]), "t"))
    assert {"trial", "learning_rate", "flag", "schedule"} <= set(said)


def test_a_wide_range_of_values_is_on_a_logarithmic_axis() -> None:
    trials = [
        {
            "trial": i,
            "parameters": {"learning_rate": 10.0**-i, "dim": 128 * 2 ** (i % 2)},
            "validation_top1": 0.5,
            "state": "complete",
        }
        for i in range(7)
    ]
    said = words(svg(search_plot(trials), "t"))
    assert {"0.0001", "0.01", "1", "128", "256"} <= set(said)
    assert not any("math" in text for text in said)


def trial_of(number: int, value: float | None, state: str = "complete", **parameters: Any) -> Any:
    return {
        "trial": number,
        "parameters": parameters,
        "validation_top1": value,
        "state": state,
        "seconds": 60.0 * (number + 1),
    }


def searched(trials: int, *, parameters: int = 4) -> list[Any]:
    rng = np.random.default_rng(trials)
    return [
        trial_of(
            number,
            None if number == 3 else float(rng.random()),
            "failed" if number == 3 else "pruned" if number % 4 == 2 else "complete",
            learning_rate=float(10 ** rng.uniform(-5, -1)),
            schedule=NASTY if rng.random() < 0.5 else "cosine",
            attention_dim=int(rng.choice([128, 256, 512])),
            **{f"options.a_long_name_{i}": float(rng.random()) / 3 for i in range(parameters - 3)},
        )
        for number in range(trials)
    ]


@pytest.mark.parametrize(("trials", "parameters"), [(1, 3), (40, 4), (200, 10)])
def test_figures_of_any_search_can_be_read(trials: int, parameters: int) -> None:
    lines = searched(trials, parameters=parameters)
    check_drawn(search_plot(lines))
    check_drawn(parallel_plot(lines))
    check_drawn(expected_best_plot({"stil": [lines, lines[:30]], NASTY: [lines]}, {}))


def test_a_line_goes_through_its_trials_values() -> None:
    trials = [
        trial_of(0, 0.2, rate=0.001, kind="b", dim=128),
        trial_of(1, 0.6, rate=0.1, kind="a", dim=256),
        trial_of(2, 0.4, rate=0.01, kind="a"),
        *(trial_of(n, n / 100, rate=n / 10000, kind="a", dim=128 + n) for n in (21, 22, 23, 24)),
    ]
    figure: Any = parallel_plot(trials)
    host, *scales = figure.axes
    by_value = {line.get_ydata()[-1]: line.get_ydata() for line in host.lines}
    worst, *_, middle, best = (by_value[value] for value in sorted(by_value))
    for column, (scale, value) in enumerate(zip(scales, [128, 1, 0.001, 20], strict=True)):
        shown = scale.transAxes.inverted().transform(scale.transData.transform((0, value)))[1]
        assert worst[column] == pytest.approx(shown)
    assert np.isnan(middle[0]), "a trial without the parameter has no place on its scale"
    # On a logarithmic scale 0.01 is halfway between 0.001 and 0.1.
    assert middle[2] == pytest.approx((worst[2] + best[2]) / 2)
    assert middle[-1] == pytest.approx((worst[-1] + best[-1]) / 2)


def test_what_alone_decides_the_accuracy_has_all_importance() -> None:
    rng = np.random.default_rng(0)
    trials = [
        trial_of(n, float(rate), rate=float(rate), other=float(rng.random()), kind=["x", n % 2])
        for n, rate in enumerate(rng.random(40))
    ]
    found = importances([*trials, trial_of(99, 0.0, "pruned", rate=1.0, other=0.0, kind=["x", 0])])
    assert found["rate"] > 0.95
    assert sum(found.values()) == pytest.approx(1)
    assert set(found) == {"rate", "other", "kind"}


def test_a_search_that_says_nothing_of_importance_has_none() -> None:
    assert importances([]) == {}
    assert importances([trial_of(0, 0.5, rate=0.1)]) == {}
    assert importances([trial_of(n, 0.5, rate=0.1 * n) for n in range(5)]) == {}


@pytest.mark.parametrize(("complete", "said"), [(29, True), (30, False)])
def test_importances_of_few_trials_are_called_unreliable(complete: int, said: bool) -> None:
    figure: Any = importances_plot({NASTY: 0.75, "b": 0.25}, complete=complete)
    check_drawn(figure)
    assert any("Unreliable" in text for text in words(svg(figure, "t"))) == said
    assert [bar.get_width() for bar in figure.axes[0].patches] == [75, 25]


def test_the_expected_best_and_its_time_are_those_of_all_draws() -> None:
    search = [trial_of(n, value) for n, value in enumerate([0.1, 0.5, None])]
    numbers, best, hours = expected_curves([search, [*search, *search]])
    assert numbers.tolist() == [1, 2, 3]
    values = [0.1, 0.5, 0.0]
    for n in numbers:
        draws = [max(drawn) for drawn in product(values, repeat=n)]
        assert best[:, n - 1] == pytest.approx([np.mean(draws)] * 2)
    assert hours == pytest.approx(numbers * np.mean([60, 120, 180]) / 3600)
