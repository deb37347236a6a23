"""What a study shows: arms compared, factors, classes, budget, as grids that any format prints."""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

import search_spaces
from study.data.datasets.catalog import dataset_title
from study.results.budget import Budget, SearchCost, budgets, search_costs
from study.results.comparison import (
    EFFECT,
    ClassGain,
    Comparison,
    Effect,
    Verdict,
    class_gains,
    compare,
    factorial,
    reference_of,
)
from study.results.faults import meant
from study.results.grids import MISSING, Grid, Section, natural_order
from study.results.predictions import judgements
from study.results.protocols import Protocol, Selection, select_protocols
from study.results.ranking import AGGREGATES, aggregate, rank
from study.results.statistics import LEAST_GROUPS, Interval, Judgements
from study.results.store import ResultStore

__all__ = [
    "Findings",
    "arm_labels",
    "comparison_csv",
    "find",
    "over_datasets",
    "sections",
    "selected",
    "studies",
]

CLASSES_SHOWN = 5  # of the most gained and of the most lost
HOUR = 3600


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What a study shows on one dataset.

    Attributes:
        study: The study.
        dataset: The dataset.
        labels: Each arm's label by its name, in order.
        reference: The arm that the others are compared with.
        judged: Judgements by arm.
        comparisons: The other arms that judged the same videos.
        effects: Of the factors net and fusion.
        gains: Of the compared arm with the highest accuracy, by class.
        searches: What each search spent.
        budgets: What each arm's reported trainings took.
        accuracies: By arm, the mean over splits of the mean top-1 over seeds, a fraction.
    """

    study: str
    dataset: str
    labels: Mapping[str, str]
    reference: str
    judged: Mapping[str, Judgements]
    comparisons: Sequence[Comparison]
    effects: Sequence[Effect]
    gains: Sequence[ClassGain]
    searches: Sequence[SearchCost]
    budgets: Mapping[str, Budget]
    accuracies: Mapping[str, float]

    @property
    def best(self) -> Comparison | None:
        """The compared arm with the highest accuracy."""
        return max(self.comparisons, key=lambda one: one.estimate.value, default=None)

    @property
    def best_arm(self) -> str:
        """The arm of the highest accuracy of those compared, the reference included.

        Without any comparison, of all.
        """
        if self.best is None:
            return max(self.accuracies, key=self.accuracies.__getitem__)
        return self.best.arm if self.best.estimate.value > 0 else self.reference


def studies(store: ResultStore) -> list[str]:
    """Returns the names of the studies that were started, the last that started a training first.

    A study without a finished or failed training counts from when it was started itself.
    """
    with store.connect() as connection:
        found = connection.execute(
            """
            SELECT study FROM (
                SELECT study, started_at FROM trainings
                UNION ALL SELECT study, started_at FROM protocols
            ) GROUP BY study ORDER BY max(started_at) DESC, study
            """
        ).fetchall()
    return [name for (name,) in found]


def selected(store: ResultStore, study: str, *, protocol: str | None = None) -> list[Selection]:
    """Returns by dataset the protocol whose rows are shown of a study.

    Args:
        store: The results.
        study: The study.
        protocol: The protocol to show, or the beginning of its hash; by default the last.

    Raises:
        ValueError: If the study has no rows, or none of the protocol; the message names what has.
    """
    found = select_protocols(store, study=study, wanted=protocol)
    if not found:
        known = sorted(set(store.read("rows", columns=["study"])["study"].to_pylist()))
        raise ValueError(
            f"there is no study {study!r} with rows{meant(study, known)}; "
            f"there {'are ' + ', '.join(known) if known else 'is none'}"
        )
    return [found[key] for key in sorted(found)]


def find(store: ResultStore, shown: Protocol, *, against: str | None = None) -> Findings:
    """Reads a study's judgements on a dataset, under one protocol, and compares its arms.

    Args:
        store: The results.
        shown: Study, dataset and protocol.
        against: The arm that the others are compared with; see ``comparison.reference_of``.

    Raises:
        ValueError: If the study has no such arm.
    """
    study, dataset = shown.study, shown.dataset
    of: dict[str, Any] = {"study": study, "dataset": dataset, "protocol": shown.protocol}
    columns = ["arm", "space", "split", "top1"]
    rows = store.read("rows", columns=columns, **of, part="test")
    labels = arm_labels(rows["space"].to_pylist(), rows["arm"].to_pylist())
    if against is not None and against not in labels:
        raise ValueError(
            f"study {study!r} has no arm {against!r}{meant(against, labels)}; "
            f"it has {', '.join(labels)}"
        )
    found = judgements(store, **of)
    judged = {arm: found[arm] for arm in labels if arm in found}
    reference = against or reference_of(list(judged or labels))
    comparisons = compare(judged, reference) if reference in judged else []
    spaces = [name for name in rows["space"].unique().to_pylist() if name in search_spaces.names()]
    arms = [arm for name in spaces for arm in search_spaces.get(name).on(dataset).arms]
    best = max(comparisons, key=lambda one: one.estimate.value, default=None)
    return Findings(
        study=study,
        dataset=dataset,
        labels=labels,
        reference=reference,
        judged=judged,
        comparisons=comparisons,
        effects=factorial(arms, judged),
        gains=class_gains(judged[reference], judged[best.arm]) if best else [],
        searches=search_costs(store, **of),
        budgets=budgets(store, **of),
        accuracies=_accuracies(rows.to_pylist()),
    )


def _accuracies(rows: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Returns each arm's mean over splits of its mean top-1 over seeds."""
    values: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        values.setdefault(row["arm"], {}).setdefault(row["split"], []).append(row["top1"])
    return {arm: fmean(map(fmean, by_split.values())) for arm, by_split in values.items()}


