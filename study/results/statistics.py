"""Intervals and tests of accuracies, over training seeds and source videos together.

Another seed gives another accuracy on the same videos, and other videos give another accuracy for
the same network. An estimate counts both: its variance has a part that shrinks with the number of
seeds and a part that shrinks with the number of source videos. Clips that were cut from one source
video are alike, so the source video (the *group*) is what is counted, never the clip. Where nothing
says which clips belong together, each video is a group of its own.

Interval and test are one rule: the interval at level 1 − α leaves out zero exactly where the
p-value is less than α. ``benchmarks/inference.py`` measures how often both are right.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr, stdtrit

__all__ = [
    "LEAST_GROUPS",
    "LEVEL",
    "Aligned",
    "Estimate",
    "Interval",
    "Judgements",
    "aligned",
    "probability_of_improvement",
]

LEVEL = 0.05  # of the tests; intervals hold the truth with probability 1 − LEVEL
LEAST_GROUPS = 5  # source videos that a statement about other videos needs
LEAST_FREEDOM = 3  # squared deviations of seeds from which noise is subtracted
MOST_SEEDS = 10_000  # that are worth naming
SMALLEST_P = 1e-12


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Which test videos an arm got right.

    Attributes:
        videos: (split, video) of each of V judgements, each once.
        groups: The source video of each, V.
        labels: The class of each, V.
        seeds: The K seeds.
        correct: (K, V) booleans.
        trainings: The trainings that the judgements come from.

    Raises:
        ValueError: If the shapes don't agree, a video is judged twice, or there is none.
    """

    videos: Sequence[tuple[str, str]]
    groups: Sequence[str]
    labels: Sequence[int]
    seeds: Sequence[int]
    correct: np.ndarray
    trainings: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        expected = (len(self.seeds), len(self.videos))
        if self.correct.shape != expected or self.correct.dtype != bool:
            raise ValueError(
                f"correct must be booleans of shape {expected} (seeds, videos), but got "
                f"{self.correct.dtype} of shape {self.correct.shape}"
            )
        if not len(self.videos) == len(self.groups) == len(self.labels):
            raise ValueError(
                f"{len(self.videos)} videos, but {len(self.groups)} groups and "
                f"{len(self.labels)} labels"
            )
        if len(set(self.videos)) != len(self.videos) or len(set(self.seeds)) != len(self.seeds):
            raise ValueError("a video or a seed is named twice")
        if not self.correct.size:
            raise ValueError("there is no judgement; at least one seed and one video are needed")

    @cached_property
    def split_of(self) -> np.ndarray:
        """The number of each video's split, (V,), 0..S−1."""
        return np.unique([split for split, _ in self.videos], return_inverse=True)[1]

    @cached_property
    def group_of(self) -> np.ndarray:
        """The number of each video's source video, (V,), 0..G−1."""
        return np.unique(list(self.groups), return_inverse=True)[1]

    def judged_as(self, other: "Judgements") -> bool:
        """Returns whether both are of the same videos, in any order."""
        return self.videos == other.videos or set(self.videos) == set(other.videos)


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Several arms' judgements of the same videos under the same seeds; made by ``aligned``.

    Attributes:
        correct: (A, K, V) booleans.
        nets: (A,) a number each; arms with one number read the same trainings, so that what a seed
            does to one it does to the other.
        split: (V,) the number of each video's split, 0..S−1.
        group: (V,) the number of each video's source video, 0..G−1.
        label: (V,) the class of each video.
    """

    correct: np.ndarray
    nets: Sequence[int]
    split: np.ndarray
    group: np.ndarray
    label: np.ndarray

    def of_class(self, label: int) -> "Aligned":
        """Returns the judgements of one class's videos."""
        chosen = self.label == label
        return Aligned(
            correct=self.correct[:, :, chosen],
            nets=self.nets,
            split=np.unique(self.split[chosen], return_inverse=True)[1],
            group=np.unique(self.group[chosen], return_inverse=True)[1],
            label=self.label[chosen],
        )

    def accuracies(self) -> np.ndarray:
        """Returns each arm's accuracy by seed and split, (A, K, S)."""
        splits = range(int(self.split.max()) + 1)
        return np.stack([self.correct[..., self.split == s].mean(2) for s in splits], axis=2)

    def contrast(self, coefficients: Sequence[float]) -> "Estimate":
        """Estimates a sum of the arms' accuracies, each times its coefficient.

        All judged the same videos, so the source videos' part of the variance is of the sum itself,
        video by video. So is the seeds' part among arms that read the same trainings. Otherwise a
        seed of the one has nothing to do with the same seed of the other, and each net has a
        variance of its own (Welch), which gives more degrees of freedom and needs no equal
        variances.

        Args:
            coefficients: A each: 1 and −1 for a difference, a single 1 for an accuracy.
        """
        terms: dict[int, np.ndarray] = {}
        for net, coefficient, correct in zip(self.nets, coefficients, self.correct, strict=True):
            if coefficient:
                part = coefficient * correct
                terms[net] = terms[net] + part if net in terms else part
        scale = max(1.0, float(np.abs(coefficients).sum()) / 2)
        return _estimate(list(terms.values()), self.split, self.group, scale)


