"""Figures of a search: what they are drawn from, and that they can be read."""

import pytest

from study.results.drawing import svg
from study.results.search_plots import search_plot
from tests.drawn import words

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
