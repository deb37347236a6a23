"""Every space from its arms to its tables, in plain Python: no search and no Ray."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from models.fusion import FUSIONS, Fitted, Fusion, Part
from study.request import Request, Study, check_request
from study.results.store import ResultStore
from study.results.tables import load
from tests.integration.conftest import run_here

# Volumes take 32 px and more; the tiny store's frames are that large.
SMALL = {"epochs": 1, "warmup_epochs": 0, "batch_size": 16, "crop_size": 32}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared by the spaces: a training that two of them need is done once."""
    return tmp_path_factory.mktemp("spaces")


def study_of(
    name: str,
    store: Path,
    results: Path,
    *,
    changes: Mapping[str, Any] = SMALL,
    **more: Any,
) -> Study:
    """A study of the space as it is on the embedded dataset, whose clips the tiny store has."""
    space = search_spaces.get(name).on("embedded")
    return check_request(
        Request(
            space=space,
            store=store,
            trials=0,
            tuning="fixed",
            seeds=1,
            weights="none",
            changes=changes,
            results=str(results),
            name=f"{name}-tiny",
            **more,
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", search_spaces.names())
def test_every_default_arm_of_a_space_gives_its_rows(
    name: str, tiny_store: Path, results: Path
) -> None:
    study = study_of(name, tiny_store, results)
    run_here(study)

    rows = ResultStore(results).read("rows", study=f"{name}-tiny").to_pylist()
    arms = {arm.name: arm for arm in study.arms}
    assert sorted((row["arm"], row["part"]) for row in rows) == sorted(
        (arm, part) for arm in arms for part in ("test", "validation")
    )
    for row in rows:
        assert 0 <= row["top1"] <= row["top5"] <= 1
        assert row["modality"] in ("RGB", "flow", "RGB + flow")
        assert row["space"] == name

    run: set[str] = set()
    for table in study.request.space.tables:
        cells = load(table.name, ResultStore(results), f"{name}-tiny").cells
        run |= {arm for (arm, _, metric), cell in cells.items() if cell.mean is not None}
    assert run == arms.keys(), "every default arm stands in a table"


@pytest.mark.slow
def test_a_pathway_of_frames_is_no_flow_and_a_fused_tower_sees_both(
    tiny_store: Path, results: Path
) -> None:
    expected = {
        ("attention_consistency", "fast-alone"): "RGB",
        ("attention_consistency", "two-stream"): "RGB + flow",
        ("conv_fusion", "sum"): "RGB + flow",
        ("cstm", "cstm"): "RGB",
        ("cstm", "cstm-flow"): "flow",
    }
    for (space, arm), modality in expected.items():
        study = study_of(space, tiny_store, results, arms=(arm,))
        run_here(study)
        rows = ResultStore(results).read("rows", study=f"{space}-tiny", arm=arm).to_pylist()
        assert {row["modality"] for row in rows} == {modality}


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        (
            "stin",
            {"options.bakcbone": "resnet18"},
            "options that can be set are attend_within, attention_dim",
        ),
        ("cstm", {"options.module": "gsm"}, "--set options.module changes none of the arms"),
        ("comparators", {"options.difference": "pixels"}, "changes none of the arms"),
        ("comparators", {"test_segments": 1}, "test_segments is 1, but model 'trn' takes clips"),
    ],
)
def test_a_change_that_reaches_no_arm_or_breaks_one_is_refused(
    name: str, change: dict[str, Any], said: str, tiny_store: Path, tmp_path: Path
) -> None:
    changes = {**SMALL, **change}
    with pytest.raises(ValueError, match=said):
        study_of(name, tiny_store, tmp_path, changes=changes)
    assert not list(tmp_path.iterdir())


def test_an_option_reaches_the_arms_whose_model_has_it(tiny_store: Path, tmp_path: Path) -> None:
    study = study_of("comparators", tiny_store, tmp_path, changes={"options.backbone": "resnet18"})
    backbones = {
        training.model: training.options.get("backbone")
        for training in study.plan().trainings.values()
    }
    assert backbones["tsm"] == backbones["stm"] == "resnet18"
    assert backbones["c3d"] is None


def test_a_study_that_trains_on_all_videos_gives_test_rows_alone(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of its fusions reads features of the train part, and fits nothing on validation."""
    train_videos: list[int] = []

    def fit(parts: Mapping[str, Part], *_: object) -> Fitted:
        train_videos.append(len(parts["train"].features["spatial"]))
        return Fitted(fuse=lambda part: part.scores["spatial"])

    monkeypatch.setitem(FUSIONS, "weighted", Fusion(fit=fit, reads_train=True))
    arms = ("spatial", "two-stream-weighted")
    study = study_of("stilt", tiny_store, tmp_path, arms=arms, train_on="all")
    assert not run_here(study).failures
    rows = ResultStore(tmp_path).read("rows").to_pylist()
    assert sorted((row["arm"], row["part"]) for row in rows) == [(arm, "test") for arm in arms]
    [training] = ResultStore(tmp_path).read("trainings").to_pylist()
    listed = len(study.store.annotations.splits["1"].train)
    assert (training["train_videos"], training["validation_videos"]) == (listed, 0)
    assert train_videos == [listed]
