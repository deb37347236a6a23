"""``--like STUDY/ARM``: a request at the settings that an arm of an older study has."""

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from models import make_options
from study.plan import effective_options
from study.request import Request, Study, known_studies
from study.results.grids import natural_order
from study.results.protocols import select_protocols
from study.results.store import ResultStore
from study.training.hyperparameters import Hyperparameters

__all__ = ["like"]

OF_THE_STORE = ("crop_size", "flow_length", "test_segments")
"""Hyperparameters that are fitted to the clip store; they come along to the same store only."""

MADE = ("streams", "flow_length")
"""Options that the plan fills in by itself."""


def like(study: Study, earlier: str) -> Request:
    """Returns a study's request with the settings of an arm of an older study as its changes.

    They are the hyperparameters of the training that the arm's test row is of, those that a search
    found among them, and its model's options that make a difference there. Of these it takes what
    the study would search, or has otherwise, so far as its arms let it be set. What the request
    sets or searches by itself stays. The row is one of the study's dataset and splits where there
    is one, the first split and seed of several (ours).

    Args:
        study: What is asked for otherwise.
        earlier: ``STUDY/ARM``: a study in the same results and the name of one of its arms.

    Raises:
        ValueError: If there is no such study or arm with a row, or the arm's streams were trained
            with settings of their own each.
    """
    results = ResultStore(study.request.results)
    training = _training(results, _row(results, study, earlier), earlier)
    found = _settings(study, training)
    request = study.request
    asked = {*request.changes, *(parameter.name for parameter in request.parameters)}
    searched = {parameter.name for parameter in study.space.parameters}
    untuned = [
        _by_name(one.options, asdict(one.hyperparameters))
        for one in study.plan().trainings.values()
    ]
    taken = {
        name: value
        for name, value in found.items()
        if name not in asked
        and (name in searched or any(one.get(name, value) != value for one in untuned))
    }
    return replace(request, changes={**taken, **request.changes})


def _row(results: ResultStore, study: Study, earlier: str) -> Mapping[str, Any]:
    """The arm's test row that is nearest to what the study is of."""
    name, _, arm = earlier.rpartition("/")
    if not name or not arm:
        raise ValueError(
            f"--like takes STUDY/ARM, such as stilt-ucf101/stil-awf-simplex, but got {earlier!r}"
        )
    if name not in (known := known_studies(results.root)):
        there = f"there are {', '.join(known)}" if known else "there are none"
        raise ValueError(f"--like: there is no study {name!r} in {results.root}; {there}")
    shown = {one.shown.protocol for one in select_protocols(results, study=name).values()}
    rows = [
        row
        for row in results.read("rows", study=name, part="test").to_pylist()
        if row["protocol"] in shown
    ]
    if not (own := [row for row in rows if row["arm"] == arm]):
        arms = ", ".join(sorted({row["arm"] for row in rows})) or "none yet"
        raise ValueError(f"--like: study {name!r} has no row of {arm!r}; it has rows of {arms}")
    target = study.targets[0]
    splits = [one.split for one in study.targets]
    return min(
        own,
        key=lambda row: (
            row["dataset"] != target.dataset,
            row["split"] not in splits,
            natural_order(row["split"]),
            row["seed"],
        ),
    )


def _training(results: ResultStore, row: Mapping[str, Any], earlier: str) -> Mapping[str, Any]:
    keys = row["training_id"].split("+")
    columns = ["model", "options", "hyperparameters", "store_fingerprint"]
    lines = results.read("trainings", keys=keys, columns=columns).to_pylist()
    if len({line["hyperparameters"] for line in lines}) > 1:
        raise ValueError(
            f"--like {earlier}: its streams were trained with settings of their own each; name an "
            "arm of one stream, or one of a study with --tuning net"
        )
    training: Mapping[str, Any] = lines[0]
    return training


def _settings(study: Study, training: Mapping[str, Any]) -> dict[str, Any]:
    """A training's settings by dotted name, so far as the study's arms let them be set."""
    hyperparameters = asdict(Hyperparameters.of(json.loads(training["hyperparameters"])))
    if training["store_fingerprint"] != study.store.fingerprint:
        hyperparameters = {k: v for k, v in hyperparameters.items() if k not in OF_THE_STORE}
    made = asdict(make_options(training["model"], json.loads(training["options"])))
    effective = effective_options(training["model"], made)
    settable = {name for arm in study.arms for name in arm.known_options - arm.options.keys()}
    options = {n: v for n, v in effective.items() if n in settable and n not in MADE}
    return _by_name(options, hyperparameters)


def _by_name(options: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by dotted name, as `Settings.of` reads them."""
    weights = hyperparameters["loss_weights"]
    return {
        **{name: value for name, value in hyperparameters.items() if name != "loss_weights"},
        **{f"loss_weights.{name}": weight for name, weight in weights.items()},
        **{f"options.{name}": value for name, value in options.items()},
    }
