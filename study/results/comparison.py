"""Compares every arm of a study with one of them, on the videos that both judged."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from search_spaces import Arm
from study.provenance import canonical_json
from study.results.statistics import (
    LEAST_GROUPS,
    LEVEL,
    Aligned,
    Estimate,
    Interval,
    Judgements,
    aligned,
    probability_of_improvement,
)

__all__ = [
    "EFFECT",
    "ClassGain",
    "Comparison",
    "Effect",
    "Verdict",
    "class_gains",
    "compare",
    "factorial",
    "reference_of",
]

EFFECT = 0.01  # of which is said how many seeds would show it
POWER = 0.8
REFERENCES = ("two-stream",)  # what an arm is compared with, where the study has it


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """An estimated difference as one of several that are judged together.

    Interval and p-value are corrected for their number (Bonferroni): with probability 95 % all
    intervals hold their truths, and the interval leaves out zero where p is at most 0.05.

    Attributes:
        estimate: The difference.
        among: How many are judged together.
    """

    estimate: Estimate
    among: int = 1

    @property
    def interval(self) -> Interval | None:
        """Where the true difference lies, simultaneously with the others."""
        return self.estimate.interval(LEVEL / self.among)

    @property
    def p_value(self) -> float | None:
        """The corrected p-value of no difference, or None where no test is sound."""
        p_value = self.estimate.p_value
        return None if p_value is None else min(1.0, self.among * p_value)

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where the interval leaves out zero, else why not so."""
        interval = self.interval
        if interval is None or not self.estimate.generalises:
            return "no verdict"
        if interval.low <= 0 <= interval.high:
            return "no difference shown"
        return "better" if interval.low > 0 else "worse"

    @property
    def scope(self) -> str:
        """What interval and verdict are about."""
        seeds, groups = self.estimate.seeds, self.estimate.groups
        if not self.estimate.generalises:
            sources = f"{groups} source video{'s' * (groups > 1)}, and {LEAST_GROUPS} are needed"
            seen = "nothing beyond these runs" if seeds == 1 else "other seeds on these videos"
            return f"{seen}: there {'are' if groups > 1 else 'is'} but {sources}"
        if seeds == 1:
            return "these two networks on other videos: one seed doesn't tell of others"
        return "other seeds and other videos"


@dataclass(frozen=True, kw_only=True)
class Comparison(Verdict):
    """An arm's accuracy less the reference's.

    Attributes:
        arm: The arm.
        improvement: Probability that a random seed of the arm beats a random one of the reference.
        videos: Test videos: how many judgements a seed has, over all splits.
    """

    arm: str
    improvement: float
    videos: int

    @property
    def seeds_needed(self) -> float | None:
        """How many seeds would show ``EFFECT``; infinite where none would, None if unknown."""
        if self.estimate.seeds == 1 or not self.estimate.generalises:
            return None
        seeds = self.estimate.seeds_to_show(EFFECT, power=POWER, level=LEVEL / self.among)
        return math.inf if seeds is None else seeds


def reference_of(arms: Sequence[str]) -> str:
    """Returns the arm that the others are compared with: plain two-stream, else the first."""
    return next((arm for arm in REFERENCES if arm in arms), arms[0])


def compare(arms: Mapping[str, Judgements], reference: str) -> list[Comparison]:
    """Compares each arm with the reference, in the order given.

    An arm that judged other videos (those of another split, say), or under other seeds, can't be
    compared and is left out.

    Args:
        arms: Judgements by arm.
        reference: The arm that the others are compared with.

    Raises:
        ValueError: If the reference is none of the arms.
    """
    if reference not in arms:
        raise ValueError(f"there is no arm {reference!r} to compare with; there are {list(arms)}")
    first = arms[reference]
    pairs = {
        arm: aligned(first, judged)
        for arm, judged in arms.items()
        if arm != reference and _comparable(first, judged)
    }
    return [
        Comparison(
            arm=arm,
            estimate=pair.contrast([-1, 1]),
            among=len(pairs),
            improvement=probability_of_improvement(pair),
            videos=len(pair.split),
        )
        for arm, pair in pairs.items()
    ]


def _comparable(first: Judgements, second: Judgements) -> bool:
    return first.judged_as(second) and bool(set(first.seeds) & set(second.seeds))


@dataclass(frozen=True, kw_only=True)
class ClassGain:
    """What an arm gains over the reference on one class's videos.

    Attributes:
        name: The class.
        estimate: Its accuracy less the reference's; its interval is not corrected for the number
            of classes.
        videos: Its test videos, over all splits.
    """

    name: str
    estimate: Estimate
    videos: int

    @property
    def interval(self) -> Interval | None:
        """The class's interval, where it has source videos enough to speak of others."""
        return self.estimate.interval() if self.estimate.generalises else None


