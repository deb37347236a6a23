"""The lines that a study's arms and trials have in its results."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from study.plan import PlannedRow, Training, modality, scoring_id
from study.provenance import canonical_json
from study.request import Study
from study.results.predictions import prediction_block
from study.results.rows import accuracies, fuse, load_streams, parts_fitted_elsewhere
from study.results.store import ResultStore
from study.scores import Scores
from study.search import Trial

__all__ = ["views_of", "write_protocol", "write_row", "write_trial"]


def write_protocol(study: Study, results: ResultStore) -> None:
    """Writes what the study's rows have in common, and that the study has started under it."""
    commit, dirty = study.provenance
    identity = {"protocol": study.protocol, "study": study.name}
    results.write(
        "protocols",
        (study.name, study.protocol),
        [
            {
                **identity,
                "dataset": study.store.annotations.dataset,
                "store_fingerprint": study.store.fingerprint,
                "settings": study.protocol_settings,
                "started_at": datetime.now(UTC),
                "git_commit": commit,
                "dirty": dirty,
            }
        ],
    )


def write_row(
    study: Study, results: ResultStore, row: PlannedRow, *, source: Callable[[Training], str]
) -> list[dict[str, Any]]:
    """Fuses finished trainings' scores as an arm says and writes the arm's rows.

    Args:
        study: The study.
        results: Its results.
        row: The row.
        source: Returns the id of the training whose scores stand for a training's own.

    Returns:
        The lines of ``rows``, one for each part.
    """
    training, arm = row.training, row.arm
    tested = _read(results, row.trainings, source)
    fitted_on = _read(results, row.fitted_on, source) if row.fitted_on else tested
    scores = tested.parts
    if row.fitted_on:
        scores = parts_fitted_elsewhere(arm.fusion, tested.parts, fitted_on.parts)
    read = {part: fitted_on if part == "validation" else tested for part in scores}
    listed = study.store.annotations.splits[training.target.split]
    groups = {video.name: video.group for video in listed.videos}
    fused = fuse(arm.fusion, scores, groups=groups, fusion_lambda=row.fusion_lambda)
    identity = {
        "study": study.name,
        "space": study.space.name,
        "arm": arm.name,
        "dataset": training.target.dataset,
        "split": training.target.split,
        "seed": training.seed,
        "protocol": study.protocol,
    }
    target = training.target
    key = (
        *(study.name, arm.name, target.dataset, f"split-{target.split}", f"seed-{training.seed}"),
        study.protocol,
    )
    results.write_blocks(
        "predictions",
        key,
        [
            prediction_block(
                {**identity, "part": part, "training_id": read[part].training_id},
                videos=scores[part].videos,
                labels=scores[part].labels,
                scores=matrix,
                groups=groups,
            )
            for part, matrix in fused.parts.items()
        ],
    )
    lines = [
        {
            **identity,
            "part": part,
            "training_id": read[part].training_id,
            "scoring_id": read[part].scoring_id,
            "fusion": arm.fusion,
            "fusion_lambda": fused.fusion_lambda,
            "views": views_of(training),
            **accuracies(matrix, scores[part].labels),
            "videos": len(scores[part].videos),
            "tuning": "fixed" if row.tuned_by is None else study.tuning,
            "tuned_by": row.tuned_by,
            "modality": modality(row),
            "classes": len(set(scores[part].labels.tolist())),
            "missing_videos": study.parts[training.target.split].missing,
            "details": {
                **fused.details,
                "test_views": {
                    stream: one.hyperparameters.of_scoring()
                    for stream, one in row.trainings.items()
                },
                **({"fitted_on": fitted_on.training_id} if row.fitted_on else {}),
                **row.tuned,
            },
        }
        for part, matrix in fused.parts.items()
    ]
    results.write("rows", key, lines)
    return lines


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """Scores by part, the ids of the trainings that they are of and of how they were scored."""

    training_id: str
    scoring_id: str
    parts: Mapping[str, Scores]


def _read(
    results: ResultStore, trainings: Mapping[str, Training], source: Callable[[Training], str]
) -> _Read:
    """Reads the scores of each stream's training."""
    read_from = {stream: source(one) for stream, one in sorted(trainings.items())}
    scored_in = {
        stream: scoring_id(name, trainings[stream].hyperparameters)
        for stream, name in read_from.items()
    }
    return _Read(
        training_id="+".join(dict.fromkeys(read_from.values())),
        scoring_id="+".join(dict.fromkeys(scored_in.values())),
        parts=load_streams(results, scored_in),
    )


def views_of(training: Training) -> str:
    """The test views of a training: clips (where they are several) × frames × crops."""
    hyperparameters = training.hyperparameters
    clips = f"{hyperparameters.test_clips} clips × " if hyperparameters.test_clips > 1 else ""
    stride = hyperparameters.frame_stride
    apart = "" if stride is None else f" at stride {stride}"
    return (
        f"{clips}{hyperparameters.test_segments} frames{apart} × {hyperparameters.test_crops} crop"
    )


def write_trial(
    results: ResultStore,
    trial: Trial,
    *,
    training_id: str,
    search: str,
    identity: Mapping[str, Any],
) -> None:
    """Writes a trial that ended to ``trials``, unless it stands there as it is.

    Args:
        results: The results.
        trial: The trial.
        training_id: Its training.
        search: The search's name, which with the trial's number is the line's key.
        identity: Study, arm (the one that stands for the searched net), dataset, split, protocol
            and the search's seed.
    """
    epochs = max(trial.readings, default=0)
    trained = results.read("epochs", keys=[training_id], columns=["epoch", "seconds"]).to_pylist()
    line = {
        **identity,
        "search": search,
        "trial": trial.number,
        "training_id": training_id,
        "parameters": canonical_json(trial.values),
        "validation_top1": trial.readings[epochs] if epochs and trial.state != "failed" else None,
        "state": trial.state,
        "epochs": epochs,
        "seconds": sum(epoch["seconds"] for epoch in trained if epoch["epoch"] <= epochs),
    }
    key = (identity["study"], search, f"trial-{trial.number}", identity["protocol"])
    if results.read("trials", keys=[key]).to_pylist() != [line]:
        results.write("trials", key, [line])
