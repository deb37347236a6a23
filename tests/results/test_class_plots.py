"""Figures by class: what they are drawn from, and that they can be read."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from study.results.class_plots import (
    class_gains_plot,
    confusion_difference_plot,
    confusion_plot,
    ends,
    fusion_weights,
    fusion_weights_plot,
)
from study.results.comparison import class_gains
from study.results.confusion import confusion, frequent_classes
from study.results.drawing import svg
from study.results.statistics import Judgements
from tests.drawn import check_drawn, words

NASTY = "<script>alert(1)</script> & $x_1$ \\frac"


def judgements_of(classes: int, *, ability: float, groups: int = 6) -> Judgements:
    rng = np.random.default_rng(int(100 * ability))
    videos = [
        (label, f"Class number {label:03}/g{g}") for label in range(classes) for g in range(groups)
    ]
    return Judgements(
        videos=[("1", name) for _, name in videos],
        groups=[name for _, name in videos],
        labels=[label for label, _ in videos],
        seeds=[0, 1],
        correct=rng.random((2, len(videos))) < ability,
    )


@pytest.mark.parametrize("classes", [1, 2, 40, 41, 400])
def test_gains_of_any_number_of_classes_can_be_read(classes: int) -> None:
    gains = class_gains(judgements_of(classes, ability=0.4), judgements_of(classes, ability=0.7))
    figure = class_gains_plot(gains, arm=NASTY, reference="Two-stream")
    check_drawn(figure)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(names) == min(classes, 40)
    assert names[0] == f"{gains[0].name} (6)"
    assert names[-1] == f"{gains[-1].name} (6)"
    assert len(figure.axes) == (2 if classes > 40 else 1)
    low, high = figure.axes[0].get_xlim()
    assert -110 < low < high < 110, "no difference is over 100 points"


def test_a_gain_stands_where_it_is_and_its_interval_is_the_classs_own() -> None:
    gains = class_gains(judgements_of(3, ability=0.2), judgements_of(3, ability=0.8))
    axes: Any = class_gains_plot(gains, arm="a", reference="b").axes[0]
    assert [bar.get_width() for bar in axes.patches] == pytest.approx(
        [100 * gain.estimate.value for gain in gains]
    )
    spans = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2][:3]
    for gain, (low, high) in zip(gains, spans, strict=True):
        interval = gain.estimate.interval()
        assert interval is not None
        assert (low, high) == pytest.approx((100 * interval.low, 100 * interval.high))


def test_a_class_of_too_few_source_videos_has_no_interval() -> None:
    first, second = (judgements_of(2, ability=ability, groups=2) for ability in (0.2, 0.8))
    axes: Any = class_gains_plot(class_gains(first, second), arm="a", reference="b").axes[0]
    assert not [
        line for line in axes.lines if np.ptp(line.get_ydata()) == 0 and len(line.get_xdata()) == 2
    ]


def test_of_many_ranked_classes_both_ends_are_named() -> None:
    assert ends(3) == [0, 1, 2]
    assert ends(40) == list(range(40))
    assert ends(100) == [*range(20), *range(80, 100)]


def test_a_confusion_plot_says_names_shares_and_counts() -> None:
    counts = confusion({(0, 0): 3, (0, 1): 1}, [0, 1])
    said = words(svg(confusion_plot(counts, ["a", NASTY]), "t"))
    assert {"75", "25", "a (4)"} <= set(said)
    assert any(text.startswith("<script>") for text in said)
    assert "other" not in said


def test_a_difference_of_confusions_is_in_points_of_each_true_class() -> None:
    ours = confusion({(0, 0): 9, (0, 1): 1, (1, 1): 4}, [0, 1])
    theirs = confusion({(0, 0): 6, (0, 1): 4, (1, 1): 2, (1, 0): 2}, [0, 1])
    said = words(
        svg(confusion_difference_plot(ours, theirs, ["a", "b"], arm="Ours", other="Theirs"), "t")
    )
    assert {"+30", "−30", "+50", "−50", "Ours less Theirs"} <= set(said)


@pytest.mark.parametrize("classes", [2, 400])
def test_confusions_of_any_number_of_classes_can_be_read(classes: int) -> None:
    rng = np.random.default_rng(2)
    labels, ours, theirs = rng.integers(0, classes, (3, 4000)).tolist()
    both = [Counter(zip(labels, arm, strict=True)) for arm in (ours, theirs)]
    kept = frequent_classes(*both)
    names = [f"A class with a long name {c}" for c in kept]
    first, second = (confusion(counted, kept) for counted in both)
    check_drawn(confusion_plot(first, names))
    check_drawn(confusion_difference_plot(first, second, names, arm="a", other="b"))


def test_fusion_weights_are_those_that_the_rows_say_were_fitted() -> None:
    rows: list[dict[str, Any]] = [
        {"arm": "awf", "details": '{"weights": [[1.0, 0.0], [0.5, 0.5]]}'},
        {"arm": "awf", "details": '{"weights": [[0.0, 1.0], [0.5, 0.5]]}'},
        {"arm": "weighted", "details": '{"weights": {"spatial": 1, "temporal": 1.5}}'},
        {"arm": "average", "details": None},
    ]
    found = fusion_weights(rows)
    assert list(found) == ["awf"]
    assert found["awf"].tolist() == [[[1, 0], [0.5, 0.5]], [[0, 1], [0.5, 0.5]]]


@pytest.mark.parametrize("classes", [2, 400])
def test_weights_of_any_number_of_classes_can_be_read(classes: int) -> None:
    spatial = np.random.default_rng(0).random((3, classes))
    weights = np.stack([spatial, 1 - spatial], axis=2)
    names = [f"A class with a long name {c}" for c in range(classes)]
    figure = fusion_weights_plot(weights, names, ["spatial", "temporal"], arm=NASTY)
    check_drawn(figure)
    first, second = (line.get_xdata() for line in figure.axes[0].lines[-2:])
    order = np.argsort(-spatial.mean(0), kind="stable")
    kept = [order[i] for i in ends(classes)]
    assert first == pytest.approx(spatial.mean(0)[kept])
    assert second == pytest.approx(1 - spatial.mean(0)[kept])
