"""Studies side by side, from one results folder or several: the same arms, and what differs.

Studies are matched by what they were of, never by their names: their rows may be compared where
they share a protocol, and a training that both have under one identity is the same training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from study.data.datasets.catalog import dataset_title
from study.results.comparison import Comparison, compare
from study.results.findings import Findings, between, find, points, selected
from study.results.grids import MISSING, Grid, Section
from study.results.protocols import ENVIRONMENT, Protocol, differing_settings
from study.results.statistics import aligned
from study.results.store import ResultStore

__all__ = ["Side", "SideBySide", "read_side", "side_by_side"]

UNSET = "unset"


@dataclass(frozen=True, kw_only=True)
class Side:
    """A study on one dataset, as one of several that are compared.

    Attributes:
        name: What it is called here.
        protocol: Its protocol.
        found: What it shows.
        trainings: Its trainings' lines by identity.
    """

    name: str
    protocol: Protocol
    found: Findings
    trainings: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class SideBySide:
    """Several studies of one dataset.

    Attributes:
        dataset: The dataset.
        headline: What they have in common and how their arms differ, in sentences.
        sections: Accuracies by arm, settings and machines that differ.
    """

    dataset: str
    headline: str
    sections: Sequence[Section]


def read_side(
    store: ResultStore,
    study: str,
    name: str,
    *,
    against: str | None = None,
    protocol: str | None = None,
) -> dict[str, Side]:
    """Reads a study for a comparison with others, by dataset.

    Args:
        store: Its results.
        study: The study.
        name: What to call it.
        against: The arm that its others are compared with.
        protocol: The protocol, or the beginning of its hash; by default the last with rows.

    Raises:
        ValueError: If it has no rows, or no such arm or protocol.
    """
    sides = {}
    for selection in selected(store, study, protocol=protocol):
        shown = selection.shown
        of: dict[str, Any] = {"study": study, "dataset": shown.dataset, "protocol": shown.protocol}
        rows = store.read("rows", columns=["training_id"], **of, part="test")
        if not rows.num_rows:
            continue
        ids = {one for name in rows["training_id"].to_pylist() for one in name.split("+")}
        lines = store.read("trainings", training_id=sorted(ids)).to_pylist()
        sides[shown.dataset] = Side(
            name=name,
            protocol=shown,
            found=find(store, shown, against=against),
            trainings={line["training_id"]: line for line in lines},
        )
    return sides


def side_by_side(sides: Sequence[Mapping[str, Side]]) -> list[SideBySide]:
    """Compares studies on each dataset that at least two of them have rows of.

    Args:
        sides: Each study, by dataset.

    Raises:
        ValueError: If no dataset is in two of them.
    """
    datasets = dict.fromkeys(dataset for side in sides for dataset in side)
    shared = {dataset: [side[dataset] for side in sides if dataset in side] for dataset in datasets}
    compared = [_compared(dataset, of) for dataset, of in shared.items() if len(of) > 1]
    if not compared:
        there = "; ".join(f"{', '.join(side) or 'nothing'}" for side in sides)
        raise ValueError(f"no dataset is in two of the studies; they have test rows of {there}")
    return compared


def _compared(dataset: str, sides: Sequence[Side]) -> SideBySide:
    first, others = sides[0], sides[1:]
    differences = {other.name: _differences(first, other) for other in others}
    every = [_accuracies(dataset, sides, differences), _settings(sides), _machines(sides)]
    return SideBySide(
        dataset=dataset,
        headline=" ".join(_headline(first, other, differences[other.name]) for other in others),
        sections=[section for section in every if section.grid.rows],
    )


def _differences(first: Side, other: Side) -> dict[str, Comparison]:
    """Compares each arm between two studies, where it judged the same videos under common seeds."""
    both = {"first": first, "other": other}
    pairs = {
        arm: one
        for arm in other.found.judged
        if arm in first.found.judged
        for one in compare({name: side.found.judged[arm] for name, side in both.items()}, "first")
    }
    among = sum(not _same_trainings(first, other, arm) for arm in pairs)
    return {arm: replace(one, arm=arm, among=max(1, among)) for arm, one in pairs.items()}


def _same_trainings(first: Side, other: Side, arm: str) -> bool:
    """Returns whether an arm's judgements in both come from the same trainings."""
    ours, theirs = (side.found.judged[arm].trainings for side in (first, other))
    return ours == theirs


