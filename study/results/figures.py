"""Every figure of a study, from its results: what ``study.report --figures`` writes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from models.fusion import FUSIONS
from search_spaces.space import ENSEMBLE
from study.results import class_plots, cost_plots, plots, search_plots
from study.results.budget import ArmCost, arm_costs
from study.results.class_plots import fusion_weights
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
from study.results.statistics import Estimate, aligned
from study.results.store import ResultStore

__all__ = ["Drawn", "Source", "embeddings", "figures", "write_figures"]


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
        of = Source(store, shown, find(store, shown, against=against))
        for draw in _KINDS:
            for name, figure in draw(of):
                yield Drawn(name=f"{shown.dataset}-{name}", figure=figure)


class Source:
    """What a study has on one dataset under one protocol, read when it is drawn.

    Attributes:
        store: The results.
        found: The arms compared.
        of: Study, dataset and protocol, as conditions of a read.

    Args:
        store: The results.
        shown: Study, dataset and protocol.
        found: The arms compared.
    """

    def __init__(self, store: ResultStore, shown: Protocol, found: Findings) -> None:
        self.store = store
        self.found = found
        self.of: dict[str, Any] = {
            "study": shown.study,
            "dataset": shown.dataset,
            "protocol": shown.protocol,
        }

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

    @cached_property
    def accuracies(self) -> dict[str, Estimate]:
        """The top-1 of each arm that has predictions."""
        return {arm: aligned(judged).contrast([1]) for arm, judged in self.found.judged.items()}

    @cached_property
    def costs(self) -> list[ArmCost]:
        """What these arms' networks cost."""
        costs = arm_costs(self.rows, self.trainings, self.epochs)
        return [cost for cost in costs if cost.arm in self.accuracies]

    @cached_property
    def weights(self) -> dict[str, tuple[np.ndarray, list[str], list[str]]]:
        """By arm whose fusion fits weights: these (R, N, S), the classes and the streams."""
        found = {}
        for arm, weights in fusion_weights(self.rows).items():
            streams = self._streams(arm)
            if len(streams) == weights.shape[2]:
                found[arm] = weights, self.named(range(weights.shape[1])), streams
        return found

    def _streams(self, arm: str) -> list[str]:
        """Returns the streams that an arm's scores are of, in alphabetical order."""
        ids = next(row["scoring_id"] for row in self.rows if row["arm"] == arm).split("+")
        lines = self.store.read("scores", keys=ids, columns=["stream"], scoring_id=ids, part="test")
        return sorted(lines["stream"].unique().to_pylist())

    def named(self, classes: Iterable[int]) -> list[str]:
        """Returns the classes' names."""
        _, names = self.counted
        return [names.get(label, str(label)) for label in classes]


_Named = Iterator[tuple[str, Figure]]


def _compared(of: Source) -> _Named:
    found = of.found
    if found.comparisons:
        reference = found.labels[found.reference]
        figure = plots.comparison_plot(found.comparisons, found.labels, reference=reference)
        yield f"arms-against-{found.reference}", figure


def _gains(of: Source) -> _Named:
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


def _confusions(of: Source) -> _Named:
    found = of.found
    counted, _ = of.counted
    for arm in found.judged:
        classes = frequent_classes(counted[arm])
        counts = confusion(counted[arm], classes)
        yield f"confusion-{arm}", class_plots.confusion_plot(counts, of.named(classes))
    for one in found.comparisons:
        ours, theirs = counted[one.arm], counted[found.reference]
        classes = frequent_classes(ours, theirs)
        yield (
            f"confusion-{one.arm}-less-{found.reference}",
            class_plots.confusion_difference_plot(
                confusion(ours, classes),
                confusion(theirs, classes),
                of.named(classes),
                arm=found.labels[one.arm],
                other=found.labels[found.reference],
            ),
        )


def _weights(of: Source) -> _Named:
    for arm, (weights, names, streams) in of.weights.items():
        label = of.found.labels[arm]
        figure = class_plots.fusion_weights_plot(weights, names, streams, arm=label)
        yield f"fusion-weights-{arm}", figure


def _embeddings(of: Source) -> _Named:
    for arm, figure in embeddings(of, list(of.found.labels)):
        yield f"features-{arm}", figure


def embeddings(of: Source, arms: Sequence[str]) -> _Named:
    """Yields each net's embedding at its first split and seed, by the first arm of all streams.

    Args:
        of: What the study has.
        arms: The arms in the order in which they stand for their nets.

    Yields:
        The arm, and the figure.
    """
    first = {row["arm"]: row for row in reversed(of.rows)}
    seen: set[str] = set()
    for row in (first[arm] for arm in arms if arm in first):
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
            row["arm"],
            embedding_plot(
                {stream: embed(matrix) for stream, matrix in fused_features(shown).items()},
                test.labels[videos].tolist(),
                dict(zip(classes, of.named(classes), strict=True)),
                arm=of.found.labels[row["arm"]],
            ),
        )


def _cost(of: Source) -> _Named:
    if of.costs:
        figure = cost_plots.cost_plot(of.costs, of.accuracies, of.found.labels)
        yield "accuracy-against-cost", figure


def _searches(of: Source) -> _Named:
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


def _curves(of: Source) -> _Named:
    if curves := plots.curves_by_network(of.trainings, of.epochs):
        yield "epochs", plots.epochs_plot(curves)


_KINDS = (_compared, _gains, _confusions, _weights, _embeddings, _cost, _searches, _curves)
