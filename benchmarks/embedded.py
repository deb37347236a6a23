"""Whether the embedded study's answer comes again with other seeds: STILT's Table 4, repeated.

    python -m benchmarks.embedded
    python -m benchmarks.embedded --record FILE [--repetitions N] [--data DIR]

The second trains the plain two-stream net and the one with interaction at the settings that the
space ``stilt`` has on the embedded dataset, without a search and without Ray, each from three seeds
a repetition. It writes a line for each seed and arm, with test top-1 over all classes and by class
group, and which of the test videos were right; lines that the file has already are kept. The first
reads ``embedded.csv``, whose first lines name command and hardware, and prints what each repetition
says of the differences between the arms, with 95 % intervals.
"""

import argparse
import csv
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from benchmarks.flow import processor
from models.fusion import FUSIONS
from study.data.clips.dataset import ClipDataset
from study.data.datasets import embedded
from study.data.store.embedded import prepare_embedded
from study.job import build_model
from study.plan import Plan
from study.request import Request, Study, check_request
from study.results.statistics import Estimate, Judgements, aligned
from study.scores import Scores
from study.training.clips import clip_settings
from study.training.evaluation import score
from study.training.loop import train

RECORD = Path(__file__).with_name("embedded.csv")
ARMS = ("spatial", "temporal", "two-stream", "stil")
SEEDS = 3  # of a repetition
FIRST_SEED = 9  # the settings were chosen on those before it
DIFFERENCES = (
    ("spatial", "temporal"),
    ("spatial", "two-stream"),
    ("temporal", "two-stream"),
    ("two-stream", "stil"),
)
GROUPS = ("what", "how", "which")
COLUMNS = ("seed", "arm", "top1", *GROUPS, "seconds", "right")
Lines = Sequence[Mapping[str, str]]


def study_of(store: Path, seeds: int) -> Study:
    """Table 4's arms at the space's settings."""
    return check_request(
        Request(
            space=search_spaces.get("stilt"),
            arms=ARMS,
            store=store,
            seeds=seeds,
            trials=0,
            tuning="fixed",
            results=str(store.with_name("results")),  # nothing is written there
        )
    )


def train_and_score(study: Study, plan: Plan, training_id: str) -> tuple[Scores, float]:
    """Trains a network; returns its scores of the test videos, and processor seconds."""
    training = plan.trainings[training_id]
    hyperparameters = training.hyperparameters
    parts = study.parts[training.target.split]
    began = time.process_time()
    model = build_model(
        study.job(training, until=hyperparameters.epochs),
        num_classes=len(study.store.annotations.classes),
    )
    train(
        model,
        ClipDataset(
            study.store,
            parts.train,
            inputs=model.inputs,
            clip=clip_settings(hyperparameters),
            augment=True,
            seed=training.seed,
        ),
        hyperparameters=hyperparameters,
        seed=training.seed,
    )
    test = ClipDataset(
        study.store,
        parts.test,
        inputs=model.inputs,
        clip=clip_settings(hyperparameters, views=True),
        augment=False,
    )
    return score(model, test), time.process_time() - began


def lines_of(study: Study, plan: Plan, training_id: str) -> Iterator[dict[str, Any]]:
    """Trains a network; gives a line for each of its arms."""
    scores, seconds = train_and_score(study, plan, training_id)
    annotations = study.store.annotations
    group_of = np.array([annotations.class_groups[name] for name in annotations.classes])
    for row in plan.rows:
        if row.training.training_id != training_id:
            continue
        fused = FUSIONS[row.arm.fusion].fuse({"test": scores}).parts["test"]
        right = fused.argmax(axis=1) == scores.labels
        by_group = {name: right[group_of[scores.labels] == name].mean() for name in GROUPS}
        yield {
            "seed": row.training.seed,
            "arm": row.arm.name,
            **{name: round(float(x), 4) for name, x in {"top1": right.mean(), **by_group}.items()},
            "seconds": round(seconds, 1),
            "right": "".join(map(str, right.astype(int))),
        }


