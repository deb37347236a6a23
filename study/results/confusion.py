"""Which classes are taken for which."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

__all__ = ["confusion"]

OTHER = "other"
CLASSES_SHOWN = 20  # before the rest


def confusion(
    counted: Mapping[tuple[int, int], int], names: Mapping[int, str]
) -> tuple[np.ndarray, list[str]]:
    """Counts confusions between the 20 most frequent classes, the rest as one (STILT, Fig. 5).

    Of 21 classes all are kept: the rest would be one.

    Args:
        counted: Judgements by true and predicted class.
        names: Names by class.

    Returns:
        Counts (C, C), true class by row and predicted class by column, and the C classes' names.
        ``other`` is the last where there is one.
    """
    frequency: Counter[int] = Counter()
    for (label, _), count in counted.items():
        frequency[label] += count
    # Predictions that are no test video's class have no name and come last, whatever their number.
    every = {label for pair in counted for label in pair}
    classes = sorted(every, key=lambda c: (-frequency[c], names.get(c, str(c))))
    kept = classes if len(classes) <= CLASSES_SHOWN + 1 else classes[:CLASSES_SHOWN]
    index = {label: i for i, label in enumerate(kept)}
    shown = [names.get(label, str(label)) for label in kept]
    if len(kept) < len(classes):
        shown.append(OTHER)
    counts = np.zeros((len(shown), len(shown)), int)
    for (label, predicted), count in counted.items():
        counts[index.get(label, len(kept)), index.get(predicted, len(kept))] += count
    return counts, shown
