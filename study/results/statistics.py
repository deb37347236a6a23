"""Tests and confidence intervals of whether one arm is better than another on the same videos.

Clips that were cut from one source video are alike, so videos are resampled and exchanged by
source video (their *group*), never one by one. Where nothing says which clips belong together, each
video is a group of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Interval",
    "Judgements",
    "Paired",
    "bootstrap_interval",
    "holm",
    "paired",
    "sign_flip_test",
]

EXACT_GROUPS = 16  # up to 2^16 sign patterns are enumerated; beyond, they are drawn
CHUNK = 256  # resamples computed at once
CONFIDENCE = 0.95  # of intervals
SEED = 0  # of all that is drawn, so that the same results give the same numbers


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Which test videos an arm got right.

    Attributes:
        videos: (split, video) of each of V judgements, each once.
        groups: The source video of each, V.
        seeds: The K seeds.
        correct: (K, V) booleans.

    Raises:
        ValueError: If the shapes don't agree, a video is judged twice, or there is none.
    """

    videos: Sequence[tuple[str, str]]
    groups: Sequence[str]
    seeds: Sequence[int]
    correct: np.ndarray

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.videos))
        if self.correct.shape != expected or self.correct.dtype != bool:
            raise ValueError(
                f"correct must be booleans of shape {expected} (seeds, videos), but got "
                f"{self.correct.dtype} of shape {self.correct.shape}"
            )
        if len(self.groups) != len(self.videos):
            raise ValueError(f"{len(self.videos)} videos, but {len(self.groups)} groups")
        if len(set(self.videos)) != len(self.videos) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a video or a seed is named twice")
        if not self.correct.size:
            raise ValueError("there is no judgement; at least one seed and one video are needed")


@dataclass(frozen=True, kw_only=True)
class Paired:
    """Two arms' judgements of the same videos under the same seeds; made by ``paired``.

    Attributes:
        first: (K, V) booleans of the one arm.
        second: (K, V) booleans of the other, in the same order.
        split: (V,) the number of each video's split, 0..S−1.
        group: (V,) the number of each video's source video, 0..G−1.
    """

    first: np.ndarray
    second: np.ndarray
    split: np.ndarray
    group: np.ndarray

    @property
    def difference(self) -> float:
        """Accuracy of the second less that of the first: mean over splits and seeds."""
        gain = self.second.astype(float) - self.first
        return float(np.mean([gain[:, self.split == s].mean() for s in np.unique(self.split)]))


def paired(first: Judgements, second: Judgements) -> Paired:
    """Aligns two arms' judgements, video by video and seed by seed.

    Seeds that only one of them has are left out.

    Raises:
        ValueError: If they judged different videos, or share no seed.
    """
    if set(first.videos) != set(second.videos):
        odd = sorted(set(first.videos) ^ set(second.videos))
        raise ValueError(
            f"the arms judged different videos: {len(odd)} were judged by one only, such as "
            f"{odd[0][1]!r} of split {odd[0][0]!r}"
        )
    seeds = [seed for seed in first.seeds if seed in set(second.seeds)]
    if not seeds:
        raise ValueError(
            f"the arms share no seed: {list(first.seeds)} against {list(second.seeds)}"
        )
    position = {video: i for i, video in enumerate(second.videos)}
    order = [position[video] for video in first.videos]
    rows = [[list(arm.seeds).index(seed) for seed in seeds] for arm in (first, second)]
    return Paired(
        first=first.correct[rows[0]],
        second=second.correct[rows[1]][:, order],
        split=np.unique([split for split, _ in first.videos], return_inverse=True)[1],
        group=np.unique(list(first.groups), return_inverse=True)[1],
    )


