"""Where the backbones' initial weights come from: torchvision's ImageNet weights, or a file."""

import hashlib
import pickle
import shutil
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import torch
from torch import Tensor
from torchvision.models import get_model_weights, list_models

from study.files import whole_file

__all__ = ["Weights", "find_weights", "read_state_dict"]

HEAD = 16  # bytes that tell what kind of file it is
DATA_PARALLEL = "module."
TIMEOUT = 60  # seconds without an answer after which a download fails


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
        ValueError: If the file of the ImageNet weights isn't torchvision's.
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
    return Weights(name=f"sha256:{_sha256(path)[:16]}", file=path.resolve())


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a network's tensors by name, on the CPU; runs no code from the file.

    Takes what ``torch.save`` wrote: a state dict, also one that stands under ``state_dict`` or
    ``model`` in a dict with other things, or whose names all begin with ``module.``, as data
    parallel networks' do.

    Raises:
        OSError: If the file can't be opened.
        ValueError: If it is damaged, or holds something else.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which tells of the same as its errors
        head = file.read(HEAD)
        file.seek(0)
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files fail in a dozen ways
            raise _refused(path, _flaw(head, error)) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise _refused(path, f"holds a value of type {type(content).__name__}")
    if not content:
        raise _refused(path, "holds an empty dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(path, f"holds a value of type {type(value).__name__} under {name!r}")
    if all(name.startswith(DATA_PARALLEL) for name in content):
        return {name.removeprefix(DATA_PARALLEL): value for name, value in content.items()}
    return content


def _flaw(head: bytes, error: Exception) -> str:
    """Returns what is wrong with a file that torch can't load; torch's words advise risks."""
    if not head:
        return "is empty"
    if not head.startswith((b"PK", b"\x80")):  # a zip archive, or a pickle as torch < 1.6 wrote
        return f"was not written by torch.save (it begins with {head!r})"
    if isinstance(error, pickle.UnpicklingError):
        return "is damaged, or holds Python objects other than tensors, which are never loaded"
    return "is damaged, cut short, or a TorchScript program"


def _refused(path: Path, flaw: str) -> ValueError:
    return ValueError(
        f"weights file {path} {flaw}; give a state dict saved by torch.save: tensors by name, in "
        "a dict or under its 'state_dict' or 'model'"
    )


def _imagenet(network: str, folder: Path) -> Weights:
    if network not in list_models():
        return Weights(name="none", file=None)
    url = get_model_weights(network).IMAGENET1K_V1.url
    name = url.rsplit("/", 1)[1]
    digest = Path(name).stem.rpartition("-")[2]  # its beginning, as in resnet18-f37072fd.pth
    kept = folder / name
    if not kept.is_file():
        try:
            _fetch(url, kept, digest)
        except OSError as error:
            raise FileNotFoundError(
                f"the ImageNet weights of {network} can't be downloaded here ({error}). Fetch "
                f"{url} elsewhere and place it at {kept}, or give --weights none or --weights PATH"
            ) from error
    if not _sha256(kept).startswith(digest):
        raise ValueError(
            f"weights file {kept} is damaged or another: its SHA-256 doesn't begin with {digest}; "
            f"delete it, and it is downloaded again from {url}"
        )
    return Weights(name=f"imagenet1k-v1:{name}", file=kept.resolve())


def _fetch(url: str, kept: Path, digest: str) -> None:
    """Copies a file from torch's own cache, or downloads it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / kept.name
    usable = cached.is_file() and _sha256(cached).startswith(digest)
    request = Request(url, headers={"User-Agent": "torch.hub"})  # what torch itself sends
    with (
        cached.open("rb") if usable else urlopen(request, timeout=TIMEOUT) as source,
        whole_file(kept, shared=True) as file,
    ):
        shutil.copyfileobj(source, file)


def _sha256(path: Path) -> str:
    status = path.stat()
    return _hash_version(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_version(path: Path, changed_ns: int, size: int) -> str:
    """Hashes a file once, however many trainings start from it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
