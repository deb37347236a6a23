"""The lines that a study's arms and trials have in its results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from search_spaces.space import ENSEMBLE, Ensemble
from study.plan import MODALITIES, PlannedRow, Target, Training, modality, scoring_id
from study.provenance import canonical_json
from study.request import Study
from study.results.members import Member, average, find_member
from study.results.predictions import prediction_block
from study.results.rows import accuracies, fuse, load_streams, parts_fitted_elsewhere
from study.results.schema import Block
from study.results.store import ResultStore
from study.scores import Scores
from study.search import Trial

__all__ = ["views_of", "write_ensemble", "write_protocol", "write_row", "write_trial"]


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
    training, arm, target = row.training, row.arm, row.training.target
    tested = _read(results, row.trainings, source)
    fitted_on = _read(results, row.fitted_on, source) if row.fitted_on else tested
    scores = tested.parts
    if row.fitted_on:
        scores = parts_fitted_elsewhere(arm.fusion, tested.parts, fitted_on.parts)
    read = {part: fitted_on if part == "validation" else tested for part in scores}
    groups = _groups(study, target)
    fused = fuse(arm.fusion, scores, groups=groups, fusion_lambda=row.fusion_lambda)
    identity = _identity(study, arm.name, target, training.seed)
    key = _key(study, arm.name, target, training.seed)
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
            "missing_videos": study.parts[target.split].missing,
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


def _identity(study: Study, arm: str, target: Target, seed: int) -> dict[str, Any]:
    """What all lines of a row have."""
    return {
        "study": study.name,
        "space": study.space.name,
        "arm": arm,
        "dataset": target.dataset,
        "split": target.split,
        "seed": seed,
        "protocol": study.protocol,
    }


def _key(study: Study, arm: str, target: Target, seed: int) -> tuple[str, ...]:
    split = f"split-{target.split}"
    return (study.name, arm, target.dataset, split, f"seed-{seed}", study.protocol)


def _groups(study: Study, target: Target) -> dict[str, str]:
    listed = study.store.annotations.splits[target.split]
    return {video.name: video.group for video in listed.videos}


def write_ensemble(
    study: Study, results: ResultStore, ensemble: Ensemble, *, target: Target, seed: int
) -> None:
    """Averages the scores that an ensemble's members' rows were made of, and writes its rows.

    Args:
        study: The study.
        results: Its results, with the rows of all members.
        ensemble: The ensemble.
        target: Dataset and split.
        seed: The seed.

    Raises:
        ValueError: If a member has no row.
    """
    members = [
        find_member(
            results,
            name,
            weight=weight,
            study=study.name,
            protocol=study.protocol,
            dataset=target.dataset,
            split=target.split,
            seed=seed,
        )
        for name, weight in ensemble.members.items()
    ]
    parts = average(results, members)
    identity = _identity(study, ensemble.name, target, seed)
    key = _key(study, ensemble.name, target, seed)
    groups, same = _groups(study, target), _of_members(members)
    predictions: list[Block] = []
    lines: list[dict[str, Any]] = []
    for part, of_part in parts.items():
        part_identity = {**identity, "part": part, "training_id": same["training_id"]}
        predictions.append(
            prediction_block(
                part_identity,
                videos=of_part.videos,
                labels=of_part.labels,
                scores=of_part.scores,
                groups=groups,
            )
        )
        lines.append(
            {
                **part_identity,
                **same,
                **accuracies(of_part.scores, of_part.labels),
                "fusion": ENSEMBLE,
                "fusion_lambda": None,
                "videos": len(of_part.videos),
                "classes": len(set(of_part.labels.tolist())),
                "missing_videos": study.parts[target.split].missing,
            }
        )
    results.write_blocks("predictions", key, predictions)
    results.write("rows", key, lines)


def _of_members(members: Sequence[Member]) -> dict[str, Any]:
    """The columns of an ensemble's rows that its members' test rows decide."""
    lines = {member.name: member.lines["test"] for member in members}

    def joined(column: str, by: str) -> str:
        return by.join(dict.fromkeys(str(line[column]) for line in lines.values()))

    def ids(column: str) -> str:
        return "+".join(dict.fromkeys(joined(column, "+").split("+")))

    tuned = [line for line in lines.values() if line["tuned_by"]]
    seen = joined("modality", " ")
    return {
        "training_id": ids("training_id"),
        "scoring_id": ids("scoring_id"),
        "views": joined("views", ", "),
        "tuning": tuned[0]["tuning"] if tuned else "fixed",
        "tuned_by": None,
        "modality": " + ".join(word for word in MODALITIES.values() if word in seen),
        "details": {
            "members": {
                member.name: {
                    "weight": member.weight,
                    **{name: lines[member.name][name] for name in ("scoring_id", "protocol")},
                }
                for member in members
            }
        },
    }


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
    size = hyperparameters.test_crop_size
    seen = "" if size is None else f" at {size} px"
    return (
        f"{clips}{hyperparameters.test_segments} frames{apart} × {hyperparameters.test_crops} crop"
        f"{seen}"
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
