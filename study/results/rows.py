"""From a training's stored scores to the rows of the arms that read it.

No arm trains anything here. What a fusion needs to fit (the weights of adaptively weighted
fusion, the C of early fusion's SVM) is fitted on the validation part, and an arm's validation row
comes from cross-fitting, so that no weights are judged on the videos that they were fitted to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow.compute as pc

from models.fusion import (
    CONSTRAINTS,
    AdaptiveFusion,
    Constraint,
    EarlyFusion,
    cross_fit,
    late_fusion,
    select_adaptive_fusion,
)
from study.results.store import ResultStore
from study.scores import Scores, mean_class_accuracy, top_k_accuracy

__all__ = ["FusedScores", "accuracies", "fuse", "load_scores", "validation_accuracy"]

LATE_WEIGHTS = {"spatial": 1.0, "temporal": 1.5}  # METHODS of the field: RGB : flow = 1 : 1.5
ADAPTIVE = {f"awf-{constraint}": constraint for constraint in CONSTRAINTS}
LAMBDAS = (0.01, 0.1, 0.3, 1.0, 3.0, 10.0)


@dataclass(frozen=True, kw_only=True)
class FusedScores:
    """An arm's one score matrix for each part, and what the fusion chose.

    Attributes:
        parts: (V, N) by part; higher is more likely. Validation is cross-fitted where the
            fusion fits anything.
        fusion_lambda: λ of adaptively weighted fusion, None for every other fusion.
        details: What was fitted or chosen, for the record (JSON-able).
    """

    parts: dict[str, np.ndarray]
    fusion_lambda: float | None = None
    details: dict[str, Any] = field(default_factory=dict)


def fuse(
    fusion: str,
    parts: Mapping[str, Scores],
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> FusedScores:
    """Fuses the streams' scores of a training as an arm says.

    Args:
        fusion: A stream's name, ``average``, ``weighted``, ``early``, or ``awf-<constraint>``.
        parts: Scores by part. Adaptively weighted fusion needs ``validation``; early fusion
            needs ``train`` and ``validation`` with features.
        groups: Each video's source-video group; cross-fitting never divides one.
        fusion_lambda: λ, or None to choose it by cross-fitting.

    Raises:
        ValueError: If the scores lack the stream or the part that the fusion needs.
    """
    judged = {part: scores for part, scores in parts.items() if part != "train"}
    some = next(iter(judged.values()))
    if fusion in ("spatial", "temporal"):
        if fusion not in some.scores:
            raise ValueError(
                f"the arm reads stream {fusion!r}, but the training has "
                f"{', '.join(some.scores) or 'no stream'}"
            )
        return FusedScores(parts={part: s.scores[fusion] for part, s in judged.items()})
    if fusion == "average":
        return FusedScores(parts={part: late_fusion(s.scores) for part, s in judged.items()})
    if fusion == "weighted":
        weights = {stream: LATE_WEIGHTS[stream] for stream in some.scores}
        return FusedScores(
            parts={part: late_fusion(s.scores, weights) for part, s in judged.items()},
            details={"weights": weights},
        )
    if fusion == "early":
        return _fuse_early(parts, judged)
    constraint: Constraint = ADAPTIVE[fusion]
    return _fuse_adaptively(constraint, judged, groups=groups, fusion_lambda=fusion_lambda)


def _fuse_early(parts: Mapping[str, Scores], judged: Mapping[str, Scores]) -> FusedScores:
    if "train" not in parts or "validation" not in parts:
        raise ValueError(
            "early fusion trains an SVM on the train part's features and chooses C on the "
            f"validation part, but the scores have only {', '.join(parts)}"
        )
    train, validation = parts["train"], parts["validation"]
    svm = EarlyFusion().fit(
        train.features,
        train.labels,
        validation.features,
        validation.labels,
        num_classes=next(iter(validation.scores.values())).shape[1],
    )
    return FusedScores(
        parts={part: svm.decide(s.features) for part, s in judged.items()},
        details={"c": svm.c},
    )


def _fuse_adaptively(
    constraint: Constraint,
    judged: Mapping[str, Scores],
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None,
) -> FusedScores:
    if "validation" not in judged:
        raise ValueError(
            "adaptively weighted fusion fits its weights on the validation part, but the scores "
            f"have only {', '.join(judged)}"
        )
    held_out = judged["validation"]
    of_video = [groups[video] for video in held_out.videos]
    if fusion_lambda is None:
        chosen, _, _ = select_adaptive_fusion(
            held_out.scores,
            held_out.labels,
            of_video,
            constraints=(constraint,),
            lambdas=LAMBDAS,
        )
        fusion_lambda = chosen.fusion_lambda

    def unfitted() -> AdaptiveFusion:
        return AdaptiveFusion(constraint=constraint, fusion_lambda=fusion_lambda)

    fitted = unfitted().fit(held_out.scores, held_out.labels)
    fused = {part: fitted.fuse(s.scores) for part, s in judged.items() if part != "validation"}
    fused["validation"] = cross_fit(unfitted, held_out.scores, held_out.labels, of_video)
    return FusedScores(
        parts=fused,
        fusion_lambda=fusion_lambda,
        details={"weights": np.round(fitted.weights, 6).tolist()},
    )


def validation_accuracy(
    fusion: str,
    scores: Scores,
    *,
    groups: Mapping[str, str],
    fusion_lambda: float | None = None,
) -> float:
    """Top-1 on the validation part under a fusion, cross-fitted where it fits anything.

    This is what the search maximises. Early fusion has no part in it: its SVM would have to be
    trained after every epoch.
    """
    fused = fuse(fusion, {"validation": scores}, groups=groups, fusion_lambda=fusion_lambda)
    return top_k_accuracy(fused.parts["validation"], scores.labels, 1)


def accuracies(scores: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Top-1, top-5 (or top-N with fewer classes) and mean-class accuracy, as fractions."""
    return {
        "top1": top_k_accuracy(scores, labels, 1),
        "top5": top_k_accuracy(scores, labels, min(5, scores.shape[1])),
        "mean_class_accuracy": mean_class_accuracy(scores, labels),
    }


def load_scores(results: ResultStore, training_id: str) -> dict[str, Scores]:
    """A finished training's scores, and features where they were kept, by part."""
    parts: dict[str, Scores] = {}
    for kind in ("scores", "features"):
        table = results.read(kind, keys=[training_id], training_id=training_id)
        for part in table["part"].unique().to_pylist():
            of_part = table.filter(pc.equal(table["part"], part))
            matrices = {}
            for stream in of_part["stream"].unique().to_pylist():
                lines = of_part.filter(pc.equal(of_part["stream"], stream)).sort_by("video")
                width = len(lines[kind][0])
                values = lines[kind].combine_chunks().flatten().to_numpy(zero_copy_only=False)
                matrices[stream] = values.reshape(-1, width)
            if part not in parts:
                parts[part] = Scores(
                    videos=lines["video"].to_pylist(),
                    labels=lines["label"].to_numpy(),
                    scores={},
                    features={},
                )
            getattr(parts[part], kind).update(matrices)
    return parts
