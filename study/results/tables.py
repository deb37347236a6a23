"""The spaces' tables, with our numbers beside the published ones.

A space says what its tables show; ``published.csv`` holds the printed numbers. Ours stand beside
the published numbers of the same dataset only, with their 95 % interval and a mark where they
differ from the reference arm. Without any of ours, all published numbers are shown. A row may be
an arm of another space; then its numbers are of a study of that space.
"""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from itertools import product
from statistics import fmean
from typing import Any

import search_spaces
from search_spaces import METRICS, Table
from study.data.datasets.catalog import dataset_title
from study.results.comparison import Comparison, compare, reference_of
from study.results.connection import Connection
from study.results.faults import meant
from study.results.grids import FORMATS, MISSING, Grid, Section, natural_order
from study.results.predictions import judgements
from study.results.protocols import ENVIRONMENT, Protocol, Selection, select_protocols
from study.results.published import published
from study.results.statistics import Estimate, Interval, Judgements, aligned
from study.results.store import ResultStore

__all__ = ["FORMATS", "Cell", "FilledTable", "environments", "load", "render", "section"]

WHOLE_BATCH = "the whole batch"
MARK = "*"  # where an arm differs from the reference
OURS = "an ablation of ours; the paper has no such table"

Row = Mapping[str, Any]
_OfSpace = tuple[list[Row], list[str]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """An arm's number on one dataset in one metric; accuracies are fractions.

    Attributes:
        mean: Ours: mean over splits of the mean over seeds; None when not run.
        runs: (split, seed) of each of our rows.
        estimate: Of top-1 from the videos that were judged; None without predictions.
        comparison: With the reference arm, of top-1; None where there is none.
        published: The printed number, or None.
        published_split: Its split.
        decimals: The decimals that its source prints, in per cent.
    """

    mean: float | None = None
    runs: frozenset[tuple[str, int]] = frozenset()
    estimate: Estimate | None = None
    comparison: Comparison | None = None
    published: float | None = None
    published_split: str = ""
    decimals: int = 1

    @property
    def half_width(self) -> float | None:
        """Half the width of the accuracy's 95 % interval."""
        interval = self.estimate.interval() if self.estimate else None
        return (interval.high - interval.low) / 2 if interval else None

    @property
    def differs(self) -> bool:
        """Whether it is shown to differ from the reference arm's."""
        return self.comparison is not None and self.comparison.verdict in ("better", "worse")


@dataclass(frozen=True, kw_only=True)
class FilledTable:
    """A table with its numbers.

    Attributes:
        name: The table's name.
        title: What it shows, in a line.
        labels: Each row's label by its key, in order.
        datasets: Those that we ran; where we ran none, those of the published numbers.
        metrics: The accuracies shown, by the names of the view ``rows``.
        cells: By (row's key, dataset, metric).
        published_split: By dataset, the split of most of its published numbers.
        facts: By dataset that we ran: splits, seeds, views and what else a reader must know.
        warnings: What a reader must not overlook.
        footers: What the numbers mean, a line each.
    """

    name: str
    title: str
    labels: Mapping[str, str]
    datasets: Sequence[str]
    metrics: Sequence[str]
    cells: Mapping[tuple[str, str, str], Cell]
    published_split: Mapping[str, str]
    facts: Mapping[str, Mapping[str, str]]
    warnings: Sequence[str]
    footers: Sequence[str]


def render(
    table: str,
    store: ResultStore,
    format: str = "text",
    study: str | None = None,
    protocol: str | None = None,
) -> str:
    """Renders a table with our numbers beside the published ones.

    Args:
        table: A name from ``search_spaces.tables()``.
        store: The results.
        format: One of ``FORMATS``. CSV has a line for each row, dataset and metric, with
            accuracies as fractions; the others have per cents and footers.
        study: The study to show; by default, for each dataset, the one that ran last.
        protocol: The protocol to show, or the beginning of its hash; by default the study's last.

    Raises:
        ValueError: If the table, format, study or protocol is unknown; the message names those
            there are.
    """
    if format not in FORMATS:
        raise ValueError(f"there is no format {format!r}; there are {', '.join(FORMATS)}")
    filled = load(table, store, study, protocol)
    return _csv(filled) if format == "csv" else section(filled).rendered(format)


def load(
    name: str, store: ResultStore, study: str | None = None, protocol: str | None = None
) -> FilledTable:
    """Reads a table's numbers; see ``render``."""
    space, table = search_spaces.find_table(name)
    rows, other_protocols = _rows_of_spaces(store, space.name, table, study, protocol)
    ours = list(dict.fromkeys(row["dataset"] for row in rows))
    every = _printed(table)
    theirs = list(dict.fromkeys([*table.datasets, *(row["dataset"] for row in every)]))
    datasets = ours or theirs
    printed = [row for row in every if row["dataset"] in datasets]
    accuracies = [row for row in printed if row["metric"] in table.metrics]
    shown = {row["key"] for row in accuracies} | {row.key for row in table.rows if row.arm}
    labels = {row.key: row.label for row in table.rows if row.key in shown}
    judged = {dataset: _judged(store, rows, labels, dataset) for dataset in ours}
    of_arm = _grouped(rows, "dataset", "arm")
    cells = {}
    for dataset in datasets:
        top1 = _top1(judged.get(dataset, []))
        for key, metric in product(labels, table.metrics):
            judgement = top1.get(key, {}) if metric == "top1" else {}
            cell = _cell(of_arm.get((dataset, key), ()), accuracies, key, dataset, metric)
            cells[key, dataset, metric] = replace(cell, **judgement)
    facts = {
        dataset: _facts([r for r in rows if r["dataset"] == dataset], labels) for dataset in ours
    }
    known = {row["dataset"] for row in accuracies} if ours else set(theirs)
    splits = {name: _usual_split(accuracies, name) for name in datasets if name in known}
    return FilledTable(
        name=name,
        title=table.title,
        labels=labels,
        datasets=datasets,
        metrics=table.metrics,
        cells=cells,
        published_split=splits,
        facts=facts,
        warnings=_warnings(rows, labels, facts),
        footers=[
            *_our_footers(facts, theirs, rows),
            *other_protocols,
            *_interval_footers(judged, labels, cells),
            *_vertex_footers(rows, labels),
            *_published_footers(printed, splits),
            *_notes(table, printed, labels),
        ],
    )


def _printed(table: Table) -> list[Row]:
    """Returns the table's published numbers, each with its row's key and label."""
    rows = {row.published_key: row for row in table.rows}
    return [
        {**line, "key": rows[line["arm"]].key, "label": rows[line["arm"]].label}
        for line in published().to_pylist()
        if line["table_name"] == table.name
    ]


def _rows_of_spaces(
    store: ResultStore, own: str, table: Table, study: str | None, protocol: str | None
) -> tuple[list[Row], list[str]]:
    """Returns our rows of a table, and a footer for each study of which other protocols have rows.

    A study or protocol that is named is of one space. Rows of the others are those that would be
    shown if none were named, on the datasets of the named one.
    """
    named: dict[str, _OfSpace] = {}
    others: dict[str, _OfSpace] = {}
    refused: list[ValueError] = []
    for space in (own, *table.other_spaces):
        arms = table.arms if space == own else table.arms_of(space)
        try:
            named[space] = _rows_of_space(store, space, arms, study, protocol)
        except ValueError as error:
            refused.append(error)
            others[space] = _rows_of_space(store, space, arms, None, None)
    if not named:
        raise refused[0]
    datasets = {row["dataset"] for rows, _ in named.values() for row in rows}
    rows = [row for found, _ in named.values() for row in found]
    rows += [row for found, _ in others.values() for row in found if row["dataset"] in datasets]
    return rows, [footer for _, footers in (named | others).values() for footer in footers]


def _rows_of_space(
    store: ResultStore, space: str, arms: frozenset[str], study: str | None, protocol: str | None
) -> _OfSpace:
    selections = select_protocols(store, space=space, wanted=protocol)
    with store.connect() as connection:
        rows = _our_rows(connection, space, arms, study, selections)
    return rows, _other_protocols(rows, selections)


def _our_rows(
    connection: Connection,
    space: str,
    arms: frozenset[str],
    study: str | None,
    selections: Mapping[tuple[str, str], Selection],
) -> list[Row]:
    """Returns our test rows of a space's arms: of one study and protocol for each dataset.

    A row that reads several trainings comes once with each.
    """
    of_space = "SELECT DISTINCT study FROM rows WHERE part = 'test' AND space = ? ORDER BY study"
    studies = [name for (name,) in connection.execute(of_space, [space]).fetchall()]
    if study is not None and study not in studies:
        raise ValueError(
            f"there is no study {study!r} with test rows of {space}{meant(study, studies)}; "
            f"there {'are ' + ', '.join(studies) if studies else 'is none'}"
        )
    last: dict[str, Protocol] = {}
    for name, dataset in sorted(selections, key=lambda key: _started(selections[key])):
        if study in (None, name):
            last[dataset] = selections[name, dataset].shown
    shown = [(dataset, one.study, one.protocol) for dataset, one in last.items()]
    answer = connection.execute(
        """
        SELECT r.study, r.arm, r.dataset, r.split, r.seed, r.fusion, r.views, r.top1, r.top5,
               r.mean_class_accuracy, r.videos, r.tuning, r.modality, r.protocol, r.classes,
               t.precision, t.device_kind, t.workers, t.compiled, t.torch, t.notes,
               t.train_videos, t.validation_videos, t.hyperparameters,
               coalesce(r.missing_videos, t.missing_videos) AS missing_videos,
               CASE WHEN r.fusion IN ('awf-simplex', 'awf-train') THEN r.details END AS details
        FROM (SELECT *, unnest(string_split(training_id, '+')) AS trained FROM rows
              WHERE part = 'test' AND space = ? AND list_contains(?, arm)
                AND list_contains(?, concat_ws(chr(0), dataset, study, protocol))) r
        LEFT JOIN trainings t ON t.training_id = r.trained
        ORDER BY r.dataset
        """,
        [space, sorted(arms), ["\0".join(one) for one in shown]],
    )
    found = answer.table.to_pylist()
    found.sort(key=lambda row: (row["dataset"], natural_order(row["split"]), row["seed"]))
    return [{**row, "others": [name for name in studies if name != row["study"]]} for row in found]


def _started(selection: Selection) -> tuple[datetime, str]:
    return selection.shown.started_at, selection.shown.study


def _other_protocols(
    rows: Sequence[Row], selections: Mapping[tuple[str, str], Selection]
) -> list[str]:
    """Returns a footer for each study of which other protocols have rows."""
    shown = dict.fromkeys((row["study"], row["dataset"]) for row in rows)
    return [f"{note}." for key in shown if (note := selections[key].note)]


def _judged(
    store: ResultStore, rows: Sequence[Row], labels: Iterable[str], dataset: str
) -> list[dict[str, Judgements]]:
    """Returns the judgements of a dataset's test videos, by arm in the table's order.

    Each mapping is of one study: arms of two aren't compared.
    """
    arms: dict[tuple[str, str], set[str]] = {}
    for row in rows:
        if row["dataset"] == dataset:
            arms.setdefault((row["study"], row["protocol"]), set()).add(row["arm"])
    judged = []
    for (study, protocol), shown in arms.items():
        found = judgements(store, study=study, dataset=dataset, protocol=protocol, arms=shown)
        judged.append({arm: found[arm] for arm in labels if arm in found})
    return [one for one in judged if one]


def _top1(judged: Iterable[Mapping[str, Judgements]]) -> dict[str, dict[str, Any]]:
    """Returns each arm's top-1 with its variance, and its comparison with its reference."""
    top1 = {}
    for of_study in judged:
        compared = {one.arm: one for one in compare(of_study, reference_of(list(of_study)))}
        for arm, of_arm in of_study.items():
            estimate = aligned(of_arm).contrast([1])
            top1[arm] = {"estimate": estimate, "comparison": compared.get(arm)}
    return top1


def _grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """Returns the rows by their values of some columns."""
    grouped: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        grouped.setdefault(tuple(row[column] for column in columns), []).append(row)
    return grouped


def _cell(rows: Sequence[Row], printed: Sequence[Row], key: str, dataset: str, metric: str) -> Cell:
    values = {(row["split"], row["seed"]): row[metric] for row in rows}
    by_split: dict[str, list[float]] = {}
    for (split, _), value in values.items():
        by_split.setdefault(split, []).append(value)
    mean = fmean(map(fmean, by_split.values())) if values else None
    ours = Cell(mean=mean, runs=frozenset(values))
    theirs = [
        row
        for row in printed
        if (row["key"], row["dataset"], row["metric"]) == (key, dataset, metric)
    ]
    if not theirs:
        return ours
    same_source = [row["value"] for row in printed if row["source"] == theirs[0]["source"]]
    return replace(
        ours,
        published=theirs[0]["value"],
        published_split=theirs[0]["split"],
        decimals=max(map(_decimals, same_source)),
    )


def _facts(rows: Sequence[Row], labels: Mapping[str, str]) -> dict[str, str]:
    """Returns what a reader must know of our numbers on a dataset."""
    missing = {row["missing_videos"] for row in rows} - {None}
    classes = {row["classes"] for row in rows} - {None}
    splits = dict.fromkeys(row["split"] for row in rows)
    arms = _grouped(rows, "arm")

    def by_arm(of: Callable[[Row], str]) -> str:
        return _of_arms(arms, labels, lambda own: map(of, own))

    facts = {
        "study": by_arm(lambda row: row["study"]),
        "protocol": by_arm(lambda row: row["protocol"]),
        "splits": ", ".join(splits),
        "seeds": _list(sorted({row["seed"] for row in rows})),
        "test videos": _of_arms(arms, labels, lambda own: [_test_videos(own)]),
        "missing videos": str(max(missing)) if missing else "unknown",
        "chance level": _list(f"{100 / n:.1f} %" for n in sorted(classes)) or "unknown",
        "views": by_arm(lambda row: row["views"]),
        "modality": by_arm(lambda row: row["modality"] or "unknown"),
        "hyperparameters": by_arm(lambda row: row["tuning"]),
    }
    if any(row["train_videos"] for row in rows):
        facts["trained on"] = _of_arms(arms, labels, lambda own: [_trained_on(own)])
    if any(row["precision"] for row in rows):
        facts["precision"] = by_arm(lambda row: row["precision"] or "unknown")
    if any(_micro_batch(row) != WHOLE_BATCH for row in rows):
        facts["micro-batch"] = by_arm(_micro_batch)
    return facts


def _test_videos(rows: Sequence[Row]) -> str:
    """Returns how many videos a seed of an arm judges, over all splits."""
    return str(sum({row["split"]: row["videos"] for row in rows}.values()))


def _trained_on(rows: Sequence[Row]) -> str:
    """Returns how much of the listed train videos an arm's networks trained on, in all splits."""
    known = [row for row in rows if row["train_videos"]]
    if not known:
        return "unknown"
    trained = sum(row["train_videos"] for row in known)
    held_out = sum(row["validation_videos"] or 0 for row in known)
    return f"{100 * trained / (trained + held_out):.0f} % of train" if held_out else "all of train"


def _micro_batch(row: Row) -> str:
    """Returns the videos of a forward pass where that changes the result, and the passes."""
    settings = json.loads(row["hyperparameters"] or "{}")
    passes = settings.get("accumulation_steps", 1)
    if passes == 1:
        return WHOLE_BATCH
    return f"{math.ceil(settings['batch_size'] / passes)} videos × {passes}"


def _our_footers(
    facts: Mapping[str, Mapping[str, str]], theirs: Sequence[str], rows: Sequence[Row]
) -> list[str]:
    footers = []
    for dataset, known in facts.items():
        said = "; ".join(f"{name} {value}" for name, value in known.items())
        footers.append(f"Ours on {dataset_title(dataset)}: {said}.")
    if facts:
        footers.append(
            "Ours: mean over splits and seeds, in %. Test videos: of all splits; a video counts in "
            "each split that tests it. Hyperparameters are a net's (its arms share the best trial "
            "of its search), an arm's own (it chose among its net's trials), shared (one search "
            "served all arms) or fixed (none was searched)."
        )
    if theirs and not facts:
        footers.append(f"Not run by us: {', '.join(map(dataset_title, theirs))}.")
    if theirs and (alone := [dataset_title(name) for name in facts if name not in theirs]):
        papers = ", ".join(map(dataset_title, theirs))
        footers.append(
            f"The published numbers of this table are of {papers}; there are none of "
            f"{', '.join(alone)}."
        )
    shown = {row["study"] for row in rows}
    if others := sorted({name for row in rows for name in row["others"]} - shown):
        footers.append(f"Other studies in these results: {', '.join(others)}.")
    return footers


def _interval_footers(
    judged: Mapping[str, Sequence[Mapping[str, Judgements]]],
    labels: Mapping[str, str],
    cells: Mapping[tuple[str, str, str], Cell],
) -> list[str]:
    """Returns what ± and the mark mean, where there are any."""
    footers = []
    if any(cell.half_width is not None for cell in cells.values()):
        footers.append(
            "± is half the width of the 95 % interval of top-1 over training seeds and source "
            "videos together; of one seed, over source videos alone: it tells nothing of others."
        )
    for dataset, arms in ((name, one) for name, studies in judged.items() for one in studies):
        found = (cells.get((arm, dataset, "top1"), Cell()).comparison for arm in arms)
        if known := [one for one in found if one is not None]:
            reference = labels[reference_of(list(arms))]
            scope = " or ".join(dict.fromkeys(one.scope for one in known))
            footers.append(
                f"{MARK} on {dataset_title(dataset)}: differs from {reference}; tested against it "
                f"as one of {len(known)}, corrected for their number. It is about {scope}."
            )
    return footers


def _vertex_footers(rows: Sequence[Row], labels: Mapping[str, str]) -> list[str]:
    """Returns which AWF rows are one stream's, as a linear program's optimum is a vertex."""
    alone = dict.fromkeys(labels[row["arm"]] for row in rows if _one_stream(row["details"]))
    if not alone:
        return []
    return [
        f"{', '.join(alone)}: equals one stream of its net in at least one run. The program of AWF "
        "on the simplex is linear, so its optimum is a vertex: one stream whole for each class, "
        "and here the same stream for all."
    ]


def _one_stream(details: str | None) -> bool:
    weights = json.loads(details or "{}").get("weights", [])
    return bool(weights) and all(line == weights[0] and max(line) == 1 for line in weights)


def _published_footers(printed: Sequence[Row], splits: Mapping[str, str]) -> list[str]:
    footers = []
    if said := "; ".join(f"{dataset_title(d)} {split}" for d, split in splits.items() if split):
        footers.append(f"Published, in %; splits unless a cell says otherwise: {said}.")
    if sources := dict.fromkeys(row["source"] for row in printed):
        footers.append(f"Sources: {'; '.join(sources)}.")
    for row in printed:
        if row["metric"] not in METRICS:
            footers.append(f"{row['label']}: {100 * row['value']:g} % {row['note']}.")
    return footers


def _notes(table: Table, printed: Sequence[Row], labels: Mapping[str, str]) -> list[str]:
    """Returns the notes of the table, its rows and their published numbers, each said once."""
    labels_by_note: dict[str, dict[str, None]] = {}
    for row in (row for row in table.rows if row.key in labels):
        of_numbers = [
            line["note"] for line in printed if line["key"] == row.key and line["metric"] in METRICS
        ]
        for note in filter(None, [row.note, *of_numbers]):
            labels_by_note.setdefault(note, {})[row.label] = None
    whole = table.note or (OURS if table.ours else "")
    footers = [f"Note: {whole}."] if whole else []
    for note, whom in labels_by_note.items():
        whose = "" if len(whom) == len(labels) else f"{', '.join(whom)}: "
        footers.append(f"Note: {whose}{note}.")
    return footers


def _warnings(
    rows: Sequence[Row], labels: Mapping[str, str], facts: Mapping[str, Mapping[str, str]]
) -> list[str]:
    warnings = []
    for dataset, known in facts.items():
        title = dataset_title(dataset)
        if known["missing videos"] not in ("0", "unknown"):
            warnings.append(
                f"MISSING VIDEOS: the store lacks {known['missing videos']} videos of {title}. "
                "Our numbers there are of the videos that it has, not of the dataset."
            )
        of_arm: dict[str, set[tuple[str, int]]] = {}
        noted = dict.fromkeys(
            (labels[row["arm"]], row["notes"])
            for row in rows
            if row["dataset"] == dataset and row["notes"]
        )
        warnings += [f"{label} on {title}: {note}." for label, note in noted]
        of_dataset = [row for row in rows if row["dataset"] == dataset]
        if different := environments(of_dataset, labels):
            warnings.append(f"TRAINED ON DIFFERENT MACHINES on {title}: {different}.")
        for row in rows:
            if row["dataset"] == dataset:
                of_arm.setdefault(row["arm"], set()).add((row["split"], row["seed"]))
        every = set().union(*of_arm.values())
        if lacking := [labels[arm] for arm, runs in of_arm.items() if runs != every]:
            warnings.append(
                f"INCOMPLETE on {title}: not every split and seed was run for {', '.join(lacking)}."
            )
    return warnings


def environments(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    """Returns in what the trainings of arms differ that might change a number and is no setting.

    Args:
        rows: The arms' rows, with the columns of ``ENVIRONMENT``; None where nothing is known.
        labels: Label by arm.

    Returns:
        Which arms were trained with what; empty where all were trained alike.
    """
    differing = []
    for column, title in ENVIRONMENT.items():
        known = [row for row in rows if row[column] is not None]
        if len({row[column] for row in known}) > 1:
            arms = _grouped(known, "arm")
            said = _of_arms(arms, labels, partial(_texts, column))
            differing.append(f"{title} {said}")
    return "; ".join(differing)


def _usual_split(printed: Sequence[Row], dataset: str) -> str:
    """Returns the split that most of a dataset's published numbers have."""
    splits = [row["split"] for row in printed if row["dataset"] == dataset]
    return max(splits, key=splits.count) if splits else ""


def _list(values: Iterable[Any]) -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def _texts(column: str, rows: Sequence[Row]) -> list[str]:
    return [str(row[column]) for row in rows]


def _of_arms(
    arms: Mapping[tuple[str], Sequence[Row]],
    labels: Mapping[str, str],
    of: Callable[[Sequence[Row]], Iterable[str]],
) -> str:
    """Returns the value that all arms' rows have, or which arms have which where they differ."""
    whose: dict[str, list[str]] = {}
    for arm, label in labels.items():
        own = arms.get((arm,), ())
        for value in dict.fromkeys(of(own) if own else ()):
            whose.setdefault(value, []).append(label)
    common = max(reversed(whose), key=lambda value: len(whose[value]))
    if len(whose) == 1:
        return common
    rare = (f"{value} ({', '.join(who)})" for value, who in whose.items() if value != common)
    return f"{', '.join(rare)}, {common} (the others)"


def section(table: FilledTable) -> Section:
    """Returns the table as a grid with its notes.

    A dataset's columns are ours, where something was run, then what is published.
    """
    groups, header = [""], ["arm"]
    lines = [[label] for label in table.labels.values()]
    named = tuple(table.metrics) != ("top1",)  # a column that doesn't say is top-1
    for dataset in table.datasets:
        kinds = ["ours"] if dataset in table.facts else []
        kinds += ["published"] if dataset in table.published_split else []
        for kind, metric in product(kinds, table.metrics):
            title = dataset_title(dataset)
            groups.append(f"{title}, {kind}" if named else title)
            header.append(METRICS[metric] if named else kind)
            for line, text in zip(lines, _column(table, dataset, metric, kind), strict=True):
                line.append(text)
    right = [False, *([True] * (len(header) - 1))]
    grid = Grid(upper_header=groups, header=header, rows=lines, right=right)
    return Section(title=table.title, grid=grid, notes=table.footers, warnings=table.warnings)


def _column(table: FilledTable, dataset: str, metric: str, kind: str) -> list[str]:
    """Returns a column's cells in per cent, ours with the decimals of the published."""
    cells = [table.cells[key, dataset, metric] for key in table.labels]
    if kind == "ours":
        decimals = max(cell.decimals for cell in cells)
        marks = any(cell.differs for cell in cells)
        return [_ours(cell, decimals, marks=marks) for cell in cells]
    return [_published(cell, table.published_split[dataset]) for cell in cells]


def _ours(cell: Cell, decimals: int, *, marks: bool) -> str:
    if cell.mean is None:
        return MISSING
    half = cell.half_width
    width = "" if half is None else f" ± {100 * half:.{decimals}f}"
    mark = f" {MARK}" if cell.differs else "  " if marks else ""
    return f"{100 * cell.mean:.{decimals}f}{width}{mark}"


def _published(cell: Cell, usual_split: str) -> str:
    if cell.published is None:
        return MISSING
    where = "" if cell.published_split == usual_split else f" (split {cell.published_split})"
    return f"{100 * cell.published:.{cell.decimals}f}{where}"


def _decimals(fraction: float) -> int:
    """Returns how many decimals, one or two, the fraction has in per cent."""
    return 1 if abs(round(1000 * fraction) - 1000 * fraction) < 1e-6 else 2


_CSV_COLUMNS = (
    *("table", "arm", "label", "dataset", "metric", "unit", "ours", "low", "high", "runs"),
    *("difference", "difference low", "difference high", "p", "verdict"),
    *("published", "published split"),
)


def _csv(table: FilledTable) -> str:
    facts = list(dict.fromkeys(name for known in table.facts.values() for name in known))
    sink = io.StringIO()
    writer = csv.DictWriter(sink, [*_CSV_COLUMNS, *facts], lineterminator="\n")
    writer.writeheader()
    for (key, dataset, metric), cell in table.cells.items():
        line = [table.name, key, table.labels[key], dataset, metric]
        line += ["fraction", _number(cell.mean)]
        line += [*_ends(cell.estimate.interval() if cell.estimate else None), str(len(cell.runs))]
        one = cell.comparison
        line += [_number(one.estimate.value if one else None)]
        line += [*_ends(one.interval if one else None), _number(one.p_value if one else None)]
        line += [one.verdict if one else "", _number(cell.published), cell.published_split]
        columns = dict(zip(_CSV_COLUMNS, line, strict=True))
        writer.writerow({**columns, **table.facts.get(dataset, {})})
    return sink.getvalue().rstrip("\n")


def _ends(interval: Interval | None) -> tuple[str, str]:
    return (_number(interval.low), _number(interval.high)) if interval else ("", "")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