def _headline(first: Side, other: Side, differences: Mapping[str, Comparison]) -> str:
    if first.protocol.protocol == other.protocol.protocol:
        same = "share a protocol, so their rows may stand in one table"
    else:
        same = "differ in protocol, so what their arms differ by may come from their settings"
    common = len(first.trainings.keys() & other.trainings.keys())
    verdicts = [
        f"{first.found.labels[arm]} is {one.verdict} in {other.name} by "
        f"{points(abs(one.estimate.value), signed=False)} points"
        for arm, one in differences.items()
        if one.verdict in ("better", "worse") and not _same_trainings(first, other, arm)
    ]
    said = "; ".join(verdicts) or "no arm that both have is shown to differ"
    return (
        f"{first.name} and {other.name} {same}; {common} of {len(other.trainings)} trainings of "
        f"{other.name} are also in {first.name}. Of {len(differences)} arms compared: {said}."
    )


def _accuracies(
    dataset: str, sides: Sequence[Side], differences: Mapping[str, Mapping[str, Comparison]]
) -> Section:
    first, others = sides[0], sides[1:]
    labels = {arm: label for side in sides for arm, label in side.found.labels.items()}
    upper = ["", *(side.name for side in sides)]
    header = ["arm", *("top-1" for _ in sides)]
    right = [False, *(True for _ in sides)]
    for other in others:
        upper += [f"{other.name} less {first.name}"] * 3
        header += ["points", "95 % interval", "verdict"]
        right += [True, True, False]
    rows = []
    for arm, label in labels.items():
        row = [label, *(_accuracy(side, arm) for side in sides)]
        for other in others:
            row += _difference(first, other, arm, differences[other.name].get(arm))
        rows.append(row)
    notes = [
        "Top-1 in %, ± half the width of its 95 % interval. Differences are on the same test "
        "videos and under the same seeds, corrected for the number of arms compared; – where a "
        "study lacks the arm, or judged other videos or seeds.",
        "same trainings: both studies read the same trainings, so there is nothing to compare.",
    ]
    grid = Grid(upper_header=upper, header=header, rows=rows, right=right)
    return Section(title=f"{dataset_title(dataset)}: arm by arm", grid=grid, notes=notes)


def _accuracy(side: Side, arm: str) -> str:
    value = side.found.accuracies.get(arm)
    if value is None:
        return MISSING
    judged = side.found.judged.get(arm)
    interval = aligned(judged).contrast([1]).interval() if judged else None
    half = "" if interval is None else f" ± {50 * (interval.high - interval.low):.1f}"
    return f"{100 * value:.1f}{half}"


def _difference(first: Side, other: Side, arm: str, one: Comparison | None) -> list[str]:
    if one is None:
        return [MISSING] * 3
    if _same_trainings(first, other, arm):
        return [MISSING, MISSING, "same trainings"]
    verdict = one.verdict.replace("no difference shown", "not shown")
    return [points(one.estimate.value), between(one.interval), verdict]


def _settings(sides: Sequence[Side]) -> Section:
    different = differing_settings([side.protocol for side in sides])
    rows = [
        [name, *(UNSET if value is None else str(value) for value in values)]
        for name, values in different.items()
    ]
    header = ["setting", *(side.name for side in sides)]
    grid = Grid(header=header, rows=rows, right=[False] * len(header))
    notes = ["What the protocols differ in; all other settings are the same."]
    return Section(title="Settings that differ", grid=grid, notes=notes)


def _machines(sides: Sequence[Side]) -> Section:
    columns = {**ENVIRONMENT, "git_commit": "commit of the code"}
    rows = []
    for column, title in columns.items():
        values = [
            ", ".join(sorted({str(line[column]) for line in side.trainings.values()} - {"None"}))
            for side in sides
        ]
        if len(set(values)) > 1:
            rows.append([title, *(value or MISSING for value in values)])
    header = ["trained with", *(side.name for side in sides)]
    grid = Grid(header=header, rows=rows, right=[False] * len(header))
    notes = ["What is no part of a protocol and might change a number all the same."]
    return Section(title="Machines that differ", grid=grid, notes=notes)