def sign_flip_test(pair: Paired, *, resamples: int = 20_000) -> float:
    """Tests two arms over all splits and seeds, two-sided.

    Hypothesis: for each source video, the two arms' judgements could as well be exchanged (the
    arms are alike on it, whatever the seed). A group's gain is summed over its videos, splits and
    seeds, with each split weighing the same, and gains change their signs together. All sign
    patterns are enumerated for few groups (the test is then exact), otherwise drawn.

    With one seed and one split and each video its own group, this is McNemar's exact test.

    Args:
        pair: The two arms.
        resamples: Sign patterns drawn where they are too many to enumerate.

    Returns:
        The p-value, within 0..1; of drawn patterns, with the observed one counted among them.
    """
    weight = 1 / np.bincount(pair.split)[pair.split]
    gain = (pair.second.astype(float) - pair.first).sum(0) * weight
    gains = np.bincount(pair.group, gain)
    gains = gains[np.abs(gains) > 1e-12]
    observed = abs(gains.sum()) - 1e-12
    if len(gains) <= EXACT_GROUPS:
        patterns = np.arange(2 ** len(gains))[:, None] >> np.arange(len(gains)) & 1
        return float(np.mean(np.abs((2 * patterns - 1) @ gains) >= observed))
    rng = np.random.default_rng(SEED)
    extreme = 0
    for start in range(0, resamples, CHUNK):
        signs = rng.integers(0, 2, (min(CHUNK, resamples - start), len(gains))) * 2 - 1
        extreme += int((np.abs(signs @ gains) >= observed).sum())
    return (extreme + 1) / (resamples + 1)


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A 95 % confidence interval of a difference of accuracies, as fractions.

    Attributes:
        difference: Accuracy of the second arm less that of the first.
        low: Lower end.
        high: Upper end.
    """

    difference: float
    low: float
    high: float


def bootstrap_interval(pair: Paired, *, resamples: int = 10_000) -> Interval:
    """Estimates the difference of two arms' accuracies with a percentile bootstrap interval.

    What is estimated: the mean over splits and seeds of the second arm's accuracy less the first's.
    Source videos are drawn with replacement, a video of several splits in all of them at once, and
    so are seeds, independently (Owen, Annals of Applied Statistics 2007: the interval errs towards
    wide). With one seed it doesn't show how far another seed would differ.

    Args:
        pair: The two arms.
        resamples: Number of resamples.
    """
    splits, groups, seeds = pair.split.max() + 1, pair.group.max() + 1, len(pair.first)
    cell = pair.split * groups + pair.group
    count = np.bincount(cell, minlength=splits * groups).reshape(splits, groups)
    gain = np.array(
        [
            np.bincount(cell, of_seed, splits * groups).reshape(splits, groups)
            for of_seed in pair.second.astype(float) - pair.first
        ]
    )
    rng = np.random.default_rng(SEED)
    drawn = []
    for start in range(0, resamples, CHUNK):
        many = min(CHUNK, resamples - start)
        of_group = _draws(rng, many, groups)
        of_seed = _draws(rng, many, seeds) / seeds
        total = np.einsum("rk,ksg,rg->rs", of_seed, gain, of_group, optimize=True)
        videos = np.einsum("sg,rg->rs", count, of_group)
        drawn.append(_mean_over_splits(total, videos))
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(np.concatenate(drawn), [tail, 1 - tail])
    return Interval(difference=pair.difference, low=float(low), high=float(high))


def _draws(rng: np.random.Generator, resamples: int, items: int) -> np.ndarray:
    """Draws as many items as there are, with replacement; returns each one's count, (R, items)."""
    drawn = rng.integers(0, items, (resamples, items)) + items * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=resamples * items).reshape(resamples, items)


def _mean_over_splits(total: np.ndarray, videos: np.ndarray) -> np.ndarray:
    """Returns the mean over the splits of which a resample holds a video, (R, S) → (R,)."""
    drawn = videos > 0
    means = np.divide(total, videos, out=np.zeros_like(total), where=drawn)
    mean: np.ndarray = means.sum(1) / np.maximum(drawn.sum(1), 1)
    return mean


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts the p-values of several comparisons (Holm, Scandinavian Journal of Statistics 1979).

    Rejecting where the adjusted value is at most α makes any false rejection among all the
    comparisons happen with probability α at most, however they depend on each other.

    Raises:
        ValueError: If a value isn't within 0..1.
    """
    values = np.asarray(p_values, float)
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"p-values must lie within 0..1, but got {list(p_values)}")
    order = np.argsort(values)
    scaled = values[order] * np.arange(len(values), 0, -1)
    adjusted = np.empty(len(values))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(scaled))
    return [float(value) for value in adjusted]
