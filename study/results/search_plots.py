"""Plots of a search: its trials, and what they say of the parameters."""

import json
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.results.budget import expected_best
from study.results.drawing import (
    COLOURS,
    GREY,
    cut,
    digits,
    name_rows,
    number_axis,
    ranges_widely,
    styled,
)

__all__ = [
    "by_search",
    "expected_best_plot",
    "importances_plot",
    "parallel_plot",
    "search_plot",
]

FEW = 5  # values of a number that are shown as choices
RELIABLE = 30  # complete trials, from which importances are worth reading


Lines = Sequence[Mapping[str, Any]]


def by_search(lines: Lines) -> dict[tuple[str, str, str, int], list[dict[str, Any]]]:
    """Returns the trials of each search, their parameters as mappings.

    Args:
        lines: Lines of view ``trials`` of one study.

    Returns:
        By arm, dataset, split and search seed.
    """
    grouped: dict[tuple[str, str, str, int], list[dict[str, Any]]] = {}
    for line in lines:
        key = (line["arm"], line["dataset"], line["split"], line["search_seed"])
        trial = {**line, "parameters": json.loads(line["parameters"])}
        grouped.setdefault(key, []).append(trial)
    return dict(sorted(grouped.items()))


@styled
def search_plot(trials: Lines) -> Figure:
    """Draws a search: accuracy by trial with the best so far, and by each parameter's values.

    Pruned trials stand at the accuracy that they had reached. Optuna's own plots leave them out.

    Args:
        trials: Lines of view ``trials`` of one search, with ``parameters`` as a mapping.

    Returns:
        The figure.
    """
    names = sorted({name for trial in trials for name in trial["parameters"]})
    rows = math.ceil((1 + len(names)) / 4)
    columns = math.ceil((1 + len(names)) / rows)
    figure = Figure(figsize=(10.4, 0.4 + 2.3 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    _best_so_far(axes[0], trials)
    for one, name in zip(axes[1:], names, strict=False):
        _by_value(one, trials, name)
    for one in axes[1 + len(names) :]:
        one.set_visible(False)
    for one in axes[::columns]:
        one.set_ylabel("validation top-1, %")
    return figure


def _best_so_far(axes: Axes, trials: Lines) -> None:
    judged = [trial for trial in trials if trial["validation_top1"] is not None]
    judged = sorted(judged, key=lambda trial: trial["trial"])
    complete = [trial for trial in judged if trial["state"] == "complete"]
    if complete:
        best = np.maximum.accumulate([100 * trial["validation_top1"] for trial in complete])
        numbers = [trial["trial"] for trial in complete]
        axes.step(numbers, best, where="post", color=COLOURS[1], label="best so far")
    _points(axes, [(trial["trial"], trial) for trial in judged], labelled=True)
    axes.set_xlabel("trial")
    number_axis(axes, "x", [trial["trial"] for trial in judged], whole=True)
    if judged:
        axes.legend(fontsize=7)


def _by_value(axes: Axes, trials: Lines, name: str) -> None:
    tried = [trial for trial in trials if trial["parameters"].get(name) is not None]
    values = [trial["parameters"][name] for trial in tried]
    judged = [trial for trial in tried if trial["validation_top1"] is not None]
    axes.set_xlabel(cut(name, 30))
    if choices := _choices(values):
        index = {choice: i for i, choice in enumerate(choices)}
        _points(axes, [(index[json.dumps(trial["parameters"][name])], trial) for trial in judged])
        axes.set_xticks(range(len(choices)), [cut(said, 12) for said in choices.values()])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    _points(axes, [(trial["parameters"][name], trial) for trial in judged])
    number_axis(axes, "x", values)


def _choices(values: Sequence[Any]) -> dict[str, str]:
    """Returns what to call each value by its JSON, in order; empty for numbers of many values."""
    known = {json.dumps(value): value for value in values}
    numeric = all(type(value) in (int, float) for value in known.values())
    if numeric and len(known) > FEW:
        return {}
    order = sorted(known, key=known.__getitem__ if numeric else str)
    return {choice: _said(known[choice]) for choice in order}


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


@styled
def parallel_plot(trials: Lines) -> Figure:
    """Draws each judged trial as a line through its values to its accuracy.

    Optuna's own plot of this kind leaves out pruned trials and labels its axes with up to 17
    digits.

    Args:
        trials: Lines of view ``trials`` of one search, with ``parameters`` as a mapping.

    Returns:
        The figure. Pruned trials are dashed, and stand at the accuracy that they had reached.
    """
    judged = [trial for trial in trials if trial["validation_top1"] is not None]
    judged = sorted(judged, key=lambda trial: trial["validation_top1"])
    names = sorted({name for trial in judged for name in trial["parameters"]})
    columns = [[trial["parameters"].get(name) for trial in judged] for name in names]
    columns.append([100 * trial["validation_top1"] for trial in judged])
    figure = Figure(figsize=(2.4 + 1.5 * len(names), 4.2), layout="constrained")
    axes = figure.add_subplot()
    heights = np.array(
        [
            _scale(axes, i / max(1, len(names)), column, numbers=i == len(names))
            for i, column in enumerate(columns)
        ]
    )
    for trial, line in zip(judged, heights.T, strict=True):
        axes.plot(
            line,
            color=mpl.colormaps["viridis"](line[-1]),
            linestyle="-" if trial["state"] == "complete" else "--",
            linewidth=1,
        )
    for scale in figure.axes[1:]:
        for label in scale.get_yticklabels():
            label.set_bbox({"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.5})
    labels = [cut(name, 22) for name in names] + ["validation top-1, %"]
    axes.set_xticks(range(len(labels)), labels, rotation=20, ha="right", rotation_mode="anchor")
    axes.set(xlim=(0, max(1, len(names))), ylim=(0, 1), yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(False)
    return figure


def _scale(axes: Axes, place: float, values: Sequence[Any], *, numbers: bool) -> np.ndarray:
    """Draws a column's scale at a place 0..1; returns the values' heights 0..1, NaN if absent.

    Args:
        axes: Whose width the places are of.
        place: Where the scale stands.
        values: The column's.
        numbers: Whether few values, too, are numbers on a scale and no choices.
    """
    scale = axes.twinx()
    scale.spines["right"].set_position(("axes", place))
    scale.spines["right"].set_visible(True)
    scale.grid(False)
    known = [value for value in values if value is not None]
    choices = {} if numbers else _choices(known)
    if choices:
        scale.set_yticks(range(len(choices)), [cut(said, 12) for said in choices.values()])
        scale.set_ylim(-0.5, len(choices) - 0.5)
        index = {choice: (i + 0.5) / len(choices) for i, choice in enumerate(choices)}
        return np.array([np.nan if value is None else index[json.dumps(value)] for value in values])
    heights = np.array([np.nan if value is None else float(value) for value in values])
    logarithmic = not numbers and ranges_widely(known)
    number_axis(scale, "y", known if logarithmic else [])
    units = np.log(heights) if logarithmic else heights
    low, high = np.nanmin(units), np.nanmax(units)
    margin = 0.04 * (high - low) or 0.5
    limits = np.array([low - margin, high + margin])
    scale.set_ylim(*(np.exp(limits) if logarithmic else limits))
    placed: np.ndarray = (units - limits[0]) / (limits[1] - limits[0])
    return placed


@styled
def importances_plot(importances: Mapping[str, float], *, complete: int) -> Figure:
    """Draws how much of the accuracy's variance each parameter explains.

    Args:
        importances: By parameter, 0..1, as ``importance.importances`` returns them.
        complete: The complete trials that they are estimated from; below 30 the figure says that
            they are unreliable (our threshold).

    Returns:
        The figure.
    """
    names = sorted(importances, key=lambda name: -importances[name])
    figure = Figure(figsize=(7.2, 1.2 + 0.28 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(names)), [100 * importances[name] for name in names], color=COLOURS[0])
    name_rows(axes, names)
    number_axis(axes, "x", [])
    axes.set_xlabel("share of validation top-1's variance, % (fANOVA)")
    if complete < RELIABLE:
        text = f"Unreliable: {complete} complete trials, and {RELIABLE} are needed"
        axes.set_title(text, fontsize=9, loc="left", color=COLOURS[1])
    return figure


@styled
def expected_best_plot(searches: Mapping[str, Sequence[Lines]], names: Mapping[str, str]) -> Figure:
    """Draws the expected best accuracy by number of trials, and by the time that they take.

    The time of some trials is their number times the search's mean.

    Args:
        searches: By arm that stands for a searched net, the trials of each of its searches (of
            other splits or seeds).
        names: What to call each arm.

    Returns:
        The figure: each arm's mean over its searches, and from the least to the most.
    """
    figure = Figure(figsize=(10.4, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for number, (arm, of_arm) in enumerate(searches.items()):
        trials, best, hours = expected_curves(of_arm)
        colour = COLOURS[number % len(COLOURS)]
        style = {"color": colour, "label": cut(names.get(arm, arm), 50)}
        if len(trials) == 1:
            style["marker"] = "o"
        for axes, budget in ((left, trials), (right, hours)):
            axes.plot(budget, 100 * best.mean(0), **style)
            low, high = 100 * best.min(0), 100 * best.max(0)
            axes.fill_between(budget, low, high, color=colour, alpha=0.2, linewidth=0)
    number_axis(left, "x", [], whole=True)
    number_axis(right, "x", [])
    number_axis(left, "y", [])
    left.set(xlabel="trials", ylabel="expected best validation top-1, %")
    right.set_xlabel("hours of training")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    return figure


def expected_curves(
    searches: Sequence[Lines],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what fewer trials of some searches would have found, and taken.

    A pruned trial counts with what it had reached, a failed one with 0.

    Args:
        searches: The trials of each of S searches, at least one each.

    Returns:
        Numbers of trials 1..N (N,), N being the fewest that a search has; the expected best (S, N)
        as a fraction; and the mean hours that so many take (N,).
    """
    numbers = np.arange(1, min(map(len, searches)) + 1)
    values = [[trial["validation_top1"] or 0.0 for trial in trials] for trials in searches]
    best = [[expected_best(of_search, int(n)) for n in numbers] for of_search in values]
    seconds = fmean(fmean(trial["seconds"] for trial in trials) for trials in searches)
    return numbers, np.array(best), numbers * seconds / 3600


def _said(value: Any) -> str:
    """Returns a parameter's value as a label says it."""
    return digits(value) if isinstance(value, float) else str(value)
