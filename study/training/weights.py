"""Where networks' initial weights come from: torchvision's of ImageNet or Kinetics, or a file."""

import hashlib
import pickle
import re
import shutil
import warnings
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.request import Request, urlopen

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models import VideoModel
from models.video_model import STREAM_INPUTS
from study.files import whole_file

__all__ = [
    "EVERYWHERE",
    "KINDS",
    "Weights",
    "divided_name",
    "find_file",
    "find_weights",
    "has_imagenet_weights",
    "joined_name",
    "read_state_dict",
    "wanted_network",
    "wanted_of",
    "wanted_weights",
]

EVERYWHERE = "*"
"""What stands for every stream and arm that has no weights of its own."""

KINDS = ("imagenet", "kinetics", "none")
HEAD = 16  # bytes that tell what kind of file it is
PREFIXES = ("module.", "backbone.")  # of data parallel networks, and of backbones saved by wrappers
WRAPPERS = ("averaged", "state_dict", "model")  # the first is of a checkpoint with a moving average
FILE = "sha256"  # the kind of weights that are known by their content
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


def wanted_weights(
    given: str | Mapping[str, str] | None, *, default: str, arms: Collection[str]
) -> dict[str, str]:
    """Returns what networks start from, by stream, by arm and, for the others, `EVERYWHERE`.

    Args:
        given: One of `KINDS` or a path; or those by stream, arm and `EVERYWHERE`; None for the
            default.
        default: What `given` says nothing of starts from.
        arms: Names of the arms there are.

    Raises:
        ValueError: If it names neither a stream nor an arm.
    """
    named = {EVERYWHERE: given} if isinstance(given, str) else dict(given or {})
    for name in named:
        if name not in (EVERYWHERE, *STREAM_INPUTS, *arms):
            raise ValueError(
                f"--weights {name}=…: there is no stream or arm {name!r}; there are the streams "
                f"{', '.join(STREAM_INPUTS)} and the arms {', '.join(arms)}"
            )
    return {EVERYWHERE: default, **named}


def wanted_of(wanted: Mapping[str, str], arm: str) -> dict[str, str]:
    """Returns what an arm's streams start from, by stream; the arm's own comes before a stream's.

    Args:
        wanted: As of `wanted_weights`.
        arm: The arm's name. Where it is a stream's too, the name stands for the stream.
    """
    own = wanted.get(arm) if arm not in STREAM_INPUTS else None
    return {stream: own or wanted.get(stream, wanted[EVERYWHERE]) for stream in STREAM_INPUTS}


def wanted_network(wanted: str, model: VideoModel, stream: str) -> str:
    """Returns torchvision's name of the network whose weights a stream is to start from.

    Raises:
        ValueError: If Kinetics weights are wanted, and torchvision has none of the model's network.
    """
    if wanted == "kinetics":
        if not model.kinetics_network:
            raise ValueError(
                f"--weights kinetics: torchvision has no Kinetics-400 weights of model "
                f"{model.model_name!r} with these options; it has those of r2plus1d with "
                "options.middle=torchvision and depths (2, 2, 2, 2), and of s3d. Give imagenet, "
                "none or a path, for some arms by ARM=…"
            )
        return model.kinetics_network
    return model.imagenet_networks.get(stream, model.imagenet_network)


def has_imagenet_weights(network: str) -> bool:
    """Returns whether torchvision knows a network of images, and so has ImageNet weights of it."""
    from torchvision.models import list_models

    return network in list_models()


def find_weights(wanted: str, network: str, *, folder: Path) -> Weights:
    """Finds the weights that a network starts from.

    Args:
        wanted: ``imagenet`` or ``kinetics`` (torchvision's), ``none``, or the path of a state dict.
        network: As of `wanted_network`. One that torchvision has no ImageNet weights of (the small
            one of the embedded dataset) starts from random weights under ``imagenet``.
        folder: Where downloaded weights are kept, on storage that every node sees.

    Raises:
        FileNotFoundError: If the file is missing, or the download fails; the message says where
            to place it.
        ValueError: If the file of torchvision's weights isn't torchvision's.
    """
    if wanted == "none" or (wanted == "imagenet" and not has_imagenet_weights(network)):
        return Weights(name="none", file=None)
    from torchvision.models import get_model_weights

    if wanted == "imagenet":
        url = get_model_weights(network).IMAGENET1K_V1.url
        return _torchvision(f"the ImageNet weights of {network}", "imagenet1k-v1", url, folder)
    if wanted == "kinetics":
        url = get_model_weights(network).KINETICS400_V1.url
        return _torchvision(f"the Kinetics-400 weights of {network}", "kinetics400-v1", url, folder)
    path = Path(wanted)
    if not path.is_file():
        raise FileNotFoundError(
            f"--weights {wanted}: there is no such file; give {', '.join(KINDS)}, or the path of a "
            "state dict saved by torch.save or as safetensors"
        )
    return Weights(name=f"{FILE}:{_sha256(path)[:16]}", file=path.resolve())


