"""A study's results as one HTML page that refers to nothing outside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import jinja2
from markupsafe import Markup

import search_spaces
from study.data.datasets.catalog import dataset_title
from study.results import class_plots, plots, search_plots, tables
from study.results.drawing import svg
from study.results.findings import find, sections, studies
from study.results.grids import natural_order
from study.results.protocols import (
    ENVIRONMENT,
    Protocol,
    newest_protocols,
    select_protocols,
)
from study.results.store import ResultStore

__all__ = ["render_page"]

Row = Mapping[str, Any]


def render_page(
    store: ResultStore, study: str, *, against: str | None = None, protocol: str | None = None
) -> str:
    """Returns the page of a study.

    Args:
        store: The results.
        study: The study's name.
        against: The arm that the others are compared with; by default plain two-stream where the
            study has it, else its first.
        protocol: The protocol to show, or the beginning of its hash; by default the last under
            which the study has rows.

    Returns:
        A whole HTML document.

    Raises:
        ValueError: If there is no such study, or no such arm or protocol in it.
    """
    known = studies(store)
    if study not in known:
        raise ValueError(f"there is no study {study!r}; there are {', '.join(known) or 'none'}")
    selections = {
        dataset: one
        for (_, dataset), one in select_protocols(store, study=study, wanted=protocol).items()
    }
    # Before a study has rows, the page shows what has been trained under the last protocol.
    shown = {name: one.shown.protocol for name, one in selections.items()} or newest_protocols(
        store, study
    )
    rows = _of_protocols(_lines(store, "rows", study=study, part="test"), shown)
    trials = _of_protocols(_lines(store, "trials", study=study), shown)
    trainings = _trainings(store, study, shown, [*rows, *trials])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        study=study,
        title_of=dataset_title,
        summary={**_summary(trainings), "protocol": ", ".join(shown.values())},
        notes=[one.note for one in selections.values() if one.note],
        warnings=_missing(trainings),
        failed=[line for line in trainings if line["status"] == "failed"],
        tables=_tables(store, study, protocol),
        datasets=[
            _dataset(store, selections[name].shown, rows, trainings, against)
            for name in _order(rows, "dataset")
        ],
        searches=_searches(trials),
        curves=_curves(store, trainings, rows),
    )


def _lines(store: ResultStore, view: str, **equal: Any) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = store.read(view, **equal).to_pylist()
    return lines


def _of_protocols(lines: Sequence[Row], shown: Mapping[str, str]) -> list[Row]:
    """Returns the lines that are of their dataset's protocol."""
    return [line for line in lines if line["protocol"] == shown.get(line["dataset"])]


def _trainings(
    store: ResultStore, study: str, shown: Mapping[str, str], lines: Sequence[Row]
) -> list[Row]:
    """Returns the trainings of rows and trials, and those that the study ran besides."""
    named = {name for line in lines for name in (line["training_id"] or "").split("+")} - {""}
    every = [
        *_lines(store, "trainings", training_id=named),
        *_of_protocols(_lines(store, "trainings", study=study), shown),
    ]
    return list({line["training_id"]: line for line in every}.values())


def _summary(trainings: Sequence[Row]) -> dict[str, str]:
    finished = [line for line in trainings if line["status"] == "finished"]
    seconds = sum(line["seconds"] or 0 for line in trainings)
    commits = {
        (line["git_commit"] or "")[:10] + ("+" if line["dirty"] else "") for line in finished
    }
    return {
        "system": ", ".join(_order(trainings, "space")),
        "datasets": ", ".join(dataset_title(name) for name in _order(trainings, "dataset")),
        "trainings": f"{len(finished)} finished, {len(trainings) - len(finished)} failed",
        "splits × seeds": f"{len(_order(trainings, 'split'))} × {len(_order(trainings, 'seed'))}",
        "time in training": f"{seconds / 3600:.1f} h" if seconds > 3600 else f"{seconds:.0f} s",
        "device": ", ".join(_order(finished, "device")) or "–",
        "started": min(
            (f"{line['started_at']:%Y-%m-%d %H:%M} UTC" for line in trainings), default="–"
        ),
        "code": ", ".join(sorted(commits)) or "–",
    }


def _missing(trainings: Sequence[Row]) -> list[str]:
    worst: dict[str, int] = {}
    for line in trainings:
        missing = line["missing_videos"] or 0
        worst[line["dataset"]] = max(missing, worst.get(line["dataset"], 0))
    return [
        f"{count} videos of {dataset_title(dataset)} are missing from the clip store. These are "
        "numbers of the videos that were there, not of the dataset."
        for dataset, count in worst.items()
        if count
    ]


