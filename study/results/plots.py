"""Plots of a study as a whole: arms compared, and its trainings by epoch."""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from study.results.comparison import Comparison
from study.results.drawing import COLOURS, GREY, INK, cut, name_rows, number_axis, styled

__all__ = ["comparison_plot", "curves_by_network", "epochs_plot"]

EPOCH_TICKS = 7


@styled
def comparison_plot(
    comparisons: Sequence[Comparison], names: Mapping[str, str], *, reference: str
) -> Figure:
    """Draws differences of accuracy from a reference with their intervals.

    Args:
        comparisons: A line each, from the top.
        names: What to call each arm.
        reference: The arm that the others are compared with.

    Returns:
        The figure.
    """
    figure = Figure(figsize=(8.4, 1.1 + 0.34 * len(comparisons)), layout="constrained")
    axes = figure.add_subplot()
    for height, one in enumerate(comparisons):
        interval = one.interval
        colour = {"better": COLOURS[0], "worse": COLOURS[1]}.get(one.verdict, GREY)
        if interval is not None:
            ends = [100 * interval.low, 100 * interval.high]
            axes.plot(ends, [height] * 2, color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot([100 * one.estimate.value], [height], "o", color=colour, markersize=6)
    axes.axvline(0, color=INK, linewidth=1)
    name_rows(axes, [names.get(one.arm, one.arm) for one in comparisons])
    number_axis(axes, "x", [])
    name = names.get(reference, reference)
    what = "simultaneous 95 % intervals" if len(comparisons) > 1 else "95 % interval"
    axes.set_xlabel(f"top-1 less that of {name}, percentage points, {what}")
    return figure


def curves_by_network(
    trainings: Sequence[Mapping[str, Any]], epochs: Sequence[Mapping[str, Any]]
) -> dict[str, list[list[Mapping[str, Any]]]]:
    """Returns the epochs of each training by network: its model, and the options that differ.

    Args:
        trainings: Lines of view ``trainings``.
        epochs: Lines of view ``epochs``; those of other trainings are left out.
    """
    by_training: dict[str, list[Mapping[str, Any]]] = {}
    for epoch in epochs:
        by_training.setdefault(epoch["training_id"], []).append(epoch)
    curves: dict[str, list[list[Mapping[str, Any]]]] = {}
    for training in trainings:
        if curve := by_training.get(training["training_id"]):
            curves.setdefault(_network(training, trainings), []).append(curve)
    return curves


def _network(training: Mapping[str, Any], others: Sequence[Mapping[str, Any]]) -> str:
    """Returns the model with those of its options in which the trainings differ."""
    every = [json.loads(line["options"]) for line in others if line["model"] == training["model"]]
    options = json.loads(training["options"])
    different = {
        name: value for name, value in options.items() if any(o.get(name) != value for o in every)
    }
    text = ", ".join(f"{name} = {json.dumps(value)}" for name, value in sorted(different.items()))
    return f"{training['model']}: {text}" if text else str(training["model"])


@styled
def epochs_plot(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Draws training loss and validation accuracy by epoch.

    Args:
        curves: By network, the epochs of each of its trainings (lines of view ``epochs``).

    Returns:
        The figure: each network's mean over its trainings, and from the least to the most.
    """
    last = max((epoch["epoch"] for of in curves.values() for one in of for epoch in one), default=1)
    figure = Figure(figsize=(10.4, 3.1), layout="constrained")
    for axes, column, label, scale in zip(
        figure.subplots(1, 2),
        ("train_loss", "validation_top1"),
        ("training loss", "validation top-1, %"),
        (1, 100),
        strict=True,
    ):
        for number, (net, trainings) in enumerate(curves.items()):
            epochs, mean, low, high = band(trainings, column)
            colour = COLOURS[number % len(COLOURS)]
            name = cut(net, 60) + (f", {len(trainings)} trainings" if len(trainings) > 1 else "")
            marker = "o" if len(epochs) == 1 else None
            axes.plot(
                epochs,
                scale * mean,
                color=colour,
                linewidth=1.5,
                marker=marker,
                label=name,
                clip_on=False,
            )
            axes.fill_between(
                epochs, scale * low, scale * high, color=colour, alpha=0.2, linewidth=0
            )
        axes.set(xlabel="epoch", ylabel=label, xlim=(1, last) if last > 1 else (0.5, 1.5))
        axes.set_xticks(_epoch_ticks(last))
        number_axis(axes, "y", [])
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _epoch_ticks(last: int) -> list[int]:
    """Returns ticks from the first epoch to the last, as even as whole epochs allow."""
    return sorted({round(epoch) for epoch in np.linspace(1, last, min(last, EPOCH_TICKS))})


def band(
    trainings: Sequence[Sequence[Mapping[str, Any]]], column: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns a column by epoch over several trainings.

    Args:
        trainings: The epochs of each.
        column: A column of view ``epochs``; a training counts in the epochs that have it.

    Returns:
        The E epochs, ascending, and of each the mean, the least and the most, (E,) each.
    """
    values: dict[int, list[float]] = {}
    for training in trainings:
        for epoch in training:
            if epoch[column] is not None:
                values.setdefault(epoch["epoch"], []).append(epoch[column])
    epochs = sorted(values)
    mean, low, high = (
        np.array([of(values[epoch]) for epoch in epochs], float) for of in (fmean, min, max)
    )
    return np.array(epochs, int), mean, low, high
