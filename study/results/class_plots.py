"""Figures by class: what an arm gains on each, and what it takes for what."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.results.comparison import ClassGain
from study.results.confusion import names_shown, shares
from study.results.drawing import COLOURS, GREY, INK, cut, name_rows, number_axis, styled
from study.results.statistics import LEAST_GROUPS

__all__ = [
    "ENDS",
    "class_gains_plot",
    "confusion_difference_plot",
    "confusion_plot",
    "ends",
    "fusion_weights",
    "fusion_weights_plot",
    "weight_order",
]

FARTHEST = 105  # percentage points that are drawn; no difference is over 100
ENDS = 20  # classes that are named at each end of a ranking of many


@styled
def class_gains_plot(gains: Sequence[ClassGain], *, arm: str, reference: str) -> Figure:
    """Draws what an arm gains over another on each class, with intervals (CSTM, Fig. 5).

    Of more than 40 classes the 20 that gain and the 20 that lose most are named; a second panel
    has all.

    Args:
        gains: As ``comparison.class_gains`` orders them, the largest first.
        arm: What to call the arm.
        reference: What to call the other.

    Returns:
        The figure.
    """
    values = np.array([100 * gain.estimate.value for gain in gains])
    shown = ends(len(gains))
    figure, axes, every = _panels(len(shown), many=len(gains) > len(shown))
    for height, gain in enumerate(gains[i] for i in shown):
        value, interval = 100 * gain.estimate.value, gain.interval
        clear = interval is not None and not interval.low <= 0 <= interval.high
        colour = (COLOURS[0] if value > 0 else COLOURS[1]) if clear else GREY
        axes.barh([height], [value], color=colour, alpha=0.35, height=0.7)
        if interval is not None:
            axes.plot([100 * interval.low, 100 * interval.high], [height] * 2, color=colour)
        axes.plot([value], [height], "o", color=colour, markersize=3.5)
    axes.axvline(0, color=INK, linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -FARTHEST), min(high, FARTHEST))
    name_rows(axes, [f"{cut(gains[i].name, 30)} ({gains[i].videos})" for i in shown])
    number_axis(axes, "x", [])
    few = not any(gain.estimate.generalises for gain in gains)
    what = (
        f"below {LEAST_GROUPS} source videos no interval"
        if few
        else "95 % interval of each class alone"
    )
    axes.set_xlabel(f"top-1, percentage points, {what}")
    axes.set_title(f"{cut(arm, 50)} less {cut(reference, 50)}", fontsize=9, loc="left")
    if every is not None:
        ranks = np.arange(1, len(gains) + 1)
        intervals = [gain.interval for gain in gains]
        least = [np.nan if one is None else 100 * one.low for one in intervals]
        most = [np.nan if one is None else 100 * one.high for one in intervals]
        every.fill_between(ranks, least, most, color=GREY, alpha=0.25, linewidth=0)
        every.plot(ranks, values, color=COLOURS[0])
        every.axhline(0, color=INK, linewidth=1)
        number_axis(every, "x", ranks, whole=True)
        number_axis(every, "y", [])
        every.set_ylim(*axes.get_xlim())
        every.set(xlabel=f"rank among all {len(gains)} classes", ylabel="percentage points")
    return figure


def fusion_weights(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Returns the weights that fusions fitted for each class (STILT, eq. 5).

    Args:
        rows: Lines of view ``rows``.

    Returns:
        By arm, those that have any alone: (R, N, S) of R rows, N classes and S streams, the
        streams in alphabetical order.
    """
    found: dict[str, list[list[list[float]]]] = {}
    for row in rows:
        weights = json.loads(row["details"] or "{}").get("weights")
        if isinstance(weights, list):  # a fusion that was given its weights names them by stream
            found.setdefault(row["arm"], []).append(weights)
    return {arm: np.array(weights) for arm, weights in found.items()}