def _order(lines: Sequence[Row], column: str) -> list[str]:
    """Returns the different values of a column, sorted, numbers by their size."""
    return sorted({str(line[column]) for line in lines} - {"None"}, key=natural_order)


def _tables(store: ResultStore, study: str, protocol: str | None) -> list[dict[str, Any]]:
    """Returns the papers' tables of which the study has any row, as sections."""
    shown = []
    rows = _lines(store, "rows", study=study)
    arms = {row["arm"] for row in rows}
    spaces = [space for space in _order(rows, "space") if space in search_spaces.names()]
    for name in dict.fromkeys(
        name for space in spaces for name in search_spaces.tables_showing(space, arms)
    ):
        try:
            table = tables.load(name, store, study, protocol)
        except ValueError:
            continue  # the study has no test row of the system
        if table.facts:
            metrics = ", ".join(search_spaces.METRICS[metric] for metric in table.metrics)
            shown.append({"section": tables.section(table), "metrics": metrics})
    return shown


def _dataset(
    store: ResultStore,
    shown: Protocol,
    rows: Sequence[Row],
    trainings: Sequence[Row],
    against: str | None,
) -> dict[str, Any]:
    """Returns what is shown of one dataset: arms compared, and the best one's confusions."""
    rows = [row for row in rows if row["dataset"] == shown.dataset]
    machines = {line["training_id"]: line for line in trainings}
    trained = [
        {"arm": row["arm"], **{name: machines[one][name] for name in ENVIRONMENT}}
        for row in rows
        for one in row["training_id"].split("+")
        if one in machines
    ]
    found = find(store, shown, against=against)
    mean = {arm: fmean(row["top1"] for row in rows if row["arm"] == arm) for arm in found.labels}
    best = max(mean, key=mean.__getitem__)
    predicted = _lines(
        store,
        "predictions",
        study=shown.study,
        dataset=shown.dataset,
        protocol=shown.protocol,
        part="test",
        arm=best,
    )
    reference = found.labels[found.reference]
    return {
        "name": shown.dataset,
        "reference": reference,
        "sections": sections(found, found.labels),
        "environments": tables.environments(trained, found.labels),
        "plot": Markup(
            svg(
                plots.comparison_plot(found.comparisons, found.labels, reference=reference),
                f"comparison {shown.dataset}",
            )
        )
        if found.comparisons
        else None,
        "best": found.labels[best],
        "confusion": _confusion(predicted, f"{shown.dataset} {best}") if predicted else None,
        "predicted": bool(found.judged),
    }


def _confusion(lines: Sequence[Row], title: str) -> Markup:
    names = {line["label"]: line["video"].partition("/")[0] for line in lines}
    labels = [line["label"] for line in lines]
    predicted = [line["predicted"] for line in lines]
    classes = class_plots.frequent_classes(labels, predicted)
    counts = class_plots.confusion(labels, predicted, classes)
    figure = class_plots.confusion_plot(counts, [names.get(c, str(c)) for c in classes])
    return Markup(svg(figure, f"confusion {title}"))


def _searches(lines: Sequence[Row]) -> list[dict[str, Any]]:
    """Returns each search of a study's trials with its plot and the best trial."""
    searches = []
    for (arm, dataset, split, seed), trials in search_plots.by_search(lines).items():
        complete = [t for t in trials if t["state"] == "complete" and t["validation_top1"]]
        searches.append(
            {
                "title": f"{arm} on {dataset_title(dataset)}, split {split}, search seed {seed}",
                "plot": Markup(
                    svg(search_plots.search_plot(trials), f"{arm} {dataset} {split} {seed}")
                ),
                "states": {
                    state: sum(trial["state"] == state for trial in trials)
                    for state in ("complete", "pruned", "failed")
                },
                "best": max(complete, key=lambda t: t["validation_top1"], default=None),
            }
        )
    return searches


def _curves(
    store: ResultStore, trainings: Sequence[Row], rows: Sequence[Row]
) -> list[dict[str, Any]]:
    """Returns each dataset's curves by network, of the trainings that the rows come from."""
    reported = {name for row in rows for name in row["training_id"].split("+")}
    chosen = [line for line in trainings if line["training_id"] in reported]
    epochs = _lines(store, "epochs", training_id=reported)
    shown = []
    for dataset in _order(chosen, "dataset"):
        here = [training for training in chosen if training["dataset"] == dataset]
        if curves := plots.curves_by_network(here, epochs):
            plot = svg(plots.epochs_plot(curves), f"epochs {dataset}")
            shown.append({"dataset": dataset, "plot": Markup(plot)})
    return shown
