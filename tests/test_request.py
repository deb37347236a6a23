"""What a request is refused for before anything starts."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import search_spaces
from models import create_model
from search_spaces.space import Choice
from study.data.datasets.parts import Parts
from study.data.datasets.parts import split_parts as parts_of_split
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import write_manifest
from study.plan import served_trainings
from study.request import Request, check_request
from study.training.hyperparameters import Hyperparameters
from tests.models.test_plugins import MODEL
from tests.plug_ins import plug_ins_forgotten
from tests.test_conduct import study_of

SPACE = """
import nets
from search_spaces import Arm, Settings, Space

space = Space(
    name="mine",
    title="T",
    arms=(Arm(name="a", label="A", model="mine"), Arm(name="b", label="B", model="tsn")),
    search_arm="a",
    parameters=(),
    settings=Settings(options={"backbone": "small"}),
)
"""


def carve_groups(monkeypatch: pytest.MonkeyPatch, count: Callable[[int], int]) -> None:
    """Has each carve hold out videos of so many sources."""

    def split_parts(*listed: Any, carve: int = 0, **more: Any) -> Parts:
        parts = parts_of_split(*listed, carve=carve, **more)
        by_group = {video.group: video for video in parts.train}
        return replace(parts, validation=tuple(by_group.values())[: count(carve)])

    monkeypatch.setattr("study.request.split_parts", split_parts)


@pytest.mark.parametrize(
    ("asked", "groups", "refused"),
    [
        ({"arms": ("stil-awf-l2",)}, 2, "stil-awf-l2 fit their fusion on at least 3; .*--set fus"),
        ({"arms": ("stil-awf-l2",)}, 3, None),
        ({"arms": ("stil-awf-l2",), "changes": {"fusion_lambda": 1.0}}, 2, None),
        ({"arms": ("stil", "stil-early")}, 1, "stil-early fit their fusion on at least 2; name"),
        ({"arms": ("stil", "stil-early")}, 2, None),
        ({"arms": ("stil",)}, 1, None),
        ({"arms": ("stil",), "tuning": "shared"}, 2, "stil-awf-simplex fit .* at least 3"),
        ({"arms": ("stil",), "tuning": "own"}, 1, "stil choose among trials by at least 2; .* net"),
        ({"arms": ("stil",), "tuning": "own"}, 2, None),
    ],
)
def test_too_few_sources_to_judge_a_choice_are_refused(
    tiny_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    asked: dict[str, Any],
    groups: int,
    refused: str | None,
) -> None:
    carve_groups(monkeypatch, lambda carve: groups)
    if refused is None:
        study_of(tiny_store, tmp_path, **asked)
    else:
        with pytest.raises(ValueError, match=refused):
            study_of(tiny_store, tmp_path, **asked)


def test_every_seeds_own_carve_needs_as_many_sources(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carve_groups(monkeypatch, lambda carve: 2 if carve == 3 else 3)
    asked: dict[str, Any] = {"arms": ("stil-awf-l2",), "vary": ("split-carve",)}
    study_of(tiny_store, tmp_path, **asked, seeds=2)
    with pytest.raises(ValueError, match="as seed 3 carves it has 2 source videos, but stil-awf"):
        study_of(tiny_store, tmp_path, **asked, seeds=3)


def test_a_named_validation_part_is_the_studys_and_no_seed_carves_another(
    tiny_store: Path, tmp_path: Path
) -> None:
    path = Path(shutil.copytree(tiny_store, tmp_path / "store"))
    store = ClipStore.open(path)
    split = store.annotations.splits["1"]
    named = replace(split, train=split.train[::2], validation=split.train[1::2])
    annotations = replace(store.annotations, splits={"1": named})
    write_manifest(path, store.settings, annotations, store.locations(), {})
    study = study_of(path, tmp_path / "results")
    assert list(study.parts["1"].train) == list(split.train[::2])
    assert list(study.parts["1"].validation) == list(split.train[1::2])
    with pytest.raises(ValueError, match=r"--vary split-carve .* but split '1' of folder names"):
        study_of(path, tmp_path / "results", vary=("split-carve",))


def test_an_edit_of_a_plug_in_trains_its_models_again_and_no_others(
    plug_in_folder: Path, tiny_store: Path, tmp_path: Path
) -> None:
    def trained(edit: str) -> dict[str, str]:
        (plug_in_folder / "nets.py").write_text(MODEL.format(name="mine") + edit)
        (plug_in_folder / "spaces.py").write_text(SPACE)
        with plug_ins_forgotten(plug_in_folder):
            study = check_request(
                Request(
                    space=search_spaces.load("spaces.py:space"),
                    store=tiny_store,
                    results=str(tmp_path / "results"),
                    weights="none",
                    tuning="fixed",
                )
            )
            assert study.plugins == ("spaces", "nets")
            trainings = study.plan().trainings.values()
            jobs = [study.job(training, until=1) for training in trainings]
            assert {job.plugins for job in jobs} == {("spaces", "nets")}
            return {one.model: one.training_id for one in trainings if one.seed == 1}

    before = trained("")
    assert before.keys() == {"mine", "tsn"}
    assert trained("    # a remark\n") == before
    edited = trained("    def _prepare_backbone(self, backbone):\n        backbone.float()\n")
    assert edited["mine"] != before["mine"]
    assert edited["tsn"] == before["tsn"]


def test_a_space_none_of_whose_arms_runs_by_default_is_refused_without_names(
    tiny_store: Path, tmp_path: Path
) -> None:
    space = search_spaces.get("stilt")
    none = replace(space, arms=tuple(replace(arm, default=False) for arm in space.arms))
    with pytest.raises(ValueError, match="no arm that runs by default; name --arms of spatial, te"):
        check_request(Request(space=none, store=tiny_store, results=str(tmp_path)))


def save_small(path: Path, classes: int) -> Path:
    options = {"backbone": "small", "head_dims": (), "flow_length": 3}
    state = create_model("stilt", num_classes=classes, interaction=False, **options).state_dict()
    torch.save(state, path)
    return path


def test_streams_and_arms_start_from_weights_of_their_own(tiny_store: Path, tmp_path: Path) -> None:
    file = save_small(tmp_path / "a.pt", classes=9)

    def planned(weights: dict[str, str], *arms: str) -> Any:
        study = study_of(tiny_store, tmp_path, arms=arms, weights=weights, tuning="fixed", seeds=1)
        return study, study.plan().rows

    study, (spatial, both) = planned({"spatial": str(file)}, "spatial", "two-stream")
    assert spatial.training == both.training  # one training serves both arms
    content = both.training.weights.split()[0].removeprefix("spatial=")
    assert both.training.weights == f"spatial={content} temporal=none"
    assert study.job(both.training, until=1).weights_files == {"spatial": str(file)}
    (start,) = study.starts
    assert start.startswith("stilt, spatial, from a.pt: 12 tensors of a network of this project")
    assert "of a classifier of other classes" in start

    study, (alone,) = planned({"spatial": str(file)}, "spatial")
    assert alone.training.weights == content
    assert alone.training in served_trainings(both.training)

    _, (spatial, both) = planned({"two-stream": str(file)}, "spatial", "two-stream")
    assert (spatial.training.weights, both.training.weights) == ("none", content)

    study, _ = planned({"spatial": str(file)}, "spatial")
    other, _ = planned({"spatial": str(save_small(tmp_path / "b.pt", 9))}, "spatial")
    assert study.protocol != other.protocol


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"flow": "a.pt"}, "--weights flow=…: there is no stream or arm 'flow'; there are the str"),
        ("kinetics", "no Kinetics-400 weights of model 'stilt' .* r2plus1d .* and of s3d. Give"),
        ({"temporal": "wide.pt"}, r"--weights .*wide.pt: .*stage1.0.weight is \(24, 8, 3, 3\) in"),
    ],
)
def test_weights_that_cannot_be_are_refused_before_anything_starts(
    tiny_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Any, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"backbone": "small", "head_dims": (8,), "flow_length": 4}
    net = create_model("stilt", num_classes=4, interaction=False, **options)
    torch.save(net.state_dict(), "wide.pt")
    with pytest.raises(ValueError, match=message):
        study_of(tiny_store, tmp_path, arms=("two-stream",), weights=weights)


def test_nets_that_mix_segments_are_tested_on_as_many_as_they_train_on(
    tiny_store: Path, tmp_path: Path
) -> None:
    """Of the tiny store's two stacks one clip of three segments shows both."""
    for changes, expected in (
        ({}, (3, 3, 1)),
        ({"segments": 1}, (1, 1, 2)),
        ({"segments": 1, "test_segments": 2, "test_clips": 4}, (1, 2, 4)),
    ):
        study = check_request(
            Request(
                space=search_spaces.get("stilt"),
                arms=("two-stream", "stil"),
                store=tiny_store,
                results=str(tmp_path),
                weights="none",
                trials=0,
                tuning="fixed",
                changes={**changes, "batch_size": 4, "options.backbone": "small"},
            )
        )
        for training in study.plan().trainings.values():
            own = training.hyperparameters
            assert (own.segments, own.test_segments, own.test_clips) == expected


