"""What a study answers: the best arm, by how much, how sure that is, and what would tell more."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from study.data.datasets.catalog import dataset_title
from study.results.comparison import EFFECT, Comparison, compare
from study.results.findings import Findings, between, points
from study.results.statistics import LEAST_GROUPS
from study.results.tables import environments

__all__ = ["Answer", "answer"]

Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a study answers on one dataset, in sentences.

    Attributes:
        dataset: The dataset.
        headline: The best arm, by how much over the reference, and whether that is shown.
        caveats: What keeps the headline from meaning more.
        environments: How the machines differ that the arms were trained on; empty where they don't.
        next_step: What it would take to know better; empty where nothing can be said.
    """

    dataset: str
    headline: str
    caveats: Sequence[str]
    environments: str
    next_step: str


def answer(found: Findings, rows: Sequence[Row], trainings: Iterable[Row]) -> Answer:
    """Answers which arm is best on a dataset.

    The best is the arm of the highest top-1 among the reference and those compared with it; without
    any comparison, among all. Its interval is one of all comparisons made, so it holds although
    the arm was chosen after seeing them.

    Args:
        found: What the study shows there.
        rows: Its test rows there.
        trainings: The trainings that they come from.
    """
    deciding = found.best
    best = found.best_arm
    by_id = {line["training_id"]: line for line in trainings}
    different = _environments(found, rows, by_id)
    return Answer(
        dataset=found.dataset,
        headline=f"{_headline(found, best)} {_difference(found, best, deciding)}".strip(),
        caveats=[
            *_reach(deciding),
            *_rivals(found, best),
            *_left_out(found),
            *_incomplete(found, rows),
            *([f"The arms were trained on different machines: {different}."] if different else []),
            *_settings(found, best, rows, by_id),
        ],
        environments=different,
        next_step=_next_step(deciding),
    )


def _headline(found: Findings, best: str) -> str:
    accuracy = f"{100 * found.accuracies[best]:.1f} %"
    dataset = dataset_title(found.dataset)
    if len(found.labels) == 1:
        return f"{found.labels[best]} has a top-1 accuracy of {accuracy} on {dataset}."
    return f"{found.labels[best]} has the highest top-1 accuracy on {dataset}, {accuracy}."


def _difference(found: Findings, best: str, one: Comparison | None) -> str:
    if one is None:
        if len(found.labels) == 1:
            return "It is the only arm, so there is nothing to compare it with."
        if not found.judged:
            return "The results hold no predictions of it, so whether it is better is not known."
        return "No two arms judged the same videos under the same seeds, so none is compared."
    reference = found.labels[found.reference]
    side = "above" if one.estimate.value > 0 else "from"
    subject = "That is" if best == one.arm else f"The next, {found.labels[one.arm]}, is"
    said = f"{subject} {points(one.estimate.value)} points {side} {reference}"
    if one.interval is not None:
        among = f", as one of {one.among} comparisons" if one.among > 1 else ""
        said += f" (95 % interval {between(one.interval)}{among})"
    verdicts = {
        "better": "It is better.",
        "worse": "The difference is shown.",
        "no difference shown": "That they differ is not shown.",
        "no verdict": "There is no verdict.",
    }
    return f"{said}. {verdicts[one.verdict]}"


def _reach(one: Comparison | None) -> list[str]:
    if one is None:
        return []
    if one.estimate.generalises and one.estimate.seeds > 1:
        return []
    return [f"This is about {one.scope}."]


def _rivals(found: Findings, best: str) -> list[str]:
    """Returns which of the others are not shown to be worse than the best."""
    others = {one.arm for one in found.comparisons} - {best}
    if not others or best == found.reference:
        return []
    compared = compare({arm: found.judged[arm] for arm in (best, *sorted(others))}, best)
    close = {one.arm for one in compared if one.verdict != "worse"}
    if not close:
        return []
    names = [label for arm, label in found.labels.items() if arm in close]
    return [f"Not shown to be worse than the best: {'; '.join(names)}."]


def _left_out(found: Findings) -> list[str]:
    compared = {found.reference, *(one.arm for one in found.comparisons)}
    if len(compared) == 1:
        return []
    out = [label for arm, label in found.labels.items() if arm not in compared]
    return [f"Not compared, for want of the same videos or seeds: {'; '.join(out)}."] if out else []


def _incomplete(found: Findings, rows: Sequence[Row]) -> list[str]:
    runs: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        runs.setdefault(row["arm"], set()).add((row["split"], row["seed"]))
    every = set().union(*runs.values())
    lacking = [found.labels[arm] for arm in found.labels if runs.get(arm, set()) != every]
    return [f"Not every split and seed has been run for {'; '.join(lacking)}."] if lacking else []


def _environments(found: Findings, rows: Sequence[Row], by_id: Mapping[str, Row]) -> str:
    trained = [{**line, "arm": row["arm"]} for row in rows for line in _trainings_of(row, by_id)]
    return environments(trained, found.labels)


def _settings(
    found: Findings, best: str, rows: Sequence[Row], by_id: Mapping[str, Row]
) -> list[str]:
    """Returns the hyperparameters in which the best arm and what it is compared with differ."""
    one = found.best
    if one is None:
        return []
    other = found.reference if best == one.arm else one.arm
    ours, theirs = (_values(arm, rows, by_id) for arm in (best, other))
    if not ours or not theirs:
        return []
    differing = [
        f"{name} {_either(ours.get(name))} instead of {_either(theirs.get(name))}"
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    ]
    if not differing:
        return []
    label = found.labels[other]
    return [f"Trained with other settings than {label}: {', '.join(differing)}."]


def _values(arm: str, rows: Sequence[Row], by_id: Mapping[str, Row]) -> dict[str, set[str]]:
    """Returns the values of each hyperparameter that an arm's trainings have, as JSON."""
    values: dict[str, set[str]] = {}
    for row in rows:
        if row["arm"] == arm:
            for line in _trainings_of(row, by_id):
                for name, value in json.loads(line["hyperparameters"]).items():
                    values.setdefault(name, set()).add(json.dumps(value))
    return values


def _either(values: set[str] | None) -> str:
    return " or ".join(_short(json.loads(value)) for value in sorted(values or {"null"}))


def _short(value: Any) -> str:
    if value is None:
        return "unset"
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _trainings_of(row: Row, by_id: Mapping[str, Row]) -> list[Row]:
    return [by_id[one] for one in row["training_id"].split("+") if one in by_id]


def _next_step(one: Comparison | None) -> str:
    if one is None:
        return ""
    seeds = one.estimate.seeds
    if not one.estimate.generalises:
        return f"To know better, test videos of at least {LEAST_GROUPS} source videos are needed."
    needed = one.seeds_needed
    if needed is None:
        return "To know better, run more seeds (--seeds 3 or more): one tells nothing of others."
    point = f"a difference of {100 * EFFECT:.0f} point with 80 % power"
    if math.isinf(needed):
        return (
            f"No number of seeds would show {point}: that needs test videos of more source videos "
            f"than {one.estimate.groups}."
        )
    if needed <= seeds:
        return f"The {seeds} seeds that there are suffice to show {point}."
    return f"To show {point}, about {needed:.0f} seeds an arm are needed; there are {seeds}."
