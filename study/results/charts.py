"""Figures by class that the page draws itself, so that the reader chooses the arms.

A chart is rows of numbers with intervals. As data it takes some kilobytes a pair of arms; drawn
beforehand, a pair takes a hundred.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from study.results.class_plots import ENDS, ends, weight_order
from study.results.comparison import class_gains
from study.results.findings import Findings
from study.results.statistics import Interval

__all__ = ["PAIRED", "gains_chart", "weights_chart"]

PAIRED = 6  # arms of which each two are compared by class

Chart = dict[str, Any]


def gains_chart(found: Findings) -> Chart | None:
    """Returns what each arm gains over each other on every class, with intervals (CSTM, Fig. 5).

    Of more than six arms there are the reference and the five of the highest accuracy; of more
    than 40 classes, the 20 that gain and the 20 that lose most.

    Args:
        found: What was found on the dataset.

    Returns:
        ``arms``, names by number; ``chosen``, the numbers of the arm and of the other that are
        shown first; ``heads`` of the numbers' columns; ``digits`` after the point; ``signed``;
        ``classes``, their names and test videos; ``rows``: by the numbers of two arms, such as
        "1 0", the number of a class and [points, low, high], the largest gain first. None without
        two arms to compare.
    """
    ranked = sorted(found.comparisons, key=lambda one: -one.estimate.value)
    chosen = {found.reference, *(one.arm for one in ranked[: PAIRED - 1])}
    arms = [arm for arm in found.labels if arm in chosen]
    if found.best is None:
        return None
    classes: dict[str, int] = {}
    rows: dict[str, list[Any]] = {}
    for first, arm in enumerate(arms):
        for second, other in enumerate(arms[:first]):
            gains = class_gains(found.judged[other], found.judged[arm], ends=ENDS)
            rows[f"{first} {second}"] = [
                [
                    classes.setdefault(f"{gain.name} ({gain.videos})", len(classes)),
                    _mark(gain.estimate.value, gain.interval),
                ]
                for gain in gains
            ]
    return {
        "arms": [found.labels[arm] for arm in arms],
        "chosen": [arms.index(found.best.arm), arms.index(found.reference)],
        "heads": ["points", "95 % interval"],
        "digits": 1,
        "signed": True,
        "classes": list(classes),
        "rows": rows,
    }


def weights_chart(
    weights: Mapping[str, tuple[np.ndarray, Sequence[str], Sequence[str]]],
    labels: Mapping[str, str],
) -> Chart | None:
    """Returns the weights that arms' fusions fitted by class (STILT, eq. 5).

    Of more than 40 classes there are the 20 at each end, as ``class_plots.fusion_weights_plot``
    has them.

    Args:
        weights: By arm (R, N, S) of R rows, the N classes and the S streams.
        labels: What to call each arm.

    Returns:
        As ``gains_chart``, but ``rows`` by the number of an arm, with [mean, least, most] of
        each stream of the first. None without such an arm.
    """
    if not weights:
        return None
    _, names, streams = next(iter(weights.values()))
    rows = {}
    for number, (of_arm, _, of_streams) in enumerate(weights.values()):
        order = weight_order(of_arm.mean(0))
        marks = np.stack([of_arm.mean(0), of_arm.min(0), of_arm.max(0)], axis=-1).round(3)
        rows[str(number)] = [
            [label, *marks[label, [of_streams.index(one) for one in streams]].tolist()]
            for label in (int(order[place]) for place in ends(len(order)))
        ]
    return {
        "arms": [labels[arm] for arm in weights],
        "chosen": [0],
        "heads": [
            head
            for mark, stream in zip("●○", streams, strict=False)
            for head in (f"{mark} {stream}", "least and most")
        ],
        "digits": 3,
        "signed": False,
        "classes": list(names),
        "rows": rows,
    }


def _mark(value: float, interval: Interval | None) -> list[float | None]:
    """Returns a fraction and its interval in points, to a tenth."""
    if interval is None:
        return [round(100 * value, 1), None, None]
    return [round(100 * one, 1) for one in (value, interval.low, interval.high)]
