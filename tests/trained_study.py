"""A study whose networks were really trained, for an epoch on a few rendered clips, and kept."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import search_spaces
from study.request import Request, Study, check_request
from study.results.store import ResultStore
from study.rows import write_row
from tests.integration.conftest import run_here

NAME = "stilt-embedded"
ARMS = ("spatial", "two-stream", "two-stream-early", "stil", "stil-awf-simplex", "stil-awf-l2")
APART = "two-stream"
"""The arm whose streams are read of two trainings at its first seed, as own tuning may have it."""


def study_of_trained(
    store: Path, results: Path, *, arms: tuple[str, ...] = ARMS, **changes: Any
) -> Study:
    return check_request(
        Request(
            space=search_spaces.get("stilt").on("embedded"),
            store=store,
            results=str(results),
            name=NAME,
            arms=arms,
            trials=0,
            tuning="fixed",
            seeds=2,
            weights="none",
            changes={
                "epochs": 1,
                "warmup_epochs": 0,
                "batch_size": 8,
                "segments": 2,
                "test_segments": 2,
                "test_crops": "ten",
                "options.backbone": "small",
                "options.partial_bn": False,
                "options.head_dims": [16, 16],
                "options.attention_dim": 128,
                **changes,
            },
        )
    )


def train_study(store: Path, results: Path) -> Path:
    """Trains the study; returns its results."""
    study = study_of_trained(store, results)
    conductor = run_here(study)
    first, second = (row for row in conductor.outlook.rows if row.arm.name == APART)
    apart = {"spatial": first.training, "temporal": second.training}
    write_row(
        study,
        ResultStore(results),
        replace(first, trainings=apart),
        source=lambda one: one.training_id,
    )
    conductor.keep_networks()
    return results
