"""From a training's stored scores to the rows of the arms that read it.

No arm trains anything here. What a fusion needs to fit (the weights of adaptively weighted
fusion, the C of early fusion's SVM) is fitted on the validation part, and the validation row of
one that fits or chooses comes from cross-fitting, so that nothing is judged on the videos that it
was fitted to or chosen on.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

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
    "load_streams",
    "load_validation_scores",
    "parts_fitted_elsewhere",
    "scores_of_line",
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
        table = results.read(kind, keys=[scoring_id])
        parts_of = table["part"].to_numpy()
        for part in table["part"].unique().to_pylist():
            found = _matrices(table, kind, parts_of == part)
            if part not in parts:
                parts[part] = found
            getattr(parts[part], kind).update(getattr(found, kind))
    return parts


def load_streams(results: ResultStore, scored_in: Mapping[str, str]) -> dict[str, Scores]:
    """Reads by part the scores, and features where they were kept, of several streams.

    Args:
        results: The results.
        scored_in: By stream, the training that scored it in its test views, as `load_scores`
            takes it.
    """
    stored = {name: load_scores(results, name) for name in dict.fromkeys(scored_in.values())}

    def of_part(part: str, any_scores: Scores) -> Scores:
        read = {stream: stored[name][part] for stream, name in scored_in.items()}
        return replace(
            any_scores,
            scores={s: one.scores[s] for s, one in read.items() if s in one.scores},
            features={s: one.features[s] for s, one in read.items() if s in one.features},
        )

    first, *others = stored.values()
    # Another arm may have had the train part of one of them scored, for its features.
    return {
        part: of_part(part, any_scores)
        for part, any_scores in first.items()
        if all(part in one for one in others)
    }


def scores_of_line(results: ResultStore, line: Mapping[str, Any]) -> dict[str, Scores]:
    """Reads the scores that a line was made of, by part.

    A training that serves it may have scored another stream too, for other arms.
    """
    streams = sorted(json.loads(line["details"])["test_views"])
    names = line["scoring_id"].split("+")
    scored_in = dict(zip(streams, names if len(names) > 1 else names * 2, strict=False))
    return load_streams(results, scored_in)


def parts_fitted_elsewhere(
    fusion: str, tested: Mapping[str, Scores], fitted_on: Mapping[str, Scores]
) -> dict[str, Scores]:
    """Returns the parts to fuse of a network whose fusion is fitted on the scores of another.

    Args:
        fusion: A name in ``models.fusion.FUSIONS``.
        tested: By part, of the network that is tested, which was trained on all of train.
        fitted_on: By part, of the one that held the validation part out.
    """
    parts = {"validation": fitted_on["validation"], "test": tested["test"]}
    if FUSIONS[fusion].reads_train:
        parts |= {"train": fitted_on["train"], "all": tested["train"]}
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
    epochs_of = table["epoch"].to_numpy()
    return {
        epoch: _matrices(table, "scores", epochs_of == epoch)
        for epoch in sorted(table["epoch"].unique().to_pylist())
    }


def _matrices(table: pa.Table, kind: str, chosen: NDArray[np.bool_]) -> Scores:
    """The scores or features of the chosen lines, (lines,), as their streams' matrices.

    Lists are copied once, in the order of the videos' names: filtering and sorting the table
    itself copies them each time.
    """
    lists, streams = table[kind].combine_chunks(), table["stream"].to_numpy()
    matrices = {}
    for stream in dict.fromkeys(streams[chosen]):
        lines = np.flatnonzero(chosen & (streams == stream))
        lines = lines[pc.sort_indices(table["video"].take(pa.array(lines))).to_numpy()]
        values = lists.take(pa.array(lines)).flatten().to_numpy(zero_copy_only=False)
        matrices[stream] = values.reshape(len(lines), -1)
    empty: dict[str, dict[str, np.ndarray]] = {"scores": {}, "features": {}}
    return Scores(
        videos=table["video"].take(pa.array(lines)).to_pylist(),
        labels=table["label"].take(pa.array(lines)).to_numpy(),
        **{**empty, kind: matrices},
    )
