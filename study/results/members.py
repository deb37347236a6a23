"""What an ensemble averages: the stored scores that its members' rows were made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models.fusion import FUSIONS, FloatArray
from study.results.protocols import newest_protocols
from study.results.rows import fuse, scores_of_line
from study.results.store import ResultStore
from study.scores import Scores

__all__ = ["Averaged", "Member", "average", "find_member", "tested_videos"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Member:
    """An arm's result on a dataset, a split and a seed, as an ensemble takes part of it.

    Attributes:
        name: The arm's name, or ``STUDY/ARM``.
        weight: The weight of its scores.
        lines: Its lines of view ``rows`` by part.
    """

    name: str
    weight: float
    lines: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Averaged:
    """The weighted mean of members' scores of V videos of a part, and what they are of.

    Attributes:
        videos: Names.
        labels: (V,) classes.
        scores: (V, N).
    """

    videos: Sequence[str]
    labels: np.ndarray
    scores: FloatArray


def find_member(
    results: ResultStore,
    name: str,
    *,
    weight: float,
    study: str,
    protocol: str,
    dataset: str,
    split: str,
    seed: int,
) -> Member:
    """Finds the rows of a member: of the study itself, or, as ``STUDY/ARM``, of another.

    Another study's rows are those under the protocol that it was last started under.

    Args:
        results: The results.
        name: The member's name.
        weight: Its weight.
        study: The study that runs the ensemble.
        protocol: That study's protocol.
        dataset: The dataset.
        split: The split.
        seed: The seed.

    Raises:
        ValueError: If there is no such test row, or its fusion was fitted.
    """
    other, _, arm = name.rpartition("/")
    if other:
        newest = newest_protocols(results, other)
        protocol = newest[dataset].protocol if dataset in newest else ""
    key: dict[str, Any] = {
        "study": other or study,
        "arm": arm,
        "dataset": dataset,
        "split": split,
        "seed": seed,
    }
    lines = results.read("rows", protocol=protocol, **key).to_pylist()
    member = Member(name=name, weight=weight, lines={line["part"]: line for line in lines})
    if "test" not in member.lines:
        raise ValueError(
            f"study {key['study']!r} has no test row of arm {arm!r} on {dataset} split {split} "
            f"with seed {seed}; run it first, into the same --results: python -m study.run "
            f"--name {key['study']} --arms {arm} --data STORE"
        )
    fusion = member.lines["test"]["fusion"]
    if fusion not in FUSIONS or FUSIONS[fusion].fits_on_validation:
        raise ValueError(
            f"an ensemble takes members whose fusion fits nothing, but {name} has {fusion!r}; name "
            "an arm with average or weighted, or of one stream"
        )
    return member


def tested_videos(results: ResultStore, member: Member) -> frozenset[str]:
    """Returns the names of the test videos of a member's row."""
    line = member.lines["test"]
    names = ("study", "arm", "dataset", "split", "seed", "protocol", "part")
    same = {name: line[name] for name in names}
    return frozenset(results.read("predictions", columns=["video"], **same)["video"].to_pylist())


def average(results: ResultStore, members: Sequence[Member]) -> dict[str, Averaged]:
    """Returns the weighted means of members' fused scores, by part.

    A part that a member lacks, or of which it has other videos, such as another carve of the
    validation part, is left out.

    Args:
        results: The results.
        members: Two or more.
    """
    fused = [_fused(results, member) for member in members]
    total = sum(member.weight for member in members)
    first, first_scores = fused[0]
    return {
        part: Averaged(
            videos=first[part].videos,
            labels=first[part].labels,
            scores=np.sum(
                [
                    member.weight / total * scores[part]
                    for member, (_, scores) in zip(members, fused, strict=True)
                ],
                axis=0,
            ),
        )
        for part in first_scores
        if all(part in of and of[part].videos == first[part].videos for of, _ in fused)
    }


def _fused(
    results: ResultStore, member: Member
) -> tuple[dict[str, Scores], Mapping[str, FloatArray]]:
    """A member's scores by part, of its streams and fused."""
    line = member.lines["test"]
    parts = {
        part: scores
        for part, scores in scores_of_line(results, line).items()
        if part in member.lines
    }
    groups = {video: video for one in parts.values() for video in one.videos}
    fused = fuse(line["fusion"], parts, groups=groups, fusion_lambda=None)
    return parts, fused.parts
