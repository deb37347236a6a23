import io

import pytest
from rich.console import Console

from benchmarks import embedded
from benchmarks.embedded import ARMS, SEEDS

RIGHT = {"spatial": 0.3, "temporal": 0.5, "two-stream": 0.7, "stil": 1.0}
VIDEOS = 200


def line(seed: int, arm: str, share: float) -> dict[str, str]:
    right = round(share * VIDEOS)
    by_group = dict.fromkeys(("top1", *embedded.GROUPS), str(share))
    return {
        "seed": str(seed),
        "arm": arm,
        **by_group,
        "seconds": "10",
        "right": "1" * right + "0" * (VIDEOS - right),
    }


def lines(*, repetitions: int = 1, **changes: float) -> list[dict[str, str]]:
    shares = {**RIGHT, **changes}
    return [line(seed, arm, shares[arm]) for seed in range(SEEDS * repetitions) for arm in ARMS]


def test_differences_are_those_of_the_arms_accuracies() -> None:
    found = [one.value for one in embedded.differences(lines())]
    assert found == pytest.approx([0.2, 0.4, 0.2, 0.3])


def test_a_repetition_counts_where_all_of_its_intervals_are_above_zero() -> None:
    good, level = lines(repetitions=2), lines(stil=RIGHT["two-stream"])
    for one in level:
        one["seed"] = str(int(one["seed"]) + 2 * SEEDS)
    output = io.StringIO()
    embedded.show(good + level, Console(width=120, file=output))
    shown = output.getvalue()
    assert "All four differences are above 0 in 2 of 3 repetitions." in shown
    assert "2 of 3" in shown.split("above 0")[1]
