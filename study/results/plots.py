"""The report's plots, as SVG that refers to nothing outside it."""

import io
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from study.results.comparison import Comparison

__all__ = ["comparison_plot", "confusion", "confusion_plot", "epochs_plot", "search_plot"]

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
GREY = "#6b7280"
STYLE = {
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.labelcolor": "#374151",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollars is a name
    "xtick.color": "#374151",
    "ytick.color": "#374151",
}
OTHER = "other"
CLASSES_SHOWN = 20  # of a confusion matrix, before the rest
FEW = 5  # values of a number that are shown as choices


def confusion(
    labels: Sequence[int], predicted: Sequence[int], names: Mapping[int, str]
) -> tuple[np.ndarray, list[str]]:
    """Counts confusions between the 20 most frequent classes, the rest as one (STILT, Fig. 5).

    Of 21 classes all are kept: the rest would be one.

    Args:
        labels: The true class of each of V judgements.
        predicted: The predicted class of each.
        names: Names by class.

    Returns:
        Counts (C, C), true class by row and predicted class by column, and the C classes' names.
        ``other`` is the last where there is one.
    """
    # Predictions that are no test video's class have no name and come last, whatever their number.
    frequency = Counter(labels)
    classes = sorted({*labels, *predicted}, key=lambda c: (-frequency[c], names.get(c, str(c))))
    kept = classes if len(classes) <= CLASSES_SHOWN + 1 else classes[:CLASSES_SHOWN]
    index = {label: i for i, label in enumerate(kept)}
    shown = [names.get(label, str(label)) for label in kept]
    if len(kept) < len(classes):
        shown.append(OTHER)
    counts = np.zeros((len(shown), len(shown)), int)
    rows = [index.get(label, len(kept)) for label in labels]
    columns = [index.get(label, len(kept)) for label in predicted]
    np.add.at(counts, (rows, columns), 1)
    return counts, shown


def confusion_plot(counts: np.ndarray, names: Sequence[str], *, title: str) -> str:
    """Draws a confusion matrix with each true class's predictions in per cent.

    Args:
        counts: (C, C), true class by row and predicted class by column.
        names: The C classes' names.
        title: What names the plot; it isn't drawn.

    Returns:
        An ``<svg>`` element.
    """
    size = len(names)
    total = counts.sum(1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    side = 1.6 + 0.36 * size
    with mpl.rc_context(STYLE | {"axes.grid": False, "svg.hashsalt": title}):
        figure = Figure(figsize=(max(4.2, side + 0.8), max(3.4, side)), layout="constrained")
        axes = figure.add_subplot()
        axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.6)
        for row, column in zip(*np.nonzero(counts), strict=True):
            value = share[row, column]
            colour = "white" if value > 0.55 else "#1f2937"
            text = f"{100 * value:.0f}"
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=7
            )
        axes.set(aspect="equal", xlabel="predicted class", ylabel="true class, with its judgements")
        axes.invert_yaxis()
        axes.set_xticks(np.arange(size) + 0.5, [_cut(name) for name in names], rotation=90)
        rows = [f"{_cut(name)} ({n})" for name, n in zip(names, total[:, 0], strict=True)]
        axes.set_yticks(np.arange(size) + 0.5, rows)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return _svg(figure)


