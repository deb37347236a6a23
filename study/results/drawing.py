"""How every figure looks, and how it becomes SVG for a page or files for a paper.

A figure is drawn once as a matplotlib ``Figure``. On the page it is inline SVG: some kilobytes that
any browser scales, prints and reads out, where an interactive library would add megabytes.
"""

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from pathlib import Path
from typing import Literal, ParamSpec

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from study.files import whole_file

__all__ = [
    "COLOURS",
    "FORMATS",
    "GREY",
    "INK",
    "cut",
    "digits",
    "log_ticks",
    "name_rows",
    "number_axis",
    "ranges_widely",
    "save",
    "styled",
    "svg",
]

# Okabe and Ito's colours, which the colour-blind tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
GREY = "#6b7280"
INK = "#374151"
FORMATS = ("png", "svg", "pdf")
STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9ca3af",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # publishers refuse Type 3
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with dollars is a name
    "xtick.color": INK,
    "ytick.color": INK,
}
TICKS = 5  # of a number's axis, at most
PIXELS_AN_INCH = 200
WIDE = 8  # times a range's beginning, from which its axis is logarithmic

P = ParamSpec("P")


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Makes a function draw in the style of all figures."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return drawn


def svg(figure: Figure, label: str) -> str:
    """Returns a figure as an ``<svg>`` element that scales with the page.

    Args:
        figure: The figure.
        label: What names it to a screen reader, and tells its identifiers from those of the page's
            other figures.
    """
    sink = io.StringIO()
    with mpl.rc_context(STYLE | {"svg.hashsalt": label}):
        figure.savefig(
            sink, format="svg", transparent=True, metadata={"Date": None, "Creator": None}
        )
    text = sink.getvalue()
    # Groups are numbered alike in each figure, and nothing refers to them.
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes a figure as PNG, SVG and PDF, each whole; the same figure gives the same bytes.

    Args:
        figure: The figure.
        folder: An existing folder.
        name: The files' name without ending; what no file name should hold becomes a hyphen.

    Returns:
        The files.
    """
    stem = re.sub(r"[^\w.+-]+", "-", name).strip("-.")
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    paths = [folder / f"{stem}.{kind}" for kind in FORMATS]
    with mpl.rc_context(STYLE | {"svg.hashsalt": stem}):
        for path, kind in zip(paths, FORMATS, strict=True):
            with whole_file(path) as file:
                figure.savefig(file, format=kind, dpi=PIXELS_AN_INCH, metadata=metadata[kind])
    return paths


def cut(text: str, letters: int = 24) -> str:
    """Returns a text of at most so many letters."""
    return text if len(text) <= letters else f"{text[: letters - 1]}…"


def digits(value: float) -> str:
    """Returns a number with at most four significant digits."""
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    text = f"{mantissa}e{int(exponent)}" if exponent else mantissa
    return text.replace("-", "−")


def log_ticks(low: float, high: float) -> list[float]:
    """Returns at most five round numbers within a range, evenly spread on a logarithmic axis.

    Args:
        low: The range's beginning, > 0.
        high: Its end.
    """
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        every = [step * 10.0**exponent for exponent in exponents for step in steps]
        ticks = [tick for tick in every if low <= tick <= high]
        if len(ticks) <= TICKS:
            break
    return ticks[:: math.ceil(len(ticks) / TICKS)] if ticks else []


def ranges_widely(values: Sequence[float]) -> bool:
    """Returns whether values are better told apart on a logarithmic axis."""
    return bool(values) and min(values) > 0 and max(values) / min(values) > WIDE


def number_axis(
    axes: Axes, which: Literal["x", "y"], values: Iterable[float], *, whole: bool = False
) -> None:
    """Gives an axis few ticks of few digits; it is logarithmic where the values range widely.

    Args:
        axes: What has the axis.
        which: The axis.
        values: What is drawn along it.
        whole: Whether the values are whole numbers, such as epochs; then it is never logarithmic.
    """
    known = [float(value) for value in values if math.isfinite(value)]
    axis = axes.xaxis if which == "x" else axes.yaxis
    if not whole and ranges_widely(known):
        axes.set(**{f"{which}scale": "log"})
        axis.set_major_locator(FixedLocator(log_ticks(min(known), max(known))))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(MaxNLocator(TICKS, steps=(1, 2, 2.5, 5, 10), integer=whole))
    axis.set_major_formatter(FuncFormatter(lambda value, _: digits(value)))


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Writes names beside the rows 0, 1, … of an axes, from the top, and draws no frame there."""
    axes.set_yticks(range(len(names)), [cut(name, 40) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
