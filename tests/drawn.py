"""What every figure is held to: labels that don't overlap, and numbers of few digits."""

import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import matplotlib as mpl
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from study.results.drawing import STYLE

NUMBER = re.compile(r"[−-]?(\d+\.?\d*)(?:e[−-]?\d+)?")


def check_drawn(figure: Figure) -> None:
    """Draws a figure; fails where tick labels overlap or leave it, or a number is long."""
    with mpl.rc_context(STYLE):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        for axes in figure.axes:
            if axes.get_visible():
                _check_axis(axes.xaxis, canvas, along=0)
                _check_axis(axes.yaxis, canvas, along=1)


def _check_axis(axis: Axis, canvas: FigureCanvasAgg, *, along: int) -> None:
    low, high = sorted(axis.get_view_interval())
    shown = [
        label
        for tick in axis.get_major_ticks()
        if low <= tick.get_loc() <= high
        for label in (tick.label1, tick.label2)
        if label.get_visible() and label.get_text()
    ]
    boxes = sorted((label.get_window_extent() for label in shown), key=lambda box: box.min[along])
    for one, after in pairwise(boxes):
        assert one.max[along] <= after.min[along] + 0.5, (one, after)
    width, height = canvas.get_width_height()
    for box in boxes:
        assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= -1, box
    for label in shown:
        if found := NUMBER.fullmatch(label.get_text()):
            assert len(found[1].replace(".", "").strip("0")) <= 4, label.get_text()


def words(svg: str) -> list[str]:
    """The words in a figure; fails where it isn't well-formed or reaches for something outside."""
    root = ET.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.endswith("href") or value.startswith(("#", "data:")), (name, value)
        assert not element.tag.endswith(("}script", "}foreignObject"))
    return [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
