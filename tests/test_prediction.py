"""Predictions on video files against the scores that the study stored of the same videos."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import search_spaces
from study.data.store.clip_store import ClipStore
from study.prediction import NetworkNotKeptError, find_arm, prepared
from study.request import Request, check_request
from study.results.rows import load_scores, scores_of_line
from study.results.store import ResultStore
from tests.integration.conftest import run_here
from tests.test_conduct import Runner
from tests.trained_study import APART, ARMS, NAME, study_of_trained


def test_videos(store: Path) -> dict[str, str]:
    """The path of each test video's file, by name."""
    opened = ClipStore.open(store)
    return {
        video.name: str(store.parent / "videos" / video.path)
        for video in opened.annotations.splits["1"].test
    }


test_videos.__test__ = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ARMS)
def test_predictions_on_test_videos_are_the_stored_scores(
    name: str, tiny_store: Path, trained_results: Path
) -> None:
    results = ResultStore(trained_results)
    arm = find_arm(results, study=NAME, arm=name, seed=1)
    names = sorted(test_videos(tiny_store))
    paths = [test_videos(tiny_store)[one] for one in names]
    with prepared(paths, arm, workers=2) as videos:
        assert videos.paths == tuple(paths)
        found = arm.score(videos.store, videos.videos)
    ids = arm.row["scoring_id"].split("+")
    assert len(ids) == (2 if name == APART else 1)
    for stream in arm.networks:
        stored = load_scores(results, ids[-1 if stream == "temporal" else 0])["test"]
        assert stored.videos == names
        np.testing.assert_allclose(
            found.scores[stream], stored.scores[stream], rtol=1e-5, atol=1e-6
        )
    lines = results.read("predictions", study=NAME, arm=name, seed=1, part="test")
    expected = dict(zip(lines["video"].to_pylist(), lines["predicted"].to_pylist(), strict=True))
    assert arm.fuse(found).argmax(axis=1).tolist() == [expected[one] for one in names]


def test_both_pathways_of_a_network_of_frames_alone_are_read(
    tiny_store: Path, tmp_path: Path
) -> None:
    """SlowFast's two streams both see RGB."""
    study = check_request(
        Request(
            space=search_spaces.get("attention_consistency").on("embedded"),
            store=tiny_store,
            results=str(tmp_path),
            arms=("attention-consistency",),
            tuning="fixed",
            seeds=1,
            weights="none",
        )
    )
    Runner(study, 1).run()
    (line,) = ResultStore(tmp_path).read("rows", part="test").to_pylist()
    assert line["modality"] == "RGB"
    parts = scores_of_line(ResultStore(tmp_path), line)
    assert set(parts["test"].scores) == {"spatial", "temporal"}


def test_other_views_score_the_kept_network_and_are_those_of_the_prediction(
    tiny_store: Path, trained_results: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained_results, tmp_path / "results")
    results = ResultStore(tmp_path / "results")
    before = sorted(map(repr, results.read("epochs").to_pylist()))
    first = find_arm(results, study=NAME, arm="stil", seed=1)
    run_here(study_of_trained(tiny_store, Path(results.root), arms=("stil",), test_crops="centre"))
    assert sorted(map(repr, results.read("epochs").to_pylist())) == before
    arm = find_arm(results, study=NAME, arm="stil", seed=1)
    assert arm.row["training_id"] == first.row["training_id"]
    assert arm.row["scoring_id"] != first.row["scoring_id"]
    stored = load_scores(results, arm.row["scoring_id"])["test"]
    store = ClipStore.open(tiny_store)
    videos = sorted(store.annotations.splits["1"].test, key=lambda video: video.name)
    found = arm.score(store, videos)
    for stream, scores in found.scores.items():
        np.testing.assert_allclose(scores, stored.scores[stream], rtol=1e-5, atol=1e-6)


def test_the_default_seed_is_the_best_on_validation(trained_results: Path) -> None:
    results = ResultStore(trained_results)
    lines = results.read("rows", study=NAME, arm="stil", part="validation").to_pylist()
    best = max(lines, key=lambda line: (line["top1"], -line["seed"]))["seed"]
    assert find_arm(results, study=NAME, arm="stil").row["seed"] == best


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"study": "other"}, f"no study 'other' with rows; there is {NAME}"),
        ({"arm": "stl"}, "no rows of arm 'stl'; it has spatial, stil, "),
        ({"split": "7"}, "no split '7'; it has 1"),
        ({"seed": 3}, "no seed 3 on split 1; it has 1, 2"),
        ({"protocol": "zz"}, "no protocol with rows begins so"),
    ],
)
def test_what_there_is_not_is_refused_with_what_there_is(
    wanted: dict, said: str, trained_results: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        find_arm(ResultStore(trained_results), **{"study": NAME, "arm": "stil", **wanted})


def test_a_network_that_was_not_kept_is_refused_with_the_flag_that_keeps_it(
    trained_results: Path, tmp_path: Path
) -> None:
    for folder in trained_results.iterdir():
        if folder.name != "networks":
            (tmp_path / folder.name).symlink_to(folder)
    with pytest.raises(NetworkNotKeptError, match=r"study\.run keeps them with --keep all"):
        find_arm(ResultStore(tmp_path), study=NAME, arm="stil")


def test_videos_come_in_the_order_given_and_bad_ones_with_their_reason(
    tiny_store: Path, trained_results: Path, tmp_path: Path
) -> None:
    arm = find_arm(ResultStore(trained_results), study=NAME, arm="spatial")
    first, second = list(test_videos(tiny_store).values())[:2]
    bad = tmp_path / "bad.avi"
    bad.write_bytes(b"no video")
    with prepared([second, str(bad), first], arm, workers=1) as videos:
        assert videos.paths == (second, first)
        assert [video.name.partition("/")[2] for video in videos.videos] == [
            Path(second).stem,
            Path(first).stem,
        ]
        assert list(videos.skipped) == [str(bad)]
        folder = Path(videos.store.path)
    assert not folder.exists()
    with (
        pytest.raises(FileNotFoundError, match="there is no video nowhere"),
        prepared(["nowhere.avi"], arm),
    ):
        pass
