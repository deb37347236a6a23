"""Labels of few digits, and ticks that are round and few."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure

from study.results.drawing import cut, digits, log_ticks, styled, svg


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.1 + 0.2, "0.3"),
        (1 / 3, "0.3333"),
        (-12.5, "−12.5"),
        (1234.5678, "1235"),
        (25_557_032, "2.556e7"),
        (1e-05, "1e−5"),
        (0.0, "0"),
    ],
)
def test_a_label_has_four_significant_digits_at_most(value: float, said: str) -> None:
    assert digits(value) == said


def test_logarithmic_ticks_are_few_round_and_within_the_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        low = 10 ** rng.uniform(-8, 8)
        high = low * 10 ** rng.uniform(0.9, 9)
        ticks = log_ticks(low, high)
        assert 2 <= len(ticks) <= 5
        assert all(low <= tick <= high for tick in ticks)
        assert ticks == sorted(ticks)
        mantissas = {f"{tick:e}".partition("e")[0].rstrip("0").rstrip(".") for tick in ticks}
        assert mantissas <= {"1", "2", "3", "5"}


def test_a_long_name_is_cut() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("abcd", 3) == "ab…"


@styled
def a_figure() -> Figure:
    figure = Figure()
    figure.add_subplot().plot([1, 2], [1, 2], marker="o")
    return figure


def test_figures_of_a_page_have_a_name_and_share_no_identifier() -> None:
    first, second = (svg(a_figure(), label) for label in ("One & <two>", "three"))
    assert ET.fromstring(first).attrib["aria-label"] == "One & <two>"
    ours, theirs = (re.findall(r'id="([^"]*)"', text) for text in (first, second))
    assert ours
    assert not {*ours} & {*theirs}
