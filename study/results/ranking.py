"""Compares arms over several datasets: ranks with their test, and aggregate accuracies."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from study.results.statistics import LEVEL, Interval

__all__ = ["AGGREGATES", "Aggregate", "Ranking", "aggregate", "rank"]

RESAMPLES = 5_000
SEED = 0  # of all that is drawn, so that the same results give the same numbers


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Arms ranked on each of several datasets (Demšar, JMLR 2006).

    Attributes:
        ranks: Mean rank by arm; 1 is the best, ties share their ranks' mean.
        datasets: How many there are.
        p_value: Of Friedman's test that all arms are alike, with its χ² approximation.
        critical_difference: Mean ranks that differ by more differ significantly, by Nemenyi's test
            of all pairs at the level 0.05.
    """

    ranks: Mapping[str, float]
    datasets: int
    p_value: float
    critical_difference: float


def rank(accuracies: Mapping[str, Sequence[float]]) -> Ranking:
    """Ranks arms by their accuracies on the same datasets.

    Args:
        accuracies: By arm, its accuracy on each of N datasets.

    Raises:
        ValueError: If there are fewer than three arms or two datasets, or an arm lacks some.
    """
    counts = {len(values) for values in accuracies.values()}
    if len(counts) != 1 or min(counts) < 2 or len(accuracies) < 3:
        raise ValueError(
            "ranks need at least 3 arms with accuracies on the same 2 or more datasets, but got "
            f"{ {arm: len(values) for arm, values in accuracies.items()} }"
        )
    table = np.array([list(values) for values in accuracies.values()]).T  # (N, A)
    datasets, arms = table.shape
    ranks = stats.rankdata(-table, axis=1).mean(0)
    alike = bool((table == table[:, :1]).all())
    quantile = stats.studentized_range.ppf(1 - LEVEL, arms, math.inf) / math.sqrt(2)
    return Ranking(
        ranks=dict(zip(accuracies, map(float, ranks), strict=True)),
        datasets=datasets,
        p_value=1.0 if alike else float(stats.friedmanchisquare(*table.T).pvalue),
        critical_difference=float(quantile * math.sqrt(arms * (arms + 1) / (6 * datasets))),
    )


@dataclass(frozen=True, kw_only=True)
class Aggregate:
    """An arm's accuracy over all runs of several datasets.

    Attributes:
        value: Of all runs.
        interval: 95 % percentile interval of the stratified bootstrap.
    """

    value: float
    interval: Interval


AGGREGATES = ("mean", "interquartile mean", "median")


def aggregate(runs: Sequence[Sequence[float]], how: str) -> Aggregate:
    """Aggregates an arm's runs with a stratified bootstrap interval (Agarwal et al., NeurIPS 2021).

    Runs are drawn with replacement within each dataset, so the interval tells of other seeds on
    these datasets and not of other datasets. With few seeds it is too narrow.

    Args:
        runs: By dataset, the accuracies of its seeds.
        how: ``mean``, ``interquartile mean`` (of the middle half of all runs) or ``median``.

    Raises:
        ValueError: If the aggregate is unknown or a dataset has no run.
    """
    if how not in AGGREGATES:
        raise ValueError(f"there is no aggregate {how!r}; there are {', '.join(AGGREGATES)}")
    if not runs or not all(len(of_dataset) for of_dataset in runs):
        raise ValueError("each dataset needs at least one run")
    rng = np.random.default_rng(SEED)
    drawn = np.concatenate(
        [rng.choice(np.asarray(of_dataset), (RESAMPLES, len(of_dataset))) for of_dataset in runs],
        axis=1,
    )
    every = np.concatenate([np.asarray(of_dataset, float) for of_dataset in runs])
    low, high = np.quantile(_aggregated(drawn, how), [LEVEL / 2, 1 - LEVEL / 2])
    value = float(_aggregated(every[None], how)[0])
    return Aggregate(value=value, interval=Interval(low=float(low), high=float(high)))


def _aggregated(runs: np.ndarray, how: str) -> np.ndarray:
    """Aggregates lines of runs, (R, N) → (R,)."""
    if how == "median":
        return np.asarray(np.median(runs, axis=1))
    return np.asarray(stats.trim_mean(runs, 0.25 if how == "interquartile mean" else 0, axis=1))
