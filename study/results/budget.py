"""What a study's searches and trainings cost, and what fewer trials would have found."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from study.results.store import ResultStore

__all__ = ["Budget", "SearchCost", "budgets", "expected_best", "search_costs"]

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
