"""The statistics against scipy, brute force and simulated truth."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from study.results.predictions import judgements, prediction_lines
from study.results.statistics import (
    Judgements,
    Paired,
    bootstrap_interval,
    holm,
    paired,
    sign_flip_test,
)
from study.results.store import ResultStore


def pair_of(
    first: np.ndarray,
    second: np.ndarray,
    group: np.ndarray | None = None,
    split: np.ndarray | None = None,
) -> Paired:
    first, second = np.atleast_2d(first).astype(bool), np.atleast_2d(second).astype(bool)
    videos = first.shape[1]
    return Paired(
        first=first,
        second=second,
        group=np.arange(videos) if group is None else np.asarray(group),
        split=np.zeros(videos, int) if split is None else np.asarray(split),
    )


def disagreeing(only_first: int, only_second: int, both: int = 3) -> Paired:
    first = np.repeat([1, 0, 1], [only_first, only_second, both])
    second = np.repeat([0, 1, 1], [only_first, only_second, both])
    return pair_of(first, second)


def judged(right: np.ndarray, **values: object) -> Judgements:
    seeds, videos = right.shape
    standard = {
        "videos": [("1", f"v{i}") for i in range(videos)],
        "groups": [f"g{i}" for i in range(videos)],
        "seeds": list(range(seeds)),
        "correct": right.astype(bool),
    }
    return Judgements(**{**standard, **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (2, 7), (5, 5), (9, 1), (0, 12)])
def test_the_sign_flip_test_is_mcnemars_when_every_video_stands_alone(b: int, c: int) -> None:
    """McNemar's exact test is the binomial test of the videos that one arm alone gets right."""
    mcnemar = stats.binomtest(b, b + c).pvalue if b + c else 1.0
    assert sign_flip_test(disagreeing(b, c)) == pytest.approx(mcnemar)


def group_gains(pair: Paired) -> np.ndarray:
    """Each source video's gain, with each split weighing the same, in a loop.

    They are scaled to whole numbers: scipy takes sums that differ by rounding for different.
    """
    sizes = np.bincount(pair.split)
    gains = np.zeros(pair.group.max() + 1, int)
    for column, (group, split) in enumerate(zip(pair.group, pair.split, strict=True)):
        gain = pair.second[:, column].sum() - int(pair.first[:, column].sum())
        gains[group] += gain * np.lcm.reduce(sizes) // sizes[split]
    return gains[gains != 0]


def scipys_test(pair: Paired, resamples: int) -> float:
    return stats.permutation_test(
        (group_gains(pair),),
        lambda gains, axis: np.abs(gains.sum(axis)),
        permutation_type="samples",
        alternative="greater",
        n_resamples=resamples,
        vectorized=True,
        rng=0,
    ).pvalue


def random_pair(rng: np.random.Generator, groups: int, gain: float) -> Paired:
    group = rng.permutation(np.repeat(np.arange(groups), rng.integers(1, 5)))
    split = np.arange(len(group)) % rng.integers(1, 3)
    first, second = rng.random((2, rng.integers(1, 4), len(group))) < [[[0.5]], [[0.5 + gain]]]
    return pair_of(first, second, group, split)


def test_the_sign_flip_test_is_scipys_permutation_test_where_all_patterns_are_enumerated() -> None:
    rng = np.random.default_rng(1)
    compared = 0
    for _ in range(150):
        pair = random_pair(rng, int(rng.integers(2, 17)), 0.15)
        if len(group_gains(pair)) >= 2:  # scipy takes no fewer
            assert sign_flip_test(pair) == scipys_test(pair, 2**16)
            compared += 1
    assert compared > 100


def test_the_sign_flip_test_agrees_with_scipys_permutation_test_where_patterns_are_drawn() -> None:
    """Each draws its own 20 000 patterns: four standard errors of the difference."""
    rng = np.random.default_rng(2)
    for _ in range(10):
        pair = random_pair(rng, int(rng.integers(40, 200)), 0.04)
        ours, theirs = sign_flip_test(pair), scipys_test(pair, 20_000)
        error = np.sqrt(2 * max(ours, 1e-4) * (1 - min(ours, 1 - 1e-4)) / 20_000)
        assert abs(ours - theirs) <= 4 * error


