"""Trained networks in the results: one file each, with all that running it on a new video takes.

``networks/<training_id>.safetensors`` holds the network's tensors by name and, as JSON in its
header, what it is, what it was trained on and how its clips are made. No code is run to read one.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from models import VideoModel, create_model
from study.data.store.settings import StoreSettings
from study.provenance import canonical_json
from study.results.store import DamagedResultError, ResultStore
from study.training.hyperparameters import Hyperparameters
from study.training.loop import put_channels_last

__all__ = ["Network", "kept_networks", "read_network", "ready_to_score", "write_network"]

FOLDER, SUFFIX = "networks", ".safetensors"
HEADER = "network"


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A trained network.

    Attributes:
        training_id: The training that it came from.
        model: The model's name.
        options: The model's options.
        hyperparameters: How it was trained, and the views in which test videos are scored.
        classes: The classes' names; a label is an index into them.
        flip_classes: For each label, that of the mirrored video.
        store: How the videos were decoded, and their flow computed.
        state: Its tensors by name, on the CPU.
    """

    training_id: str
    model: str
    options: Mapping[str, Any]
    hyperparameters: Hyperparameters
    classes: tuple[str, ...]
    flip_classes: tuple[int, ...]
    store: StoreSettings
    state: Mapping[str, Tensor]

    def build(self) -> VideoModel:
        """Returns the network with its trained weights, in evaluation mode, on the CPU.

        Raises:
            ValueError: If there is no such model, or its weights aren't those of today's code.
        """
        net = create_model(self.model, num_classes=len(self.classes), **self.options).eval()
        try:
            net.load_state_dict(self.state)
        except RuntimeError as error:
            raise ValueError(
                f"the network of training {self.training_id} doesn't fit model {self.model!r} as "
                f"it is now: {error}"
            ) from None
        return net

    def of_streams(self, streams: Iterable[str]) -> "Network":
        """Returns the network of some of its streams, or all of it where they don't train apart.

        A stream that trains apart gives the scores that it gives with the others.
        """
        wanted = [one for one in self.options.get("streams", ()) if one in set(streams)]
        if (
            not wanted
            or len(wanted) == len(self.options["streams"])
            or not self._on_meta.independent_streams
        ):
            return self
        part = replace(self, options={**self.options, "streams": tuple(wanted)})
        return replace(part, state={name: self.state[name] for name in part._on_meta.state_dict()})

    def scored_in(self, views: Mapping[str, Any]) -> "Network":
        """Returns the network with other test views, as `Hyperparameters.of_scoring` has them."""
        return replace(self, hyperparameters=replace(self.hyperparameters, **views))

    @cached_property
    def _on_meta(self) -> VideoModel:
        with torch.device("meta"):
            return create_model(self.model, num_classes=len(self.classes), **self.options)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The inputs that it takes: ``rgb``, ``flow`` or both."""
        return self._on_meta.inputs


def ready_to_score(net: VideoModel, device: str) -> VideoModel:
    """Puts a network where and how trainings score theirs, so that it gives the same numbers.

    Args:
        net: The network; changed in place.
        device: ``cpu`` or a CUDA device.
    """
    if device != "cpu":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.deterministic = True
    put_channels_last(net.to(device))
    return net


def write_network(results: ResultStore, network: Network) -> None:
    """Writes a network to the results, whole or not at all."""
    state = {name: value.contiguous().clone() for name, value in network.state.items()}
    about = {
        "training_id": network.training_id,
        "model": network.model,
        "options": network.options,
        "hyperparameters": asdict(network.hyperparameters),
        "classes": network.classes,
        "flip_classes": network.flip_classes,
        "store": network.store.to_dict(),
        "sha256": _digest(state),
    }
    content = safetensors.torch.save(state, metadata={HEADER: canonical_json(about)})
    results.put_file(_path(network.training_id), content)


def read_network(results: ResultStore, training_id: str) -> Network | None:
    """Reads a training's network; None where it isn't kept.

    Raises:
        DamagedResultError: If its file isn't what was written.
    """
    content = results.file(_path(training_id))
    if content is None:
        return None
    try:
        length = int.from_bytes(content[:8], "little")
        about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER])
        state = safetensors.torch.load(content)
        if _digest(state) != about["sha256"]:
            raise ValueError("its content doesn't match its SHA-256")
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise DamagedResultError(
            f"{results.root}/{_path(training_id)} is damaged ({error}); put a whole copy in its "
            "place, or delete it"
        ) from error
    return Network(
        training_id=training_id,
        model=about["model"],
        options=about["options"],
        hyperparameters=Hyperparameters.of(about["hyperparameters"]),
        classes=tuple(about["classes"]),
        flip_classes=tuple(about["flip_classes"]),
        store=StoreSettings.from_dict(about["store"]),
        state=state,
    )


def kept_networks(results: ResultStore) -> dict[str, int]:
    """Returns the bytes of each network that is kept, by the id of its training."""
    sizes = results.file_sizes(FOLDER)
    return {name.removesuffix(SUFFIX): size for name, size in sizes.items()}


def _path(training_id: str) -> str:
    return f"{FOLDER}/{training_id}{SUFFIX}"


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(name.encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
