"""What the page draws by class, against the estimates and the rows that it is made of."""

from pathlib import Path

import numpy as np
import pytest

from study.results.charts import PAIRED, gains_chart, weights_chart
from study.results.comparison import class_gains
from study.results.figures import Source
from study.results.findings import find, selected
from study.results.store import ResultStore
from tests.sample_results import ARMS, write_study


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    store = ResultStore(tmp_path_factory.mktemp("results"))
    write_study(store, classes=45, seeds=2)
    (selection,) = selected(store, "stilt-ucf101")
    return Source(store, selection.shown, find(store, selection.shown))


def test_each_two_arms_gains_are_their_estimates_at_both_ends(source: Source) -> None:
    found = source.found
    chart = gains_chart(found)
    assert chart is not None
    ranked = sorted(found.comparisons, key=lambda one: one.estimate.value)
    left_out = ranked[: len(ARMS) - PAIRED]
    arms = [arm for arm in found.labels if arm not in {one.arm for one in left_out}]
    assert chart["arms"] == [found.labels[arm] for arm in arms]
    best, reference = (chart["arms"][number] for number in chart["chosen"])
    assert (best, reference) == (found.labels[found.best_arm], found.labels[found.reference])
    assert len(chart["rows"]) == PAIRED * (PAIRED - 1) / 2
    first, second = arms.index("stil"), arms.index("two-stream")
    rows = chart["rows"][f"{first} {second}"]
    every = class_gains(found.judged["two-stream"], found.judged["stil"])
    values = [round(100 * one.estimate.value, 1) for one in every]
    assert [value for _, (value, _, _) in rows] == values[:20] + values[-20:]
    known = {f"{one.name} ({one.videos})": one for one in every}
    for place, (_, low, high) in rows:
        interval = known[chart["classes"][place]].interval
        assert (low is None) == (interval is None)
        if interval is not None:
            assert (low, high) == pytest.approx(
                (100 * interval.low, 100 * interval.high), abs=0.051
            )


def test_one_arm_has_no_gains(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    write_study(store, classes=2, seeds=1, arms={"stil": ARMS["stil"]})
    (selection,) = selected(store, "stilt-ucf101")
    assert gains_chart(find(store, selection.shown)) is None


def test_weights_are_the_mean_the_least_and_the_most_of_the_rows() -> None:
    weights = np.random.default_rng(0).random((3, 50, 2))
    names = [f"class {number}" for number in range(50)]
    streams = ["spatial", "temporal"]
    every = {"awf": (weights, names, streams), "other": (weights[..., ::-1], names, streams[::-1])}
    chart = weights_chart(every, {"awf": "AWF", "other": "Other"})
    assert chart is not None
    assert chart["arms"] == ["AWF", "Other"]
    assert chart["heads"][::2] == ["● spatial", "○ temporal"]
    assert chart["rows"]["0"] == chart["rows"]["1"][::-1], "the same weights, ranked from the end"
    lean = weights.mean(0)[:, 1] - weights.mean(0)[:, 0]
    order = np.argsort(lean)
    assert [row[0] for row in chart["rows"]["0"]] == [*order[:20], *order[-20:]]
    for label, *marks in chart["rows"]["0"]:
        for stream, mark in enumerate(marks):
            of = weights[:, label, stream]
            assert mark == pytest.approx([of.mean(), of.min(), of.max()], abs=5.1e-4)
    assert weights_chart({}, {}) is None