def aligned(*arms: Judgements) -> Aligned:
    """Aligns arms' judgements, video by video and seed by seed.

    Seeds that not all of them have are left out.

    Raises:
        ValueError: If they judged different videos, or share no seed.
    """
    first = arms[0]
    for other in arms[1:]:
        if not first.judged_as(other):
            odd = sorted(set(first.videos) ^ set(other.videos))
            raise ValueError(
                f"the arms judged different videos: {len(odd)} were judged by one only, such as "
                f"{odd[0][1]!r} of split {odd[0][0]!r}"
            )
    common = set(first.seeds).intersection(*(arm.seeds for arm in arms))
    seeds = [seed for seed in first.seeds if seed in common]
    if not seeds:
        raise ValueError(
            f"the arms share no seed: {' against '.join(str(list(arm.seeds)) for arm in arms)}"
        )
    correct = []
    for arm in arms:
        judged = arm.correct[[list(arm.seeds).index(seed) for seed in seeds]]
        if arm.videos != first.videos:
            position = {video: i for i, video in enumerate(arm.videos)}
            judged = judged[:, [position[video] for video in first.videos]]
        correct.append(judged)
    return Aligned(
        correct=np.stack(correct),
        nets=_nets(arms),
        split=first.split_of,
        group=first.group_of,
        label=np.asarray(first.labels),
    )


def _nets(arms: Sequence[Judgements]) -> list[int]:
    """Numbers the arms so that those that have a training in common have one number."""
    nets = list(range(len(arms)))
    for i, arm in enumerate(arms):
        for j in range(i):
            if arm.trainings & arms[j].trainings:
                nets = [nets[j] if net == nets[i] else net for net in nets]
    return nets


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval of an accuracy or a difference of two, as fractions.

    Attributes:
        low: Lower end.
        high: Upper end.
    """

    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over splits, seeds and source videos with the parts of its variance.

    Attributes:
        value: The mean, a fraction.
        seeds: K, how many seeds.
        groups: G, how many source videos.
        seed_variance: What seeds add to the mean's variance; 0 with one seed.
        seed_freedom: Its degrees of freedom (Welch's, where two arms were trained apart).
        group_variance: What source videos, and the noise of single judgements, add.
        noise_variance: The noise of single judgements alone: which videos a seed gets right
            beyond its own accuracy and the videos' difficulty. Part of ``group_variance``.
    """

    value: float
    seeds: int
    groups: int
    seed_variance: float
    seed_freedom: float
    group_variance: float
    noise_variance: float

    @property
    def generalises(self) -> bool:
        """Whether there are enough source videos to speak of others."""
        return self.groups >= LEAST_GROUPS

    def interval(self, level: float = LEVEL) -> Interval | None:
        """Returns the interval that holds the truth with probability 1 − ``level``.

        The truth is that of other seeds and other source videos; with one seed, of these networks
        on other source videos; with fewer source videos than ``LEAST_GROUPS``, of other seeds on
        these very videos. Below both there is no interval.

        The half width is the root of Σ tᵢ²(level)·Vᵢ over both parts of the variance, each with
        Student's t of its own degrees of freedom (Banerjee, Sankhyā 1960: at least 1 − ``level``
        whatever the parts' ratio).
        """
        if self.seeds == 1 and not self.generalises:
            return None
        half = self._half_width(level)
        return Interval(low=self.value - half, high=self.value + half)

    @cached_property
    def p_value(self) -> float | None:
        """The two-sided p-value of a true value of zero, or None with too few source videos.

        It is the level at which the interval ends at zero.
        """
        if not self.generalises:
            return None
        if self._half_width(SMALLEST_P) <= abs(self.value):
            return SMALLEST_P
        root = brentq(
            lambda log: self._half_width(math.exp(log)) - abs(self.value), math.log(SMALLEST_P), 0
        )
        return min(1.0, math.exp(root))

    def _half_width(self, level: float) -> float:
        parts = 0.0
        if self.generalises:
            parts += _t_squared(level, self.groups - 1) * self.group_variance
        if self.seed_variance > 0:
            parts += _t_squared(level, self.seed_freedom) * self.seed_variance
        return math.sqrt(parts)

    def seeds_to_show(
        self, effect: float, *, power: float = 0.8, level: float = LEVEL
    ) -> int | None:
        """Returns how many seeds would show an effect, or None where no number would.

        Args:
            effect: The true value to show, > 0, a fraction.
            power: Probability that the interval leaves out zero.
            level: Level of the test.

        Raises:
            ValueError: If there is one seed, or too few source videos: nothing to estimate from.
        """
        if self.seeds == 1 or not self.generalises:
            raise ValueError(
                f"at least 2 seeds and {LEAST_GROUPS} source videos are needed, but there are "
                f"{self.seeds} and {self.groups}"
            )
        if self._power(MOST_SEEDS, effect, level) < power:
            return None
        low, high = 1, MOST_SEEDS
        while high - low > 1:
            middle = (low + high) // 2
            enough = self._power(middle, effect, level) >= power
            low, high = (low, middle) if enough else (middle, high)
        return high

    def _power(self, seeds: int, effect: float, level: float) -> float:
        """Returns the power with another number of seeds, at the variances estimated here."""
        ratio = self.seeds / seeds
        lasting = max(0.0, self.group_variance - self.noise_variance)
        other = Estimate(
            value=effect,
            seeds=seeds,
            groups=self.groups,
            seed_variance=self.seed_variance * ratio,
            seed_freedom=self.seed_freedom * (seeds - 1) / (self.seeds - 1),
            group_variance=lasting + self.noise_variance * ratio,
            noise_variance=self.noise_variance * ratio,
        )
        deviation = math.sqrt(other.seed_variance + other.group_variance)
        return float(ndtr((effect - other._half_width(level)) / deviation))


