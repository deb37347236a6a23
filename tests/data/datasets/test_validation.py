"""The validation part: whole groups, close to the fraction, the same for any order."""

from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest

from study.data.datasets.annotations import Video
from study.data.datasets.validation import carve_validation


def make_videos(groups: list[tuple[int, str]]) -> list[Video]:
    return [
        Video(name=f"{label}/{i}", path=f"{label}/{i}.avi", label=label, group=group)
        for i, (label, group) in enumerate(groups)
    ]


def random_videos(seed: int, *, shared: bool) -> list[Video]:
    """Classes of one to many groups (the first: two) of unequal sizes; shared ones span classes."""
    rng = np.random.default_rng(seed)
    rows = []
    for label in range(int(rng.integers(1, 9))):
        for group in range(int(rng.integers(1 + (label == 0), 15))):
            name = f"g{group}" if shared else f"{label}_g{group}"
            rows += [(label, name)] * int(rng.integers(1, 8))
    return make_videos([rows[i] for i in rng.permutation(len(rows))])


def groups_by_class(videos: tuple[Video, ...] | list[Video]) -> dict[int, set[str]]:
    groups: defaultdict[int, set[str]] = defaultdict(set)
    for video in videos:
        groups[video.label].add(video.group)
    return groups


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("shared", [False, True])
def test_carving_divides_videos_by_whole_groups(seed: int, shared: bool) -> None:
    videos = random_videos(seed, shared=shared)
    train, validation = carve_validation(videos, seed=seed)
    assert not {v.group for v in train} & {v.group for v in validation}
    position = {video.name: i for i, video in enumerate(videos)}
    for part in (train, validation):
        assert sorted(part, key=lambda v: position[v.name]) == list(part)
    assert sorted(v.name for v in train + validation) == sorted(v.name for v in videos)


@pytest.mark.parametrize("seed", range(40))
def test_every_class_of_two_groups_is_in_both_parts_and_close_to_the_fraction(seed: int) -> None:
    videos = random_videos(seed, shared=False)
    train, validation = carve_validation(videos, fraction=0.25, seed=seed)
    sizes = Counter(v.group for v in videos)
    for label, groups in groups_by_class(videos).items():
        held_out = groups_by_class(validation)[label]
        assert groups_by_class(train)[label] == groups - held_out
        if len(groups) == 1:
            assert not held_out
            continue
        assert held_out
        assert held_out < groups
        wanted = 0.25 * sum(sizes[g] for g in groups)
        got = sum(sizes[g] for g in held_out)
        assert abs(got - wanted) <= max(sizes[g] for g in groups) / 2 or len(held_out) == 1


@pytest.mark.parametrize("seed", range(10))
def test_shared_groups_leave_every_class_in_both_parts_where_that_is_possible(seed: int) -> None:
    """Persons that each play every class, as in Weizmann."""
    videos = make_videos(list(product(range(10), [f"person{i}" for i in range(8)])))
    train, validation = carve_validation(videos, seed=seed)
    assert {v.label for v in train} == {v.label for v in validation} == set(range(10))
    assert len({v.group for v in validation}) == 2  # 1.6 of 8 is wanted


def test_carving_depends_on_the_seed_and_not_on_the_order_of_videos() -> None:
    videos = random_videos(3, shared=False)
    train, validation = carve_validation(videos, seed=1)
    assert carve_validation(videos, seed=1) == (train, validation)
    backwards = carve_validation(videos[::-1], seed=1)
    assert backwards == (train[::-1], validation[::-1])
    others = [carve_validation(videos, seed=seed)[1] for seed in range(2, 6)]
    assert any(other != validation for other in others)


def test_a_class_of_one_group_stays_in_train() -> None:
    videos = make_videos([(0, "a"), (0, "a"), (1, "b"), (1, "c")])
    train, validation = carve_validation(videos, fraction=0.5)
    assert {v.group for v in train} > {"a"}
    assert {v.label for v in validation} == {1}


def test_carving_refuses_what_cannot_be_carved() -> None:
    with pytest.raises(ValueError, match="no class has two groups"):
        carve_validation(make_videos([(0, "a"), (0, "a"), (1, "b")]))
    with pytest.raises(ValueError, match="no class has two groups"):
        carve_validation([])
    for fraction in (0.0, 1.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 1"):
            carve_validation(make_videos([(0, "a"), (0, "b")]), fraction=fraction)