@styled
def fusion_weights_plot(
    weights: np.ndarray, names: Sequence[str], streams: Sequence[str], *, arm: str
) -> Figure:
    """Draws each stream's weight for each class, the mean over rows and from least to most.

    Classes are ranked by the first stream's weight less the last's. Of more than 40 the 20 at each
    end are named; a second panel has all.

    Args:
        weights: (R, N, S), as ``fusion_weights`` returns them of an arm.
        names: The N classes' names.
        streams: The S streams' names.
        arm: What to call the arm.

    Returns:
        The figure.
    """
    mean = weights.mean(0)
    order = weight_order(mean)
    shown = [int(order[i]) for i in ends(len(order))]
    figure, axes, every = _panels(len(shown), many=len(order) > len(shown))
    for number, stream in enumerate(streams):
        colour, marker = COLOURS[number % len(COLOURS)], "osD^"[number % 4]
        least, most = weights[:, shown, number].min(0), weights[:, shown, number].max(0)
        heights = np.arange(len(shown))
        axes.hlines(heights, least, most, color=colour, alpha=0.5)
        axes.plot(
            mean[shown, number], heights, color=colour, marker=marker, linestyle="", label=stream
        )
        if every is not None:
            ranks = np.arange(1, len(order) + 1)
            every.plot(ranks, mean[order, number], color=colour, linewidth=1)
    name_rows(axes, [cut(names[i], 30) for i in shown])
    number_axis(axes, "x", [])
    axes.set_xlabel("weight: mean, least and most of splits and seeds")
    axes.set_title(cut(arm, 60), fontsize=9, loc="left")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    if every is not None:
        number_axis(every, "x", [], whole=True)
        number_axis(every, "y", [])
        every.set(xlabel=f"rank among all {len(order)} classes", ylabel="weight")
    return figure


def weight_order(mean: np.ndarray) -> np.ndarray:
    """Returns the classes (N,) ranked by the first stream's weight less the last's (N, S)."""
    return np.argsort(mean[:, -1] - mean[:, 0], kind="stable")


def ends(count: int) -> list[int]:
    """Returns which of so many ranked classes are named: all, or 20 at each end."""
    if count <= 2 * ENDS:
        return list(range(count))
    return [*range(ENDS), *range(count - ENDS, count)]


def _panels(rows: int, *, many: bool) -> tuple[Figure, Axes, Axes | None]:
    """Returns a figure with a panel of named rows, and one of all classes where there are many."""
    height = 1.1 + 0.2 * rows
    if not many:
        figure = Figure(figsize=(7.2, height), layout="constrained")
        return figure, figure.add_subplot(), None
    figure = Figure(figsize=(10.4, height), layout="constrained")
    named, every = figure.subplots(1, 2, width_ratios=(3, 2))
    named.axhline(ENDS - 0.5, color=INK, linewidth=0.8, linestyle=":")
    return figure, named, every


@styled
def confusion_plot(counts: np.ndarray, names: Sequence[str]) -> Figure:
    """Draws a confusion matrix with each true class's predictions in per cent.

    Args:
        counts: As ``confusion.confusion`` returns them. Other classes are drawn where there are
            any.
        names: The C classes' names.

    Returns:
        The figure.
    """
    return _matrix(shares(counts), counts, names, colours="Blues", signed=False)


@styled
def confusion_difference_plot(
    counts: np.ndarray, reference: np.ndarray, names: Sequence[str], *, arm: str, other: str
) -> Figure:
    """Draws where two arms' confusions differ, in percentage points of each true class.

    Args:
        counts: An arm's, as ``confusion.confusion`` returns them.
        reference: The other arm's, of the same judgements and classes.
        names: The C classes' names.
        arm: What to call the arm.
        other: What to call the other.

    Returns:
        The figure: purple is what the arm does more often, orange what it does less often.
    """
    difference = shares(counts) - shares(reference)
    figure = _matrix(difference, counts + reference, names, colours="PuOr", signed=True)
    figure.axes[0].set_title(f"{cut(arm, 40)} less {cut(other, 40)}", fontsize=9, loc="left")
    return figure


def _matrix(
    values: np.ndarray, counts: np.ndarray, names: Sequence[str], *, colours: str, signed: bool
) -> Figure:
    """Draws fractions of true classes; counts say what there is and how often."""
    named = names_shown(counts, names)
    size = len(named)
    side = 1.6 + 0.36 * size
    figure = Figure(figsize=(max(4.2, side + 0.8), max(3.4, side)), layout="constrained")
    axes = figure.add_subplot()
    most = max(0.1, float(np.abs(values).max())) if signed else 1
    low = -most if signed else 0
    axes.pcolormesh(
        values[:size, :size], cmap=colours, vmin=low, vmax=most, edgecolors="white", linewidth=0.6
    )
    for row, column in zip(*np.nonzero(counts[:size, :size]), strict=True):
        value = values[row, column]
        text = f"{100 * value:{'+' if signed else ''}.0f}".replace("-", "−")
        if text in ("+0", "−0"):
            continue
        colour = "white" if abs(value) > 0.55 * most else "#1f2937"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=7)
    axes.set(aspect="equal", xlabel="predicted class")
    axes.set_ylabel("true class" if signed else "true class, with its judgements")
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xticks(np.arange(size) + 0.5, [cut(name) for name in named], rotation=90)
    totals = counts.sum(1)[:size]
    rows = [
        cut(name) if signed else f"{cut(name)} ({total})"
        for name, total in zip(named, totals, strict=True)
    ]
    axes.set_yticks(np.arange(size) + 0.5, rows)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure
