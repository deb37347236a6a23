"""A trained network's scores of videos."""

from collections import defaultdict

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from models import ModelOutput, VideoModel
from study.data.clips.dataset import ClipDataset, make_loader
from study.data.clips.transforms import model_inputs
from study.scores import Scores
from study.training.hyperparameters import Precision

__all__ = ["score"]


def score(
    model: VideoModel,
    data: ClipDataset,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
    precision: Precision = "float32",
    loader_workers: int = 0,
) -> Scores:
    """Scores every video once; logits are averaged over a video's views before the softmax.

    A mirrored view's logits count for the classes' mirror images. Under ``torch.distributed``
    every process takes a share of the videos and returns the scores of all.

    Args:
        model: The network, on `device`; its mode, training or evaluation, stays as it was.
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
                features[stream].append(torch.unflatten(vectors, 0, (-1, views)).mean(1))
    model.train(was_training)
    return Scores(
        videos=[video.name for video in data.videos],
        labels=np.array([video.label for video in data.videos], np.int64),
        scores={name: _gather(torch.cat(rows), len(data)) for name, rows in scores.items()},
        features={name: _gather(torch.cat(rows), len(data)) for name, rows in features.items()},
    )


def _own_batches(count: int, *, videos: int) -> list[list[int]]:
    """Returns this process's share of all videos, in batches; all shares are of one size.

    Where the videos don't divide evenly, the last ones are followed by the first again.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    share = -(-count // world)
    own = [(rank + k * world) % count for k in range(share)]
    return [own[start : start + videos] for start in range(0, share, videos)]


def _forward(model: VideoModel, inputs: dict[str, Tensor], batch_size: int) -> ModelOutput:
    """Returns float32 logits and features of any number of views, `batch_size` at once."""
    pieces = zip(*(torch.split(x, batch_size) for x in inputs.values()), strict=True)
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
    """Averages over each video's views, (B·V, N) → (B, N), mirrored classes put back."""
    mirrored = torch.tensor(data.mirrored_views)
    views = torch.unflatten(logits, 0, (-1, len(mirrored)))  # (B, V, N)
    if mirrored.any():
        views[:, mirrored] = views[:, mirrored][..., list(data.flip_classes)]
    return views.mean(1)


def _gather(rows: Tensor, count: int) -> NDArray[np.float32]:
    """Returns the rows of all videos in order, from every process's share of them."""
    if dist.is_initialized():
        shares = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(shares, rows)
        rows = torch.stack(shares, dim=1).flatten(0, 1)[:count]
    gathered: NDArray[np.float32] = rows.cpu().numpy()
    return gathered
