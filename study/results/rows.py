"""From a training's stored scores to the rows of the arms that read it.

No arm trains anything here. What a fusion needs to fit (the weights of adaptively weighted
fusion, the C of early fusion's SVM) is fitted on the validation part, and the validation row of
one that fits or chooses comes from cross-fitting, so that nothing is judged on the videos that it
was fitted to or chosen on.
"""

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.fusion import FUSIONS, FusedScores
from study.results.store import ResultStore
from study.scores import Scores, mean_class_accuracy, top_k_accuracy

__all__ = [
    "accuracies",
    "fuse",
    "load_scores",
    "load_validation_scores",
    "validation_accuracy",
    "validation_right",
]


def fuse(
    fusion: str,
    parts: Mapping[str, Scores],
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> FusedScores:
    """Fuses the streams' scores of a training as an arm says.

    Args:
        fusion: A name in ``models.fusion.FUSIONS``.
        parts: Scores by part.
        groups: Each video's source-video group; cross-fitting never divides one.
        fusion_lambda: λ, or None to choose it by cross-fitting.

    Raises:
        ValueError: If the scores lack the stream or the part that the fusion needs.
    """
    held_out = parts["validation"].videos if "validation" in parts else ()
    return FUSIONS[fusion].fuse(
        parts, groups=[groups[video] for video in held_out], fusion_lambda=fusion_lambda
    )


def validation_accuracy(
    fusion: str,
    scores: Scores,
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> float:
    """Returns top-1 on the validation part under a fusion: what a search maximises.

    As `validation_right` judges each video.
    """
    right = validation_right(fusion, scores, groups=groups, fusion_lambda=fusion_lambda)
    return float(right.mean())


def validation_right(
    fusion: str,
    scores: Scores,
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> NDArray[np.bool_]:
    """Returns whether a fusion is right of each validation video, (V,), cross-fitted where it fits.

    A fusion that reads the train part would have to be fitted after every epoch, and the whole
    part scored for it; the plain average stands in for it.
    """
    stand_in = "average" if FUSIONS[fusion].reads_train else fusion
    fused = fuse(stand_in, {"validation": scores}, groups=groups, fusion_lambda=fusion_lambda)
    right: NDArray[np.bool_] = fused.parts["validation"].argmax(axis=1) == scores.labels
    return right


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Returns top-1, top-5 (top-N with fewer classes) and mean-class accuracy, as fractions."""
    return {
        "top1": top_k_accuracy(scores, labels, 1),
        "top5": top_k_accuracy(scores, labels, min(5, scores.shape[1])),
        "mean_class_accuracy": mean_class_accuracy(scores, labels),
    }


def load_scores(results: ResultStore, scoring_id: str) -> dict[str, Scores]:
    """Reads a finished training's scores, and features where they were kept, by part.

    Args:
        results: The results.
        scoring_id: The training in its test views.
    """
    parts: dict[str, Scores] = {}
    for kind in ("scores", "features"):
        table = results.read(kind, keys=[scoring_id], scoring_id=scoring_id)
        for part in table["part"].unique().to_pylist():
            of_part = table.filter(pc.equal(table["part"], part))
            found = _matrices(of_part, kind)
            if part not in parts:
                parts[part] = found
            getattr(parts[part], kind).update(getattr(found, kind))
    return parts


def load_validation_scores(
    results: ResultStore, training_id: str, epochs: Mapping[int, str]
) -> dict[int, Scores]:
    """A training's validation scores at those of some epochs at which it was judged.

    Args:
        results: The results.
        training_id: The training.
        epochs: By epoch, the key that its scores were written under.
    """
    table = results.read("validation_scores", keys=list(epochs.values()), training_id=training_id)
    return {
        epoch: _matrices(table.filter(pc.equal(table["epoch"], epoch)), "scores")
        for epoch in sorted(table["epoch"].unique().to_pylist())
    }


def _matrices(table: pa.Table, kind: str) -> Scores:
    """The scores or features of the videos of one part, as their streams' matrices."""
    matrices = {}
    for stream in table["stream"].unique().to_pylist():
        lines = table.filter(pc.equal(table["stream"], stream)).sort_by("video")
        width = len(lines[kind][0])
        values = lines[kind].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        matrices[stream] = values.reshape(-1, width)
    empty: dict[str, dict[str, np.ndarray]] = {"scores": {}, "features": {}}
    return Scores(
        videos=lines["video"].to_pylist(),
        labels=lines["label"].to_numpy(),
        **{**empty, kind: matrices},
    )
