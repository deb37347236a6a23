"""RAFT optical flow by torchvision's networks and weights.

Teed and Deng, "RAFT: recurrent all-pairs field transforms for optical flow", ECCV 2020.
"""

import hashlib
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights

__all__ = ["find_weights", "solve"]

NETWORKS = {"raft": "raft_large", "raft-small": "raft_small"}
STRIDE = 8  # of the feature maps; a picture's sides must be its multiples
LEAST_SIDE = 128  # pixels, so that the coarsest level of the correlation pyramid has two cells
BATCH_PIXELS = 2**21  # of pairs that a GPU works on together


def solve(
    frames: NDArray[np.uint8], backend: str, *, weights: str, updates: int
) -> NDArray[np.float32]:
    """Computes the flow from every frame to the next, on a GPU where there is one.

    Pictures are padded by their borders, half at each side, to the least size that the network
    takes, and flow is cut back, so that a pixel of flow is a pixel of the frames.

    Args:
        frames: (F, H, W, 3) RGB, F ≥ 2.
        backend: ``raft`` or ``raft-small``.
        weights: The name of torchvision's file of weights.
        updates: Recurrent updates of the flow.

    Returns:
        (F-1, 2, H, W), x then y, in pixels.

    Raises:
        FileNotFoundError: If the weights are missing and can't be downloaded.
        ValueError: If their file is another or damaged.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = _network(backend, weights, device)
    count, height, width, _ = frames.shape
    flow = np.empty((count - 1, 2, height, width), np.float32)
    # One pair at a time on the CPU, where a batch is no faster and rounds otherwise.
    batch = max(1, BATCH_PIXELS // (height * width)) if device == "cuda" else 1
    for start in range(0, count - 1, batch):
        images = torch.from_numpy(frames[start : start + batch + 1]).to(device)
        images, top, left = _pad(images.permute(0, 3, 1, 2) / 127.5 - 1)  # (B+1, 3, H', W')
        with torch.inference_mode():
            *_, last = network(images[:-1], images[1:], num_flow_updates=updates)
        cut = last[..., top : top + height, left : left + width]
        flow[start : start + batch] = cut.cpu().numpy()
    return flow


def _pad(images: Tensor) -> tuple[Tensor, int, int]:
    """Pads (B, 3, H, W) and returns with it the rows above and the columns left of the picture."""
    more = [max(LEAST_SIDE, -(-side // STRIDE) * STRIDE) - side for side in images.shape[-2:]]
    top, left = more[0] // 2, more[1] // 2
    padding = (left, more[1] - left, top, more[0] - top)
    return F.pad(images, padding, mode="replicate"), top, left


@cache
def _network(backend: str, weights: str, device: str) -> nn.Module:
    network: nn.Module = get_model(NETWORKS[backend], weights=None)
    state = torch.load(find_weights(backend, weights), map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.eval().to(device)


def find_weights(backend: str, weights: str) -> Path:
    """Returns the file of a network's weights in torch's cache; downloads it where it is missing.

    Args:
        backend: ``raft`` or ``raft-small``.
        weights: The file's name, which ends in the beginning of its SHA-256.

    Raises:
        FileNotFoundError: If it is missing and can't be downloaded; the message says where to
            place it.
        ValueError: If the file is another or damaged.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights
    digest = file.stem.rpartition("-")[2]
    if not file.is_file():
        known = [one.url for one in get_model_weights(NETWORKS[backend])]
        url = next(url for url in known if url.endswith(f"/{weights}"))
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"the weights of flow backend {backend!r} can't be downloaded here ({error}). "
                f"Fetch {url} elsewhere and place it at {file}, or use flow backend tvl1"
            ) from error
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if not found.startswith(digest):
        raise ValueError(
            f"weights file {file} is damaged or another: its SHA-256 doesn't begin with {digest}; "
            "delete it, and it is downloaded again"
        )
    return file
