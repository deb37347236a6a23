"""Accuracy against what it costs."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform

from study.results.budget import ArmCost, pareto_front
from study.results.drawing import COLOURS, GREY, cut, digits, number_axis, styled
from study.results.findings import between, points
from study.results.grids import MISSING, Grid
from study.results.statistics import Estimate

__all__ = ["cost_grid", "cost_plot"]

MARKERS = "os^DvP*X"
LEGEND_LINE = 0.17  # inches
APART = 5  # points between arms of equal cost
AXES = {
    "gflops": (1, "GFLOPs of a clip's forward pass"),
    "parameters": (1e6, "parameters, millions"),
    "device_seconds": (3600, "training, hours × processes"),
    "clips_per_second": (1, "clips trained a second (more is better)"),
}


@styled
def cost_plot(
    costs: Sequence[ArmCost], accuracies: Mapping[str, Estimate], names: Mapping[str, str]
) -> Figure:
    """Draws accuracy against GFLOPs, parameters, time of training and clips a second.

    A grey line joins the arms that no other beats at the same cost or less (the Pareto front),
    by their estimates: it says nothing of their intervals.

    Args:
        costs: What each arm costs.
        accuracies: Top-1 by arm.
        names: What to call each arm.

    Returns:
        The figure.
    """
    shown = [cost for cost in costs if cost.arm in accuracies]
    figure = Figure(figsize=(10.4, 6.4 + LEGEND_LINE * len(shown) / 3), layout="constrained")
    for axes, (what, (unit, label)) in zip(figure.subplots(2, 2).flat, AXES.items(), strict=True):
        axes.set(xlabel=label, ylabel="top-1, %, 95 % interval")
        known = {
            number: getattr(cost, what) / unit
            for number, cost in enumerate(shown)
            if getattr(cost, what) is not None
        }
        values = {number: 100 * accuracies[shown[number].arm].value for number in known}
        _front(axes, known, values, more_is_better=what == "clips_per_second")
        if not known:
            axes.set(xticks=[], yticks=[])
            axes.text(0.5, 0.5, "not in these results", ha="center", transform=axes.transAxes)
            continue
        for number, cost in known.items():
            place = _beside(figure, axes, known, number)
            interval = accuracies[shown[number].arm].interval()
            colour = COLOURS[number % len(COLOURS)]
            if interval is not None:
                ends = [100 * interval.low, 100 * interval.high]
                axes.plot([cost] * 2, ends, color=colour, transform=place)
                axes.update_datalim([(cost, end) for end in ends])
            axes.update_datalim([(cost, values[number])])
            axes.plot(
                [cost],
                [values[number]],
                color=colour,
                marker=_marker(number),
                linestyle="",
                transform=place,
                zorder=3,
            )
        axes.autoscale_view()
        number_axis(axes, "x", known.values())
        number_axis(axes, "y", [])
    _legend(figure, [names.get(cost.arm, cost.arm) for cost in shown])
    return figure


def cost_grid(
    costs: Sequence[ArmCost], accuracies: Mapping[str, Estimate], names: Mapping[str, str]
) -> Grid:
    """Returns the numbers of the figure, a row for each arm; arguments as of ``cost_plot``."""
    rows = []
    for cost in costs:
        top1 = accuracies[cost.arm]
        numbers = [getattr(cost, what) for what in AXES]
        rows.append(
            [
                names.get(cost.arm, cost.arm),
                points(top1.value, signed=False),
                between(top1.interval(), signed=False),
                *(
                    MISSING if number is None else digits(number / unit)
                    for number, (unit, _) in zip(numbers, AXES.values(), strict=True)
                ),
            ]
        )
    units = ("GFLOPs", "parameters, M", "hours × processes", "clips/s")
    header = ("arm", "top-1, %", "95 % interval", *units)
    return Grid(header=header, rows=rows, right=(False, *[True] * (len(header) - 1)))


def _beside(figure: Figure, axes: Axes, costs: Mapping[int, float], number: int) -> Transform:
    """Returns where to draw an arm so that those of equal cost stand side by side."""
    equal = [other for other, cost in costs.items() if cost == costs[number]]
    points = APART * (equal.index(number) - (len(equal) - 1) / 2)
    return axes.transData + ScaledTranslation(points / 72, 0, figure.dpi_scale_trans)


def _front(
    axes: Axes, costs: Mapping[int, float], values: Mapping[int, float], *, more_is_better: bool
) -> None:
    numbers = list(costs)
    sign = -1 if more_is_better else 1
    chosen = pareto_front(
        [sign * costs[number] for number in numbers], [values[number] for number in numbers]
    )
    front = [numbers[i] for i in chosen]
    axes.plot([costs[i] for i in front], [values[i] for i in front], color=GREY, linestyle="--")


def _marker(number: int) -> str:
    """Returns an arm's marker; no two of the first 64 arms have both colour and marker alike."""
    return MARKERS[(number + number // len(COLOURS)) % len(MARKERS)]


def _legend(figure: Figure, names: Sequence[str]) -> None:
    axes = figure.axes[0]
    handles = [
        axes.plot(
            [],
            [],
            color=COLOURS[number % len(COLOURS)],
            marker=_marker(number),
            linestyle="",
            label=cut(name, 50),
        )[0]
        for number, name in enumerate(names)
    ]
    handles += axes.plot([], [], color=GREY, linestyle="--", label="Pareto front")
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8)
