"""Arms compared, factors and classes: against the estimates that they are made of."""

import math

import numpy as np
import pytest

from search_spaces import Arm
from study.results.comparison import class_gains, compare, factorial, reference_of
from study.results.statistics import Judgements, aligned


def judged(right: np.ndarray, *, net: str = "", seeds: range | None = None) -> Judgements:
    runs, videos = right.shape
    return Judgements(
        videos=[("1", f"Class{i % 4}/v{i}") for i in range(videos)],
        groups=[f"g{i // 2}" for i in range(videos)],
        labels=[i % 4 for i in range(videos)],
        seeds=list(seeds or range(runs)),
        correct=right.astype(bool),
        trainings=frozenset([net] if net else []),
    )


@pytest.fixture
def arms() -> dict[str, Judgements]:
    """Four designs, of which only the last is better, by 15 points."""
    rng = np.random.default_rng(1)
    ability = {"spatial": 0.62, "two-stream": 0.62, "same": 0.62, "better": 0.77}
    return {name: judged(rng.random((4, 400)) < right) for name, right in ability.items()}


def test_interval_p_value_and_verdict_agree_and_are_corrected(arms: dict[str, Judgements]) -> None:
    found = compare(arms, "two-stream")
    assert [one.arm for one in found] == ["spatial", "same", "better"]
    for one in found:
        alone = aligned(arms["two-stream"], arms[one.arm]).contrast([-1, 1])
        assert alone.p_value is not None
        assert one.interval == alone.interval(0.05 / 3)
        assert one.p_value == pytest.approx(min(1, 3 * alone.p_value))
        assert one.interval is not None
        assert one.p_value is not None
        shown = one.interval.low > 0 or one.interval.high < 0
        assert shown == (one.p_value <= 0.05) == (one.verdict != "no difference shown")
    assert [one.verdict for one in found] == ["no difference shown"] * 2 + ["better"]
    (opposite,) = compare({name: arms[name] for name in ("better", "same")}, "better")
    assert opposite.verdict == "worse"


def test_an_arm_of_other_videos_or_seeds_is_left_out(arms: dict[str, Judgements]) -> None:
    others = {
        "short": judged(np.ones((4, 30))),
        "later": judged(np.ones((4, 400)), seeds=range(7, 11)),
    }
    (one,) = compare({"same": arms["same"], "better": arms["better"], **others}, "same")
    assert one.arm == "better"
    assert one.among == 1
    with pytest.raises(ValueError, match=r"no arm 'nope' to compare with; there are \['spatial"):
        compare(arms, "nope")


def test_one_seeds_verdict_is_about_these_networks() -> None:
    rng = np.random.default_rng(1)
    pair = {"a": judged(rng.random((1, 400)) < 0.5), "b": judged(rng.random((1, 400)) < 0.8)}
    (one,) = compare(pair, "a")
    assert one.verdict == "better"
    assert one.scope.startswith("these two networks on other videos: one seed")
    assert one.seeds_needed is None


def test_with_too_few_source_videos_there_is_no_verdict_and_the_reason_is_said() -> None:
    rng = np.random.default_rng(2)
    pair = {name: judged(rng.random((3, 8)) < right) for name, right in (("a", 0.1), ("b", 0.9))}
    (one,) = compare(pair, "a")
    assert one.p_value is None
    assert one.interval is not None
    assert one.verdict == "no verdict"
    assert (
        one.scope == "other seeds on these videos: there are but 4 source videos, and 5 are needed"
    )


def test_the_seeds_needed_are_none_known_or_infinite(arms: dict[str, Judgements]) -> None:
    """400 videos show no single point, whatever the seeds: the arms differ on too many of them."""
    rng = np.random.default_rng(3)
    sure = rng.random((1, 400)) < np.linspace(0.2, 0.9, 400)
    other = rng.random((1, 400)) < np.linspace(0.2, 0.9, 400)
    (none,) = compare(
        {"a": judged(np.repeat(sure, 3, 0)), "b": judged(np.repeat(other, 3, 0))}, "a"
    )
    assert none.seeds_needed == math.inf
    flipped = rng.random((6, 4000)) < 0.02
    (some,) = compare({"a": judged(flipped[:3]), "b": judged(flipped[3:])}, "a")
    assert some.seeds_needed is not None
    assert 2 <= some.seeds_needed < 50


