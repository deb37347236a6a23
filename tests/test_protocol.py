"""What a study's protocol is of, and what its rows and predictions are kept under."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study import source
from study.conduct import Conductor
from study.results.store import ResultStore
from tests.conftest import TINY, render_store
from tests.test_conduct import Runner, study_of

FIXED: dict[str, Any] = {"tuning": "fixed", "trials": 0, "seeds": 1, "arms": ("spatial",)}


@pytest.fixture(scope="module")
def other_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of the name of ``tiny_store`` and the same videos, with other pictures."""
    return render_store(tmp_path_factory.mktemp("other"), replace(TINY, jpeg_quality=80))


SAME: dict[str, dict[str, Any]] = {
    "arms": {"arms": ("stil", "two-stream")},
    "seeds": {"seeds": 3},
    "places": {"at_once": 2, "loader_workers": 1, "compile": True},
}
OTHER: dict[str, dict[str, Any]] = {
    "a hyperparameter": {"changes": {"epochs": 4}},
    "an option": {"changes": {"options.dropout": 0.25}},
    "test views": {"changes": {"test_crops": "ten"}},
    "trials": {"trials": 7},
    "sampler": {"sampler": "tpe"},
    "lag": {"lag": 2},
    "kind of tuning": {"tuning": "own"},
    "what is tested": {"refit": True},
    "no tuning": {"tuning": "fixed"},
    "what is searched": {"changes": {"learning_rate": 0.01}},
}


@pytest.mark.parametrize("what", SAME)
def test_what_moves_no_number_is_no_part_of_the_protocol(
    tiny_store: Path, tmp_path: Path, what: str
) -> None:
    study = study_of(tiny_store, tmp_path)
    assert study_of(tiny_store, tmp_path, **SAME[what]).protocol == study.protocol


@pytest.mark.parametrize("what", OTHER)
def test_what_may_move_a_number_is_part_of_the_protocol(
    tiny_store: Path, tmp_path: Path, what: str
) -> None:
    study = study_of(tiny_store, tmp_path)
    other = study_of(tiny_store, tmp_path, **OTHER[what])
    assert other.protocol != study.protocol
    assert len(other.protocol) == 12


def test_all_arms_of_a_space_have_one_protocol_and_its_code_is_of_all_their_models(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    version = source.source_version

    def recorded(modules: frozenset[str]) -> str:
        seen.update(modules)
        return version(modules)

    monkeypatch.setattr("study.request.source_version", recorded)
    study_of(tiny_store, tmp_path, **FIXED).protocol  # noqa: B018
    assert {"models.stilt", "models.fusion", "models.layers.attention"} <= seen
    assert {"study.search", "study.choices", "study.results.rows"} <= seen


def test_two_stores_of_one_name_keep_a_row_each(
    tiny_store: Path, other_store: Path, tmp_path: Path
) -> None:
    rows = []
    for store in (tiny_store, other_store):
        Runner(study_of(store, tmp_path, **FIXED), 1).run()
        rows.append(ResultStore(tmp_path).read("rows", part="test").num_rows)
    assert rows == [1, 2]
    results = ResultStore(tmp_path)
    lines = results.read("protocols").to_pylist()
    assert len({line["store_fingerprint"] for line in lines}) == 2
    for view in ("rows", "predictions"):
        protocols = {line["protocol"] for line in results.read(view).to_pylist()}
        assert protocols == {line["protocol"] for line in lines}


def test_a_study_under_other_settings_keeps_the_rows_that_it_had(
    tiny_store: Path, tmp_path: Path
) -> None:
    for epochs in (1, 2):
        study = study_of(tiny_store, tmp_path, **FIXED, changes={"epochs": epochs})
        conductor: Conductor = Runner(study, 1).run()
        assert not conductor.failures
    rows = ResultStore(tmp_path).read("rows", part="test").to_pylist()
    assert [row["study"] for row in rows] == ["fake", "fake"]
    assert len({row["protocol"] for row in rows}) == 2
