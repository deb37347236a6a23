"""The report's plots, as SVG that refers to nothing outside it."""

import html
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from study.results.comparison import Comparison

__all__ = ["comparison_plot", "epochs_plot", "search_plot"]

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
FEW = 5  # values of a number that are shown as choices
EPOCH_TICKS = 7
ROOM = 22  # letters of an axis' labels that stand side by side without touching


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
        return _svg(figure, f"Top-1 of each arm less that of {name}, with intervals")


def search_plot(trials: Sequence[Mapping[str, Any]], *, title: str) -> str:
    """Draws a search: accuracy by trial with the best so far, and by each parameter's values.

    Pruned trials stand at the accuracy that they had reached. Optuna's own plots leave them out.

    Args:
        trials: Lines of view ``trials`` of one search, with ``parameters`` as a mapping.
        title: What names the search to a screen reader; it isn't drawn.

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
        return _svg(figure, f"Validation top-1 by trial and by each value: {title}")


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
        names = [_cut(_short(values[choice])) for choice in choices]
        turned = sum(map(len, names)) > ROOM
        axes.set_xticks(
            range(len(choices)), names, rotation=30 * turned, ha="right" if turned else "center"
        )
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    _points(axes, [(trial["parameters"][name], trial) for trial in judged])
    if min(values.values()) > 0 and max(values.values()) / min(values.values()) > 8:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))


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

    Of several trainings of a network, splits and seeds, a line is their mean and a band reaches
    from their lowest to their highest; an epoch that only some have reached is of those.

    Args:
        curves: By network, the epochs of each of its trainings (lines of view ``epochs``).
        title: What names the plot to a screen reader; it isn't drawn.

    Returns:
        An ``<svg>`` element.
    """
    last = max((epoch["epoch"] for of in curves.values() for one in of for epoch in one), default=1)
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
                _band(axes, trainings, column, colour, label=_cut(net, 60))
            axes.set(xlabel="epoch", ylabel=label, xlim=(1, last) if last > 1 else (0.5, 1.5))
            axes.set_xticks(_epoch_ticks(last))
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2, frameon=False)
        return _svg(figure, f"Training loss and validation top-1 by epoch: {title}")


def _band(
    axes: Axes,
    trainings: Sequence[Sequence[Mapping[str, Any]]],
    column: str,
    colour: str,
    *,
    label: str,
) -> None:
    """Draws a column of a network's trainings by epoch: their mean, lowest and highest."""
    scale = 100 if column == "validation_top1" else 1
    values: dict[int, list[float]] = {}
    for epochs in trainings:
        for epoch in epochs:
            if epoch[column] is not None:
                values.setdefault(epoch["epoch"], []).append(scale * epoch[column])
    x = sorted(values)
    mean = [float(np.mean(values[epoch])) for epoch in x]
    marker = "o" if len(x) == 1 else None
    axes.plot(x, mean, color=colour, linewidth=1.5, marker=marker, label=label, clip_on=False)
    if len(trainings) > 1:
        low, high = [min(values[epoch]) for epoch in x], [max(values[epoch]) for epoch in x]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _epoch_ticks(last: int) -> list[int]:
    """Returns ticks from the first epoch to the last, as even as whole epochs allow."""
    return sorted({round(epoch) for epoch in np.linspace(1, last, min(last, EPOCH_TICKS))})


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _cut(text: str, letters: int = 24) -> str:
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def _svg(figure: Figure, label: str) -> str:
    """Returns the figure as an ``<svg>`` element that scales with the page, named by a label."""
    sink = io.StringIO()
    figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = sink.getvalue()
    # Groups are numbered alike in each figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