def test_drawn_sign_patterns_agree_with_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    pair = pair_of(rng.random(60) < 0.5, rng.random(60) < 0.65, np.arange(60) // 4)
    exact = sign_flip_test(pair)
    monkeypatch.setattr("study.results.statistics.EXACT_GROUPS", 0)
    assert sign_flip_test(pair, resamples=20_000) == pytest.approx(exact, abs=0.015)


def test_clips_of_one_source_video_are_no_independent_evidence() -> None:
    """Ten clips of each of five source videos, all alike: five observations, not fifty."""
    first, second = np.zeros(50), np.ones(50)
    group = np.arange(50) // 10
    assert sign_flip_test(pair_of(first, second, group)) == pytest.approx(2 / 2**5)
    assert sign_flip_test(pair_of(first, second)) < 1e-4


def test_the_interval_is_the_closed_forms_for_many_independent_videos() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.random(2000) < 0.6, rng.random(2000) < 0.65
    gain = second.astype(float) - first
    interval = bootstrap_interval(pair_of(first, second))
    half = stats.norm.ppf(0.975) * gain.std() / np.sqrt(len(gain))
    assert interval.difference == pytest.approx(gain.mean())
    assert interval.low == pytest.approx(gain.mean() - half, abs=0.03 * half)
    assert interval.high == pytest.approx(gain.mean() + half, abs=0.03 * half)


def test_the_interval_is_scipys_bootstrap_over_groups() -> None:
    rng = np.random.default_rng(4)
    group = np.repeat(np.arange(40), rng.integers(1, 6, 40))
    first = rng.random(len(group)) < 0.5
    second = rng.random(len(group)) < 0.4 + 0.4 * (group % 2)
    gain = np.bincount(group, second.astype(float) - first)
    size = np.bincount(group)

    def ratio(index: np.ndarray, axis: int) -> np.ndarray:
        return gain[index].sum(axis) / size[index].sum(axis)

    reference = stats.bootstrap(
        (np.arange(40),), ratio, method="percentile", n_resamples=9999, rng=5
    ).confidence_interval
    interval = bootstrap_interval(pair_of(first, second, group))
    assert interval.low == pytest.approx(reference.low, abs=0.012)
    assert interval.high == pytest.approx(reference.high, abs=0.012)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Groups share their difficulty, so clips are correlated; the truth is a gain of 0.1."""
    rng = np.random.default_rng(6)
    held = naive = 0
    for _ in range(200):
        group = np.repeat(np.arange(40), 5)
        gain = np.repeat(rng.choice([-1, 1], 40, p=[0.45, 0.55]), 5)
        pair = pair_of(gain < 0, gain > 0, group)
        one = bootstrap_interval(pair, resamples=600)
        two = bootstrap_interval(pair_of(gain < 0, gain > 0), resamples=600)
        held += one.low <= 0.1 <= one.high
        naive += two.low <= 0.1 <= two.high
    assert 0.90 <= held / 200 <= 0.99
    assert naive / 200 < 0.8


def test_seeds_that_disagree_widen_the_interval() -> None:
    rng = np.random.default_rng(7)
    first = rng.random((4, 400)) < 0.5
    steady = bootstrap_interval(pair_of(first, rng.random((4, 400)) < 0.6))
    chance = np.array([[0.3], [0.5], [0.7], [0.9]])
    unsteady = bootstrap_interval(pair_of(first, rng.random((4, 400)) < chance))
    assert unsteady.high - unsteady.low > 2 * (steady.high - steady.low)


def test_the_difference_is_the_mean_over_splits_and_not_over_videos() -> None:
    split = np.repeat([0, 1], [90, 10])
    pair = pair_of(np.zeros(100), split == 1, split=split)
    assert pair.difference == pytest.approx(0.5)
    assert bootstrap_interval(pair).difference == pytest.approx(0.5)


def test_the_same_judgements_give_the_same_numbers() -> None:
    pair = disagreeing(5, 9, 30)
    assert bootstrap_interval(pair) == bootstrap_interval(pair)
    many = disagreeing(20, 35)
    assert sign_flip_test(many) == sign_flip_test(many)


def test_holm_is_the_closed_test_of_every_set_of_hypotheses() -> None:
    """A hypothesis is rejected when Bonferroni rejects every set that holds it."""
    rng = np.random.default_rng(8)
    for size in (1, 2, 5):
        values = list(rng.random(size) ** 3)
        expected = [
            max(
                min(1, len(members) * min(values[m] for m in members))
                for n in range(1, size + 1)
                for members in itertools.combinations(range(size), n)
                if i in members
            )
            for i in range(size)
        ]
        assert holm(values) == pytest.approx(expected)
    assert holm([]) == []
    with pytest.raises(ValueError, match=r"within 0\.\.1, but got \[2\.0\]"):
        holm([2.0])


def test_arms_are_lined_up_by_video_and_seed() -> None:
    rng = np.random.default_rng(9)
    first, second = rng.random((2, 3, 8)) < 0.5
    order = rng.permutation(8)
    turned = judged(
        second[[2, 0]][:, order],
        videos=[("1", f"v{i}") for i in order],
        groups=[f"g{i}" for i in order],
        seeds=[2, 0],
    )
    pair = paired(judged(first), turned)
    assert (pair.first == first[[0, 2]]).all()
    assert (pair.second == second[[0, 2]]).all()


def test_arms_that_cannot_be_compared_are_refused() -> None:
    one = judged(np.ones((1, 3)))
    with pytest.raises(ValueError, match="2 were judged by one only, such as 'v3' of split '1'"):
        paired(one, judged(np.ones((1, 5))))
    with pytest.raises(ValueError, match=r"share no seed: \[0\] against \[7\]"):
        paired(one, judged(np.ones((1, 3)), seeds=[7]))
    with pytest.raises(ValueError, match=r"shape \(1, 3\)"):
        judged(np.ones((1, 3)), correct=np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="named twice"):
        judged(np.ones((1, 2)), videos=[("1", "a"), ("1", "a")])
    with pytest.raises(ValueError, match="no judgement"):
        judged(np.ones((0, 3)))


def test_predictions_are_written_and_read_back_as_judgements(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    scores = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    labels = np.array([0, 1, 1])
    groups = {"a": "g1", "b": "g1", "c": "g2"}
    for seed in (0, 1):
        identity = {
            **{"study": "s", "arm": "stil", "dataset": "ucf101", "split": "1", "seed": seed},
            **{"part": "test", "training_id": "t", "protocol": "p", "space": "not a column"},
        }
        lines = prediction_lines(
            identity, videos=["a", "b", "c"], labels=labels, scores=scores, groups=groups
        )
        store.write("predictions", str(seed), lines)
    (arm,) = judgements(store, study="s", dataset="ucf101", protocol="p").values()
    assert arm.videos == [("1", "a"), ("1", "b"), ("1", "c")]
    assert arm.groups == ["g1", "g1", "g2"]
    assert arm.correct.tolist() == [[True, True, False]] * 2