def comparison_plot(
    comparisons: Sequence[Comparison], names: Mapping[str, str], *, reference: str
) -> str:
    """Draws differences of accuracy from a reference with their intervals.

    Args:
        comparisons: A line each, from the top.
        names: What to call each arm.
        reference: The arm that the others are compared with.

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(STYLE | {"svg.hashsalt": f"comparison {reference}"}):
        figure = Figure(figsize=(8.4, 1.1 + 0.34 * len(comparisons)), layout="constrained")
        axes = figure.add_subplot()
        for height, one in enumerate(comparisons):
            interval = one.interval
            colour = {"better": COLOURS[0], "worse": COLOURS[1]}.get(one.verdict, GREY)
            if interval is not None:
                ends = [100 * interval.low, 100 * interval.high]
                axes.plot(ends, [height] * 2, color=colour, linewidth=2.2, solid_capstyle="round")
            axes.plot([100 * one.estimate.value], [height], "o", color=colour, markersize=6)
        axes.axvline(0, color="#374151", linewidth=1)
        axes.set_yticks(range(len(comparisons)), [names.get(c.arm, c.arm) for c in comparisons])
        axes.set_ylim(len(comparisons) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        name = names.get(reference, reference)
        what = "simultaneous 95 % intervals" if len(comparisons) > 1 else "95 % interval"
        axes.set_xlabel(f"top-1 less that of {name}, percentage points, {what}")
        return _svg(figure)


def search_plot(trials: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Draws a search: accuracy by trial with the best so far, and by each parameter's values.

    Pruned trials stand at the accuracy that they had reached. Optuna's own plots leave them out.

    Args:
        trials: Lines of view ``trials`` of one search, with ``parameters`` as a mapping.
        title: What names the search; it isn't drawn.

    Returns:
        An ``<svg>`` element.
    """
    names = sorted({name for trial in trials for name in trial["parameters"]})
    rows = math.ceil((1 + len(names)) / 4)
    columns = math.ceil((1 + len(names)) / rows)
    with mpl.rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(10.4, 0.4 + 2.3 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
        _best_so_far(axes[0], trials)
        for one, name in zip(axes[1:], names, strict=False):
            _by_value(one, trials, name)
        for one in axes[1 + len(names) :]:
            one.set_visible(False)
        for one in axes[::columns]:
            one.set_ylabel("validation top-1, %")
        return _svg(figure)


def _best_so_far(axes: Axes, trials: Sequence[Mapping[str, Any]]) -> None:
    judged = [trial for trial in trials if trial["validation_top1"] is not None]
    judged = sorted(judged, key=lambda trial: trial["trial"])
    complete = [trial for trial in judged if trial["state"] == "complete"]
    if complete:
        best = np.maximum.accumulate([100 * trial["validation_top1"] for trial in complete])
        numbers = [trial["trial"] for trial in complete]
        axes.step(numbers, best, where="post", color=COLOURS[1], label="best so far")
    _points(axes, [(trial["trial"], trial) for trial in judged], labelled=True)
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if judged:
        axes.legend(fontsize=7, frameon=False)


def _by_value(axes: Axes, trials: Sequence[Mapping[str, Any]], name: str) -> None:
    tried = [trial for trial in trials if trial["parameters"].get(name) is not None]
    values = {json.dumps(trial["parameters"][name]): trial["parameters"][name] for trial in tried}
    numeric = all(type(value) in (int, float) for value in values.values())
    choices = sorted(values, key=values.__getitem__ if numeric else str)
    judged = [trial for trial in tried if trial["validation_top1"] is not None]
    axes.set_xlabel(_cut(name, 30))
    if not numeric or len(choices) <= FEW:
        index = {choice: i for i, choice in enumerate(choices)}
        points = [(index[json.dumps(trial["parameters"][name])], trial) for trial in judged]
        _points(axes, points)
        axes.set_xticks(range(len(choices)), [_cut(str(values[choice])) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    _points(axes, [(trial["parameters"][name], trial) for trial in judged])
    if min(values.values()) > 0 and max(values.values()) / min(values.values()) > 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())


def _points(
    axes: Axes, points: Sequence[tuple[float, Mapping[str, Any]]], *, labelled: bool = False
) -> None:
    for state, fill in (("complete", COLOURS[0]), ("pruned", "white"), ("failed", GREY)):
        chosen = [(x, trial) for x, trial in points if trial["state"] == state]
        if chosen:
            axes.scatter(
                [x for x, _ in chosen],
                [100 * trial["validation_top1"] for _, trial in chosen],
                s=22,
                facecolor=fill,
                edgecolor=COLOURS[0] if state != "failed" else GREY,
                zorder=3,
                label=state if labelled else None,
            )


def epochs_plot(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]], *, title: str) -> str:
    """Draws training loss and validation accuracy by epoch.

    Args:
        curves: By network, the epochs of each of its trainings (lines of view ``epochs`` in order).
        title: What names the plot; it isn't drawn.

    Returns:
        An ``<svg>`` element.
    """
    with mpl.rc_context(STYLE | {"svg.hashsalt": title}):
        figure = Figure(figsize=(10.4, 3.1), layout="constrained")
        for axes, column, label in zip(
            figure.subplots(1, 2),
            ("train_loss", "validation_top1"),
            ("training loss", "validation top-1, %"),
            strict=True,
        ):
            for number, (net, trainings) in enumerate(curves.items()):
                colour = COLOURS[number % len(COLOURS)]
                for nth, epochs in enumerate(trainings):
                    shown = [epoch for epoch in epochs if epoch[column] is not None]
                    scale = 100 if column == "validation_top1" else 1
                    axes.plot(
                        [epoch["epoch"] for epoch in shown],
                        [scale * epoch[column] for epoch in shown],
                        color=colour,
                        alpha=0.85 if len(trainings) == 1 else 0.5,
                        linewidth=1.5,
                        marker="o" if len(shown) == 1 else None,
                        label=_cut(net, 60) if nth == 0 else None,
                    )
            axes.set(xlabel="epoch", ylabel=label)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
        return _svg(figure)


def _cut(text: str, letters: int = 24) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _svg(figure: Figure) -> str:
    """Returns the figure as an ``<svg>`` element that scales with the page."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    return text[text.index("<svg") :]
