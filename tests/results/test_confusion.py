"""Confusions against scikit-learn's."""

from collections import Counter

import numpy as np
from sklearn.metrics import confusion_matrix

from study.results.confusion import confusion


def counted(labels: np.ndarray, predicted: np.ndarray) -> Counter[tuple[int, int]]:
    return Counter(zip(labels.tolist(), predicted.tolist(), strict=True))


def test_few_classes_are_all_kept_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200))
    counts, names = confusion(counted(labels, predicted), {i: f"c{i}" for i in range(5)})
    order = [int(name[1:]) for name in names]
    assert (counts == confusion_matrix(labels, predicted, labels=order)).all()
    frequency = [int((labels == c).sum()) for c in order]
    assert frequency == sorted(frequency, reverse=True)


def test_the_rest_of_many_classes_is_one() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 30, (2, 3000))
    counts, names = confusion(counted(labels, predicted), {i: f"c{i:02}" for i in range(30)})
    assert len(names) == 21
    assert names[-1] == "other"
    assert counts.sum() == 3000
    kept = [int(name[1:]) for name in names[:-1]]
    whole = confusion_matrix(labels, predicted, labels=range(30))
    rest = [c for c in range(30) if c not in kept]
    assert (counts[:20, :20] == whole[np.ix_(kept, kept)]).all()
    assert (counts[:20, 20] == whole[np.ix_(kept, rest)].sum(1)).all()
    assert counts[20, 20] == whole[np.ix_(rest, rest)].sum()
    assert min(whole.sum(1)[kept]) >= max(whole.sum(1)[rest])


def test_one_class_is_never_called_other() -> None:
    labels = np.arange(21)
    _, names = confusion(counted(labels, labels), {i: f"c{i:02}" for i in range(21)})
    assert "other" not in names
    assert len(names) == 21