def find_file(name: str, wanted: Iterable[str], *, folder: Path) -> Path:
    """Returns the file of weights that `find_weights` named.

    Args:
        name: Not ``none``.
        wanted: The words that were asked for, some of them perhaps paths.
        folder: Where downloaded weights are kept.
    """
    kind, _, rest = name.partition(":")
    if kind != FILE:
        return (folder / rest).resolve()
    files = (find_weights(one, "", folder=folder) for one in wanted if one not in KINDS)
    return next(one.file for one in files if one.name == name and one.file is not None)


def joined_name(names: Mapping[str, str]) -> str:
    """Returns the names of several streams' weights as one: that of all, or each stream's."""
    if len(set(names.values())) == 1:
        return next(iter(names.values()))
    return " ".join(f"{stream}={name}" for stream, name in sorted(names.items()))


def divided_name(name: str, streams: Iterable[str]) -> dict[str, str]:
    """Returns the streams' own names out of one that `joined_name` returned."""
    by_stream = dict(re.findall(r"(\S+)=(\S+)", name))
    return {stream: by_stream.get(stream, name) for stream in streams}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Reads a network's tensors by name, on the CPU; runs no code from the file.

    Takes safetensors, and what ``torch.save`` wrote: a state dict, also one that stands under
    ``state_dict`` or ``model`` in a dict with other things, as in this project's checkpoints, of
    which the moving average comes first if there is one. Where all names begin with ``module.``, as
    data parallel networks' do, or with ``backbone.``, they lose that.

    Raises:
        OSError: If the file can't be opened.
        ValueError: If it is damaged, or holds something else.
    """
    with path.open("rb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, which tells of the same as its errors
        head = file.read(HEAD)
        file.seek(0)
        if head[8:9] == b"{":
            return _without_prefixes(_read_safetensors(path))
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged files fail in a dozen ways
            raise _refused(path, _flaw(head, error)) from error
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
            break
    if isinstance(content, dict):
        content.pop("n_averaged", None)  # of torch's moving averages
    if not isinstance(content, dict):
        raise _refused(path, f"holds a value of type {type(content).__name__}")
    if not content:
        raise _refused(path, "holds an empty dict")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _refused(path, f"holds a value of type {type(value).__name__} under {name!r}")
    return _without_prefixes(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except SafetensorError as error:
        raise _refused(path, "begins as safetensors do, but is damaged or cut short") from error


def _without_prefixes(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in state_dict):
            state_dict = {name.removeprefix(prefix): x for name, x in state_dict.items()}
    return state_dict


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
        f"weights file {path} {flaw}; give a state dict saved by torch.save or as safetensors: "
        "tensors by name, in a dict or under its 'state_dict' or 'model'"
    )


def _torchvision(what: str, kind: str, url: str, folder: Path) -> Weights:
    name = url.rsplit("/", 1)[1]
    digest = Path(name).stem.rpartition("-")[2]  # its beginning, as in resnet18-f37072fd.pth
    kept = folder / name
    if not kept.is_file():
        try:
            _fetch(url, kept, digest)
        except OSError as error:
            raise FileNotFoundError(
                f"{what} can't be downloaded here ({error}). Fetch {url} elsewhere and place it at "
                f"{kept}, or give --weights none or --weights PATH"
            ) from error
    if not _sha256(kept).startswith(digest):
        raise ValueError(
            f"weights file {kept} is damaged or another: its SHA-256 doesn't begin with {digest}; "
            f"delete it, and it is downloaded again from {url}"
        )
    return Weights(name=f"{kind}:{name}", file=kept.resolve())


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