def arm_labels(spaces: Sequence[str], arms: Sequence[str]) -> dict[str, str]:
    """Returns label by arm: the spaces' arms in their order, then those that they don't have."""
    known = {
        arm.name: arm.label
        for space in dict.fromkeys(spaces)
        if space in search_spaces.names()
        for arm in search_spaces.get(space).rows
    }
    ran = set(arms)
    others = sorted(ran - known.keys(), key=natural_order)
    return {arm: known.get(arm, arm) for arm in [*(a for a in known if a in ran), *others]}


def sections(found: Findings, names: Mapping[str, str] | None = None) -> list[Section]:
    """Returns what was found as grids, those without content left out.

    Args:
        found: What was found.
        names: What to call each arm; by default its name.
    """
    called = {arm: arm for arm in found.labels} | dict(names or {})
    every = [
        _compared(found, called),
        _factors(found, called),
        _classes(found, called),
        _spent(found, called),
        _expected(found, called),
    ]
    return [section for section in every if section.grid.rows]


def _compared(found: Findings, names: Mapping[str, str]) -> Section:
    header = ("arm", "points", "95 % interval", "p", "ahead", "seeds", "verdict")
    rows = [
        [
            names[one.arm],
            points(one.estimate.value),
            between(one.interval),
            _p_value(one.p_value),
            f"{100 * one.improvement:.0f} %",
            _seeds(one.seeds_needed),
            _verdict(one),
        ]
        for one in found.comparisons
    ]
    notes = []
    if found.comparisons:
        one = found.comparisons[0]
        seeds = _either(str(of.estimate.seeds) for of in found.comparisons)
        sources = one.estimate.groups
        notes = [
            f"{one.videos} test videos (a video counts in each split that tests it) of {sources} "
            f"source videos; seeds: {seeds}.",
            f"Interval and verdict are about {_either(of.scope for of in found.comparisons)}.",
            f"Intervals and p are corrected for the {len(found.comparisons)} comparisons made "
            "(Bonferroni): verdict, p ≤ 0.05 and an interval without 0 agree. not shown: no "
            "difference is shown, which is no proof that there is none.",
            "ahead: how often a random seed of the arm beats a random seed of the reference. "
            f"seeds: how many would show {100 * EFFECT:.0f} point with 80 % power, at the "
            "variances estimated here; none: no number would, the test videos are too few.",
        ]
    if out := [names[arm] for arm in found.judged if not _was_compared(found, arm)]:
        notes.append(f"Not compared, as they judged other videos or seeds: {', '.join(out)}.")
    reference = names.get(found.reference, found.reference)
    title = f"{dataset_title(found.dataset)}, {found.study}: arms against {reference}"
    return Section(title=title, grid=_grid(header, rows, last_left=True), notes=notes)


def _was_compared(found: Findings, arm: str) -> bool:
    return arm == found.reference or arm in [one.arm for one in found.comparisons]