def class_gains(
    reference: Judgements, arm: Judgements, *, ends: int | None = None
) -> list[ClassGain]:
    """Estimates what an arm gains over the reference on each class, the largest gain first.

    Args:
        reference: The reference's judgements.
        arm: The arm's.
        ends: Only so many classes that gain most, and as many that lose most.

    Raises:
        ValueError: If the arms judged different videos, or share no seed.
    """
    pair = aligned(reference, arm)
    named = zip(reference.labels, reference.videos, strict=True)
    names = {label: video.partition("/")[0] for label, (_, video) in named}
    labels = sorted(names)
    if ends is not None and len(labels) > 2 * ends:
        values = _mean_gains(pair)
        labels.sort(key=lambda label: (-values[label], label))
        labels = sorted([*labels[:ends], *labels[-ends:]])
    gains = []
    for label in labels:
        of_class = pair.of_class(label)
        estimate = of_class.contrast([-1, 1])
        gains.append(ClassGain(name=names[label], estimate=estimate, videos=len(of_class.label)))
    return sorted(gains, key=lambda gain: -gain.estimate.value)


def _mean_gains(pair: Aligned) -> np.ndarray:
    """Returns by class what the second arm gains: the value alone of each class's estimate."""
    gain = (pair.correct[1].mean(0) - pair.correct[0].mean(0)).round(12)  # (V,)
    splits = int(pair.split.max()) + 1
    cell = pair.label * splits + pair.split
    size = (int(pair.label.max()) + 1) * splits
    count = np.bincount(cell, minlength=size).reshape(-1, splits)
    total = np.bincount(cell, gain, size).reshape(-1, splits)
    by_split = np.divide(total, count, out=np.zeros(total.shape), where=count > 0)
    values: np.ndarray = by_split.sum(1) / np.maximum((count > 0).sum(1), 1)
    return values


@dataclass(frozen=True, kw_only=True)
class Effect(Verdict):
    """An effect of the factors net and fusion.

    Attributes:
        kind: ``net``, ``fusion`` or ``interaction``.
        net: The arm that stands for the net, or empty.
        fusion: The fusion, or empty.
    """

    kind: str
    net: str = ""
    fusion: str = ""


def factorial(arms: Sequence[Arm], judged: Mapping[str, Judgements]) -> list[Effect]:
    """Estimates main effects and interactions of net × fusion, where the arms are a factorial.

    A *net* is what is trained: model, options, hyperparameters and initial weights. The factorial
    is of the nets with at least two fusions and of the fusions that all of these have, at least two
    of each. The first net and the first fusion are what the others are compared with.

    - Effect of a net: its accuracy less the first net's, mean over the fusions.
    - Effect of a fusion: its accuracy less the first fusion's, mean over the nets.
    - Interaction: what the fusion gains on that net less what it gains on the first.

    Args:
        arms: The space's arms.
        judged: Judgements by arm's name; arms without any, or of other videos or seeds than the
            first's, are left out.

    Returns:
        The effects, judged together; empty where the arms are no factorial.
    """
    names, fusions = _factorial_arms(arms, judged)
    if not names:
        return []
    every = [name for of_net in names for name in of_net]
    together = aligned(*(judged[name] for name in every))
    contrasts: list[tuple[str, str, str, dict[str, float]]] = []
    for net in names[1:]:
        shares = dict.fromkeys(net, 1 / len(net)) | dict.fromkeys(names[0], -1 / len(net))
        contrasts.append(("net", net[0], "", shares))
    for column, fusion in enumerate(fusions[1:], 1):
        shares = {net[column]: 1 / len(names) for net in names}
        contrasts.append(
            ("fusion", "", fusion, shares | {net[0]: -1 / len(names) for net in names})
        )
    for net in names[1:]:
        for column, fusion in enumerate(fusions[1:], 1):
            signs = {net[column]: 1.0, net[0]: -1.0, names[0][column]: -1.0, names[0][0]: 1.0}
            contrasts.append(("interaction", net[0], fusion, signs))
    return [
        Effect(
            estimate=together.contrast([weights.get(name, 0.0) for name in every]),
            among=len(contrasts),
            kind=kind,
            net=net_name,
            fusion=fusion,
        )
        for kind, net_name, fusion, weights in contrasts
    ]


def _factorial_arms(
    arms: Sequence[Arm], judged: Mapping[str, Judgements]
) -> tuple[list[list[str]], list[str]]:
    """Returns the arms' names by net and fusion, and the fusions; both empty if no factorial."""
    known = [arm for arm in arms if arm.name in judged]
    grid: dict[str, dict[str, str]] = {}
    for arm in known:
        if _comparable(judged[known[0].name], judged[arm.name]):
            own = (arm.options, arm.hyperparameters, arm.weights)
            net = canonical_json([arm.model, *map(dict, own)])
            grid.setdefault(net, {}).setdefault(arm.fusion, arm.name)
    nets = [net for net in grid.values() if len(net) > 1]
    fusions = [fusion for fusion in nets[0] if all(fusion in net for net in nets)] if nets else []
    if len(nets) < 2 or len(fusions) < 2:
        return [], []
    return [[net[fusion] for fusion in fusions] for net in nets], fusions
