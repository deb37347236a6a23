"""Scores of a trained network on videos, and the metrics that the field reports."""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models import ModelOutput, VideoModel
from study.data.dataset import ClipDataset, make_loader
from study.data.transforms import model_inputs

__all__ = ["Scores", "confusion_matrix", "mean_class_accuracy", "score", "top_k_accuracy"]


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


def score(
    model: VideoModel,
    data: ClipDataset,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    precision: str = "float32",
    loader_workers: int = 0,
) -> Scores:
    """Scores every video once; logits are averaged over a video's views before the softmax.

    A mirrored view's logits count for the classes' mirror images. Under ``torch.distributed``
    every process takes a share of the videos and returns the scores of all.

    Args:
        model: The network, on `device`; it is left in the mode it came in.
        data: The videos, not augmented.
        device: Where the network runs.
        batch_size: Views that go through the network at once.
        precision: ``float32`` or ``bfloat16``.
        loader_workers: Processes that load; 0 loads in this one.

    Raises:
        ValueError: If `data` is augmented.
    """
    if data.augment:
        raise ValueError("scores need a dataset without augmentation, got one with augment=True")
    device = torch.device(device)
    views = len(data.mirrored_views)
    batches = _own_batches(len(data), videos=max(1, batch_size // views))
    scores: dict[str, list[Tensor]] = defaultdict(list)
    features: dict[str, list[Tensor]] = defaultdict(list)
    was_training = model.training
    model.eval()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    with torch.inference_mode(), autocast:
        for batch in make_loader(data, batches, device=device, workers=loader_workers):
            output = _forward(model, model_inputs(batch, device), batch_size)
            for stream, logits in output.logits.items():
                scores[stream].append(_mean_over_views(logits, data).softmax(-1))
            for stream, vectors in output.features.items():
                features[stream].append(vectors.unflatten(0, (-1, views)).mean(1))
    model.train(was_training)
    return Scores(
        videos=[video.name for video in data.videos],
        labels=np.array([video.label for video in data.videos], np.int64),
        scores={name: _gather(torch.cat(rows), len(data)) for name, rows in scores.items()},
        features={name: _gather(torch.cat(rows), len(data)) for name, rows in features.items()},
    )


def _own_batches(count: int, *, videos: int) -> list[list[int]]:
    """This process's share of all videos, in batches: every process has as many of them.

    Where the shares would differ in size the surplus begins again at the first video.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = -(-count // world)
    own = [(rank + k * world) % count for k in range(share)]
    return [own[start : start + videos] for start in range(0, share, videos)]


def _forward(model: VideoModel, inputs: dict[str, Tensor], batch_size: int) -> ModelOutput:
    """Logits and features in float32 of any number of views, `batch_size` of them at once."""
    pieces = zip(*(frames.split(batch_size) for frames in inputs.values()), strict=True)
    outputs = [model(**dict(zip(inputs, piece, strict=True))) for piece in pieces]
    return ModelOutput(
        logits={
            name: torch.cat([output.logits[name].float() for output in outputs])
            for name in outputs[0].logits
        },
        features={
            name: torch.cat([output.features[name].float() for output in outputs])
            for name in outputs[0].features
        },
    )


def _mean_over_views(logits: Tensor, data: ClipDataset) -> Tensor:
    """Each video's mean over its views, (B·V, N) → (B, N), mirrored classes put back."""
    mirrored = torch.tensor(data.mirrored_views)
    views = logits.unflatten(0, (-1, len(mirrored)))  # (B, V, N)
    if mirrored.any():
        views[:, mirrored] = views[:, mirrored][..., list(data.flip_classes)]
    return views.mean(1)


def _gather(rows: Tensor, count: int) -> NDArray[np.float32]:
    """The rows of all videos in their order, from every process's share of them."""
    if dist.is_initialized():
        shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, rows)
        rows = torch.stack(shares, dim=1).flatten(0, 1)[:count]
    gathered: NDArray[np.float32] = rows.cpu().numpy()
    return gathered


def top_k_accuracy(scores: NDArray[np.floating], labels: NDArray[np.integer], k: int) -> float:
    """Fraction of videos whose class is among the k with the highest scores.

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
    """Mean over the classes that occur of the fraction of each one's videos that are right.

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
    """How many videos of each class (rows) were taken for each class (columns), (N, N).

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
