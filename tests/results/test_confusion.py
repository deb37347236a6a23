"""Confusions against scikit-learn's."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import confusion_matrix

from study.results.confusion import (
    confusion,
    count_confusions,
    frequent_classes,
    names_shown,
    shares,
)
from study.results.store import ResultStore
from tests.sample_results import ARMS, write_study


def counted(labels: Sequence[int], predicted: Sequence[int]) -> Counter[tuple[int, int]]:
    return Counter(zip(labels, predicted, strict=True))


def test_few_classes_are_all_kept_as_scikit_learn_counts_them() -> None:
    rng = np.random.default_rng(0)
    labels, predicted = rng.integers(0, 5, (2, 200)).tolist()
    classes = frequent_classes(counted(labels, predicted))
    counts = confusion(counted(labels, predicted), classes)
    assert (counts[:-1, :-1] == confusion_matrix(labels, predicted, labels=classes)).all()
    assert not counts[-1].any()
    assert [n for _, n in Counter(labels).most_common()] == counts.sum(1)[:-1].tolist()


def test_the_rest_of_many_classes_is_one() -> None:
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 30, (2, 3000)).tolist()
    kept = frequent_classes(counted(labels, predicted))
    counts = confusion(counted(labels, predicted), kept)
    assert len(kept) == 20
    assert names_shown(counts, list(map(str, kept)))[20:] == ["other"]
    assert counts.sum() == 3000
    whole = confusion_matrix(labels, predicted, labels=range(30))
    rest = [c for c in range(30) if c not in kept]
    assert (counts[:20, :20] == whole[np.ix_(kept, kept)]).all()
    assert (counts[:20, 20] == whole[np.ix_(kept, rest)].sum(1)).all()
    assert counts[20, 20] == whole[np.ix_(rest, rest)].sum()
    assert min(whole.sum(1)[kept]) >= max(whole.sum(1)[rest])


def test_one_class_is_never_called_other() -> None:
    labels = list(range(21))
    classes = frequent_classes(counted(labels, labels))
    assert classes == labels
    names = [f"c{i:02}" for i in labels]
    assert names_shown(confusion(counted(labels, labels), classes), names) == names


def test_what_any_arm_predicts_has_a_class_of_its_own_after_the_true_ones() -> None:
    labels = [3, 3, 1]
    both = counted(labels, [3, 9, 1]), counted(labels, [0, 3, 1])
    assert frequent_classes(*both) == [3, 1, 0, 9]


def test_shares_are_of_the_true_class_and_zero_where_it_has_no_judgement() -> None:
    assert shares(np.array([[1, 3], [0, 0]])).tolist() == [[0.25, 0.75], [0, 0]]


def test_a_studys_judgements_are_counted_over_splits_and_seeds(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store, classes=3, seeds=2, arms=dict(list(ARMS.items())[:2]))
    lines = store.read("predictions", part="test").to_pylist()
    (protocol,) = {line["protocol"] for line in lines}
    by_arm, names = count_confusions(
        store, study="stilt-ucf101", dataset="ucf101", protocol=protocol
    )
    assert by_arm == {
        arm: Counter((line["label"], line["predicted"]) for line in lines if line["arm"] == arm)
        for arm in list(ARMS)[:2]
    }
    assert names == {line["label"]: line["video"].split("/")[0] for line in lines}
    assert count_confusions(store, study="stilt-ucf101", dataset="hmdb51", protocol=protocol) == (
        {},
        {},
    )
