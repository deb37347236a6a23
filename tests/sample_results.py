"""Rows that fit the results' views, for tests that need some."""

from datetime import UTC, datetime
from typing import Any

from study.results.store import ResultStore


def training(training_id: str, **values: Any) -> dict[str, Any]:
    return {
        "training_id": training_id,
        "study": "first",
        "space": "stilt",
        "model": "stilt",
        "options": {"interaction": True},
        "hyperparameters": {"learning_rate": 0.01},
        "dataset": "ucf101",
        "store_fingerprint": "f",
        "split": "1",
        "seed": 0,
        "status": "finished",
        "missing_videos": 0,
        "started_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        **values,
    }


def row(arm: str, top1: float, **values: Any) -> dict[str, Any]:
    return {
        "study": "first",
        "space": "stilt",
        "arm": arm,
        "dataset": "ucf101",
        "split": "1",
        "seed": 0,
        "part": "test",
        "training_id": "t",
        "fusion": "average",
        "views": "3 × centre",
        "top1": top1,
        "top5": 1.0,
        "mean_class_accuracy": top1,
        "videos": 42,
        "tuning": "shared",
        "classes": 6,
        **values,
    }


def write_rows(store: ResultStore, *rows: dict[str, Any]) -> None:
    for one in rows:
        key = "-".join(str(one[name]) for name in ("study", "arm", "dataset", "split", "seed"))
        store.write("rows", key, [one])
