"""Compares every arm of a study with one of them, on the videos that both judged."""

from collections.abc import Mapping
from dataclasses import dataclass

from study.results.statistics import (
    Interval,
    Judgements,
    bootstrap_interval,
    holm,
    paired,
    sign_flip_test,
)

__all__ = ["Comparison", "compare"]

LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """An arm against the reference.

    Attributes:
        arm: The arm.
        interval: Its accuracy less the reference's.
        p_value: Of ``statistics.sign_flip_test``, adjusted by Holm over the comparisons made.
        seeds: How many seeds both arms have.
        videos: How many judgements a seed has: the test videos, over all splits.
    """

    arm: str
    interval: Interval
    p_value: float
    seeds: int
    videos: int

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` where interval and test agree, else ``no difference shown``."""
        one_sided = self.interval.low > 0 or self.interval.high < 0
        if self.p_value > LEVEL or not one_sided:
            return "no difference shown"
        return "better" if self.interval.difference > 0 else "worse"


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
    pairs = {}
    for arm, judged in arms.items():
        same_videos = set(judged.videos) == set(arms[reference].videos)
        if arm != reference and same_videos and set(judged.seeds) & set(arms[reference].seeds):
            pairs[arm] = paired(arms[reference], judged)
    adjusted = holm([sign_flip_test(pair) for pair in pairs.values()])
    return [
        Comparison(
            arm=arm,
            interval=bootstrap_interval(pair),
            p_value=p_value,
            seeds=len(pair.first),
            videos=pair.first.shape[1],
        )
        for (arm, pair), p_value in zip(pairs.items(), adjusted, strict=True)
    ]
