"""Every figure of a study, from its results: what ``study.report --figures`` writes."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from models.fusion import FUSIONS
from search_spaces.space import ENSEMBLE
from study.results import class_plots, cost_plots, plots, search_plots
from study.results.budget import arm_costs
from study.results.comparison import class_gains
from study.results.confusion import confusion, count_confusions, frequent_classes
from study.results.drawing import save
from study.results.embedding import (
    LEAST_VIDEOS,
    classes_to_show,
    embed,
    embedding_plot,
    fused_features,
)
from study.results.findings import Findings, find, selected
from study.results.importance import importances
from study.results.protocols import Protocol
from study.results.rows import load_scores
from study.results.statistics import aligned
from study.results.store import ResultStore

__all__ = ["Drawn", "figures", "write_figures"]


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A figure and what it is called.

    Attributes:
        name: Dataset, kind and arms, as a file is named by.
        figure: The figure.
    """

    name: str
    figure: Figure


def write_figures(
    store: ResultStore,
    study: str,
    folder: Path,
    *,
    against: str | None = None,
    protocol: str | None = None,
) -> list[Path]:
    """Writes every figure of a study as PNG, SVG and PDF.

    Args:
        store: The results.
        study: The study's name.
        folder: Where to; it is made where it is not there.
        against: The arm that the others are compared with; see ``comparison.reference_of``.
        protocol: The protocol to show, or the beginning of its hash; by default the last.

    Returns:
        The files.

    Raises:
        ValueError: If there is no such study, or no such arm or protocol in it.
        NotADirectoryError: If the folder is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"--figures {folder} is a file; name a folder")
    drawn = figures(store, study, against=against, protocol=protocol)
    first = next(drawn, None)
    folder.mkdir(parents=True, exist_ok=True)
    every = () if first is None else (first, *drawn)
    return [path for one in every for path in save(one.figure, folder, one.name)]


def figures(
    store: ResultStore, study: str, *, against: str | None = None, protocol: str | None = None
) -> Iterator[Drawn]:
    """Yields every figure of a study; those that its results say nothing for are left out.

    Args:
        store: The results.
        study: The study's name.
        against: The arm that the others are compared with; see ``comparison.reference_of``.
        protocol: The protocol to show, or the beginning of its hash; by default the last.

    Raises:
        ValueError: If there is no such study, or no such arm or protocol in it.
    """
    for selection in selected(store, study, protocol=protocol):
        shown = selection.shown
        of = _Source(store, shown, find(store, shown, against=against))
        for draw in _KINDS:
            for name, figure in draw(of):
                yield Drawn(name=f"{shown.dataset}-{name}", figure=figure)


class _Source:
    """What a study has on one dataset under one protocol, read when it is drawn."""

    def __init__(self, store: ResultStore, shown: Protocol, found: Findings) -> None:
        self.store = store
        self.found = found
        self.of = {"study": shown.study, "dataset": shown.dataset, "protocol": shown.protocol}

    @cached_property
    def counted(self) -> tuple[dict[str, dict[tuple[int, int], int]], dict[int, str]]:
        """By arm the test judgements by true and predicted class, and the true classes' names."""
        return count_confusions(self.store, **self.of)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The test rows of all arms, in the arms' order, by split and seed."""
        lines = self.store.read("rows", part="test", **self.of).to_pylist()
        place = {arm: i for i, arm in enumerate(self.found.labels)}
        return sorted(lines, key=lambda row: (place[row["arm"]], row["split"], row["seed"]))

    @cached_property
    def trainings(self) -> list[dict[str, Any]]:
        """The trainings that the rows read."""
        ids = {name for row in self.rows for name in row["training_id"].split("+")}
        lines: list[dict[str, Any]] = self.store.read("trainings", training_id=ids).to_pylist()
        return lines

    @cached_property
    def epochs(self) -> list[dict[str, Any]]:
        """The epochs of these trainings."""
        ids = [line["training_id"] for line in self.trainings]
        lines: list[dict[str, Any]] = self.store.read("epochs", training_id=ids).to_pylist()
        return lines


_Named = Iterator[tuple[str, Figure]]


def _compared(of: _Source) -> _Named:
    found = of.found
    if found.comparisons:
        reference = found.labels[found.reference]
        figure = plots.comparison_plot(found.comparisons, found.labels, reference=reference)
        yield f"arms-against-{found.reference}", figure


def _gains(of: _Source) -> _Named:
    found = of.found
    for one in found.comparisons:
        yield (
            f"class-gains-{one.arm}-against-{found.reference}",
            class_plots.class_gains_plot(
                class_gains(found.judged[found.reference], found.judged[one.arm]),
                arm=found.labels[one.arm],
                reference=found.labels[found.reference],
            ),
        )


