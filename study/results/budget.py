"""What a study's searches and trainings cost, and what fewer trials would have found."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from models.fusion import FUSIONS
from search_spaces.space import ENSEMBLE
from study.results.store import ResultStore

__all__ = [
    "ArmCost",
    "Budget",
    "SearchCost",
    "arm_costs",
    "budgets",
    "expected_best",
    "pareto_front",
    "search_costs",
]

SHOWN = (1, 2, 5, 10, 20, 40, 80, 160)  # numbers of trials, before all


def expected_best(values: Sequence[float], trials: int) -> float:
    """Returns the expected best of some trials (Dodge et al., EMNLP 2019, equation 1).

    Σ_v v·(P̂(V ≤ v)ⁿ − P̂(V < v)ⁿ), with P̂ the empirical distribution of all trials' values. It takes
    trials for independent; later trials of a search that learns are better than that.

    Args:
        values: What each trial of a search reached.
        trials: n >= 1, how many are drawn.

    Raises:
        ValueError: If there is no value, or n is less than 1.
    """
    if not len(values) or trials < 1:
        raise ValueError(
            f"at least one value and one trial are needed, but got {len(values)} values and "
            f"trials = {trials}"
        )
    ordered = np.sort(np.asarray(values, float))
    at_most = np.arange(len(ordered) + 1) / len(ordered)
    return float(np.diff(at_most**trials) @ ordered)


@dataclass(frozen=True, kw_only=True)
class SearchCost:
    """What a search spent and found.

    Attributes:
        arm: The arm that stands for the searched net.
        split: The split that it searched on.
        seed: The search's seed.
        trials: Its trials, pruned and failed ones included.
        epochs: Epochs that they trained.
        seconds: Wall time of them together.
        best: Expected best validation top-1 by number of trials. A pruned trial counts with what
            it had reached; a failed one with 0.
    """

    arm: str
    split: str
    seed: int
    trials: int
    epochs: int
    seconds: float
    best: dict[int, float]


def search_costs(
    store: ResultStore, *, study: str, dataset: str, protocol: str
) -> list[SearchCost]:
    """Returns what each search of a study on a dataset spent, by arm, split and seed."""
    columns = ["arm", "split", "search_seed", "epochs", "seconds", "validation_top1"]
    lines = store.read(
        "trials", columns=columns, study=study, dataset=dataset, protocol=protocol
    ).to_pylist()
    searches: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for line in lines:
        key = (line["arm"], line["split"], line["search_seed"])
        searches.setdefault(key, []).append(line)
    costs = []
    for (arm, split, seed), trials in sorted(searches.items()):
        values = [line["validation_top1"] or 0.0 for line in trials]
        shown = [n for n in SHOWN if n < len(trials)] + [len(trials)]
        costs.append(
            SearchCost(
                arm=arm,
                split=split,
                seed=seed,
                trials=len(trials),
                epochs=sum(line["epochs"] for line in trials),
                seconds=sum(line["seconds"] for line in trials),
                best={n: expected_best(values, n) for n in shown},
            )
        )
    return costs


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What the trainings behind an arm's rows took; arms of one net share them.

    Attributes:
        arm: The arm.
        trainings: How many.
        epochs: Epochs of them together.
        seconds: Wall time of them together, each times the processes that trained it.
    """

    arm: str
    trainings: int
    epochs: int
    seconds: float


def budgets(store: ResultStore, *, study: str, dataset: str, protocol: str) -> dict[str, Budget]:
    """Returns what each arm's reported trainings took, by arm."""
    rows = store.read(
        "rows",
        columns=["arm", "training_id"],
        study=study,
        dataset=dataset,
        protocol=protocol,
    ).to_pylist()
    read: dict[str, set[str]] = {}
    for row in rows:
        read.setdefault(row["arm"], set()).update(row["training_id"].split("+"))
    columns = ["training_id", "epochs", "seconds", "workers"]
    ids = sorted(set().union(*read.values()))
    lines = store.read("trainings", columns=columns, training_id=ids).to_pylist()
    known = {line["training_id"]: line for line in lines}
    found = {}
    for arm, trainings in read.items():
        chosen = [known[one] for one in sorted(trainings) if one in known]
        found[arm] = Budget(
            arm=arm,
            trainings=len(chosen),
            epochs=sum(line["epochs"] or 0 for line in chosen),
            seconds=sum((line["seconds"] or 0) * (line["workers"] or 1) for line in chosen),
        )
    return found


@dataclass(frozen=True)
class ArmCost:
    """What the networks behind an arm's rows cost: the mean over splits and seeds.

    A number is None where the results lack it.

    Attributes:
        arm: The arm.
        gflops: Billions of multiply–adds of one clip's forward pass.
        parameters: The number of parameters.
        device_seconds: Wall time of training times the processes that trained together.
        clips_per_second: Clips trained a second by all of them.
    """

    arm: str
    gflops: float | None
    parameters: float | None
    device_seconds: float | None
    clips_per_second: float | None


def arm_costs(
    rows: Sequence[Mapping[str, Any]],
    trainings: Sequence[Mapping[str, Any]],
    epochs: Sequence[Mapping[str, Any]],
) -> list[ArmCost]:
    """Returns what each arm's networks cost, by arm in the order of the rows.

    A training of independent streams that serves arms of one stream has the cost of all its
    streams. No arm that reads but one of them is given that cost: such an arm is left out.

    Args:
        rows: Lines of view ``rows``, a line for each arm, split and seed.
        trainings: Lines of view ``trainings``, with those that the rows name.
        epochs: Lines of view ``epochs`` of these trainings.
    """
    known = {line["training_id"]: line for line in trainings}
    speeds: dict[str, list[float]] = {}
    for epoch in epochs:
        if epoch["clips_per_second"]:
            speeds.setdefault(epoch["training_id"], []).append(epoch["clips_per_second"])
    paces = {name: 1 / fmean(values) for name, values in speeds.items()}
    found: dict[str, list[tuple[float | None, ...]]] = {}
    for row in rows:
        ids = row["training_id"].split("+")
        lines = [known[one] for one in ids if one in known]
        if len(lines) < len(ids) or any(_reads_a_part(row, line) for line in lines):
            continue
        seconds = [line["seconds"] and line["seconds"] * (line["workers"] or 1) for line in lines]
        pace = _total([paces.get(one) for one in ids])
        found.setdefault(row["arm"], []).append(
            (
                _total([line["gflops"] for line in lines]),
                _total([line["parameters"] for line in lines]),
                _total(seconds),
                1 / pace if pace else None,
            )
        )
    return [ArmCost(arm, *map(_mean, zip(*of, strict=True))) for arm, of in found.items()]


def _reads_a_part(row: Mapping[str, Any], training: Mapping[str, Any]) -> bool:
    """Returns whether an arm reads fewer streams than a training of independent streams has."""
    several = row["fusion"] == ENSEMBLE or "+" in row["training_id"]
    alone = several or FUSIONS[row["fusion"]].stream is not None
    return alone and bool(json.loads(training["serves"] or "[]"))


def _total(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """Returns which points no other beats: at no more cost none is better.

    Args:
        costs: What each point costs; less is better.
        values: What it is worth; more is better.

    Returns:
        The points' numbers, the cheapest first. Equal points are all there.
    """
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -values[i]))
    front: list[int] = []
    for i in order:
        last = front[-1] if front else i
        equal = (costs[i], values[i]) == (costs[last], values[last])
        if equal or values[i] > values[last]:
            front.append(i)
    return front