def test_the_reference_is_plain_two_stream_or_the_first() -> None:
    assert reference_of(["spatial", "two-stream", "stil"]) == "two-stream"
    assert reference_of(["cstm", "gsm"]) == "cstm"


def test_each_classs_gain_is_that_of_its_videos(arms: dict[str, Judgements]) -> None:
    gains = class_gains(arms["same"], arms["better"])
    values = [gain.estimate.value for gain in gains]
    assert values == sorted(values, reverse=True)
    difference = arms["better"].correct.astype(float) - arms["same"].correct
    for gain in gains:
        label = int(gain.name.removeprefix("Class"))
        assert gain.videos == 100
        assert gain.estimate.value == pytest.approx(difference[:, label::4].mean())


NETS = ("plain", "stil")
FUSIONS = ("average", "awf-l2", "awf-floor")


def factorial_arms() -> list[Arm]:
    grid = [
        Arm(
            name=f"{net}-{fusion}",
            label="",
            model="stilt",
            options={"interaction": net == "stil"},
            fusion=fusion,
        )
        for net in NETS
        for fusion in FUSIONS
    ]
    alone = Arm(
        name="alone", label="", model="stilt", options={"interaction": False}, fusion="spatial"
    )
    other = Arm(name="other", label="", model="tsn", fusion="average")
    return [alone, *grid, other]


def test_main_effects_and_interaction_are_those_of_the_cells_means() -> None:
    rng = np.random.default_rng(4)
    arms = factorial_arms()
    found = {
        arm.name: judged(rng.random((3, 300)) < rng.uniform(0.5, 0.9), net=arm.name.split("-")[0])
        for arm in arms
    }
    effects = factorial(arms, found)
    cell = {(n, f): found[f"{n}-{f}"].correct.mean() for n in NETS for f in FUSIONS}
    by_name = {(one.kind, one.fusion): one for one in effects}
    assert len(effects) == len(by_name) == 1 + 2 + 2
    net = by_name["net", ""]
    assert net.estimate.value == pytest.approx(
        np.mean([cell["stil", f] - cell["plain", f] for f in FUSIONS])
    )
    assert net.net == "stil-average"
    assert net.among == 5
    for fusion in FUSIONS[1:]:
        gains = [cell[n, fusion] - cell[n, "average"] for n in NETS]
        assert by_name["fusion", fusion].estimate.value == pytest.approx(np.mean(gains))
        assert by_name["interaction", fusion].estimate.value == pytest.approx(gains[1] - gains[0])


def test_arms_of_one_net_share_their_seeds_in_an_effect() -> None:
    """What a seed does to all fusions of a net cancels in the fusion's effect, not in the net's."""
    rng = np.random.default_rng(5)
    shift = {net: rng.choice([0.3, 0.9], (5, 1)) for net in NETS}
    uniform = {net: rng.random((5, 300)) for net in NETS}
    arms = factorial_arms()[1:-1]
    found = {}
    for arm in arms:
        net = arm.name.split("-")[0]
        found[arm.name] = judged(uniform[net] < shift[net], net=net)
    effects = {(one.kind, one.fusion): one.estimate for one in factorial(arms, found)}
    assert effects["fusion", "awf-l2"].seed_variance == 0
    assert effects["net", ""].seed_variance > 1e-3


def test_arms_that_are_no_factorial_have_no_effects() -> None:
    arms = factorial_arms()
    some = {arm.name: judged(np.ones((2, 20))) for arm in arms[:4]}
    assert factorial(arms, some) == []
    assert factorial(arms, {}) == []