def _factors(found: Findings, names: Mapping[str, str]) -> Section:
    header = ("effect", "points", "95 % interval", "p", "verdict")
    rows = [
        [
            _factor(one, names),
            points(one.estimate.value),
            between(one.interval),
            _p_value(one.p_value),
            _verdict(one),
        ]
        for one in found.effects
    ]
    notes = [
        "Net and fusion as factors. A net's effect is the mean over the fusions, a fusion's the "
        "mean over the nets, each less the first; × is what the fusion gains on that net less "
        f"what it gains on the first. Corrected for these {len(rows)} effects."
    ]
    return Section(
        title="Main effects and interactions", grid=_grid(header, rows, True), notes=notes
    )


def _factor(effect: Effect, names: Mapping[str, str]) -> str:
    net = names.get(effect.net, effect.net)
    if effect.kind == "net":
        return f"net of {net}"
    return f"fusion {effect.fusion}" if effect.kind == "fusion" else f"{net} × {effect.fusion}"


def _classes(found: Findings, names: Mapping[str, str]) -> Section:
    gains = list(found.gains)
    cut = len(gains) > 2 * CLASSES_SHOWN
    shown = [*gains[:CLASSES_SHOWN], *gains[-CLASSES_SHOWN:]] if cut else gains
    rows = [
        [
            one.name,
            str(one.videos),
            str(one.estimate.groups),
            points(one.estimate.value),
            between(one.interval),
        ]
        for one in shown
    ]
    which = f"the {CLASSES_SHOWN} that gain and that lose most" if cut else "all"
    best = found.best
    arm = "" if best is None else names.get(best.arm, best.arm)
    notes = [
        f"Of {len(gains)} classes, {which}. Each interval is of its class alone, not corrected: "
        "1 in 20 misses its truth, and the extremes of many classes are partly luck. "
        f"None is given below {LEAST_GROUPS} source videos."
    ]
    header = ("class", "test videos", "source videos", "points", "95 % interval")
    title = f"Classes: {arm} against {names.get(found.reference, found.reference)}"
    return Section(title=title, grid=_grid(header, rows), notes=notes)


def _spent(found: Findings, names: Mapping[str, str]) -> Section:
    upper = ("", "search", "search", "search", "reported", "reported", "reported")
    header = ("arm", "trials", "epochs", "hours", "trainings", "epochs", "hours")
    rows = []
    for arm in dict.fromkeys([*found.labels, *(cost.arm for cost in found.searches)]):
        costs = [cost for cost in found.searches if cost.arm == arm]
        search = [
            str(sum(cost.trials for cost in costs)),
            str(sum(cost.epochs for cost in costs)),
            _hours(sum(cost.seconds for cost in costs)),
        ]
        budget = found.budgets.get(arm)
        took = [MISSING] * 3
        if budget:
            took = [str(budget.trainings), str(budget.epochs), _hours(budget.seconds)]
        rows.append([names.get(arm, arm), *(search if costs else [MISSING] * 3), *took])
    notes = [
        "A search is of a net, and stands at the arm that the net is named by; the net's other "
        "arms share it. Reported trainings count for each arm that reads them. Hours are of "
        "training processes."
    ]
    grid = _grid(header, rows, upper=upper)
    return Section(title="Budget spent", grid=grid, notes=notes)


def _expected(found: Findings, names: Mapping[str, str]) -> Section:
    numbers = sorted({n for cost in found.searches for n in cost.best})
    rows = [
        [
            names.get(cost.arm, cost.arm),
            cost.split,
            str(cost.seed),
            *(f"{100 * cost.best[n]:.1f}" if n in cost.best else MISSING for n in numbers),
        ]
        for cost in found.searches
    ]
    notes = [
        "Validation top-1 in %, by number of trials drawn at random from the search's "
        "(Dodge et al. 2019); a pruned trial counts with what it had reached."
    ]
    header = ("search of", "split", "seed", *map(str, numbers))
    return Section(title="Expected best by number of trials", grid=_grid(header, rows), notes=notes)


_CSV_COLUMNS = (
    *("study", "dataset", "reference", "arm", "difference", "low", "high", "p_value", "verdict"),
    *("scope", "probability_of_improvement", "seeds", "seeds_needed", "test_videos"),
    "source_videos",
)