def _estimate(
    terms: Sequence[np.ndarray], split: np.ndarray, group: np.ndarray, scale: float = 1.0
) -> Estimate:
    """Estimates a sum of terms whose seeds are independent of each other.

    The variance is that of a two-way layout, seeds by groups (Owen, Annals of Applied Statistics
    2007), for each split: trainings of different splits are independent, and a source video that
    is in several splits counts as one. Noise that seeds' and groups' mean squares both hold is
    subtracted from that of the seeds, down to zero, except where too few deviations make up the
    latter: then the estimate errs towards wide.

    So that few disagreements aren't taken for certainty, the groups' part has two more videos, one
    that counts for and one that counts against (as in Agresti and Coull 1998 and Bonett and Price
    2012).

    Args:
        terms: (K, V) each.
        split: (V,), 0..S−1.
        group: (V,), 0..G−1.
        scale: What the two more videos count.
    """
    seeds, splits, groups = len(terms[0]), int(split.max()) + 1, int(group.max()) + 1
    cell = split * groups + group
    count = np.bincount(cell, minlength=splits * groups).reshape(splits, groups)
    share = count / count.sum(1, keepdims=True)
    sums = np.stack([[np.bincount(cell, line, count.size) for line in term] for term in terms])
    sums = sums.reshape(len(terms), seeds, splits, groups) / count.sum(1)[:, None]
    of_split = sums.sum(3)  # (T, K, S)
    value = float(of_split.mean((1, 2)).sum())
    gains = (sums.mean(1).sum(0) - value * share).mean(0)  # (G,)
    pseudo = 2 * scale**2 / (splits * count.sum(1).min()) ** 2
    clustered = float(np.sum(gains**2)) * groups / max(1, groups - 1)
    seed_variance, freedom, noise = 0.0, 0.0, 0.0
    if seeds > 1:
        by_term = of_split.var(1, ddof=1) / seeds / splits**2  # (T, S)
        seed_variance = float(by_term.sum())
        freedom = _welch(by_term, seeds - 1)
        noise = _noise(sums - share * of_split[..., None], count > 0)
        if groups >= LEAST_GROUPS and by_term.size * (seeds - 1) >= LEAST_FREEDOM:
            seed_variance = max(0.0, seed_variance - noise)
    return Estimate(
        value=value,
        seeds=seeds,
        groups=groups,
        seed_variance=seed_variance,
        seed_freedom=freedom,
        group_variance=clustered + float(pseudo),
        noise_variance=min(noise, clustered),
    )


def _noise(sums: np.ndarray, present: np.ndarray) -> float:
    """Returns the variance that the interaction of seeds and groups adds to the mean.

    Args:
        sums: (T, K, S, G) each group's part of the mean, less its share of the seed's mean.
        present: (S, G) whether a split has videos of the group. One of a single group tells none.
    """
    _, seeds, splits, _ = sums.shape
    left = (sums - sums.mean(1, keepdims=True)) ** 2
    groups = present.sum(1)
    many = groups > 1
    scale = groups[many] / (groups[many] - 1) / (seeds - 1) / seeds / splits**2
    return float((left.sum((0, 1, 3))[many] * scale).sum())


def _welch(variances: np.ndarray, freedom: int) -> float:
    """Returns the degrees of freedom of a sum of variances (Welch and Satterthwaite)."""
    squares = float((variances**2).sum())
    return freedom * float(variances.sum()) ** 2 / squares if squares else float(freedom)


def _t_squared(level: float, freedom: float) -> float:
    return float(stdtrit(freedom, level / 2)) ** 2


def probability_of_improvement(arms: Aligned) -> float:
    """Returns how often a random seed's second arm beats a random seed's first, 0..1.

    The mean over splits of the share of all K × K pairs of seeds, ties counted half (Agarwal et
    al., NeurIPS 2021).
    """
    first, second = arms.accuracies()
    ahead = second[:, None] - first[None]  # (K, K, S)
    return float(((ahead > 1e-12) + 0.5 * (np.abs(ahead) <= 1e-12)).mean())