def record(path: Path, repetitions: int, store: Path | None) -> None:
    """Trains the networks that the file has no line of, and writes their lines."""
    torch.set_num_threads(1)
    new = not path.exists() or path.stat().st_size == 0  # killed before its first line
    done = set() if new else {(line["seed"], line["arm"]) for line in read(path)}
    with tempfile.TemporaryDirectory() as folder, path.open("a", newline="") as file:
        where = store or Path(prepare_embedded(Path(folder) / "store").path)
        study = study_of(where.resolve(), FIRST_SEED - 1 + SEEDS * repetitions)
        plan = study.plan()
        writer = csv.DictWriter(file, COLUMNS)
        if new:
            file.write(
                "# python -m benchmarks.embedded --record FILE\n"
                f"# {processor()}, 1 thread, torch {torch.__version__}\n"
            )
            writer.writeheader()
        for training_id in plan.trainings:
            served = next(row for row in plan.rows if row.training.training_id == training_id)
            seed = served.training.seed
            if seed < FIRST_SEED or (str(seed), served.arm.name) in done:
                continue
            for line in lines_of(study, plan, training_id):
                writer.writerow(line)
                print(line["seed"], line["arm"], line["top1"], flush=True)
            file.flush()


def read(path: Path) -> Lines:
    """Reads what `record` wrote."""
    with path.open() as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def judgements(lines: Lines, arm: str) -> Judgements:
    """One arm's judgements in one repetition; each video is a group of its own."""
    own = [line for line in lines if line["arm"] == arm]
    names = [str(video) for video in range(len(own[0]["right"]))]
    return Judgements(
        videos=[("1", name) for name in names],
        groups=names,
        labels=[0] * len(names),
        seeds=[int(line["seed"]) for line in own],
        correct=np.array([[right == "1" for right in line["right"]] for line in own]),
        trainings=frozenset({arm if arm == "stil" else "two-stream"}),
    )


def differences(lines: Lines) -> list[Estimate]:
    """The differences of one repetition."""
    return [
        aligned(judgements(lines, first), judgements(lines, second)).contrast([-1, 1])
        for first, second in DIFFERENCES
    ]


def show(lines: Lines, console: Console) -> None:
    console.print(_accuracies(lines))
    table = Table(title="differences in points, with 95 % intervals")
    table.add_column("repetition", justify="right")
    for first, second in DIFFERENCES:
        table.add_column(f"{second} - {first}", justify="right")
    seeds = sorted({int(line["seed"]) for line in lines})
    shown = np.zeros(len(DIFFERENCES), int)
    all_shown = repetitions = 0
    for start in range(0, len(seeds), SEEDS):
        own = seeds[start : start + SEEDS]
        found = differences([line for line in lines if int(line["seed"]) in own])
        above = np.array([_low(one) > 0 for one in found])
        table.add_row(str(repetitions + 1), *map(_shown, found))
        shown, all_shown, repetitions = shown + above, all_shown + int(above.all()), repetitions + 1
    table.add_section()
    table.add_row("above 0", *(f"{count} of {repetitions}" for count in shown))
    console.print(table)
    console.print(f"All four differences are above 0 in {all_shown} of {repetitions} repetitions.")


def _accuracies(lines: Lines) -> Table:
    seeds = len({line["seed"] for line in lines})
    table = Table(title=f"test top-1 in %: mean ± standard deviation of {seeds} seeds")
    for name in ("arm", "top1", *GROUPS, "seconds"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in ARMS:
        own = [line for line in lines if line["arm"] == arm]
        cells = []
        for name in ("top1", *GROUPS):
            values = [100 * float(line[name]) for line in own]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}")
        seconds = np.mean([float(line["seconds"]) for line in own])
        table.add_row(arm, *cells, f"{seconds:.0f}")
    table.add_section()
    for knowledge, by_group in embedded.CEILINGS.items():
        values = [embedded.ceiling(knowledge), *(by_group[group] for group in GROUPS)]
        table.add_row(f"ceiling: {knowledge}", *(f"{100 * value:.1f}" for value in values))
    return table


def _low(one: Estimate) -> float:
    interval = one.interval()
    return -1.0 if interval is None else interval.low


def _shown(one: Estimate) -> str:
    interval = one.interval()
    ends = "" if interval is None else f" [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"{100 * one.value:.1f}{ends}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", type=Path, metavar="FILE", help="train, and write lines here")
    parser.add_argument("--repetitions", type=int, default=10, help="of three seeds each (10)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="the store (default: a new one)")
    arguments = parser.parse_args()
    if arguments.record:
        record(arguments.record, arguments.repetitions, arguments.data)
    show(read(arguments.record or RECORD), Console(width=110))


if __name__ == "__main__":
    main()
