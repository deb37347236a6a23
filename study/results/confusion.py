"""Which classes are taken for which."""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from study.results.store import ResultStore

__all__ = ["confusion", "count_confusions", "frequent_classes", "names_shown", "shares"]

OTHER = "other"
CLASSES_SHOWN = 20  # before the rest

Counted = Mapping[tuple[int, int], int]


def count_confusions(
    store: ResultStore, *, study: str, dataset: str, protocol: str
) -> tuple[dict[str, dict[tuple[int, int], int]], dict[int, str]]:
    """Counts the judgements of a dataset's test videos, over all splits and seeds.

    Args:
        store: The results.
        study: The study's name.
        dataset: The dataset.
        protocol: The protocol's hash.

    Returns:
        By arm the number of judgements by true and predicted class, and the true classes' names.
    """
    with store.connect() as connection:
        counted = connection.execute(
            """
            SELECT arm, label, predicted, count(*), any_value(string_split(video, '/')[1])
            FROM predictions
            WHERE study = ? AND dataset = ? AND protocol = ? AND part = 'test'
            GROUP BY arm, label, predicted
            """,
            [study, dataset, protocol],
        ).fetchall()
    by_arm: dict[str, dict[tuple[int, int], int]] = {}
    for arm, label, predicted, count, _ in counted:
        by_arm.setdefault(arm, {})[label, predicted] = count
    return by_arm, {label: name for _, label, _, _, name in counted}


def frequent_classes(*counted: Counted) -> list[int]:
    """Returns the 20 most frequent true classes, or all where there are no more than 21.

    Args:
        *counted: Judgements by true and predicted class, of one arm or several.

    Returns:
        The classes, the most frequent first and of equals the lower number. What is predicted and
        no judgement's true class comes last.
    """
    frequency: Counter[int] = Counter()
    for arm in counted:
        for (label, _), count in arm.items():
            frequency[label] += count
    every = sorted({label for arm in counted for pair in arm for label in pair})
    classes = sorted(every, key=lambda label: -frequency[label])
    return classes if len(classes) <= CLASSES_SHOWN + 1 else classes[:CLASSES_SHOWN]


def confusion(counted: Counted, classes: Sequence[int]) -> np.ndarray:
    """Counts confusions between some classes, the rest as one (STILT, Fig. 5).

    Args:
        counted: Judgements by true and predicted class.
        classes: The C classes that are told apart.

    Returns:
        Counts (C + 1, C + 1), true class by row and predicted class by column; the last are of all
        other classes.
    """
    index = {label: i for i, label in enumerate(classes)}
    rest = len(classes)
    counts = np.zeros((rest + 1, rest + 1), int)
    for (label, predicted), count in counted.items():
        counts[index.get(label, rest), index.get(predicted, rest)] += count
    return counts


def names_shown(counts: np.ndarray, names: Sequence[str]) -> list[str]:
    """Returns the C classes' names, and that of the rest where it has any count (C + 1, C + 1)."""
    return [*names, OTHER] if counts[-1].any() or counts[:, -1].any() else list(names)


def shares(counts: np.ndarray) -> np.ndarray:
    """Returns each row's counts as shares of the row, zero where it has none."""
    total = counts.sum(1, keepdims=True)
    part: np.ndarray = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    return part
