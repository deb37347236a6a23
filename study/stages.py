"""Trainings that start from others: what the network of each takes of theirs."""

import json
from collections.abc import Iterable, Mapping
from functools import cache

from torch import Tensor

from models import VideoModel
from search_spaces.space import WHOLE
from study.plan import Training, meta_network
from study.provenance import canonical_json
from study.training.inheritance import classifier_tensors, inherited
from study.training.initialisation import StartReport

__all__ = ["start_network", "start_reports", "told_starts"]


def start_network(
    training: Training, given: str, network: VideoModel, trained: Mapping[str, Tensor]
) -> None:
    """Starts a training's network, or a stream of it, from what a first stage gave, in place.

    From another clip store it takes all but the layer that tells that store's classes.

    Args:
        training: The training.
        given: One of its `starts`.
        network: Its network at its drawn weights.
        trained: The first stage's trained network, by tensor.

    Raises:
        ValueError: If the networks don't fit.
    """
    report = _report(training, given, network, trained)
    network.load_state_dict({name: trained[name] for name in report.used}, strict=False)


def _report(
    training: Training, given: str, network: VideoModel, trained: Mapping[str, Tensor]
) -> StartReport:
    first = training.first_stage(given)
    elsewhere = _elsewhere(training, first)
    return inherited(
        network,
        trained,
        network.starting_streams if given == WHOLE else (given,),
        title=_told(training, given),
        whole=WHOLE in training.starts_from,
        other_classes=_classifier(first.model, canonical_json(first.options)) if elsewhere else (),
    )


def start_reports(trainings: Iterable[Training]) -> list[tuple[Training, StartReport]]:
    """Returns what networks would take of what they start from, each kind once; trains nothing.

    Raises:
        ValueError: If networks don't fit.
    """
    found: dict[str, tuple[Training, StartReport]] = {}
    for training in trainings:
        for given in training.starts:
            first = training.first_stage(given)
            nets = [[one.model, one.options] for one in (training, first)]
            key = canonical_json([given, nets, _elsewhere(training, first)])
            if key not in found:
                there = 3 if _elsewhere(training, first) else 2  # classes, as stand-ins
                trained = meta_network(first, num_classes=there).state_dict()
                report = _report(training, given, meta_network(training), trained)
                found[key] = training, report
    return list(found.values())


def told_starts(training: Training) -> list[str]:
    """Returns in a few words what a training starts from, each once."""
    return list(dict.fromkeys(_told(training, given) for given in training.starts))


def _told(training: Training, given: str) -> str:
    first = training.first_stage(given)
    where = f" on {first.target.dataset}" if _elsewhere(training, first) else ""
    return f"a training of {first.model}{where}"


def _elsewhere(training: Training, first: Training) -> bool:
    return training.target.store_fingerprint != first.target.store_fingerprint


@cache
def _classifier(model: str, options: str) -> frozenset[str]:
    return classifier_tensors(model, json.loads(options))
