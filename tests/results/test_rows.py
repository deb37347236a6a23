"""Fusing stored scores: against hand computations, and that nothing is judged on what it fitted."""

from pathlib import Path

import numpy as np
import pytest

from study.results.rows import accuracies, fuse, load_scores, validation_accuracy
from study.results.store import ResultStore
from study.scores import Scores

CLASSES = 3


def make_scores(videos: int, seed: int, *, signal: float = 1.0) -> Scores:
    rng = np.random.default_rng(seed)
    labels = np.arange(videos) % CLASSES

    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x)
        return (e / e.sum(1, keepdims=True)).astype(np.float32)

    noise = {stream: rng.normal(size=(videos, CLASSES)) for stream in ("spatial", "temporal")}
    hot = np.eye(CLASSES)[labels] * signal
    return Scores(
        videos=[f"v{i:03d}" for i in range(videos)],
        labels=labels,
        scores={stream: softmax(hot + noise[stream]) for stream in noise},
        features={stream: (hot + noise[stream]).astype(np.float32) for stream in noise},
    )


PARTS = {
    "train": make_scores(60, 0),
    "validation": make_scores(45, 1),
    "test": make_scores(50, 2),
}
GROUPS = {f"v{i:03d}": f"g{i // 3}" for i in range(60)}


@pytest.mark.parametrize("constraint", ["simplex", "floor", "l2", "entropy"])
def test_adaptive_fusion_fits_the_validation_part_and_no_other(constraint: str):
    fused = fuse(f"awf-{constraint}", PARTS, groups=GROUPS, fusion_lambda=0.7)
    other_test = {**PARTS, "test": make_scores(50, 9, signal=5.0)}
    again = fuse(f"awf-{constraint}", other_test, groups=GROUPS, fusion_lambda=0.7)
    assert fused.fusion_lambda == again.fusion_lambda == 0.7
    assert fused.details == again.details
    np.testing.assert_array_equal(fused.parts["validation"], again.parts["validation"])


def test_the_validation_row_of_adaptive_fusion_is_not_judged_on_its_own_fit():
    """Scores that say nothing: a fit that sees its own videos would still beat chance."""
    accuracy = []
    for seed in range(20):
        noise = make_scores(45, 100 + seed, signal=0.0)
        accuracy.append(validation_accuracy("awf-simplex", noise, groups=GROUPS, fusion_lambda=1.0))
    assert abs(np.mean(accuracy) - 1 / CLASSES) < 0.05


def test_cross_fitting_holds_out_the_groups_of_the_parts_own_videos():
    """The validation videos may be any of those that have a group, in any order."""
    order = np.random.default_rng(0).permutation(45)
    held_out = PARTS["validation"]
    shuffled = Scores(
        videos=[held_out.videos[i] for i in order],
        labels=held_out.labels[order],
        scores={stream: array[order] for stream, array in held_out.scores.items()},
        features={},
    )
    groups = dict(reversed(GROUPS.items())) | {"another": "g0"}
    straight = fuse("awf-l2", PARTS, groups=GROUPS, fusion_lambda=1.0).parts["validation"]
    fused = fuse("awf-l2", {"validation": shuffled}, groups=groups, fusion_lambda=1.0)
    np.testing.assert_allclose(fused.parts["validation"], straight[order])


def test_the_average_stands_in_during_a_search_for_a_fusion_that_reads_the_train_part():
    held_out = PARTS["validation"]
    average = np.mean(list(held_out.scores.values()), axis=0)
    expected = (average.argmax(axis=1) == held_out.labels).mean()
    for fusion in ("early", "scores-svm", "awf-train"):
        assert validation_accuracy(fusion, held_out, groups=GROUPS) == pytest.approx(expected)


def test_top5_of_fewer_than_five_classes_is_one():
    scores = PARTS["test"]
    assert accuracies(scores.scores["spatial"], scores.labels)["top5"] == 1.0


def test_scores_come_back_as_they_were_written(tmp_path):
    store = ResultStore(tmp_path)
    for kind, parts in (("scores", ("validation", "test")), ("features", ("train", "test"))):
        lines = [
            {
                "training_id": "t",
                "scoring_id": "s",
                "part": part,
                "video": video,
                "label": int(label),
                "stream": stream,
                kind: line,
            }
            for part in parts
            for stream, matrix in getattr(PARTS[part], kind).items()
            for video, label, line in zip(
                PARTS[part].videos, PARTS[part].labels, matrix, strict=True
            )
        ]
        store.write(kind, "s", lines)
    loaded = load_scores(store, "s")
    assert set(loaded) == {"train", "validation", "test"}
    for stream in ("spatial", "temporal"):
        np.testing.assert_array_equal(loaded["test"].scores[stream], PARTS["test"].scores[stream])
        np.testing.assert_array_equal(
            loaded["test"].features[stream], PARTS["test"].features[stream]
        )
    assert loaded["test"].videos == PARTS["test"].videos
    np.testing.assert_array_equal(loaded["train"].labels, PARTS["train"].labels)


def test_scores_of_shuffled_lines_are_matrices_in_the_order_of_the_videos(tmp_path: Path) -> None:
    store, rng = ResultStore(tmp_path), np.random.default_rng(0)
    widths = {"spatial": 4, "temporal": 3}
    expected = {
        (part, stream, f"v{n}"): rng.random(width).astype(np.float32)
        for part in ("validation", "test")
        for stream, width in widths.items()
        for n in range(20)
    }
    lines = [
        {
            "training_id": "t",
            "scoring_id": "s",
            "part": part,
            "stream": stream,
            "video": video,
            "label": int(video[1:]) % 3,
            "scores": values,
        }
        for (part, stream, video), values in expected.items()
    ]
    rng.shuffle(lines)
    store.write("scores", "s", lines)
    for part, scores in load_scores(store, "s").items():
        assert scores.videos == sorted(f"v{n}" for n in range(20))
        assert scores.labels.tolist() == [int(video[1:]) % 3 for video in scores.videos]
        for stream, matrix in scores.scores.items():
            for video, line in zip(scores.videos, matrix, strict=True):
                assert np.array_equal(line, expected[part, stream, video])
