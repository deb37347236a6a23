"""The validation part that is carved from a split's training videos."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from study.data.datasets.annotations import Video

__all__ = ["carve_validation"]


def carve_validation(
    videos: Sequence[Video], *, fraction: float = 0.2, seed: int = 0
) -> tuple[tuple[Video, ...], tuple[Video, ...]]:
    """Divides videos into train and validation so that no group is in both.

    Groups are visited in an order drawn from `seed`, the classes of fewest groups first; a group
    goes to validation where that brings its classes closer to `fraction` of their videos. A class
    that is left without validation videos then gets its best fitting group. The last training
    group of a class never leaves train, so each class of at least two groups is in both parts
    (as far as groups that span several classes allow it), and a class of one group only in train.

    Args:
        videos: Videos to divide; their order doesn't matter to which part they go.
        fraction: Share of each class's videos to hold out, between 0 and 1.
        seed: Draws another division.

    Returns:
        Train and validation videos, each in the order of `videos`.

    Raises:
        ValueError: If `fraction` isn't between 0 and 1, or no group can be spared.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction must be between 0 and 1, but got {fraction}")
    members: dict[str, dict[int, int]] = {}  # group -> label -> videos
    for video in videos:
        labels = members.setdefault(video.group, {})
        labels[video.label] = labels.get(video.label, 0) + 1
    held_out = _choose_groups(members, fraction, np.random.default_rng(seed))
    if not held_out:
        raise ValueError(
            f"no validation part can be carved from {len(videos)} videos in {len(members)} "
            "groups: no class has two groups (source videos) to divide"
        )
    train = tuple(video for video in videos if video.group not in held_out)
    validation = tuple(video for video in videos if video.group in held_out)
    return train, validation


def _choose_groups(
    members: dict[str, dict[int, int]], fraction: float, rng: np.random.Generator
) -> set[str]:
    names = sorted(members)
    order = [names[i] for i in rng.permutation(len(names))]
    groups_of: defaultdict[int, list[str]] = defaultdict(list)
    missing: defaultdict[int, float] = defaultdict(float)  # videos that validation still lacks
    for group in order:
        for label, count in members[group].items():
            groups_of[label].append(group)
            missing[label] += fraction * count
    left_in_train = {label: len(groups) for label, groups in groups_of.items()}
    held_out: set[str] = set()
    covered: set[int] = set()

    def can_leave(group: str) -> bool:
        return group not in held_out and all(left_in_train[y] > 1 for y in members[group])

    def cost(group: str) -> float:
        """Returns how much holding the group out adds to the squared distance to the counts."""
        return sum(n * n - 2 * n * missing[label] for label, n in members[group].items())

    def hold_out(group: str) -> None:
        held_out.add(group)
        for label, count in members[group].items():
            missing[label] -= count
            left_in_train[label] -= 1
            covered.add(label)

    rarest_first = sorted(groups_of, key=lambda label: (len(groups_of[label]), label))
    for label in rarest_first:
        for group in groups_of[label]:
            if missing[label] > 0 and can_leave(group) and cost(group) < 0:
                hold_out(group)
    for label in rarest_first:
        candidates = [] if label in covered else list(filter(can_leave, groups_of[label]))
        if candidates:
            hold_out(min(candidates, key=cost))
    return held_out