def test_segments_that_a_search_found_are_tested_too(tiny_store: Path, tmp_path: Path) -> None:
    request = Request(
        space=search_spaces.get("stilt"),
        store=tiny_store,
        results=str(tmp_path),
        weights="none",
        parameters=(Choice(name="segments", choices=(1, 2)),),
        changes={"options.backbone": "small"},
    )
    study = check_request(request)
    found = study.settings(study.arms[0], {"segments": 2}).hyperparameters
    own = Hyperparameters.of(found)
    assert (own.segments, own.test_segments) == (2, 2)


def test_frames_in_a_row_need_a_store_of_every_frame(tiny_store: Path, tmp_path: Path) -> None:
    """The space's own stride gives way; one that is asked for is refused."""

    def asked(**changes: Any) -> Request:
        return Request(
            space=search_spaces.get("attention_consistency"),
            arms=("attention-consistency",),
            store=tiny_store,
            results=str(tmp_path),
            weights="none",
            trials=0,
            tuning="fixed",
            changes={"batch_size": 4, **changes},
        )

    (training,) = check_request(replace(asked(), seeds=1)).plan().trainings.values()
    assert training.hyperparameters.frame_stride is None
    with pytest.raises(ValueError, match=r"frame_stride is 2, .* has 2 stacks .* without --stacks"):
        check_request(asked(frame_stride=2))
