"""``--like STUDY/ARM``: another study at the settings that an arm was trained with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.likeness import like
from study.request import Study, check_request
from study.results.store import ResultStore
from study.searches import searches_of
from tests.conftest import TINY, render_store
from tests.test_conduct import Runner, study_of

ARMS = ("two-stream", "stil")


@pytest.fixture
def earlier(tiny_store: Path, tmp_path: Path) -> Study:
    """A study named ``fake`` that has searched two nets, and fills in settings of its own."""
    changes = {"momentum": 0.8, "options.head_dims": (16,)}
    study = study_of(tiny_store, tmp_path, arms=ARMS, seeds=1, changes=changes)
    Runner(study, 2).run()
    return study


def asked_like(earlier: Study, arm: str, **request: Any) -> Study:
    """A new study of nothing but the arm's settings."""
    plain = replace(earlier.request, name="new", changes={}, **request)
    return check_request(like(check_request(plain), arm))


def rows(study: Study, arm: str) -> list[dict[str, Any]]:
    return ResultStore(study.request.results).read("rows", arm=arm, part="test").to_pylist()


@pytest.mark.parametrize("arm", ARMS)
def test_an_arm_at_its_own_settings_is_its_own_training_and_nothing_is_searched(
    earlier: Study, arm: str
) -> None:
    again = asked_like(earlier, f"fake/{arm}", arms=(arm,))
    assert not searches_of(again)
    assert list(again.plan().trainings) == [rows(earlier, arm)[0]["training_id"]]


def test_what_is_taken_is_what_the_search_found_and_what_is_otherwise_than_usual(
    earlier: Study,
) -> None:
    (row,) = rows(earlier, "stil")
    trials = ResultStore(earlier.request.results).read("trials", arm="stil").to_pylist()
    number = json.loads(row["details"])["trial"]
    (found,) = (json.loads(t["parameters"]) for t in trials if t["trial"] == number)
    taken = asked_like(earlier, "fake/stil", arms=("stil",)).request.changes
    asked = {"epochs": 9, "warmup_epochs": 0, "batch_size": 8, "momentum": 0.8}
    assert taken == {**found, **asked, "options.head_dims": (16,)}


def test_options_without_effect_there_stay_searched_here(earlier: Study) -> None:
    """Plain two-stream has no attention, so its default size says nothing to STIL."""
    study = asked_like(earlier, "fake/two-stream", arms=("stil",))
    assert "options.attention_dim" not in study.request.changes
    assert "learning_rate" in study.request.changes
    assert {one.name for one in study.space.parameters} == {"options.attention_dim"}


def test_what_is_asked_for_goes_over_it(earlier: Study) -> None:
    parameter = next(one for one in earlier.space.parameters if one.name == "learning_rate")
    plain = replace(earlier.request, changes={"momentum": 0.5}, parameters=(parameter,))
    changed = like(check_request(plain), "fake/stil")
    assert changed.changes["momentum"] == 0.5
    assert "learning_rate" not in changed.changes


def test_what_is_fitted_to_a_store_does_not_come_along_to_another(
    earlier: Study, tmp_path: Path
) -> None:
    changes = {"crop_size": 16, "test_segments": 1}
    study = study_of(
        Path(earlier.request.store), tmp_path / "small", arms=("stil",), seeds=1, trials=0,
        changes=changes,
    )  # fmt: skip
    Runner(study, 1).run()
    same = asked_like(study, "fake/stil", arms=("stil",)).request.changes
    assert changes.items() <= same.items()
    other = render_store(tmp_path / "other", replace(TINY, short_side=40))
    moved = asked_like(study, "fake/stil", arms=("stil",), store=other).request.changes
    assert not changes.keys() & moved.keys()
    assert moved["batch_size"] == 8


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("stil", "--like takes STUDY/ARM"),
        ("fake/", "--like takes STUDY/ARM"),
        ("nobody/stil", "there is no study 'nobody' in .*; there are fake"),
        ("fake/spatial", "study 'fake' has no row of 'spatial'; it has rows of stil, two-stream"),
    ],
)
def test_an_arm_that_is_not_there_is_refused_with_those_that_are(
    earlier: Study, text: str, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        like(earlier, text)


def test_streams_of_settings_of_their_own_are_refused(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of(tiny_store, tmp_path, arms=("two-stream",), seeds=1, tuning="own")
    for seed in range(20):  # until the two streams choose different trials
        study = replace(study, request=replace(study.request, search_seed=seed))
        Runner(study, 2).run()
        if any("+" in row["training_id"] for row in rows(study, "two-stream")):
            break
    else:
        pytest.fail("no search came out so that the streams differ")
    with pytest.raises(ValueError, match="its streams were trained with settings of their own"):
        like(study, "fake/two-stream")
