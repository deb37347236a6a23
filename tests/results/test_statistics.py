"""The statistics against scipy, brute force, closed forms and simulated truth."""

import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from study.results.predictions import judgements, prediction_block
from study.results.statistics import (
    LEAST_GROUPS,
    Aligned,
    Estimate,
    Judgements,
    aligned,
    probability_of_improvement,
)
from study.results.store import ResultStore


def arms_of(
    *correct: np.ndarray,
    group: np.ndarray | None = None,
    split: np.ndarray | None = None,
    shared: bool = False,
) -> Aligned:
    stacked = np.stack([np.atleast_2d(arm).astype(bool) for arm in correct])
    videos = stacked.shape[2]
    return Aligned(
        correct=stacked,
        nets=[0] * len(correct) if shared else list(range(len(correct))),
        group=np.arange(videos) if group is None else np.asarray(group),
        split=np.zeros(videos, int) if split is None else np.asarray(split),
        label=np.zeros(videos, int),
    )


def difference(*correct: np.ndarray, **values: object) -> Estimate:
    return arms_of(*correct, **values).contrast([-1, 1])  # type: ignore[arg-type]


def judged(right: np.ndarray, **values: object) -> Judgements:
    seeds, videos = right.shape
    standard = {
        "videos": [("1", f"v{i}") for i in range(videos)],
        "groups": [f"g{i}" for i in range(videos)],
        "labels": [0] * videos,
        "seeds": list(range(seeds)),
        "correct": right.astype(bool),
    }
    return Judgements(**{**standard, **values})  # type: ignore[arg-type]


def estimate(**values: float) -> Estimate:
    standard = {
        "value": 0.0,
        "seeds": 3,
        "groups": 100,
        "seed_variance": 1e-4,
        "seed_freedom": 2.0,
        "group_variance": 1e-4,
        "noise_variance": 0.0,
    }
    return Estimate(**{**standard, **values})  # type: ignore[arg-type]


def two_way(table: np.ndarray) -> tuple[float, float, float]:
    """Mean squares of a (K, G) table's rows, columns and interaction, in loops."""
    seeds, groups = table.shape
    mean = table.mean()
    rows = sum(groups * (table[k].mean() - mean) ** 2 for k in range(seeds)) / (seeds - 1)
    columns = sum(seeds * (table[:, g].mean() - mean) ** 2 for g in range(groups)) / (groups - 1)
    rest = sum(
        (table[k, g] - table[k].mean() - table[:, g].mean() + mean) ** 2
        for k in range(seeds)
        for g in range(groups)
    ) / ((seeds - 1) * (groups - 1))
    return rows, columns, rest


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_parts_are_the_mean_squares_of_a_two_way_layout(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    group = np.repeat(np.arange(12), 4)
    first, second = rng.random((2, seeds, 48)) < rng.random((1, seeds, 1)) * 0.4 + 0.5
    found = difference(first, second, group=group, shared=True)
    table = (second.astype(float) - first).reshape(seeds, 12, 4).mean(2)
    rows, columns, rest = (square / (seeds * 12) for square in two_way(table))
    assert found.value == pytest.approx(table.mean())
    assert found.noise_variance == pytest.approx(min(rest, columns))
    assert found.group_variance == pytest.approx(columns + 2 / 48**2)
    few = seeds - 1 < 3  # too few deviations to subtract noise from
    assert found.seed_variance == pytest.approx(rows if few else max(0.0, rows - rest))
    assert found.seed_freedom == pytest.approx(seeds - 1)


def test_seeds_of_arms_that_were_trained_apart_are_welchs() -> None:
    rng = np.random.default_rng(1)
    first = rng.random((4, 200)) < [[0.4], [0.5], [0.6], [0.9]]
    second = rng.random((4, 200)) < [[0.5], [0.52], [0.54], [0.51]]
    found = difference(first, second)
    welch = stats.ttest_ind(second.mean(1), first.mean(1), equal_var=False)
    assert found.seed_freedom == pytest.approx(welch.df)
    raw = found.value / welch.statistic
    assert found.seed_variance + found.noise_variance == pytest.approx(raw**2)


def test_of_one_seed_the_interval_is_students_with_one_video_more_for_and_against() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random((2, 150)) < [[0.6], [0.7]]
    gain = second.astype(float) - first
    found = difference(first, second)
    half = stats.t.isf(0.025, 149) * math.sqrt(gain.var(ddof=1) / 150 + 2 / 150**2)
    interval = found.interval()
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((gain.mean() - half, gain.mean() + half))
    statistic = gain.mean() / math.sqrt(gain.var(ddof=1) / 150 + 2 / 150**2)
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(statistic), 149))


