"""Plots of a search: its trials, and what they say of the parameters."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.results.drawing import COLOURS, GREY, cut, digits, number_axis, styled

__all__ = ["search_plot"]

FEW = 5  # values of a number that are shown as choices


@styled
def search_plot(trials: Sequence[Mapping[str, Any]]) -> Figure:
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
    number_axis(axes, "x", [trial["trial"] for trial in judged], whole=True)
    if judged:
        axes.legend(fontsize=7)


def _by_value(axes: Axes, trials: Sequence[Mapping[str, Any]], name: str) -> None:
    tried = [trial for trial in trials if trial["parameters"].get(name) is not None]
    values = {json.dumps(trial["parameters"][name]): trial["parameters"][name] for trial in tried}
    numeric = all(type(value) in (int, float) for value in values.values())
    choices = sorted(values, key=values.__getitem__ if numeric else str)
    judged = [trial for trial in tried if trial["validation_top1"] is not None]
    axes.set_xlabel(cut(name, 30))
    if not numeric or len(choices) <= FEW:
        index = {choice: i for i, choice in enumerate(choices)}
        points = [(index[json.dumps(trial["parameters"][name])], trial) for trial in judged]
        _points(axes, points)
        axes.set_xticks(range(len(choices)), [cut(_said(values[choice]), 12) for choice in choices])
        axes.set_xlim(-0.5, len(choices) - 0.5)
        return
    _points(axes, [(trial["parameters"][name], trial) for trial in judged])
    number_axis(axes, "x", values.values())


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


def _said(value: Any) -> str:
    """Returns a parameter's value as a label says it."""
    return digits(value) if isinstance(value, float) else str(value)
