"""Which class each arm says each test video is: written beside the rows, read to compare arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from study.results.statistics import Judgements
from study.results.store import ResultStore

__all__ = ["judgements", "prediction_lines"]

IDENTITY = ("study", "arm", "dataset", "split", "seed", "part", "training_id")


def prediction_lines(
    identity: Mapping[str, Any],
    *,
    videos: Sequence[str],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: Mapping[str, str],
) -> list[dict[str, Any]]:
    """The lines of view ``predictions`` for an arm's scores.

    Args:
        identity: Study, arm, dataset, split, seed, part and training_id, as in view ``rows``; more
            names are left out.
        videos: V names.
        labels: (V,) classes.
        scores: (V, N) fused scores; the greatest is the arm's answer.
        groups: Source video by name.
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


def judgements(store: ResultStore, *, study: str, dataset: str) -> dict[str, Judgements]:
    """Which test videos each arm of a study got right, by arm.

    An arm's seed counts if it has every split that the arm has.
    """
    table = store.read("predictions", study=study, dataset=dataset, part="test").to_pylist()
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in table:
        lines.setdefault(line["arm"], []).append(line)
    found = {arm: _judgements(of_arm) for arm, of_arm in lines.items()}
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
    whole = [seed for seed in seeds if all((seed, video) in right for video in videos)]
    if not whole:
        return None
    return Judgements(
        videos=videos,
        groups=[groups[video] for video in videos],
        seeds=whole,
        correct=np.array([[right[seed, video] for video in videos] for seed in whole]),
    )