def comparison_csv(found: Sequence[Findings]) -> str:
    """Returns the comparisons as comma-separated values, differences as fractions."""
    sink = io.StringIO()
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow(_CSV_COLUMNS)
    lines = [(study, one) for study in found for one in study.comparisons]
    for of, one in lines:
        interval, estimate = one.interval, one.estimate
        ends = (None, None) if interval is None else (interval.low, interval.high)
        writer.writerow(
            [
                *(of.study, of.dataset, of.reference, one.arm, estimate.value, *ends),
                *(one.p_value, one.verdict, one.scope, one.improvement, estimate.seeds),
                *(one.seeds_needed, one.videos, estimate.groups),
            ]
        )
    return sink.getvalue().rstrip("\n")


def over_datasets(found: Sequence[Findings]) -> list[Section]:
    """Returns ranks and aggregates of the arms that judged several datasets.

    Raises:
        ValueError: If a dataset is there twice.
    """
    datasets = [one.dataset for one in found]
    if len(set(datasets)) < len(datasets):
        raise ValueError(
            "each dataset may be there once, but got "
            + ", ".join(f"{one.dataset} ({one.study})" for one in found)
        )
    arms = [arm for arm in found[0].judged if all(arm in one.judged for one in found)]
    if len(found) < 2 or not arms:
        return []
    runs = {arm: [_runs(one.judged[arm]) for one in found] for arm in arms}
    rows = []
    for arm in arms:
        cells = []
        for how in AGGREGATES:
            one = aggregate(runs[arm], how)
            cells.append(f"{100 * one.value:.1f} {between(one.interval, signed=False)}")
        rows.append([arm, *cells])
    title = f"Over {', '.join(map(dataset_title, datasets))}"
    notes = [
        "Top-1 in % of all runs, with the 95 % interval of a bootstrap over seeds within each "
        "dataset (Agarwal et al. 2021): of these datasets, and too narrow with few seeds."
    ]
    shown = [Section(title=title, grid=_grid(("arm", *AGGREGATES), rows), notes=notes)]
    if len(arms) > 2:
        shown.append(_ranks(runs, len(datasets)))
    return shown


def _runs(judged: Judgements) -> list[float]:
    """Returns each seed's accuracy, the mean over splits."""
    splits = np.array([split for split, _ in judged.videos])
    by_split = [judged.correct[:, splits == split].mean(1) for split in np.unique(splits)]
    return [float(value) for value in np.mean(by_split, axis=0)]


def _ranks(runs: Mapping[str, Sequence[Sequence[float]]], datasets: int) -> Section:
    ranking = rank({arm: [fmean(of) for of in by_dataset] for arm, by_dataset in runs.items()})
    ordered = sorted(ranking.ranks.items(), key=lambda item: item[1])
    notes = [
        f"Friedman's test that all arms are alike: p {_p_value(ranking.p_value)}. Mean ranks that "
        f"differ by more than {ranking.critical_difference:.2f} differ at the level 0.05 "
        f"(Nemenyi). With {datasets} datasets only large differences can show."
    ]
    grid = _grid(("arm", "mean rank"), [[arm, f"{value:.2f}"] for arm, value in ordered])
    return Section(title=f"Ranks over {datasets} datasets", grid=grid, notes=notes)


def points(value: float, *, signed: bool = True) -> str:
    """Returns a fraction in percentage points."""
    text = f"{100 * value:+.1f}" if signed else f"{100 * value:.1f}"
    return text.replace("-", "−")


def between(interval: Interval | None, *, signed: bool = True) -> str:
    """Returns an interval in percentage points."""
    if interval is None:
        return MISSING
    return f"[{points(interval.low, signed=signed)}, {points(interval.high, signed=signed)}]"


def _verdict(one: Verdict) -> str:
    return one.verdict.replace("no difference shown", "not shown")


def _p_value(value: float | None) -> str:
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _seeds(number: float | None) -> str:
    if number is None:
        return MISSING
    return "none" if math.isinf(number) else f"{number:.0f}"


def _hours(seconds: float) -> str:
    return f"{seconds / HOUR:.2f}" if seconds < 10 * HOUR else f"{seconds / HOUR:.0f}"


def _either(values: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(values))


def _grid(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    last_left: bool = False,
    upper: Sequence[str] = (),
) -> Grid:
    right = [False, *([True] * (len(header) - 1))]
    right[-1] = not last_left
    return Grid(upper_header=upper, header=header, rows=rows, right=right)
