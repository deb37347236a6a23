"""A network as its training begins."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models import VideoModel, create_model
from study.training.published_weights import PublishedWeights, read_published

__all__ = ["StartReport", "initial_network", "load_starting_weights"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StartReport:
    """What streams of a network took of a state dict; every tensor of either is accounted for.

    Attributes:
        title: What kind of state dict it is.
        streams: The streams that start from it.
        used: Names of its tensors that are used.
        left_out: Names of the others, each with the reason.
        drawn: Names of the streams' modules whose weights stay as they were drawn.
    """

    title: str
    streams: tuple[str, ...]
    used: frozenset[str]
    left_out: Mapping[str, str]
    drawn: tuple[str, ...]


def initial_network(
    model: str,
    options: Mapping[str, Any],
    *,
    num_classes: int,
    seed: int,
    weights: Sequence[tuple[Mapping[str, Tensor], Sequence[str]]] = (),
    report: Callable[[StartReport], None] | None = None,
) -> VideoModel:
    """Returns a network at its initial weights.

    Args:
        model: The model's name.
        options: Its options.
        num_classes: Number of classes N.
        seed: Of what is drawn.
        weights: State dicts, each with the streams that start from it; what none of them has is
            drawn.
        report: Receives what became of each state dict.

    Raises:
        ValueError: If the model or an option isn't valid, or weights don't fit.
    """
    torch.manual_seed(seed)
    network = create_model(model, num_classes=num_classes, **options)
    for state_dict, streams in weights:
        started = load_starting_weights(network, state_dict, streams)
        if report is not None:
            report(started)
    return network


def load_starting_weights(
    network: VideoModel, state_dict: Mapping[str, Tensor], streams: Sequence[str]
) -> StartReport:
    """Starts streams of a network from a state dict, in place.

    It is one of a network of this project, one of a published video network (see
    ``study.training.published_weights``), or an image classifier's. A video network's classifier is
    used where the network's has as many classes (ours).

    Args:
        network: The network at its drawn weights.
        state_dict: Tensors by name.
        streams: Some of its ``starting_streams``.

    Raises:
        ValueError: If a tensor doesn't fit, naming it and the shapes.
    """
    before = {name: value.clone() for name, value in _matrices(network, streams)}
    if state_dict.keys() & network.state_dict().keys():
        title = "a network of this project"
        left_out = _load_own(network, state_dict, streams)
    elif (published := read_published(state_dict)) is not None:
        title = published.format.title
        left_out = _load_published(network, published, streams)
    else:
        title = "an image classifier, or a backbone alone"
        used = network.load_backbone_weights(state_dict, streams)
        reason = "the classifier's, or of another shape here"
        left_out = {name: reason for name in state_dict if name not in used}
    return StartReport(
        title=title,
        streams=tuple(streams),
        used=frozenset(state_dict.keys() - left_out.keys()),
        left_out=left_out,
        drawn=tuple(
            name.rpartition(".")[0]
            for name, value in _matrices(network, streams)
            if torch.equal(value, before[name])
        ),
    )


def _matrices(network: VideoModel, streams: Sequence[str]) -> list[tuple[str, nn.Parameter]]:
    """Returns the parameters of streams that are drawn: all but biases, scales and the like."""
    return [
        (name, value)
        for name, value in network.named_parameters()
        if value.ndim > 1 and _is_of(name, streams, network)
    ]


def _is_of(name: str, streams: Sequence[str], network: VideoModel) -> bool:
    """Returns whether a tensor is of the streams; what is of none is, if all streams are meant."""
    every = network.starting_streams
    owners = set(every) & set(name.split("."))
    return bool(owners & set(streams)) if owners else set(streams) == set(every)


def _load_own(
    network: VideoModel, state_dict: Mapping[str, Tensor], streams: Sequence[str]
) -> dict[str, str]:
    """Copies what a network of this project has in common; returns what is left out, and why."""
    own = network.state_dict()
    left_out, wrong = {}, []
    for name, value in state_dict.items():
        if not _is_of(name, streams, network):
            left_out[name] = "of another stream"
        elif name not in own:
            left_out[name] = "this network has no such tensor"
        elif value.shape != own[name].shape:
            shapes = f"{tuple(value.shape)} in the file and {tuple(own[name].shape)} here"
            if "head" in name.partition(".")[0]:
                left_out[name] = f"of a classifier of other classes or layers: {shapes}"
            else:
                wrong.append(f"{name} is {shapes}")
    if wrong:
        raise ValueError(
            f"the weights don't fit model {network.model_name!r}: {'; '.join(wrong[:3])}"
            f"{' …' if len(wrong) > 3 else ''}; give weights of a network of the same options, for "
            "a flow stream of the same flow_length too"
        )
    used = {name: value for name, value in state_dict.items() if name not in left_out}
    if not any(value.ndim > 2 for value in used.values()):
        raise ValueError(
            f"the weights have no convolution of stream {' or '.join(streams)} of model "
            f"{network.model_name!r}; give weights of a network with this stream and backbone"
        )
    network.load_state_dict(used, strict=False)
    return left_out


def _load_published(
    network: VideoModel, published: PublishedWeights, streams: Sequence[str]
) -> dict[str, str]:
    """Loads a published video network; returns what no stream uses, and why."""
    reasons: dict[str, str] = {}
    used: set[str] = set()
    for stream in streams:
        body = network.load_backbone_weights(published.body_for(stream), (stream,))
        used |= {f"body.{name}" for name in body}
        for part, tensors, places in (
            ("inserted", published.inserted, _inserted_places(network, published, stream)),
            ("head", published.head, _head_places(network, stream)),
        ):
            fitting, left_out = _divide(tensors, places, network)
            network.load_state_dict(fitting, strict=False)
            used |= {f"{part}.{name}" for name in tensors if name not in left_out}
            reasons |= {f"{part}.{name}": reason for name, reason in left_out.items()}
    return {
        name: reasons.get(here, "of another shape here")
        for here, name in published.names.items()
        if here not in used
    }


def _inserted_places(
    network: VideoModel, published: PublishedWeights, stream: str
) -> dict[str, str]:
    """Returns the network's names of layers inserted into a stream's backbone."""
    return {name: f"backbones.{stream}.{name}" for name in published.inserted}


def _head_places(network: VideoModel, stream: str) -> dict[str, str]:
    """Returns the network's names of a stream's classifier, if it is one linear layer."""
    prefix = f"heads.{stream}."
    names = [name for name, _ in network.named_parameters() if name.startswith(prefix)]
    places = {name.rpartition(".")[2]: name for name in names}
    return places if len(places) == len(names) else {}


def _divide(
    tensors: Mapping[str, Tensor], places: Mapping[str, str], network: VideoModel
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors that fit by the network's names, and why each of the others doesn't."""
    own = network.state_dict()
    fitting, left_out = {}, {}
    for name, value in tensors.items():
        place = places.get(name, "")
        if place not in own:
            left_out[name] = "this network has no such layer"
        elif own[place].shape != value.shape:
            shapes = f"{tuple(value.shape)} in the file and {tuple(own[place].shape)} here"
            left_out[name] = f"of a classifier of other classes: {shapes}"
        else:
            fitting[place] = value
    return fitting, left_out
