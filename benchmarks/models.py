"""Every system and comparator on the embedded dataset, side by side.

    python -m benchmarks.models [--results DIR] [--output FILE] [--seeds N] [--trials N] …

Trains the arms of the space ``all``, those that are slow on a CPU too, from three seeds each at the
settings that the space has for the embedded dataset, or at those that a search of each finds. With
``--results`` it goes on from what an earlier run left there. Of each arm are printed: test top-1
with half its 95 % interval over seeds and videos, and by class group; the ceiling that its network
has by construction, whatever it is trained with; the mean loss of the last epoch, its parameters,
GFLOPs (multiply-adds) of one training clip, training clips a second of one CPU thread in the
fastest epoch, and, of a network far below its ceiling, why: the class groups that it misses, and
whether it has not learnt its training videos yet (the loss is far above the least that it can
reach, and more ``--epochs`` help) or learnt nothing of others from them (the loss is near it).
Losses of streams add up, and a stream that can't tell k classes apart has a loss of log k on them.

What keeps a ceiling below 100 %: TRN and attentional pooling average each frame over its places,
so that no motion is left and of two discs' lanes the axis alone; the two-stream CNN, TSN and STIN
add up streams that never meet, and neither alone shows which of two discs moves how.

``benchmarks/models.csv`` is what it wrote on the hardware that its last column names.
"""

import argparse
import csv
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, JustifyMethod
from rich.table import Table

import search_spaces
from study.conduct import run_study
from study.data.datasets import embedded
from study.data.store.embedded import prepare_embedded
from study.request import Request, Study, check_request
from study.results.predictions import judgements
from study.results.statistics import Judgements, aligned
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal

GROUPS = ("what", "how", "which")
SHOWN = (
    *("arm", "top1", "half_width", *GROUPS, "ceiling", "train_loss"),
    *("parameters", "gflops", "clips_per_second", "why"),
)
COLUMNS = (*SHOWN, "sees", "seeds", "epochs", "trials", "hardware")
SHARES = ("top1", "half_width", *GROUPS, "ceiling")

CEILINGS = {
    **embedded.CEILINGS,
    "frames": {"what": 1.0, "how": 1 / 4, "which": 1 / 2},
}
"""By what a network sees, the best expected top-1 of each class group.

``frames``: colour frames, of which each is judged, or compared with others, by its mean over
places. No such mean shows a motion, and of "which" a frame shows the axis.
"""

SEES = {
    "trn": "frames",
    "attentional_pooling": "frames",
    "two_stream": "independent",
    "tsn": "independent",
    "stin": "independent",
}
"""What each model of the space sees, a key of `CEILINGS`.

One that isn't named sees ``joint``: its streams see each other, or it follows colours over time.
The rectified change of frames in which ``stin`` differs from ``tsn`` has one mean over places for a
motion and its reverse.
"""


LEAST_LOSS = {
    "frames": (4 * math.log(4) + 4 * math.log(2)) / len(embedded.CLASSES),
    "independent": (4 * math.log(4) + (4 + 2 + 4) * math.log(2)) / len(embedded.CLASSES),
    "joint": 0.0,
}
"""By what a network sees, the least mean loss of its streams together.

Colour frames one by one leave four classes of "how" and two of a pair of "which" alike; grey motion
both classes of "what" and of a pair of "which".
"""
FAR = 0.05  # below its ceiling by more than this, beyond half the interval (ours)
LEARNT = 0.25  # nats above the least loss within which training videos are learnt (ours)


def study_of(store: Path, results: Path, **asked: Any) -> Study:
    """The space ``all`` with all of its arms."""
    space = search_spaces.get("all")
    return check_request(
        Request(
            space=space,
            arms=tuple(arm.name for arm in space.arms),  # the slow ones too
            store=store,
            results=str(results.resolve()),
            name="all-embedded",
            **asked,
        )
    )


