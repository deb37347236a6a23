"""Every system and comparator on the embedded dataset, side by side.

    python -m benchmarks.models [--trials N] [--epochs N] [--results DIR] [--output FILE.csv]

Runs the space ``all``, the arms that are slow on a CPU too, each with a search of its own (one
seed), and prints for each: test top-1 over all classes and by class group beside the embedded
dataset's ceilings, parameters, GFLOPs (multiply-adds) of one training clip, and training clips a
second of one CPU thread in the fastest epoch. With ``--results`` it goes on from what
``python -m study.run --space all`` left there.
``benchmarks/models.csv`` is what it wrote on the hardware that its last column names.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

import search_spaces
from study.conduct import run_study
from study.data.datasets import embedded
from study.data.store.embedded import prepare_embedded
from study.request import Request, Study, check_request
from study.results.store import ResultStore
from study.searches import searches_of
from study.terminal import Terminal

GROUPS = ("what", "how", "which")
COLUMNS = (
    *("arm", "top1", *GROUPS, "parameters", "gflops", "clips_per_second"),
    *("epochs", "trials", "hardware"),
)


def study_of(store: Path, results: Path, epochs: int | None, trials: int) -> Study:
    """The space ``all`` with all of its arms."""
    space = search_spaces.get("all")
    return check_request(
        Request(
            space=space,
            arms=tuple(arm.name for arm in space.arms),  # the slow ones too
            store=store,
            trials=trials,
            tuning="net" if trials else "fixed",
            changes={} if epochs is None else {"epochs": epochs},
            results=str(results.resolve()),
            name="all-embedded",
        )
    )


def lines(study: Study) -> Iterator[dict[str, object]]:
    """A line for each arm that has a result."""
    classes = study.store.annotations.classes
    group_of = {
        label: study.store.annotations.class_groups[name] for label, name in enumerate(classes)
    }
    name = study.name
    connection = ResultStore(study.request.results).connect()
    rows = connection.execute(
        "SELECT r.arm, r.top1, t.device, t.parameters, t.gflops, t.epochs, "
        "(SELECT max(e.clips_per_second) FROM epochs e WHERE e.training_id = r.training_id) "
        "FROM rows r JOIN trainings t USING (training_id) "
        "WHERE r.study = ? AND r.part = 'test' ORDER BY r.top1 DESC",
        [name],
    ).fetchall()
    for arm, top1, device, parameters, gflops, epochs, speed in rows:
        judged = connection.execute(
            "SELECT label, predicted FROM predictions "
            "WHERE study = ? AND part = 'test' AND arm = ?",
            [name, arm],
        ).fetchall()
        right = {group: [a == b for a, b in judged if group_of[a] == group] for group in GROUPS}
        yield {
            "arm": arm,
            "top1": round(top1, 4),
            **{group: round(sum(hits) / len(hits), 4) for group, hits in right.items()},
            "parameters": parameters,
            "gflops": round(gflops, 4),
            "clips_per_second": round(speed, 1),
            "epochs": epochs,
            "trials": study.trials,
            "hardware": device,
        }


def show(found: list[dict[str, object]], console: Console) -> None:
    table = Table(title="top-1 in %, by class group; ceilings by construction below")
    for name in COLUMNS[:-3]:
        table.add_column(name, justify="left" if name == "arm" else "right")
    for line in found:
        table.add_row(*(_shown(name, line[name]) for name in COLUMNS[:-3]))
    table.add_section()
    for knowledge, by_group in embedded.CEILINGS.items():
        values = [embedded.ceiling(knowledge), *(by_group[group] for group in GROUPS)]
        table.add_row(f"ceiling: {knowledge}", *(f"{100 * value:.1f}" for value in values))
    console.print(table)


def _shown(name: str, value: object) -> str:
    if name == "top1" or name in GROUPS:
        return f"{100 * float(str(value)):.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="the embedded dataset's store, if it is there")
    parser.add_argument("--results", type=Path, help="keep the results here, and go on from them")
    parser.add_argument("--epochs", type=int, help="of each training (the space's)")
    parser.add_argument("--trials", type=int, default=6, help="of each search; 0 for none (6)")
    parser.add_argument("--output", type=Path, help="also write the table as CSV")
    arguments = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as temporary:
        results = arguments.results or Path(temporary) / "results"
        store = prepare_embedded(arguments.store or results / "data" / "embedded")
        study = study_of(store.path.resolve(), results, arguments.epochs, arguments.trials)
        failed = run_study(study, searches_of(study), address=None, terminal=Terminal(console))
        found = list(lines(study))
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
