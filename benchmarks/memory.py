"""What every arm of every space needs of a GPU at its own settings, and the micro-batch that fits.

    python -m benchmarks.memory [SPACE …] [--gigabytes 24] [--classes 101] [--output FILE.csv]

Estimates of each arm's training on a real dataset, made without a GPU: GiB of the whole
batch at once in float32, with activation checkpointing and in bfloat16; then the micro-batch, its
accumulation steps and GiB in float32 on a card of 24 GB (10⁹ bytes), whether checkpointing is on,
whether the result depends on the micro-batch, and the clips that are scored at once. Takes some
minutes for all spaces.
"""

import argparse
import csv
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import search_spaces
from models import create_model
from search_spaces import Space
from study.plan import Target, Training, make_plan, settings_of
from study.training.memory import (
    MemoryEstimate,
    choose_micro_batch,
    choose_scoring_batch,
    estimate_memory,
    estimate_scoring_memory,
    passes_matter,
)

GIB = 2**30
COLUMNS = (
    *("space", "arm", "model", "batch_size", "segments", "float32_gib", "checkpointing_gib"),
    *("bfloat16_gib", "micro_batch", "accumulation_steps", "micro_batch_gib"),
    *("activation_checkpointing", "passes_matter", "scoring_clips"),
)


def lines(space: Space, classes: int, available_bytes: int) -> Iterator[dict[str, Any]]:
    """A line for each arm."""
    plan = make_plan(
        space.arms,
        targets=[Target(dataset="real", store_fingerprint="", split="1")],
        seeds=[0],
        settings=lambda arm, _: settings_of(arm, space.settings, space=space),
    )
    needs = {
        training_id: _needs(training, classes, available_bytes)
        for training_id, training in plan.trainings.items()
    }
    for row in plan.rows:
        yield {
            "space": space.name,
            "arm": row.arm.name,
            "model": row.training.model,
            "batch_size": row.training.hyperparameters.batch_size,
            "segments": row.training.hyperparameters.segments,
            **needs[row.training.training_id],
        }


def _needs(training: Training, classes: int, available_bytes: int) -> dict[str, Any]:
    hyperparameters = training.hyperparameters
    batch = hyperparameters.batch_size
    with torch.device("meta"):
        net = create_model(training.model, num_classes=classes, **training.options)

    @cache
    def estimate(precision: str, checkpointing: bool) -> MemoryEstimate:
        return estimate_memory(
            net, hyperparameters, precision=precision, activation_checkpointing=checkpointing
        )

    def whole(precision: str, checkpointing: bool) -> float:
        return round(estimate(precision, checkpointing).total_bytes(batch) / GIB, 1)

    chosen = choose_micro_batch(estimate, batch_size=batch, available_bytes=available_bytes)
    return {
        "float32_gib": whole("float32", False),
        "checkpointing_gib": whole("float32", True),
        "bfloat16_gib": whole("bfloat16", False),
        "micro_batch": chosen.videos,
        "accumulation_steps": chosen.accumulation_steps,
        "micro_batch_gib": round(chosen.needed_bytes / GIB, 1),
        "activation_checkpointing": chosen.activation_checkpointing,
        "passes_matter": passes_matter(net),
        "scoring_clips": choose_scoring_batch(
            estimate_scoring_memory(net, hyperparameters),
            batch_size=batch,
            available_bytes=available_bytes,
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("spaces", nargs="*", metavar="SPACE", help="all, unless some are named")
    parser.add_argument("--gigabytes", type=float, default=24, help="of the card, 10⁹ bytes (24)")
    parser.add_argument("--classes", type=int, default=101, help="of the dataset (101)")
    parser.add_argument("--output", type=Path, help="also write the table as CSV")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    for name in arguments.spaces or search_spaces.names():
        space = search_spaces.get(name)
        found += lines(space, arguments.classes, int(arguments.gigabytes * 1e9))
    table = Table(title=f"on a card of {arguments.gigabytes:g} GB")
    for column in COLUMNS:
        table.add_column(column.replace("_", " "), overflow="fold")
    for line in found:
        table.add_row(*(str(line[column]) for column in COLUMNS))
    Console(width=200).print(table)
    if arguments.output:
        with arguments.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows(found)


if __name__ == "__main__":
    main()
