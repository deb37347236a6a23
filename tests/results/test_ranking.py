"""Ranks and aggregates over datasets, against scipy and a textbook's numbers."""

import numpy as np
import pytest
from scipy import stats

from study.results.ranking import aggregate, rank


def test_ranks_and_friedmans_test_are_scipys() -> None:
    rng = np.random.default_rng(0)
    table = rng.random((6, 4)).round(1)  # with ties
    found = rank({f"arm{i}": list(column) for i, column in enumerate(table.T)})
    expected = np.mean([stats.rankdata(-line) for line in table], axis=0)
    assert list(found.ranks.values()) == pytest.approx(list(expected))
    assert found.p_value == pytest.approx(stats.friedmanchisquare(*table.T).pvalue)
    assert found.datasets == 6


def test_the_critical_difference_is_demsars() -> None:
    """Demšar (2006), section 3.2.2: 4 classifiers on 14 datasets, q = 2.569, CD = 1.25."""
    rng = np.random.default_rng(1)
    found = rank({name: list(rng.random(14)) for name in "abcd"})
    assert found.critical_difference == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    assert round(found.critical_difference, 2) == 1.25


def test_arms_that_are_alike_everywhere_do_not_differ() -> None:
    found = rank({name: [0.5, 0.6] for name in "abc"})
    assert found.p_value == 1
    assert set(found.ranks.values()) == {2.0}


def test_too_few_arms_or_datasets_are_refused() -> None:
    for accuracies in (
        {"a": [0.1, 0.2], "b": [0.1, 0.2]},
        {"a": [0.1], "b": [0.1], "c": [0.1]},
        {"a": [0.1, 0.2], "b": [0.1, 0.2], "c": [0.1]},
    ):
        with pytest.raises(ValueError, match="at least 3 arms with accuracies on the same 2"):
            rank(accuracies)


@pytest.mark.parametrize(
    ("how", "statistic"),
    [
        ("mean", np.mean),
        ("median", np.median),
        ("interquartile mean", lambda runs, axis: stats.trim_mean(runs, 0.25, axis)),
    ],
)
def test_an_aggregate_of_one_dataset_is_scipys_bootstrap(how, statistic) -> None:
    runs = np.random.default_rng(2).normal(0.8, 0.05, 40)
    found = aggregate([runs.tolist()], how)
    reference = stats.bootstrap((runs,), statistic, method="percentile", rng=3)
    expected = reference.confidence_interval
    assert found.value == pytest.approx(statistic(runs, axis=0))
    assert found.interval.low == pytest.approx(expected.low, abs=0.003)
    assert found.interval.high == pytest.approx(expected.high, abs=0.003)


def test_datasets_are_drawn_from_apart() -> None:
    """Each dataset's runs are all alike, so nothing varies, however far the datasets are apart."""
    found = aggregate([[0.2, 0.2], [0.8, 0.8]], "mean")
    assert (found.interval.low, found.value, found.interval.high) == pytest.approx((0.5,) * 3)


def test_what_cannot_be_aggregated_is_refused() -> None:
    with pytest.raises(ValueError, match="no aggregate 'mode'; there are mean, interquartile"):
        aggregate([[0.1]], "mode")
    with pytest.raises(ValueError, match="at least one run"):
        aggregate([[0.1], []], "mean")
