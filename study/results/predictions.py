"""Each arm's predicted class of each test video: written with the rows, read to compare arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from study.results.statistics import Judgements
from study.results.store import ResultStore

__all__ = ["judgements", "prediction_lines"]

IDENTITY = ("study", "arm", "dataset", "split", "seed", "protocol", "part", "training_id")


def prediction_lines(
    identity: Mapping[str, Any],
    *,
    videos: Sequence[str],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Returns the lines of view ``predictions`` for an arm's scores.

    Args:
        identity: Study, arm, dataset, split, seed, protocol, part and training_id, as in view
            ``rows``; other names are left out.
        videos: V names.
        labels: (V,) classes.
        scores: (V, N) fused scores; the class with the highest is the prediction.
        groups: The source video that each video was cut from, by its name.
    """
    same = {name: identity[name] for name in IDENTITY}
    return [
        {
            **same,
            "video": video,
            "label": int(label),
            "predicted": int(predicted),
            "source_group": groups.get(video),
        }
        for video, label, predicted in zip(videos, labels, scores.argmax(1), strict=True)
    ]


def judgements(
    store: ResultStore, *, study: str, dataset: str, protocol: str
) -> dict[str, Judgements]:
    """Reads which test videos each arm of a study got right under a protocol, by arm.

    A seed of an arm counts if it has predictions of all videos that the arm predicts under any
    seed; an arm without such a seed is left out.
    """
    lines = store.read(
        "predictions", study=study, dataset=dataset, protocol=protocol, part="test"
    ).to_pylist()
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_arm.setdefault(line["arm"], []).append(line)
    found = {arm: _judgements(of_arm) for arm, of_arm in by_arm.items()}
    return {arm: judged for arm, judged in found.items() if judged is not None}


def _judgements(lines: Sequence[Mapping[str, Any]]) -> Judgements | None:
    right = {
        (line["seed"], (line["split"], line["video"])): line["predicted"] == line["label"]
        for line in lines
    }
    groups = {
        (line["split"], line["video"]): line["source_group"] or line["video"] for line in lines
    }
    videos = sorted(groups)
    seeds = sorted({seed for seed, _ in right})
    complete = [seed for seed in seeds if all((seed, video) in right for video in videos)]
    if not complete:
        return None
    return Judgements(
        videos=videos,
        groups=[groups[video] for video in videos],
        seeds=complete,
        correct=np.array([[right[seed, video] for video in videos] for seed in complete]),
    )
