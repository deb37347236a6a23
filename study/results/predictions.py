"""Each arm's predicted class of each test video: written with the rows, read to compare arms."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from study.results.schema import Block
from study.results.statistics import Judgements
from study.results.store import ResultStore

__all__ = ["judgements", "prediction_block"]

IDENTITY = ("study", "arm", "dataset", "split", "seed", "protocol", "part", "training_id")


def prediction_block(
    identity: Mapping[str, Any],
    *,
    videos: Sequence[str],
    labels: np.ndarray,
    scores: np.ndarray,
    groups: Mapping[str, str],
) -> Block:
    """Returns the lines of view ``predictions`` for an arm's scores.

    Args:
        identity: Study, arm, dataset, split, seed, protocol, part and training_id, as in view
            ``rows``; other names are left out.
        videos: V names.
        labels: (V,) classes.
        scores: (V, N) fused scores; the class with the highest is the prediction.
        groups: The source video that each video was cut from, by its name.
    """
    return {
        **{name: identity[name] for name in IDENTITY},
        "video": videos,
        "label": labels,
        "predicted": scores.argmax(1),
        "source_group": [groups.get(video) for video in videos],
    }


def judgements(
    store: ResultStore,
    *,
    study: str,
    dataset: str,
    protocol: str,
    arms: Collection[str] | None = None,
) -> dict[str, Judgements]:
    """Reads which test videos each arm of a study got right under a protocol, by arm.

    A seed of an arm counts if it has predictions of all videos that the arm predicts under any
    seed; an arm without such a seed is left out.

    Args:
        store: The results.
        study: The study.
        dataset: The dataset.
        protocol: The protocol's hash.
        arms: Only these arms; None for all.
    """
    columns = ["arm", "split", "seed", "training_id", "video", "label", "predicted", "source_group"]
    table = store.read(
        "predictions",
        columns=columns,
        encoded=True,
        study=study,
        dataset=dataset,
        protocol=protocol,
        part="test",
        **({} if arms is None else {"arm": arms}),
    )
    names, arm = _numbered(table["arm"])
    lines = _Lines.of(table)
    by_arm = np.argsort(arm, kind="stable")
    bounds = pairwise(np.searchsorted(arm[by_arm], np.arange(len(names) + 1)))
    found = {
        name: lines.judgements(by_arm[first:end])
        for name, (first, end) in zip(names, bounds, strict=True)
    }
    return {name: judged for name, judged in found.items() if judged is not None}


@dataclass(frozen=True, kw_only=True)
class _Lines:
    """Lines of ``predictions``, texts as numbers into their different values.

    Attributes:
        videos: (split, video) by number, sorted.
        groups: Source videos by number.
        trainings: Training ids by number.
        video: (L,) each line's number, as of ``group`` and ``training``.
        seed: (L,).
        label: (L,).
        right: (L,) booleans.
    """

    videos: list[tuple[str, str]]
    groups: list[str]
    trainings: list[str]
    video: NDArray[np.int64]
    group: NDArray[np.int64]
    training: NDArray[np.int64]
    seed: NDArray[np.int64]
    label: NDArray[np.int64]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, table: pa.Table) -> "_Lines":
        splits, split = _numbered(table["split"])
        names, name = _numbered(table["video"])
        pairs, video = np.unique(split * len(names) + name, return_inverse=True)
        groups, group = _numbered(table["source_group"])
        trainings, training = _numbered(table["training_id"])
        return cls(
            videos=[(splits[pair // len(names)], names[pair % len(names)]) for pair in pairs],
            groups=groups,
            trainings=trainings,
            video=video,
            group=group,
            training=training,
            seed=table["seed"].to_numpy(),
            label=table["label"].to_numpy(),
            right=pc.equal(table["predicted"], table["label"]).to_numpy(),
        )

    def judgements(self, chosen: NDArray[np.int64]) -> Judgements | None:
        """Returns the judgements of one arm's lines, or None where no seed has all videos."""
        videos, first, column = np.unique(
            self.video[chosen], return_index=True, return_inverse=True
        )
        seeds, row = np.unique(self.seed[chosen], return_inverse=True)
        right = np.zeros((len(seeds), len(videos)), bool)
        judged = np.zeros_like(right)
        right[row, column] = self.right[chosen]
        judged[row, column] = True
        complete = judged.all(1)
        if not complete.any():
            return None
        names = [self.videos[i] for i in videos]
        groups = self.group[chosen[first]]
        return Judgements(
            videos=names,
            groups=[
                video if group < 0 else self.groups[group]
                for group, (_, video) in zip(groups, names, strict=True)
            ],
            labels=self.label[chosen[first]].tolist(),
            seeds=seeds[complete].tolist(),
            correct=right[complete],
            trainings=frozenset(
                one
                for i in np.unique(self.training[chosen])
                for one in self.trainings[i].split("+")
            ),
        )


def _numbered(column: pa.ChunkedArray) -> tuple[list[str], NDArray[np.int64]]:
    """Returns a text column's different values, sorted, and each line's number; −1 for null."""
    encoded = pc.dictionary_encode(column).unify_dictionaries().combine_chunks()
    values = np.array(encoded.dictionary.to_pylist(), object)
    order = np.argsort(values)
    number = np.empty(len(order) + 1, np.int64)
    number[order] = np.arange(len(order))
    number[-1] = -1
    return values[order].tolist(), number[encoded.indices.fill_null(len(order)).to_numpy()]
