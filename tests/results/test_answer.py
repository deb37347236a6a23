"""The sentences at the top of a page say what the comparisons say."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.results.answer import Answer, answer
from study.results.comparison import Comparison, compare
from study.results.findings import arm_labels, find, selected
from study.results.predictions import judgements
from study.results.statistics import Estimate
from study.results.store import ResultStore
from tests.sample_results import ARMS, PROTOCOL, row, training, write_rows, write_study

BEST, REFERENCE = "stil-awf-simplex", "two-stream"


def answered(store: ResultStore, study: str = "one", *, against: str | None = None) -> Answer:
    (selection,) = selected(store, study)
    rows = store.read("rows", study=study, part="test").to_pylist()
    trainings = store.read("trainings", study=study).to_pylist()
    return answer(find(store, selection.shown, against=against), rows, trainings)


def compared(store: ResultStore, arm: str, reference: str = REFERENCE) -> Comparison:
    judged = judgements(store, study="one", dataset="ucf101", protocol=PROTOCOL)
    return next(one for one in compare(judged, reference) if one.arm == arm)


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path)


def test_the_headline_names_the_best_arm_and_its_gain(store: ResultStore) -> None:
    write_study(store, study="one", classes=12, arms={**ARMS, BEST: ("stil", "awf-simplex", 0.95)})
    said = answered(store)
    one = compared(store, BEST)
    assert "Two-stream + STIL + AWF has the highest top-1 accuracy on UCF101" in said.headline
    assert f"+{100 * one.estimate.value:.1f} points above Two-stream" in said.headline
    assert f"as one of {len(ARMS) - 1} comparisons" in said.headline
    assert one.verdict == "better"
    assert said.headline.endswith("It is better.")
    assert not any("one seed" in caveat for caveat in said.caveats)
    assert one.seeds_needed == math.inf
    assert "No number of seeds would show a difference of 1 point" in said.next_step


@pytest.mark.parametrize(("seed_variance", "enough"), [(1e-4, False), (1e-8, True)])
def test_the_seeds_that_would_show_a_point_are_named(
    store: ResultStore, seed_variance: float, enough: bool
) -> None:
    write_study(store, study="one", classes=2)
    (selection,) = selected(store, "one")
    found = find(store, selection.shown)
    estimate = Estimate(
        value=0.1,
        seeds=3,
        groups=4000,
        seed_variance=seed_variance,
        seed_freedom=4,
        group_variance=1e-8,
        noise_variance=0,
    )
    one = Comparison(arm=BEST, estimate=estimate, among=1, improvement=1, videos=4000)
    said = answer(replace(found, comparisons=[one]), store.read("rows").to_pylist(), [])
    needed = estimate.seeds_to_show(0.01)
    assert needed is not None
    assert (needed <= 3) == enough
    expected = "The 3 seeds that there are suffice" if enough else f"about {needed} seeds an arm"
    assert expected in said.next_step


def test_the_others_that_may_be_as_good_are_named(store: ResultStore) -> None:
    write_study(store, study="one", classes=4)
    judged = judgements(store, study="one", dataset="ucf101", protocol=PROTOCOL)
    del judged[REFERENCE]
    close = {one.arm for one in compare(judged, BEST) if one.verdict != "worse"}
    (rivals,) = [text for text in answered(store).caveats if text.startswith("Not shown to be")]
    names = rivals.removeprefix("Not shown to be worse than the best: ").removesuffix(".")
    assert close
    assert names.split("; ") == list(arm_labels(["stilt"], list(close)).values())


def test_where_the_reference_is_best_the_next_arm_is_named(store: ResultStore) -> None:
    write_study(store, study="one", classes=12)
    said = answered(store, against=BEST)
    assert said.headline.startswith("Two-stream + STIL + AWF has the highest")
    assert "The next, " in said.headline
    assert "−" in said.headline


def test_one_seed_and_few_source_videos_are_caveats(store: ResultStore) -> None:
    write_study(store, study="one", classes=4, seeds=1)
    said = answered(store)
    assert any("one seed doesn't tell of others" in caveat for caveat in said.caveats)
    assert "--seeds 3" in said.next_step
    write_study(store, study="two", classes=1)
    said = answered(store, "two")
    assert any("5 are needed" in caveat for caveat in said.caveats)
    assert "no verdict" in said.headline
    assert "at least 5 source videos" in said.next_step


@pytest.mark.parametrize(
    ("changed", "caveat"),
    [
        ({"device_kind": "cpu"}, "trained on different machines: device cpu"),
        (
            {"hyperparameters": {"learning_rate": 0.12345678}},
            "Trained with other settings than Two-stream: learning_rate 0.123 instead of 0.01",
        ),
    ],
)
def test_trainings_that_differ_are_a_caveat(
    store: ResultStore, changed: dict[str, Any], caveat: str
) -> None:
    write_study(store, study="one", classes=2, seeds=1)
    for net, more in (("plain", {}), ("stil", changed)):
        line = training(f"one-ucf101-{net}-0", study="one", device_kind="L4")
        store.write("trainings", line["training_id"], [line | more])
    assert any(caveat in text for text in answered(store).caveats)


def test_half_a_table_says_what_is_missing(store: ResultStore) -> None:
    rows = [row(arm, 0.5, seed=seed) for arm, seed in (("stil", 1), ("stil", 2), ("spatial", 1))]
    write_rows(store, *rows)
    said = answered(store, "first")
    assert "no predictions" in said.headline
    assert said.caveats == ["Not every split and seed has been run for Spatial."]
    assert said.next_step == ""


def test_a_single_arm_is_compared_with_nothing(store: ResultStore) -> None:
    write_rows(store, row("stil", 0.5))
    assert answered(store, "first").headline == (
        "Two-stream + STIL has a top-1 accuracy of 50.0 % on UCF101. "
        "It is the only arm, so there is nothing to compare it with."
    )