def lines(study: Study) -> list[dict[str, object]]:
    """Returns a line for each arm that has a result, the best first."""
    store = ResultStore(study.request.results)
    judged = judgements(
        store, study=study.name, dataset=study.targets[0].dataset, protocol=study.protocol
    )
    trained = store.connect().execute(
        "SELECT r.arm, any_value(t.device), any_value(t.parameters), any_value(t.gflops), "
        "any_value(t.epochs), max(e.clips_per_second), "
        "avg(e.train_loss) FILTER (e.epoch = t.epochs) "
        "FROM rows r JOIN trainings t USING (training_id) JOIN epochs e USING (training_id) "
        "WHERE r.study = ? AND r.protocol = ? AND r.part = 'test' GROUP BY r.arm",
        [study.name, study.protocol],
    )
    found = []
    for arm, device, parameters, gflops, epochs, speed, loss in trained.fetchall():
        sees = SEES.get(study.space.arm(arm).model, "joint")
        accuracies = _accuracies(study, judged[arm])
        found.append(
            {
                "arm": arm,
                **accuracies,
                "ceiling": _ceiling(sees),
                "train_loss": round(loss, 3),
                "parameters": parameters,
                "gflops": round(gflops, 4),
                "clips_per_second": round(speed, 1),
                "why": why_below(sees, accuracies, loss),
                "sees": sees,
                "seeds": len(judged[arm].seeds),
                "epochs": epochs,
                "trials": study.trials,
                "hardware": device,
            }
        )
    return sorted(found, key=lambda line: -line["top1"])


def why_below(sees: str, accuracies: Mapping[str, float], train_loss: float) -> str:
    """Returns why a network is far below its ceiling; nothing where it isn't.

    Args:
        sees: A key of `CEILINGS`.
        accuracies: Top-1, half its interval, and top-1 by group, as fractions.
        train_loss: Of the last epoch.
    """
    if _ceiling(sees) - accuracies["top1"] - accuracies["half_width"] <= FAR:
        return ""
    missed = [group for group in GROUPS if CEILINGS[sees][group] - accuracies[group] > FAR]
    above = train_loss - LEAST_LOSS[sees]
    learnt = "not beyond its training videos" if above < LEARNT else "not learnt yet"
    return f"{' and '.join(missed)} {learnt} (loss {above:.2f} above the least)"


def _accuracies(study: Study, judged: Judgements) -> dict[str, float]:
    """Top-1, with half its interval, and by group."""
    annotations = study.store.annotations
    group_of = np.array([annotations.class_groups[name] for name in annotations.classes])
    groups = group_of[list(judged.labels)]
    estimate = aligned(judged).contrast([1])
    interval = estimate.interval()
    assert interval is not None  # each embedded video is a source of its own
    shares = {group: judged.correct[:, groups == group].mean() for group in GROUPS}
    found = {"top1": estimate.value, "half_width": interval.high - estimate.value, **shares}
    return {name: round(float(value), 4) for name, value in found.items()}


def _ceiling(sees: str) -> float:
    """The best expected top-1 over all classes."""
    groups = embedded.CLASS_GROUPS.values()
    return sum(CEILINGS[sees][group] for group in groups) / len(groups)


def show(found: list[dict[str, object]], console: Console) -> None:
    table = Table(title="top-1 in %, with half the 95 % interval, and by class group")
    for name in SHOWN:
        side: JustifyMethod = "left" if name in ("arm", "why") else "right"
        table.add_column(name.replace("_", " "), justify=side)
    for line in found:
        table.add_row(*(_shown(name, line[name]) for name in SHOWN))
    table.add_section()
    for sees, by_group in CEILINGS.items():
        shares = [f"{100 * by_group[group]:.1f}" for group in GROUPS]
        table.add_row(f"ceiling: {sees}", "", "", *shares, f"{100 * _ceiling(sees):.1f}")
    console.print(table)


def _shown(name: str, value: object) -> str:
    if name in SHARES:
        return f"{100 * float(str(value)):.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--store", type=Path, help="the embedded dataset's store, if it is there")
    add("--results", type=Path, help="keep the results here, and go on from them")
    add("--seeds", type=int, default=3, help="of each arm (3)")
    add("--epochs", type=int, help="of each training (the space's)")
    add("--trials", type=int, default=0, help="of a search of each arm (0: none)")
    add("--at-once", type=int, help="trainings at once, a thread each (as many as cores)")
    add("--output", type=Path, help="also write the table as CSV")
    arguments = parser.parse_args()
    console = Console(width=150)
    with tempfile.TemporaryDirectory() as temporary:
        results = arguments.results or Path(temporary) / "results"
        store = prepare_embedded(arguments.store or results / "data" / "embedded")
        study = study_of(
            Path(store.path).resolve(),
            results,
            seeds=arguments.seeds,
            trials=arguments.trials,
            tuning="net" if arguments.trials else "fixed",
            changes={} if arguments.epochs is None else {"epochs": arguments.epochs},
            at_once=arguments.at_once,
        )
        failed = run_study(study, searches_of(study), address=None, terminal=Terminal(console))
        found = lines(study)
    show(found, console)
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(found)
    for reason in failed:
        console.print(f"failed: {reason}")


if __name__ == "__main__":
    main()
