"""What the plots are drawn from, and that they are whole SVG."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.figure import Figure

from study.results import plots
from study.results.comparison import Comparison
from study.results.plots import (
    comparison_plot,
    epochs_plot,
    search_plot,
)
from study.results.statistics import Estimate

NASTY = "<script>alert(1)</script> & $x_1$ \\frac"


def texts(svg: str) -> list[str]:
    """The words in a plot; fails where it isn't well-formed or reaches for something outside."""
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.endswith("href") or value.startswith(("#", "data:")), (name, value)
        assert not element.tag.endswith(("}script", "}foreignObject"))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]


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
    said = texts(comparison_plot([one], {"stil": NASTY, "b": "Base"}, reference="b"))
    assert NASTY in said
    assert any("Base" in text for text in said)


@pytest.mark.parametrize("state", ["complete", "pruned", "failed"])
def test_a_search_of_one_trial_of_any_end_is_drawn(state: str) -> None:
    value = None if state == "failed" else 0.5
    parameters = {"learning_rate": 0.01, "flag": True, "schedule": NASTY}
    trial = {"trial": 0, "parameters": parameters, "validation_top1": value, "state": state}
    said = texts(search_plot([trial], title="t"))
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
    said = texts(search_plot(trials, title="t"))
    assert {"0.0001", "0.01", "1", "128", "256"} <= set(said)
    assert not any("math" in text for text in said)


def test_a_curve_of_one_epoch_and_one_without_validation_are_drawn() -> None:
    one = {"epoch": 1, "train_loss": 1.5, "validation_top1": None}
    said = texts(
        epochs_plot({NASTY: [[one]], "other net": [[one, {**one, "epoch": 2}]]}, title="t")
    )
    assert {"epoch", "training loss", "validation top-1, %", "other net"} <= set(said)


def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are drawn from now on, in the place of their SVG."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_svg", lambda figure, _: figures.append(figure))
    return figures


def test_a_curve_stands_at_its_epochs_from_one_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    losses, accuracies = [2.0, 1.0, 0.5], [None, 0.25, 0.75]
    epochs = [
        {"epoch": number, "train_loss": loss, "validation_top1": top1}
        for number, (loss, top1) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]
    epochs_plot({"net": [epochs]}, title="t")
    left, right = (axes.lines[0] for axes in figures[0].axes)
    np.testing.assert_array_equal(left.get_xydata(), [[1, 2.0], [2, 1.0], [3, 0.5]])
    np.testing.assert_array_equal(right.get_xydata(), [[2, 25.0], [3, 75.0]])
    for axes in figures[0].axes:
        assert axes.get_xlim() == (1, 3)
        assert axes.get_xticks().tolist() == [1, 2, 3]


@pytest.mark.parametrize("last", [1, 2, 8, 27, 250])
def test_epochs_are_ticked_from_one_to_the_last_without_touching(
    monkeypatch: pytest.MonkeyPatch, last: int
) -> None:
    figures = drawn(monkeypatch)
    one = [{"epoch": n, "train_loss": 1.0, "validation_top1": 0.5} for n in range(1, last + 1)]
    epochs_plot({"net": [one]}, title="t")
    ticks = figures[0].axes[0].get_xticks().tolist()
    assert (ticks[0], ticks[-1]) == (1, last)
    assert len(ticks) == min(last, 7)


def test_several_seeds_are_their_mean_within_their_band(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = drawn(monkeypatch)
    seeds = [
        [
            {"epoch": n, "train_loss": loss, "validation_top1": None}
            for n, loss in enumerate(losses, start=1)
        ]
        for losses in ([3.0, 1.0], [1.0, 2.0], [2.0])
    ]
    epochs_plot({"net": seeds}, title="t")
    axes = figures[0].axes[0]
    (line,) = axes.lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 2.0], [2, 1.5]])
    (path,) = axes.collections[0].get_paths()
    corners = {tuple(corner) for corner in np.asarray(path.vertices).tolist()}
    assert {(1, 1.0), (1, 3.0), (2, 1.0), (2, 2.0)} == corners


def labels_touch(figure: Figure) -> bool:
    """Whether two labels of one axis overlap when the figure is drawn."""
    figure.canvas.draw()
    for axes in figure.axes:
        found = (label.get_tightbbox() for label in axes.get_xticklabels() if label.get_text())
        boxes = [box for box in found if box is not None]
        low, high = axes.bbox.x0 - 1, axes.bbox.x1 + 1
        upright = [box for box in boxes if low <= (box.x0 + box.x1) / 2 <= high]
        turned = any(label.get_rotation() for label in axes.get_xticklabels())
        if not turned and any(first.x1 > second.x0 for first, second in pairwise(upright)):
            return True
    return False


@pytest.mark.parametrize("number", [3, 5, 12])
@pytest.mark.parametrize("exponents", [(-1, 0), (-4, -1), (3, 6)])
def test_values_of_many_digits_are_short_and_their_labels_apart(
    monkeypatch: pytest.MonkeyPatch, number: int, exponents: tuple[int, int]
) -> None:
    figures = drawn(monkeypatch)
    values = 10 ** np.random.default_rng(0).uniform(*exponents, (6, number))
    trials = [
        {
            "trial": i,
            "parameters": {f"p{j}": float(values[j, i]) for j in range(6)},
            "validation_top1": 0.5,
            "state": "complete",
        }
        for i in range(number)
    ]
    search_plot(trials, title="t")
    said = [label.get_text() for axes in figures[0].axes for label in axes.get_xticklabels()]
    assert max(map(len, said)) <= 9
    assert not labels_touch(figures[0])


def test_the_same_plot_is_the_same_text() -> None:
    one = {"epoch": 1, "train_loss": 1.5, "validation_top1": 0.5}
    assert epochs_plot({"a": [[one]]}, title="t") == epochs_plot({"a": [[one]]}, title="t")
