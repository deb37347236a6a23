"""What a request is refused for before anything starts."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import search_spaces
from study.data.datasets.parts import Parts
from study.data.datasets.parts import split_parts as parts_of_split
from study.data.store.clip_store import ClipStore
from study.data.store.manifest import write_manifest
from study.request import Request, check_request
from tests.test_conduct import study_of


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


def test_nets_that_mix_segments_are_tested_on_as_many_as_they_train_on(
    tiny_store: Path, tmp_path: Path
) -> None:
    """Of the tiny store's two stacks one clip of three segments shows both."""
    for changes, expected in (
        ({}, (3, 3, 1)),
        ({"segments": 1}, (1, 1, 1)),
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
