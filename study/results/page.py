"""A study's results as one HTML page that refers to nothing outside it."""

import base64
import hashlib
import shlex
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import jinja2
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure

import search_spaces
from study.data.datasets.catalog import dataset_title
from study.durations import told_duration, told_left
from study.results import plots, search_plots, tables
from study.results.answer import answer
from study.results.charts import gains_chart, weights_chart
from study.results.confusion import confusion, frequent_classes, names_shown, shares
from study.results.cost_plots import cost_grid, cost_plot
from study.results.drawing import COLOURS, svg
from study.results.figures import Source, embeddings
from study.results.findings import arm_labels, find, sections, studies
from study.results.grids import MISSING, Grid, Section, natural_order
from study.results.importance import importances
from study.results.live import POLL_SECONDS
from study.results.protocols import Protocol, newest_protocols, select_protocols
from study.results.side_by_side import read_side, side_by_side
from study.results.status import RunningJob, read_statuses
from study.results.store import ResultStore

__all__ = ["render_comparison", "render_page", "stream_page"]

TEMPLATES = Path(__file__).parent / "templates"
PARTS = {
    "tables": ("tables", "Tables"),
    "datasets": ("comparisons", "Comparisons"),
    "searches": ("search", "Search"),
    "curves": ("trainings", "Trainings"),
    "failed": ("failures", "Failures"),
}

SEARCHES_DRAWN = 24  # more would make the page slow; --figures draws all

Live = Literal["poll", "reload"]
Row = Mapping[str, Any]


def render_page(
    store: ResultStore,
    study: str,
    *,
    against: str | None = None,
    protocol: str | None = None,
    live: Live | None = None,
) -> str:
    """Returns the page of a study.

    Args:
        store: The results.
        study: The study's name.
        against: The arm that the others are compared with; by default plain two-stream where the
            study has it, else its first.
        protocol: The protocol to show, or the beginning of its hash; by default the last under
            which the study has rows.
        live: Whether the page asks its server for a newer one (``poll``), or reloads itself as the
            file that it is (``reload``).

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
    shown = {name: one.shown for name, one in selections.items()} or newest_protocols(store, study)
    hashes = {name: one.protocol for name, one in shown.items()}
    rows = _of_protocols(_lines(store, "rows", study=study, part="test"), hashes)
    trials = _of_protocols(_lines(store, "trials", study=study), hashes)
    trainings = _trainings(store, study, hashes, [*rows, *trials])
    sources = [
        Source(store, shown[name], find(store, shown[name], against=against))
        for name in _order(rows, "dataset")
    ]
    found = [one.found for one in sources]
    answers = [
        answer(one, [row for row in rows if row["dataset"] == one.dataset], trainings)
        for one in found
    ]
    labels = arm_labels(_order(trainings, "space"), [line["arm"] for line in [*rows, *trials]])
    parts = {
        "tables": _tables(store, study, protocol),
        "datasets": [
            {
                **_dataset(one, whole=live is None),
                "environments": answered.environments,
                "number": number,
            }
            for number, (one, answered) in enumerate(zip(sources, answers, strict=True))
        ],
        "searches": _searches(trials, labels, whole=live is None),
        "curves": _curves(store, trainings, rows),
        "failed": [line for line in trainings if line["status"] == "failed"],
    }
    now = _now(store, study)
    request = store.files(f"studies/{study}").get("study.toml")
    return _render(
        "study.html",
        live=live,
        study=study,
        now=now,
        parts=[
            ("answer", "Answer"),
            *([("now", "Now")] if now else []),
            ("run", "What was run"),
            *(PARTS[name] for name, part in parts.items() if part),
            ("repeat", "How to repeat it"),
        ],
        answers=answers,
        summary=_summary(trainings, rows),
        protocols=[_protocol(one) for one in shown.values()],
        notes=[one.note for one in selections.values() if one.note],
        warnings=_missing(trainings),
        request=request.decode() if request else None,
        command=shlex.join(_command(store, study)),
        **parts,
    )


def render_comparison(
    studies_of: Sequence[tuple[ResultStore, str]],
    *,
    against: str | None = None,
    protocol: str | None = None,
    live: Live | None = None,
) -> str:
    """Returns the page of several studies side by side, each less the first.

    Args:
        studies_of: Each study's results and its name.
        against: The arm that each study's others are compared with.
        protocol: The protocol to show, as of ``render_page``.
        live: As of ``render_page``.

    Raises:
        ValueError: If a study has no rows, or no dataset is in two of them.
    """
    names = [study for _, study in studies_of]
    places = {
        study if names.count(study) == 1 else f"{study} in {store.root}": (store, study)
        for store, study in studies_of
    }
    if len(places) < len(names):
        raise ValueError(f"a study can't be compared with itself, but got {', '.join(names)}")
    sides = [
        read_side(store, study, name, against=against, protocol=protocol)
        for name, (store, study) in places.items()
    ]
    return _render(
        "comparison.html",
        live=live,
        title=" against ".join(reversed(places)),
        compared=side_by_side(sides),
        places={name: store.root for name, (store, _) in places.items()},
    )


def _now(store: ResultStore, study: str) -> dict[str, Any] | None:
    """Returns where a study stands that is not done, with the curves of what runs."""
    status = next((one for one in read_statuses(store) if one.study == study), None)
    if status is None or status.state == "done":
        return None
    running = status.state == "running" and not status.interrupted
    curves: dict[str, list[dict[str, Any]]] = {}
    for line in _lines(store, "epochs", training_id=[job.training_id for job in status.jobs]):
        curves.setdefault(line["training_id"], []).append(line)
    shown = {
        job.label: [curves[job.training_id]] for job in status.jobs if job.training_id in curves
    }
    return {
        "status": status,
        "state": "interrupted" if status.interrupted else status.state,
        "left": told_left(status.seconds_left),
        "jobs": [(job, _left(job)) for job in status.jobs] if running else [],
        "updated": datetime.fromtimestamp(status.updated_at, UTC),
        "plot": _drawn(
            plots.epochs_plot(shown), "Training loss and validation top-1 by epoch of what runs"
        )
        if running and shown
        else None,
    }


def _drawn(figure: Figure, label: str) -> Markup:
    """Returns a figure for a template; no two of a page may have the same label."""
    return Markup(svg(figure, label))


def _left(job: RunningJob) -> str:
    return MISSING if job.seconds_left is None else f"about {told_duration(job.seconds_left)}"


def _render(template: str, *, live: Live | None = None, **content: Any) -> str:
    return "".join(stream_page(template, live=live, **content))


def stream_page(template: str, *, live: Live | None = None, **content: Any) -> Iterator[str]:
    """Fills in a template piece by piece, with the style and the script that every page has.

    Args:
        template: The template's file name.
        live: As of ``render_page``.
        **content: What the template shows; of an iterator, one item at a time.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = _base64
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8")
    digest = _base64(hashlib.sha256(script.encode()).digest())
    return environment.get_template(template).generate(
        title_of=dataset_title,
        style=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=f"sha256-{digest}",
        live=live,
        seconds=POLL_SECONDS,
        **content,
    )


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _command(store: ResultStore, study: str) -> list[str]:
    path = f"{store.root.rstrip('/')}/studies/{study}/study.toml"
    return ["python", "-m", "study.run", "--config", path]


