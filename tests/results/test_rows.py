"""Fusing stored scores: against hand computations, and that nothing is judged on what it fitted."""

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


def test_single_streams_and_late_fusions_are_their_closed_forms():
    spatial, temporal = PARTS["test"].scores["spatial"], PARTS["test"].scores["temporal"]
    fused = {f: fuse(f, PARTS, groups=GROUPS).parts for f in ("spatial", "average", "weighted")}
    np.testing.assert_array_equal(fused["spatial"]["test"], spatial)
    np.testing.assert_allclose(fused["average"]["test"], (spatial + temporal) / 2, rtol=1e-6)
    np.testing.assert_array_equal(
        fused["weighted"]["test"].argmax(1), (spatial + 1.5 * temporal).argmax(1)
    )
    assert set(fused["average"]) == {"validation", "test"}


@pytest.mark.parametrize("constraint", ["simplex", "floor", "l2", "entropy"])
def test_adaptive_fusion_fits_the_validation_part_and_no_other(constraint: str):
    fused = fuse(f"awf-{constraint}", PARTS, groups=GROUPS, fusion_lambda=0.7)
    other_test = {**PARTS, "test": make_scores(50, 9, signal=5.0)}
    again = fuse(f"awf-{constraint}", other_test, groups=GROUPS, fusion_lambda=0.7)
    assert fused.fusion_lambda == again.fusion_lambda == 0.7
    assert fused.details == again.details
    np.testing.assert_array_equal(fused.parts["validation"], again.parts["validation"])


def test_without_a_given_lambda_it_is_chosen_on_the_validation_part():
    chosen = fuse("awf-simplex", PARTS, groups=GROUPS).fusion_lambda
    assert chosen is not None
    assert chosen > 0


def test_the_validation_row_of_adaptive_fusion_is_not_judged_on_its_own_fit():
    """Scores that say nothing: a fit that sees its own videos would still beat chance."""
    accuracy = []
    for seed in range(20):
        noise = make_scores(45, 100 + seed, signal=0.0)
        accuracy.append(validation_accuracy("awf-simplex", noise, groups=GROUPS, fusion_lambda=1.0))
    assert abs(np.mean(accuracy) - 1 / CLASSES) < 0.05


def test_early_fusion_needs_the_train_part():
    assert fuse("early", PARTS, groups=GROUPS).parts["test"].shape == (50, CLASSES)
    with pytest.raises(ValueError, match="early fusion trains an SVM on the train part"):
        fuse("early", {"test": PARTS["test"]}, groups=GROUPS)


def test_adaptive_fusion_needs_the_validation_part():
    with pytest.raises(ValueError, match="fits its weights on the validation part"):
        fuse("awf-l2", {"test": PARTS["test"]}, groups=GROUPS)


def test_a_stream_that_is_not_there_is_named():
    one = Scores(
        videos=["v000"],
        labels=np.array([0]),
        scores={"spatial": PARTS["test"].scores["spatial"][:1]},
        features={},
    )
    with pytest.raises(ValueError, match="reads stream 'temporal', but the training has spatial"):
        fuse("temporal", {"test": one}, groups=GROUPS)


def test_top5_of_fewer_than_five_classes_is_one():
    scores = PARTS["test"]
    assert accuracies(scores.scores["spatial"], scores.labels)["top5"] == 1.0


def test_scores_come_back_as_they_were_written(tmp_path):
    store = ResultStore(tmp_path)
    for kind, parts in (("scores", ("validation", "test")), ("features", ("train", "test"))):
        lines = [
            {
                "training_id": "t",
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
        store.write(kind, "t", lines)
    loaded = load_scores(store, "t")
    assert set(loaded) == {"train", "validation", "test"}
    for stream in ("spatial", "temporal"):
        np.testing.assert_array_equal(loaded["test"].scores[stream], PARTS["test"].scores[stream])
        np.testing.assert_array_equal(
            loaded["test"].features[stream], PARTS["test"].features[stream]
        )
    assert loaded["test"].videos == PARTS["test"].videos
    np.testing.assert_array_equal(loaded["train"].labels, PARTS["train"].labels)
