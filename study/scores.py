"""Scores of videos, and the metrics that the field reports; numpy alone."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Scores", "confusion_matrix", "mean_class_accuracy", "top_k_accuracy"]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a network says of V videos.

    Attributes:
        videos: The videos' names.
        labels: True classes, (V,) int64.
        scores: Stream name → softmax scores, (V, N) float32.
        features: Stream name → the vector that the stream's classifier sees, (V, D) float32,
            averaged over views.
    """

    videos: list[str]
    labels: NDArray[np.int64]
    scores: dict[str, NDArray[np.float32]]
    features: dict[str, NDArray[np.float32]]


def top_k_accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer], k: int) -> float:
    """Returns the fraction of videos whose class is among the k with the highest scores.

    Of classes with equal scores the one of lower index counts as higher.

    Args:
        scores: (V, N), finite.
        labels: (V,), in 0..N-1.
        k: From 1; from N on every video is right.

    Raises:
        ValueError: If there is no video, a score isn't finite, a label is no class, or k < 1.
    """
    _check(scores, labels)
    if k < 1:
        raise ValueError(f"top-k accuracy needs k of at least 1, got {k}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    classes = np.arange(scores.shape[1])
    ahead = (scores > own) | ((scores == own) & (classes < labels[:, None]))
    return float((ahead.sum(axis=1) < k).mean())


def mean_class_accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Returns the mean over the classes that occur of the fraction of their videos that are right.

    Args:
        scores: (V, N), finite.
        labels: (V,), in 0..N-1.

    Raises:
        ValueError: As `top_k_accuracy`.
    """
    matrix = confusion_matrix(scores, labels)
    videos = matrix.sum(axis=1)
    return float((matrix.diagonal()[videos > 0] / videos[videos > 0]).mean())


def confusion_matrix(
    scores: NDArray[np.floating], labels: NDArray[np.integer]
) -> NDArray[np.int64]:
    """Counts how many videos of each class (rows) were taken for each class (columns), (N, N).

    Args:
        scores: (V, N), finite; of equal scores the class of lower index is taken.
        labels: (V,), in 0..N-1.

    Raises:
        ValueError: As `top_k_accuracy`.
    """
    _check(scores, labels)
    matrix = np.zeros((scores.shape[1], scores.shape[1]), np.int64)
    np.add.at(matrix, (labels, scores.argmax(axis=1)), 1)
    return matrix


def _check(scores: NDArray[np.floating], labels: NDArray[np.integer]) -> None:
    if scores.ndim != 2 or labels.shape != scores.shape[:1] or not len(labels):
        raise ValueError(
            "metrics need scores (V, N) and labels (V,) of at least one video, got shapes "
            f"{scores.shape} and {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise ValueError(
            f"labels must be in 0..{scores.shape[1] - 1}, got {labels.min()}..{labels.max()}"
        )
    if not np.isfinite(scores).all():
        bad = int((~np.isfinite(scores).all(axis=1)).sum())
        raise ValueError(f"scores must be finite, but those of {bad} of {len(scores)} are not")