def test_interval_and_p_value_agree_at_every_level() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        seeds, group = int(rng.integers(1, 5)), np.arange(60) // rng.integers(1, 6)
        chance = rng.uniform(0.3, 0.8, (2, seeds, 1))
        found = difference(*(rng.random((2, seeds, 60)) < chance), group=group)
        p_value = found.p_value
        assert p_value is not None
        for level in (0.2, 0.05, 0.05 / 7):
            interval = found.interval(level)
            assert interval is not None
            assert (p_value < level) == (interval.low > 0 or interval.high < 0)


def test_two_independent_parts_are_covered_whatever_their_ratio() -> None:
    """Normal errors with variances that are estimated with 2 and 6 degrees of freedom."""
    rng = np.random.default_rng(5)
    for seed_share in (0.02, 0.3, 0.7, 0.98):
        variances = np.array([seed_share, 1 - seed_share])
        error = np.sqrt(variances) * rng.standard_normal((1500, 2))
        estimates = variances * rng.chisquare([2, 6], (1500, 2)) / [2, 6]
        held = 0
        for value, (of_seeds, of_groups) in zip(error.sum(1), estimates, strict=True):
            parts = {"seed_variance": of_seeds, "group_variance": of_groups}
            interval = estimate(value=value, groups=7, **parts).interval()
            assert interval is not None
            held += interval.low <= 0 <= interval.high
        assert held / 1500 >= 0.935


def test_a_seed_effect_common_to_all_videos_is_not_taken_for_a_difference() -> None:
    """Seeds differ by 3 points: a test over videos alone rejects a true null far too often."""
    rng = np.random.default_rng(6)
    wrong = naive = 0
    for _ in range(250):
        chance = 0.8 + 0.03 * rng.standard_normal((2, 3, 1))
        first, second = rng.random((2, 3, 1500)) < chance
        found = difference(first, second)
        assert found.p_value is not None
        wrong += found.p_value <= 0.05
        naive += abs(found.value) > 1.96 * math.sqrt(found.group_variance)
    assert wrong / 250 <= 0.08
    assert naive / 250 >= 0.3


def test_clips_of_one_source_video_are_no_independent_evidence() -> None:
    """Ten clips of each of ten source videos, all alike: ten observations, not a hundred."""
    first = np.zeros(100)
    second = np.repeat([1, 1, 1, 0, 1, 1, 0, 1, 1, 0], 10)
    by_source = difference(first, second, group=np.arange(100) // 10)
    of_ten = second[::10]
    assert by_source.group_variance == pytest.approx(of_ten.var(ddof=1) / 10 + 2 / 100**2)
    assert by_source.group_variance > 8 * difference(first, second).group_variance


def test_arms_that_agree_on_every_video_are_no_certainty() -> None:
    same = np.ones((1, 50))
    found = difference(same, same)
    interval = found.interval()
    assert interval is not None
    assert found.p_value == 1
    assert interval.low < -1 / 50 < 1 / 50 < interval.high


def test_a_source_video_of_several_splits_counts_once() -> None:
    rng = np.random.default_rng(7)
    gains = rng.random(40) < 0.6
    once = difference(np.zeros(40), gains)
    twice = difference(
        np.zeros(80), np.tile(gains, 2), group=np.tile(np.arange(40), 2), split=np.arange(80) // 40
    )
    assert twice.groups == once.groups == 40
    assert twice.group_variance - 2 / 80**2 == pytest.approx(once.group_variance - 2 / 40**2)


def test_seeds_of_several_splits_are_trainings_of_their_own() -> None:
    rng = np.random.default_rng(8)
    split = np.repeat([0, 1], 100)
    correct = rng.random((3, 200)) < rng.uniform(0.2, 0.9, (3, 2))[:, split]
    found = arms_of(correct, split=split).contrast([1])
    by_split = [correct[:, split == s].mean(1) for s in (0, 1)]
    raw = sum(accuracy.var(ddof=1) / 3 / 4 for accuracy in by_split)
    assert found.seed_variance + found.noise_variance == pytest.approx(raw)
    assert 2 <= found.seed_freedom <= 4


def test_the_value_is_the_mean_over_splits_and_not_over_videos() -> None:
    split = np.repeat([0, 1], [90, 10])
    assert difference(np.zeros(100), split == 1, split=split).value == pytest.approx(0.5)


def test_below_five_source_videos_there_is_no_p_value_and_seeds_alone_are_counted() -> None:
    rng = np.random.default_rng(9)
    group = np.arange(80) % (LEAST_GROUPS - 1)
    first, second = rng.random((2, 4, 80)) < 0.6
    found = difference(first, second, group=group, shared=True)
    gains = (second.astype(float) - first).mean(1)
    expected = stats.ttest_1samp(gains, 0).confidence_interval()
    interval = found.interval()
    assert found.p_value is None
    assert interval is not None
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))
    assert difference(first[:1], second[:1], group=group).interval() is None


