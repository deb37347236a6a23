"""Plots of a study as a whole: that they are whole SVG, and where what they show stands."""

from typing import Any

import numpy as np
import pytest

from study.results.comparison import Comparison
from study.results.drawing import svg
from study.results.plots import band, comparison_plot, epochs_plot
from study.results.statistics import Estimate
from tests.drawn import check_drawn, words

NASTY = "<script>alert(1)</script> & $x_1$ \\frac"


def test_a_comparison_plot_has_a_line_an_arm() -> None:
    estimate = Estimate(
        value=0.1,
        seeds=3,
        groups=40,
        seed_variance=1e-4,
        seed_freedom=4,
        group_variance=1e-4,
        noise_variance=0,
    )
    one = Comparison(arm="stil", estimate=estimate, improvement=1, videos=40)
    said = words(svg(comparison_plot([one], {"stil": NASTY, "b": "Base"}, reference="b"), "t"))
    assert NASTY in said
    assert any("Base" in text for text in said)


def test_a_curve_of_one_epoch_and_one_without_validation_are_drawn() -> None:
    one = {"epoch": 1, "train_loss": 1.5, "validation_top1": None}
    figure = epochs_plot({NASTY: [[one]], "other net": [[one, {**one, "epoch": 2}]]})
    said = words(svg(figure, "t"))
    assert {"epoch", "training loss", "validation top-1, %", "other net"} <= set(said)


def test_a_curve_stands_at_its_epochs_from_one_to_the_last() -> None:
    losses, accuracies = [2.0, 1.0, 0.5], [None, 0.25, 0.75]
    epochs = [
        {"epoch": number, "train_loss": loss, "validation_top1": top1}
        for number, (loss, top1) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]
    figure: Any = epochs_plot({"net": [epochs]})
    left, right = (axes.lines[0] for axes in figure.axes)
    np.testing.assert_array_equal(left.get_xydata(), [[1, 2.0], [2, 1.0], [3, 0.5]])
    np.testing.assert_array_equal(right.get_xydata(), [[2, 25.0], [3, 75.0]])
    for axes in figure.axes:
        assert axes.get_xlim() == (1, 3)
        assert axes.get_xticks().tolist() == [1, 2, 3]


@pytest.mark.parametrize("last", [1, 2, 8, 27, 250])
def test_epochs_are_ticked_from_one_to_the_last_without_touching(last: int) -> None:
    one = [{"epoch": n, "train_loss": 1.0, "validation_top1": 0.5} for n in range(1, last + 1)]
    figure: Any = epochs_plot({"net": [one]})
    check_drawn(figure)
    ticks = figure.axes[0].get_xticks().tolist()
    assert (ticks[0], ticks[-1]) == (1, last)
    assert len(ticks) == min(last, 7)


def test_several_seeds_are_their_mean_and_a_band_from_the_least_to_the_most() -> None:
    def training(*top1: float | None) -> list[dict[str, float | int | None]]:
        return [
            {"epoch": number, "train_loss": 1.0, "validation_top1": value}
            for number, value in enumerate(top1, start=1)
        ]

    trainings = [training(0.1, None, 0.5), training(0.3, 0.4), training(0.2, 0.6, 0.9)]
    epochs, mean, low, high = band(trainings, "validation_top1")
    assert epochs.tolist() == [1, 2, 3]
    np.testing.assert_allclose(mean, [0.2, 0.5, 0.7])
    np.testing.assert_allclose(low, [0.1, 0.4, 0.5])
    np.testing.assert_allclose(high, [0.3, 0.6, 0.9])
    figure = epochs_plot({"net": trainings, "one": trainings[:1]})
    check_drawn(figure)
    assert {"net, 3 trainings", "one"} <= set(words(svg(figure, "t")))


def test_the_same_plot_is_the_same_text() -> None:
    one = {"epoch": 1, "train_loss": 1.5, "validation_top1": 0.5}
    assert svg(epochs_plot({"a": [[one]]}), "t") == svg(epochs_plot({"a": [[one]]}), "t")