def _confusions(of: _Source) -> _Named:
    found = of.found
    counted, _ = of.counted
    for arm in found.judged:
        classes = frequent_classes(counted[arm])
        counts = confusion(counted[arm], classes)
        yield f"confusion-{arm}", class_plots.confusion_plot(counts, _named(of, classes))
    for one in found.comparisons:
        ours, theirs = counted[one.arm], counted[found.reference]
        classes = frequent_classes(ours, theirs)
        yield (
            f"confusion-{one.arm}-less-{found.reference}",
            class_plots.confusion_difference_plot(
                confusion(ours, classes),
                confusion(theirs, classes),
                _named(of, classes),
                arm=found.labels[one.arm],
                other=found.labels[found.reference],
            ),
        )


def _named(of: _Source, classes: Iterable[int]) -> list[str]:
    _, names = of.counted
    return [names.get(label, str(label)) for label in classes]


def _weights(of: _Source) -> _Named:
    for arm, weights in class_plots.fusion_weights(of.rows).items():
        names = _named(of, range(weights.shape[1]))
        streams = _streams(of, arm)
        if len(streams) == weights.shape[2]:
            label = of.found.labels[arm]
            figure = class_plots.fusion_weights_plot(weights, names, streams, arm=label)
            yield f"fusion-weights-{arm}", figure


def _streams(of: _Source, arm: str) -> list[str]:
    """Returns the streams that an arm's scores are of, in alphabetical order."""
    ids = next(row["scoring_id"] for row in of.rows if row["arm"] == arm).split("+")
    lines = of.store.read("scores", keys=ids, columns=["stream"], scoring_id=ids, part="test")
    return sorted(lines["stream"].unique().to_pylist())


def _embeddings(of: _Source) -> _Named:
    """Yields each net's embedding at its first split and seed, by the first arm of all streams."""
    seen: set[str] = set()
    for row in reversed({row["arm"]: row for row in reversed(of.rows)}.values()):
        name = row["scoring_id"]
        ensemble = row["fusion"] == ENSEMBLE
        if name in seen or ensemble or FUSIONS[row["fusion"]].stream is not None:
            continue
        seen.add(name)
        parts = load_scores(of.store, name)
        if "test" not in parts or not parts["test"].features:
            continue  # no arm that reads features asked for them
        test = parts["test"]
        classes, videos = classes_to_show(test.labels.tolist())
        if len(videos) < LEAST_VIDEOS:
            continue
        shown = {stream: matrix[videos] for stream, matrix in test.features.items()}
        yield (
            f"features-{row['arm']}",
            embedding_plot(
                {stream: embed(matrix) for stream, matrix in fused_features(shown).items()},
                test.labels[videos].tolist(),
                dict(zip(classes, _named(of, classes), strict=True)),
                arm=of.found.labels[row["arm"]],
            ),
        )


def _cost(of: _Source) -> _Named:
    costs = arm_costs(of.rows, of.trainings, of.epochs)
    accuracies = {arm: aligned(judged).contrast([1]) for arm, judged in of.found.judged.items()}
    if any(cost.arm in accuracies for cost in costs):
        yield "accuracy-against-cost", cost_plots.cost_plot(costs, accuracies, of.found.labels)


def _searches(of: _Source) -> _Named:
    lines = of.store.read("trials", **of.of).to_pylist()
    searches = search_plots.by_search(lines)
    for (arm, _, split, seed), trials in searches.items():
        name = f"{arm}-split-{split}-seed-{seed}"
        yield f"search-{name}", search_plots.search_plot(trials)
        if any(trial["validation_top1"] is not None for trial in trials):
            yield f"search-lines-{name}", search_plots.parallel_plot(trials)
        if shares := importances(trials):
            complete = sum(trial["state"] == "complete" for trial in trials)
            figure = search_plots.importances_plot(shares, complete=complete)
            yield f"search-importances-{name}", figure
    by_arm: dict[str, list[list[dict[str, Any]]]] = {}
    for (arm, *_), trials in searches.items():
        by_arm.setdefault(arm, []).append(trials)
    if by_arm:
        yield "expected-best", search_plots.expected_best_plot(by_arm, of.found.labels)


def _curves(of: _Source) -> _Named:
    if curves := plots.curves_by_network(of.trainings, of.epochs):
        yield "epochs", plots.epochs_plot(curves)


_KINDS = (_compared, _gains, _confusions, _weights, _embeddings, _cost, _searches, _curves)
