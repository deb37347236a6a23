"""What the plots are drawn from, and that they are whole SVG."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from study.results import plots
from study.results.comparison import Comparison
from study.results.plots import (
    comparison_plot,
    confusion,
    confusion_plot,
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


def test_few_classes_are_all_kept_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    counts, names = confusion(labels, predicted, {i: f"c{i}" for i in range(5)})
    order = [int(name[1:]) for name in names]
    assert (counts == confusion_matrix(labels, predicted, labels=order)).all()
    frequency = [int((labels == c).sum()) for c in order]
    assert frequency == sorted(frequency, reverse=True)


def test_the_rest_of_many_classes_is_one() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 30, (2, 3000))
    counts, names = confusion(labels, predicted, {i: f"c{i:02}" for i in range(30)})
    assert len(names) == 21
    assert names[-1] == "other"
    assert counts.sum() == 3000
    kept = [int(name[1:]) for name in names[:-1]]
    whole = confusion_matrix(labels, predicted, labels=range(30))
    rest = [c for c in range(30) if c not in kept]
    assert (counts[:20, :20] == whole[np.ix_(kept, kept)]).all()
    assert (counts[:20, 20] == whole[np.ix_(kept, rest)].sum(1)).all()
    assert counts[20, 20] == whole[np.ix_(rest, rest)].sum()
    assert min(whole.sum(1)[kept]) >= max(whole.sum(1)[rest])


def test_one_class_is_never_called_other() -> None:
    labels = list(range(21))
    _, names = confusion(labels, labels, {i: f"c{i:02}" for i in labels})
    assert "other" not in names
    assert len(names) == 21


def test_a_confusion_plot_says_names_shares_and_counts() -> None:
    said = texts(confusion_plot(np.array([[3, 1], [0, 0]]), ["a", NASTY], title="t"))
    assert {"75", "25", "a (4)"} <= set(said)
    assert any(text.startswith("<script>") for text in said)


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


def test_a_curve_stands_at_its_epochs_from_one_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_svg", figures.append)
    losses, accuracies = [2.0, 1.0, 0.5], [None, 0.25, 0.75]
    epochs = [
        {"epoch": number, "train_loss": loss, "validation_top1": top1}
        for number, (loss, top1) in enumerate(zip(losses, accuracies, strict=True), start=1)
    ]
    epochs_plot({"net": [epochs]}, title="t")
    left, right = (axes.lines[0] for axes in figures[0].axes)
    np.testing.assert_array_equal(left.get_xydata(), [[1, 2.0], [2, 1.0], [3, 0.5]])
    np.testing.assert_array_equal(right.get_xydata(), [[2, 25.0], [3, 75.0]])


def test_the_same_plot_is_the_same_text() -> None:
    one = {"epoch": 1, "train_loss": 1.5, "validation_top1": 0.5}
    assert epochs_plot({"a": [[one]]}, title="t") == epochs_plot({"a": [[one]]}, title="t")
