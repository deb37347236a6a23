"""Rows that fit the results' views, for tests that need some."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from study.results.predictions import prediction_block
from study.results.store import ResultStore

PROTOCOL = "0123456789ab"
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


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
        "protocol": PROTOCOL,
        "started_at": STARTED,
        **values,
    }


def row(arm: str, top1: float, *, fusion: str = "average", **values: Any) -> dict[str, Any]:
    return {
        "study": "first",
        "space": "stilt",
        "arm": arm,
        "dataset": "ucf101",
        "split": "1",
        "seed": 0,
        "part": "test",
        "training_id": "t",
        "scoring_id": "s",
        "protocol": PROTOCOL,
        "fusion": fusion,
        "modality": {"spatial": "RGB", "temporal": "flow"}.get(fusion, "RGB + flow"),
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
    """Writes rows, and the protocols that they name where these aren't there."""
    identity = ("study", "arm", "dataset", "split", "seed", "protocol")
    there = {(p["study"], p["protocol"]) for p in store.read("protocols").to_pylist()}
    for one in rows:
        store.write("rows", "-".join(str(one[name]) for name in identity), [one])
        if (one["study"], one["protocol"]) not in there:
            there.add((one["study"], one["protocol"]))
            write_protocol(store, one["study"], dataset=one["dataset"], protocol=one["protocol"])


def write_protocol(
    store: ResultStore,
    study: str,
    *,
    dataset: str = "ucf101",
    protocol: str = PROTOCOL,
    started_at: datetime = STARTED,
    **settings: Any,
) -> None:
    line = {
        "protocol": protocol,
        "study": study,
        "dataset": dataset,
        "store_fingerprint": "f",
        "settings": settings,
        "started_at": started_at,
        "git_commit": "0123456789abcdef",
        "dirty": False,
    }
    store.write("protocols", f"{study}-{protocol}-{dataset}", [line])


NETS = {"plain": {"interaction": False}, "stil": {"interaction": True}}
ARMS = {
    "spatial": ("plain", "spatial", 0.52),
    "temporal": ("plain", "temporal", 0.55),
    "two-stream": ("plain", "average", 0.66),
    "two-stream-awf-entropy": ("plain", "awf-entropy", 0.67),
    "stil": ("stil", "average", 0.71),
    "stil-early": ("stil", "early", 0.69),
    "stil-awf-simplex": ("stil", "awf-simplex", 0.76),
}


def write_study(
    store: ResultStore,
    *,
    study: str = "stilt-ucf101",
    space: str = "stilt",
    dataset: str = "ucf101",
    classes: int = 24,
    seeds: int = 3,
    missing: int = 0,
    arms: Mapping[str, tuple[str, str, float]] = ARMS,
) -> None:
    """A whole study of invented numbers: searches, trainings, rows and predictions."""
    rng = np.random.default_rng(0)
    names = [f"Class{n:02}" for n in range(classes)]
    groups = {
        f"{name}/g{group}_c{clip}": f"{name}/g{group}"
        for name in names
        for group in range(4)
        for clip in range(3)
    }
    labels = np.array([names.index(video.partition("/")[0]) for video in groups])
    for seed in range(seeds):
        for net, options in NETS.items():
            identity = f"{study}-{dataset}-{net}-{seed}"
            line = training(
                identity,
                study=study,
                dataset=dataset,
                options={**options, "backbone": "resnet18"},
                seed=seed,
                epochs=12,
                seconds=840.0,
                device="NVIDIA L4",
                git_commit="0123456789abcdef",
                dirty=False,
                missing_videos=missing,
                started_at=STARTED + timedelta(minutes=seed),
            )
            store.write("trainings", identity, [line])
            store.write("epochs", identity, [_epoch(identity, e, net, rng) for e in range(12)])
        difficulty = rng.random(len(set(groups.values())))
        hard = dict(zip(dict.fromkeys(groups.values()), difficulty, strict=True))
        for arm, (net, fusion, ability) in arms.items():
            chance = np.clip(
                ability + 0.5 * (0.5 - np.array([hard[g] for g in groups.values()])), 0, 1
            )
            right = rng.random(len(groups)) < chance
            scores = rng.random((len(groups), classes)) * 0.5
            scores[np.arange(len(groups)), np.where(right, labels, (labels + 1) % classes)] = 1
            one = row(
                arm,
                float(right.mean()),
                study=study,
                space=space,
                dataset=dataset,
                seed=seed,
                fusion=fusion,
                classes=classes,
                videos=len(groups),
                training_id=f"{study}-{dataset}-{net}-{seed}",
            )
            write_rows(store, one)
            block = prediction_block(
                one, videos=list(groups), labels=labels, scores=scores, groups=groups
            )
            store.write_blocks("predictions", f"{study}-{dataset}-{arm}-{seed}", [block])
    write_trials(store, study, dataset, rng)


def write_trials(
    store: ResultStore, study: str, dataset: str, rng: np.random.Generator | None = None
) -> None:
    """A search of 20 trials: 13 complete, 6 pruned, 1 failed."""
    rng = rng or np.random.default_rng(0)
    lines = [_trial(study, dataset, number, rng) for number in range(20)]
    store.write("trials", f"{study}-{dataset}", lines)


def _epoch(identity: str, epoch: int, net: str, rng: np.random.Generator) -> dict[str, Any]:
    loss = 3 * 0.8**epoch + 0.1 * rng.random()
    return {
        "training_id": identity,
        "epoch": epoch,
        "lr": 0.01,
        "train_loss": loss,
        "losses": {"spatial": loss / 2, "temporal": loss / 2},
        "validation_top1": 0.75 - 0.6 * 0.8**epoch + 0.02 * rng.random() + 0.03 * (net == "stil"),
        "seconds": 70.0,
        "clips_per_second": 90.0,
    }


def _trial(study: str, dataset: str, number: int, rng: np.random.Generator) -> dict[str, Any]:
    rate = 10 ** rng.uniform(-4, -1)
    dim = int(rng.choice([128, 256, 512]))
    state = "failed" if number == 7 else "pruned" if number % 3 == 2 else "complete"
    accuracy = 0.7 - 0.1 * (np.log10(rate) + 2) ** 2 + 0.02 * rng.standard_normal()
    return {
        "study": study,
        "protocol": PROTOCOL,
        "arm": "stil-awf-simplex",
        "dataset": dataset,
        "split": "1",
        "search_seed": 0,
        "search": f"{dataset}-1/stil/0123abcd",
        "trial": number,
        "parameters": {
            "learning_rate": rate,
            "fusion_lambda": float(10 ** rng.uniform(-2, 1)),
            "options.attention_dim": dim,
            "schedule": str(rng.choice(["step", "cosine"])),
        },
        "validation_top1": None if state == "failed" else float(np.clip(accuracy, 0, 1)),
        "state": state,
        "epochs": 3 if state == "pruned" else 12,
        "seconds": 400.0,
    }