def test_the_seeds_that_show_an_effect_are_the_normal_powers_where_only_seeds_count() -> None:
    """Single judgements' noise alone, of so many videos that t is normal: the textbook's K."""
    found = estimate(
        seeds=4, groups=10**6, seed_variance=0.0, group_variance=4e-5, noise_variance=4e-5
    )
    wanted = (stats.norm.isf(0.025) + stats.norm.ppf(0.8)) ** 2 * 4 * 4e-5 / 0.01**2
    assert found.seeds_to_show(0.01) == math.ceil(wanted)


def test_no_number_of_seeds_makes_up_for_too_few_videos() -> None:
    assert estimate(group_variance=1e-4).seeds_to_show(0.01) is None
    enough = estimate(group_variance=1e-6).seeds_to_show(0.01)
    more = estimate(group_variance=1e-6, seed_variance=4e-4).seeds_to_show(0.01)
    assert enough is not None
    assert more is not None
    assert 3 < enough < more
    with pytest.raises(ValueError, match="2 seeds and 5 source videos are needed, but there are 1"):
        estimate(seeds=1).seeds_to_show(0.01)


def test_the_probability_of_improvement_is_mann_whitneys() -> None:
    rng = np.random.default_rng(10)
    first, second = rng.random((2, 6, 9)) < [[[0.5]], [[0.6]]]
    reference = stats.mannwhitneyu(second.mean(1), first.mean(1)).statistic / 36
    assert probability_of_improvement(arms_of(first, second)) == pytest.approx(reference)


def test_arms_are_lined_up_by_video_and_seed() -> None:
    rng = np.random.default_rng(11)
    first, second = rng.random((2, 3, 8)) < 0.5
    order = rng.permutation(8)
    turned = judged(
        second[[2, 0]][:, order],
        videos=[("1", f"v{i}") for i in order],
        groups=[f"g{i}" for i in order],
        seeds=[2, 0],
    )
    arms = aligned(judged(first), turned)
    assert (arms.correct[0] == first[[0, 2]]).all()
    assert (arms.correct[1] == second[[0, 2]]).all()


def test_arms_with_a_training_in_common_are_one_net() -> None:
    right = np.ones((1, 3))
    names = ("a", "b", "c", "ab", "d")
    arms = [judged(right, trainings=frozenset(name)) for name in names]
    nets = aligned(*arms).nets
    assert nets[0] == nets[1] == nets[3]
    assert len({nets[0], nets[2], nets[4]}) == 3


def test_one_classs_videos_are_judged_alone() -> None:
    rng = np.random.default_rng(12)
    first, second = rng.random((2, 2, 30)) < 0.5
    labels = [i % 3 for i in range(30)]
    whole = aligned(judged(first, labels=labels), judged(second, labels=labels))
    alone = difference(first[:, 1::3], second[:, 1::3])
    assert asdict(whole.of_class(1).contrast([-1, 1])) == pytest.approx(asdict(alone))


def test_arms_that_cannot_be_compared_are_refused() -> None:
    one = judged(np.ones((1, 3)))
    with pytest.raises(ValueError, match="2 were judged by one only, such as 'v3' of split '1'"):
        aligned(one, judged(np.ones((1, 5))))
    with pytest.raises(ValueError, match=r"share no seed: \[0\] against \[7\]"):
        aligned(one, judged(np.ones((1, 3)), seeds=[7]))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        judged(np.ones((1, 3)), correct=np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="named twice"):
        judged(np.ones((1, 2)), videos=[("1", "a"), ("1", "a")])
    with pytest.raises(ValueError, match="no judgement"):
        judged(np.ones((0, 3)))
    with pytest.raises(ValueError, match="3 videos, but 3 groups and 2 labels"):
        judged(np.ones((1, 3)), labels=[0, 1])


def test_predictions_are_written_and_read_back_as_judgements(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 1, 1])
    groups = {"a": "g1", "b": "g1", "c": "g2"}
    for seed in (0, 1, 2):
        identity = {
            **{"study": "s", "arm": "stil", "dataset": "ucf101", "split": "1", "seed": seed},
            **{"part": "test", "training_id": f"t{seed}", "protocol": "p", "space": "no column"},
        }
        there = 3 if seed < 2 else 2
        block = prediction_block(
            identity,
            videos=["a", "b", "c"][:there],
            labels=labels[:there],
            scores=scores[:there],
            groups=groups,
        )
        store.write_blocks("predictions", str(seed), [block])
    (arm,) = judgements(store, study="s", dataset="ucf101", protocol="p").values()
    assert arm.videos == [("1", "a"), ("1", "b"), ("1", "c")]
    assert arm.groups == ["g1", "g1", "g2"]
    assert arm.labels == [0, 1, 1]
    assert arm.seeds == [0, 1]  # the third lacks a video
    assert arm.correct.tolist() == [[True, True, False]] * 2
    assert arm.trainings == {"t0", "t1", "t2"}
