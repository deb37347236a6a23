"""Ensembles of a study against sums of the scores that its trainings stored."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import search_spaces
from search_spaces import Ensemble, Table, TableRow
from study.prediction import find_arm
from study.request import Request, Study, check_request
from study.results.rows import load_scores
from study.results.store import ResultStore
from tests.test_conduct import SETTINGS, Runner

STILT = search_spaces.get("stilt").on("embedded")
MEMBERS = {"spatial": 1.0, "stil": 3.0, "stil-2x": 1.0}
OTHER = {"stil": 1.0, "other/temporal": 0.5}


def study_of(store: Path, results: Path, **asked: Any) -> Study:
    """Two ensembles: of arms of the study, two of one net in other views, and with another's."""
    names = ("stil-2x", "sum", "wide")
    shown = Table(name="ensembles", title="Ensembles", rows=tuple(map(TableRow, names)), ours=True)
    twice = replace(STILT.arm("stil"), name="stil-2x", hyperparameters={"test_clips": 2})
    space = replace(
        STILT,
        arms=(*STILT.arms, twice),
        ensembles=(
            Ensemble(name="sum", label="Sum", members=MEMBERS),
            Ensemble(name="wide", label="Wide", members=OTHER),
        ),
        tables=(*STILT.tables, shown),
    )
    request = {"name": "own", "tuning": "fixed", "seeds": 1, "changes": SETTINGS, **asked}
    return check_request(Request(space=space, store=store, results=str(results), **request))


def lines_of(results: Path, arm: str) -> dict[str, dict[str, Any]]:
    lines = ResultStore(results).read("rows", arm=arm, study="own").to_pylist()
    return {line["part"]: line for line in lines}


def scored(results: Path, study: str, arm: str, part: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the streams' scores that an arm's row reads, and the labels."""
    store = ResultStore(results)
    [line] = store.read("rows", study=study, arm=arm, part=part).to_pylist()
    scores = load_scores(store, line["scoring_id"])[part]
    streams = [arm] if arm in scores.scores else list(scores.scores)
    return np.mean([scores.scores[one] for one in streams], axis=0), scores.labels


def test_an_ensemble_is_the_weighted_sum_of_what_its_members_trainings_scored(
    tiny_store: Path, tmp_path: Path
) -> None:
    study = study_of(tiny_store, tmp_path, arms=("sum",))
    assert [arm.name for arm in study.arms] == list(MEMBERS), "its members come with it"
    runner = Runner(study, 2)
    runner.run()
    assert len({identity for identity, _, _ in runner.ran}) == 2, "it trains nothing of its own"
    lines = lines_of(tmp_path, "sum")
    assert lines.keys() == {"validation", "test"}
    sums: dict[str, np.ndarray] = {}
    for part, line in lines.items():
        found = {arm: scored(tmp_path, "own", arm, part) for arm in MEMBERS}
        sums[part] = np.sum([weight * found[arm][0] for arm, weight in MEMBERS.items()], axis=0)
        assert line["top1"] == np.mean(sums[part].argmax(axis=1) == found["stil"][1])
        assert (line["fusion"], line["tuning"], line["modality"]) == (
            "ensemble",
            "fixed",
            "RGB + flow",
        )
        members = [lines_of(tmp_path, arm)[part] for arm in MEMBERS]
        for column in ("training_id", "scoring_id"):
            assert line[column] == "+".join(dict.fromkeys(member[column] for member in members))
        assert line["scoring_id"].count("+") == 2, "each member has its own views"
    predicted = ResultStore(tmp_path).read("predictions", arm="sum", part="test").sort_by("video")
    assert predicted["predicted"].to_pylist() == sums["test"].argmax(axis=1).tolist()
    with pytest.raises(ValueError, match="is the mean of the scores of spatial, stil, stil-2x,"):
        find_arm(ResultStore(tmp_path), study="own", arm="sum")


def test_a_member_of_another_study_is_read_from_its_rows_and_asked_for_where_there_is_none(
    tiny_store: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="'other' has no test row of arm 'temporal'"):
        study_of(tiny_store, tmp_path, arms=("wide",))
    other = {"name": "other", "changes": {**SETTINGS, "learning_rate": 0.7}}
    Runner(study_of(tiny_store, tmp_path, arms=("temporal",), **other), 1).run()
    Runner(study_of(tiny_store, tmp_path, arms=("wide",)), 1).run()
    line = lines_of(tmp_path, "wide")["test"]
    (stil, labels), (temporal, _) = (
        scored(tmp_path, "own", "stil", "test"),
        scored(tmp_path, "other", "temporal", "test"),
    )
    assert line["top1"] == np.mean((stil + 0.5 * temporal).argmax(axis=1) == labels)


def test_by_default_ensembles_of_default_arms_of_the_study_come_with_them(tiny_store: Path) -> None:
    assert [one.name for one in study_of(tiny_store, Path("none")).ensembles] == ["sum"]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"spatial": 1.0}, "two members or more"),
        ({"a/b": 1.0, "c/d": 1.0}, "an arm of its own space among them"),
        ({"spatial": 1.0, "temporal": 0.0}, "above 0"),
        ({"spatial": 1.0, "nobody": 1.0}, "no arm 'nobody'"),
        ({"spatial": 1.0, "stil-early": 1.0}, "fits nothing, but 'stil-early' has 'early'"),
    ],
)
def test_members_that_cannot_be_averaged_are_refused(
    members: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(STILT, ensembles=(Ensemble(name="e", label="E", members=members),))