def _protocol(shown: Protocol) -> dict[str, Any]:
    """Returns how a protocol chooses the settings, and all that it holds."""
    leaves = [[name, str(value)] for name, value in shown.leaves().items()]
    grid = Grid(header=("setting", "value"), rows=leaves, right=(False, False))
    return {
        "dataset": shown.dataset,
        "protocol": shown.protocol,
        "chosen": _chosen(shown.settings),
        "settings": Section(title=f"Settings on {shown.dataset}", grid=grid) if leaves else None,
    }


def _chosen(settings: Mapping[str, Any]) -> str:
    """Returns how a protocol's hyperparameters are chosen, in a sentence."""
    tuning = settings.get("tuning")
    if tuning is None:
        return "how the settings were chosen is not known."
    if tuning["kind"] == "fixed":
        return "nothing was searched; all arms were trained at the settings given."
    whose = {
        "net": "each network has a search of its own, whose best trial all of its arms take",
        "own": "each network has a search of its own, among whose trials each arm chooses",
        "shared": "one search serves all arms",
    }
    return (
        f"{whose[tuning['kind']]}. A search is {tuning['trials']} trials, proposed by "
        f"{tuning['sampler']} and judged by validation top-1 alone; test videos were scored only "
        "for the rows shown."
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


def _summary(trainings: Sequence[Row], rows: Sequence[Row]) -> dict[str, str]:
    """Returns what was run, in a few words each; trials have seeds that no row has."""
    finished = [line for line in trainings if line["status"] == "finished"]
    seconds = sum(line["seconds"] or 0 for line in trainings)
    commits = {
        (line["git_commit"] or "")[:10] + ("+" if line["dirty"] else "") for line in finished
    }
    return {
        "system": ", ".join(_order(trainings, "space")),
        "datasets": ", ".join(dataset_title(name) for name in _order(trainings, "dataset")),
        "trainings": f"{len(finished)} finished, {len(trainings) - len(finished)} failed",
        "splits × seeds": f"{len(_order(rows, 'split'))} × {len(_order(rows, 'seed'))}",
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


def _dataset(of: Source, *, whole: bool) -> dict[str, Any]:
    """Returns what is shown of one dataset: arms compared, by video, by class and by cost.

    Args:
        of: What the study has on it.
        whole: Whether to draw what a page that is renewed each few seconds can do without.
    """
    found = of.found
    title, reference = dataset_title(found.dataset), found.labels[found.reference]
    return {
        "name": found.dataset,
        "reference": reference,
        "sections": sections(found, found.labels),
        "plot": _drawn(
            plots.comparison_plot(found.comparisons, found.labels, reference=reference),
            f"Top-1 on {title} less that of {reference}, with intervals",
        )
        if found.comparisons
        else None,
        "cost": _cost(of) if whole else None,
        "gains": gains_chart(found),
        "weights": weights_chart(of.weights, found.labels),
        "features": _features(of) if whole else None,
        "best": found.best_arm,
        "confusions": _confusions(of),
        "predicted": bool(found.judged),
    }


def _cost(of: Source) -> dict[str, Any] | None:
    """Returns accuracy against cost as a figure and as a table."""
    if not of.costs:
        return None
    title, labels = f"Accuracy and cost on {dataset_title(of.found.dataset)}", of.found.labels
    grid = cost_grid(of.costs, of.accuracies, labels)
    label = f"{title}: the numbers are in the table"
    return {
        "section": Section(title=title, grid=grid),
        "plot": _drawn(cost_plot(of.costs, of.accuracies, labels), label),
    }


def _features(of: Source) -> Markup | None:
    """Returns the embedding of the best arm's network, or of the first that has features."""
    best = of.found.best_arm
    for arm, figure in embeddings(of, [best, *(arm for arm in of.found.labels if arm != best)]):
        name = f"{of.found.labels[arm]} on {dataset_title(of.found.dataset)}"
        return _drawn(figure, f"Test videos of 15 classes by their features: {name}")
    return None


def _confusions(of: Source) -> dict[str, Any] | None:
    """Returns each arm's confusions as shares of the true class, all of the same classes."""
    counted, _ = of.counted
    arms = [arm for arm in of.found.labels if arm in counted]
    classes = frequent_classes(*counted.values())
    counts = {arm: confusion(counted[arm], classes) for arm in arms}
    if not arms:
        return None
    named = names_shown(np.sum(list(counts.values()), axis=0), of.named(classes))
    size = len(named)
    return {
        "names": named,
        "arms": [
            {
                "arm": arm,
                "label": of.found.labels[arm],
                "lines": list(
                    zip(
                        named,
                        counts[arm].sum(1)[:size].tolist(),
                        shares(counts[arm])[:size, :size].tolist(),
                        strict=True,
                    )
                ),
            }
            for arm in arms
        ],
    }


def _searches(
    lines: Sequence[Row], labels: Mapping[str, str], *, whole: bool
) -> list[dict[str, Any]]:
    """Returns each dataset's searches: the best trials, and figures of the first of them.

    Args:
        lines: Lines of view ``trials``.
        labels: What to call the arms.
        whole: As of ``_dataset``.
    """
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    by_arm: dict[str, dict[str, list[list[dict[str, Any]]]]] = {}
    for number, (key, trials) in enumerate(search_plots.by_search(lines).items()):
        arm, dataset, split, seed = key
        title = f"{arm} on {dataset_title(dataset)}, split {split}, search seed {seed}"
        complete = [t for t in trials if t["state"] == "complete" and t["validation_top1"]]
        one = {
            "title": title,
            "plots": _of_search(trials, title, whole=whole) if number < SEARCHES_DRAWN else [],
            "states": {
                state: sum(trial["state"] == state for trial in trials)
                for state in ("complete", "pruned", "failed")
            },
            "best": max(complete, key=lambda t: t["validation_top1"], default=None),
        }
        by_dataset.setdefault(dataset, []).append(one)
        by_arm.setdefault(dataset, {}).setdefault(arm, []).append(trials)
    return [
        {
            "dataset": dataset,
            "of": of,
            "expected": _expected(dataset, by_arm[dataset], labels) if whole else None,
        }
        for dataset, of in by_dataset.items()
    ]


def _of_search(trials: Sequence[Row], title: str, *, whole: bool) -> list[Markup]:
    """Returns a search's figures: by trial and value, as lines, and what explains it."""
    drawn = [
        _drawn(
            search_plots.search_plot(trials),
            f"Validation top-1 by trial and by each value: {title}",
        )
    ]
    if not whole:
        return drawn
    if any(trial["validation_top1"] is not None for trial in trials):
        lines = search_plots.parallel_plot(trials)
        drawn.append(_drawn(lines, f"Each trial as a line through its values: {title}"))
    if found := importances(trials):
        complete = sum(trial["state"] == "complete" for trial in trials)
        figure = search_plots.importances_plot(found, complete=complete)
        said = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found.items())
        drawn.append(_drawn(figure, f"What explains validation top-1: {title}: {said}"))
    return drawn


def _expected(
    dataset: str, by_arm: Mapping[str, Sequence[Sequence[Row]]], labels: Mapping[str, str]
) -> Markup:
    """Returns the expected best by budget of the searches that found most."""

    def found(arm: str) -> float:
        return max(t["validation_top1"] or 0.0 for trials in by_arm[arm] for t in trials)

    chosen = sorted(by_arm, key=found, reverse=True)[: len(COLOURS)]
    figure = search_plots.expected_best_plot(
        {arm: of for arm, of in by_arm.items() if arm in chosen}, labels
    )
    name = dataset_title(dataset)
    return _drawn(figure, f"Expected best validation top-1 by trials and by hours on {name}")


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
            label = f"Training loss and validation top-1 by epoch on {dataset_title(dataset)}"
            plot = _drawn(plots.epochs_plot(curves), label)
            shown.append({"dataset": dataset, "plot": plot})
    return shown
