"""Which test videos arms get right and wrong, which of them tell most, and a page of these."""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any, TypeVar

from study.results.page import stream_page
from study.results.store import ResultStore

__all__ = ["JudgedVideo", "Strip", "judged_videos", "most_telling", "render_gallery"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JudgedVideo:
    """What some arms say of one test video.

    Attributes:
        video: Its name.
        label: Its class.
        right: By arm, the share of its seeds that get it right, 0..1.
        said: By arm, the class that most of its seeds say, of equals the lowest.
        seeds: By arm, how many seeds judged it.
    """

    video: str
    label: int
    right: Mapping[str, float]
    said: Mapping[str, int]
    seeds: Mapping[str, int]

    @property
    def disagreement(self) -> float:
        """The share of seeds of the arm that is right most often less that of the least, 0..1."""
        return max(self.right.values()) - min(self.right.values())


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A row of pictures of a video.

    Attributes:
        caption: What it shows.
        jpeg: The row as one picture.
        width: Its width in pixels.
        height: Its height.
    """

    caption: str
    jpeg: bytes
    width: int
    height: int


def judged_videos(
    store: ResultStore, arms: Sequence[str], *, study: str, dataset: str, protocol: str, split: str
) -> list[JudgedVideo]:
    """Returns what arms say of the test videos of a split that all of them judged, by name.

    Args:
        store: The results.
        arms: The arms' names.
        study: The study's name.
        dataset: The dataset.
        protocol: The protocol's hash.
        split: The split's name.
    """
    with store.connect() as connection:
        counted = connection.execute(
            f"""
            SELECT video, label, arm, predicted, count(*)
            FROM predictions
            WHERE study = ? AND dataset = ? AND protocol = ? AND split = ? AND part = 'test'
                AND arm IN ({", ".join("?" * len(arms))})
            GROUP BY video, label, arm, predicted
            ORDER BY video
            """,
            [study, dataset, protocol, split, *arms],
        ).fetchall()
    labels: dict[str, int] = {}
    by_video: dict[str, dict[str, dict[int, int]]] = {}
    for video, label, arm, predicted, count in counted:
        labels[video] = label
        by_video.setdefault(video, {}).setdefault(arm, {})[predicted] = count
    return [
        _judged(video, labels[video], {arm: said[arm] for arm in arms})
        for video, said in by_video.items()
        if len(said) == len(arms)
    ]


def _judged(video: str, label: int, counts: Mapping[str, Mapping[int, int]]) -> JudgedVideo:
    seeds = {arm: sum(of.values()) for arm, of in counts.items()}
    return JudgedVideo(
        video=video,
        label=label,
        right={arm: of.get(label, 0) / seeds[arm] for arm, of in counts.items()},
        said={arm: min(of, key=lambda one: (-of[one], one)) for arm, of in counts.items()},
        seeds=seeds,
    )


def most_telling(judged: Sequence[JudgedVideo], count: int) -> list[JudgedVideo]:
    """Returns some videos of every kind, those on which the arms disagree most first (ours).

    A kind is which of the arms are right more often than not: with two, the one alone, the other
    alone, both, or neither. The kinds take turns, those with disagreement first, and within a kind
    the classes, so that no kind and no class fills the gallery.

    Args:
        judged: The videos.
        count: How many to return at most.
    """
    ordered = sorted(judged, key=lambda one: (-one.disagreement, one.video))
    kinds = _grouped(ordered, lambda one: tuple(share > 0.5 for share in one.right.values()))
    in_turn = (_take_turns(_grouped(kind, lambda one: one.label)) for kind in kinds)
    return list(_take_turns(in_turn))[:count]


def _grouped(items: Iterable[T], key: Callable[[T], Hashable]) -> list[list[T]]:
    groups: dict[Hashable, list[T]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return list(groups.values())


def _take_turns(groups: Iterable[Iterable[T]]) -> Iterator[T]:
    missing: Any = object()
    rounds = zip_longest(*groups, fillvalue=missing)
    return (item for item in chain.from_iterable(rounds) if item is not missing)


def render_gallery(
    videos: Iterable[tuple[JudgedVideo, Sequence[Strip]]],
    *,
    study: str,
    dataset: str,
    split: str,
    labels: Mapping[str, str],
    classes: Sequence[str],
    notes: Sequence[str] = (),
) -> Iterator[str]:
    """Yields the page of a gallery piece by piece, so that no more than one video is in memory.

    Args:
        videos: The videos and their pictures, drawn when they are asked for.
        study: The study's name.
        dataset: The dataset.
        split: The split.
        labels: What to call each arm, by name.
        classes: The classes' names.
        notes: What is to be said of the whole.
    """
    return stream_page(
        "gallery.html",
        videos=videos,
        study=study,
        dataset=dataset,
        split=split,
        labels=labels,
        classes=classes,
        notes=notes,
    )
