"""Plots of a study as a whole: arms compared, and its trainings by epoch."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.results.comparison import Comparison
from study.results.drawing import COLOURS, GREY, INK, cut, name_rows, styled

__all__ = ["comparison_plot", "epochs_plot"]


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
    name = names.get(reference, reference)
    what = "simultaneous 95 % intervals" if len(comparisons) > 1 else "95 % interval"
    axes.set_xlabel(f"top-1 less that of {name}, percentage points, {what}")
    return figure


@styled
def epochs_plot(curves: Mapping[str, Sequence[Sequence[Mapping[str, Any]]]]) -> Figure:
    """Draws training loss and validation accuracy by epoch.

    Args:
        curves: By network, the epochs of each of its trainings (lines of view ``epochs`` in order).

    Returns:
        The figure.
    """
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
                    label=cut(net, 60) if nth == 0 else None,
                )
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure
