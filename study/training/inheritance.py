"""A network that starts from trained ones: from the whole of one, or each stream from its own."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from models import VideoModel, create_model
from models.video_model import STREAM_INPUTS
from study.training.initialisation import StartReport

__all__ = ["classifier_tensors", "inherited"]

OTHER_STREAM = "of another stream"


def classifier_tensors(model: str, options: Mapping[str, Any]) -> frozenset[str]:
    """Returns the names of the tensors whose shapes depend on the number of classes."""
    with torch.device("meta"):
        two, three = (create_model(model, num_classes=n, **options).state_dict() for n in (2, 3))
    return frozenset(name for name, value in two.items() if value.shape != three[name].shape)


def inherited(
    network: VideoModel,
    trained: Mapping[str, Tensor],
    streams: Collection[str],
    *,
    title: str,
    whole: bool = False,
    other_classes: Collection[str] = (),
) -> StartReport:
    """Returns what streams of a network take of a trained one's tensors.

    Each tensor goes where one of its name and shape is. Layers of a head that are of other shapes
    here, and layers that are missing here, are left out, and what nothing is given to stays as it
    was drawn (ours). Names and shapes decide, so networks on the meta device do.

    Args:
        network: The network.
        trained: The trained network's tensors by name.
        streams: The streams that start, some of the network's ``starting_streams``.
        title: What the trained network is, for the report.
        whole: Whether every tensor of either network must go into the other's.
        other_classes: Names of tensors that are left out, as they are of other classes.

    Raises:
        ValueError: If a tensor outside the heads is of another shape here, no convolution is
            common to both, or `whole` and a tensor is missing on either side.
    """
    own = {name: x for name, x in network.state_dict().items() if _is_of(name, streams, network)}
    left_out: dict[str, str] = {}
    for name, value in trained.items():
        if not _is_of(name, streams, network):
            left_out[name] = OTHER_STREAM
        elif name in other_classes:
            left_out[name] = "of other classes"
        elif name not in own:
            left_out[name] = "missing here"
        elif value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)} there and {tuple(own[name].shape)} here"
            left_out[name] = f"of another shape: {shapes}"
    used = {name: value for name, value in trained.items() if name not in left_out}
    wrong = [
        f"{name} is {reason}"
        for name, reason in left_out.items()
        if reason != OTHER_STREAM
        and name not in other_classes
        and (whole or (name in own and "head" not in name.partition(".")[0]))
    ]
    if whole:
        lacking = own.keys() - used.keys() - left_out.keys() - set(other_classes)
        wrong += [f"{name} is missing there" for name in sorted(lacking)]
    if wrong or not any(value.ndim > 2 for value in used.values()):
        flaw = f"{'; '.join(wrong[:3])}{' …' if len(wrong) > 3 else ''}" or "no convolution fits"
        raise ValueError(
            f"model {network.model_name!r} can't start from {title}: {flaw}; both need the same "
            "backbone and options, and for flow the same flow_length"
        )
    drawn = {name.rpartition(".")[0]: None for name in own if name not in used and own[name].ndim}
    return StartReport(
        title=title,
        streams=tuple(streams),
        used=frozenset(used),
        left_out={name: why for name, why in left_out.items() if why != OTHER_STREAM},
        drawn=tuple(drawn),
    )


def _is_of(name: str, streams: Collection[str], network: VideoModel) -> bool:
    """Returns whether a tensor is of the streams; what is of none is, if all of them are meant."""
    owners = set(STREAM_INPUTS) & set(name.split("."))
    return bool(owners & set(streams)) if owners else set(streams) == set(network.starting_streams)
