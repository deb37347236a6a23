"""Where the backbones' initial weights come from: torchvision's ImageNet weights, or a file."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from torchvision.models import get_model_weights, list_models

__all__ = ["Weights", "find_weights"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Initial weights, known by their content.

    Attributes:
        name: ``none``, or a name that changes with the content; part of a training's fingerprint.
        file: The state dict's file, or None for random initial weights.
    """

    name: str
    file: Path | None


def find_weights(wanted: str, network: str, *, folder: Path) -> Weights:
    """Finds the weights that a model's backbones start from.

    Args:
        wanted: ``imagenet`` (torchvision's), ``none``, or the path of a state dict.
        network: The model's ``imagenet_network``. One that torchvision has no weights of (the
            small one of the embedded dataset) starts from random weights under ``imagenet``.
        folder: Where downloaded weights are kept, on storage that every node sees.

    Raises:
        FileNotFoundError: If the file is missing, or the download fails; the message says where
            to place it.
    """
    if wanted == "none":
        return Weights(name="none", file=None)
    if wanted == "imagenet":
        return _imagenet(network, folder)
    path = Path(wanted)
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {wanted}: there is no such file; give imagenet, none, or the path of a "
            "state dict saved by torch.save"
        )
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return Weights(name=f"sha256:{digest}", file=path.resolve())


def _imagenet(network: str, folder: Path) -> Weights:
    if network not in list_models():
        return Weights(name="none", file=None)
    url = get_model_weights(network).IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[1]
    kept = folder / name
    weights = Weights(name=f"imagenet1k-v1:{name}", file=kept.resolve())
    if kept.is_file():
        return weights
    folder.mkdir(parents=True, exist_ok=True)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / name
    partial = kept.with_suffix(".partial")
    try:
        if cached.is_file():
            shutil.copyfile(cached, partial)
        else:
            torch.hub.download_url_to_file(url, str(partial), progress=False)
        partial.rename(kept)
    except (URLError, OSError) as error:
        partial.unlink(missing_ok=True)
        raise FileNotFoundError(
            f"the ImageNet weights of {network} can't be downloaded here ({error}). Fetch {url} "
            f"elsewhere and place it at {kept}, or give --weights none or --weights PATH"
        ) from error
    return weights
