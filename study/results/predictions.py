"""Each arm's predicted class of each test video: written with the rows, read to compare arms."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

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
    columns = ["arm", "split", "seed", "training_id", "video", "label", "predicted", "source_group"]
    lines = store.read(
        "predictions",
        columns=columns,
        study=study,
        dataset=dataset,
        protocol=protocol,
        part="test",
    )
    found = {
        arm: _judgements(lines.filter(pc.equal(lines["arm"], arm)))
        for arm in sorted(lines["arm"].unique().to_pylist())
    }
    return {arm: judged for arm, judged in found.items() if judged is not None}


def _judgements(lines: pa.Table) -> Judgements | None:
    names = pc.binary_join_element_wise(lines["split"], lines["video"], "\0")
    unique, first, column = np.unique(names.to_numpy(), return_index=True, return_inverse=True)
    seeds, row = np.unique(lines["seed"].to_numpy(), return_inverse=True)
    right = np.zeros((len(seeds), len(unique)), bool)
    judged = np.zeros_like(right)
    right[row, column] = pc.equal(lines["predicted"], lines["label"]).to_numpy()
    judged[row, column] = True
    complete = judged.all(1)
    if not complete.any():
        return None
    facts = lines.take(first)
    return Judgements(
        videos=[tuple(name.split("\0")) for name in unique],
        groups=pc.coalesce(facts["source_group"], facts["video"]).to_pylist(),
        labels=facts["label"].to_pylist(),
        seeds=seeds[complete].tolist(),
        correct=right[complete],
        trainings=frozenset(
            one for name in lines["training_id"].unique().to_pylist() for one in name.split("+")
        ),
    )
