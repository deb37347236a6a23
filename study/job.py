"""One training from its clip store to its rows in Parquet, on one process or many.

This is where the plan meets the data: nothing here knows of Ray or of a search.
"""

import contextlib
import json
import platform
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from models import VideoModel, create_model
from models.flops import count_flops, count_parameters
from study.data.clips.dataset import ClipDataset
from study.data.datasets.annotations import Video
from study.data.datasets.validation import carve_validation
from study.data.store.clip_store import ClipStore
from study.plan import Training, clip_settings
from study.provenance import canonical_json
from study.results.rows import validation_accuracy
from study.results.store import ResultStore
from study.scores import Scores
from study.training.evaluation import score
from study.training.loop import EpochReport, train
from study.training.weights import read_state_dict

__all__ = ["Job", "Parts", "build_model", "record_failure", "run_job", "split_parts"]

VALIDATION_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training and all that running it needs; small, so that it can cross to any process.

    Attributes:
        training: What to train.
        store: The clip store's path or URI.
        results: The results folder or address.
        checkpoints: The folder of checkpoints, on storage that every node sees.
        study: The study's name.
        space: The space's name.
        parts: The parts to score at the end; none for a trial of the search.
        objective: The fusion whose validation top-1 the epochs report, and its λ.
        weights_file: A backbone weights file, or None to start from scratch.
        provenance: Git commit and whether the working tree differed from it.
        compile: Whether to use ``torch.compile``.
        loader_workers: Loader processes for each training process.
    """

    training: Training
    store: str
    results: str
    checkpoints: str
    study: str
    space: str
    parts: tuple[str, ...] = ()
    objective: tuple[str, float | None] = ("average", None)
    weights_file: str | None = None
    provenance: tuple[str, bool] = ("", False)
    compile: bool = False
    loader_workers: int = 0

    @property
    def checkpoint(self) -> Path:
        """The checkpoint's path, the same on every node and for every study."""
        return Path(self.checkpoints) / f"{self.training.training_id}.pt"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """A split's videos that are in the store, by part, and how many the lists name beyond."""

    train: tuple[Video, ...]
    validation: tuple[Video, ...]
    test: tuple[Video, ...]
    missing: int


def split_parts(store: ClipStore, split: str, *, train_on: str = "train") -> Parts:
    """The train, validation and test videos of a split.

    The validation part is carved from the listed train videos, whether or not they are in the
    store, so that a missing video moves no other video from one part to another.

    Raises:
        ValueError: If a part has no video left.
    """
    listed = store.annotations.splits[split]
    train, validation = (
        (listed.train, ())
        if train_on == "all"
        else carve_validation(listed.train, fraction=VALIDATION_FRACTION)
    )

    def present(videos: Iterable[Video]) -> tuple[Video, ...]:
        return tuple(video for video in videos if video.name in store)

    parts = Parts(
        train=present(train),
        validation=present(validation),
        test=present(listed.test),
        missing=sum(video.name not in store for video in (*listed.train, *listed.test)),
    )
    empty = [
        part
        for part in ("train", "validation", "test")
        if not getattr(parts, part) and not (part == "validation" and train_on == "all")
    ]
    if empty:
        raise ValueError(
            f"split {split!r} of {store.annotations.dataset} has no video in the "
            f"{' and '.join(empty)} part: the clip store {store.path} has {len(store)} videos, "
            f"{parts.missing} of the split's are missing. Prepare more of them."
        )
    return parts


def run_job(job: Job, report: Callable[[EpochReport], None] | None = None) -> list[EpochReport]:
    """Trains, scores the job's parts and writes the results; every rank calls it.

    A training that already finished is not trained again: its checkpoint, where there is one,
    ends the loop at once, and a finished result is not written again.

    Args:
        report: Called after every epoch on every rank.

    Raises:
        ValueError: If the store is not the one that the plan was made for.
    """
    started = datetime.now(UTC)
    clock = time.perf_counter()
    training = job.training
    if (epochs := finished_epochs(job)) is not None:
        if report is not None:
            for epoch in epochs:
                report(epoch)
        return epochs
    store = ClipStore.open(job.store)
    if store.fingerprint != training.target.store_fingerprint:
        raise ValueError(
            f"clip store {job.store} has fingerprint {store.fingerprint}, but the training was "
            f"planned for {training.target.store_fingerprint}; the store changed since"
        )
    parts = split_parts(store, training.target.split, train_on=training.train_on)
    device = _device()
    model = build_model(job, num_classes=len(store.annotations.classes))
    fusion, fusion_lambda = job.objective
    groups = {video.name: video.group for video in (*parts.train, *parts.validation)}

    def objective(scores: Scores) -> float:
        return validation_accuracy(fusion, scores, groups=groups, fusion_lambda=fusion_lambda)

    clips = {
        part: _clips(store, getattr(parts, part), model, job, augment=part == "train")
        for part in ("train", "validation")
    }
    epochs = train(
        model,
        clips["train"],
        clips["validation"] if parts.validation else None,
        hyperparameters=training.hyperparameters,
        seed=training.seed,
        device=device,
        checkpoint=job.checkpoint,
        report=report,
        objective=objective,
        compile=job.compile,
        loader_workers=job.loader_workers,
    )
    scored = {
        part: score(
            model,
            _clips(store, getattr(parts, part), model, job, augment=False, views=part != "train"),
            device=device,
            batch_size=training.hyperparameters.batch_size,
            precision=training.hyperparameters.precision,
            loader_workers=job.loader_workers,
        )
        for part in job.parts
    }
    if not dist.is_initialized() or dist.get_rank() == 0:
        seconds = time.perf_counter() - clock
        _write(job, store, parts, model, epochs, scored, started, seconds)
    return epochs


def finished_epochs(job: Job) -> list[EpochReport] | None:
    """The epochs of a training that is finished with all of the job's parts, else None."""
    results = ResultStore(job.results)
    identity = job.training.training_id
    lines = results.read("trainings", training_id=identity).to_pylist()
    if not any(
        line["status"] == "finished" and set(job.parts) <= set(json.loads(line["scored_parts"]))
        for line in lines
    ):
        return None
    rows = results.read("epochs", training_id=identity).sort_by("epoch").to_pylist()
    names = [field.name for field in fields(EpochReport)]
    return [
        EpochReport(**{name: row[name] for name in names} | {"losses": json.loads(row["losses"])})
        for row in rows
    ]


def record_failure(job: Job, reason: str) -> None:
    """Writes a training that failed to ``trainings``, with the reason."""
    ResultStore(job.results).write(
        "trainings",
        job.training.training_id,
        [
            {
                **training_row(job),
                "status": "failed",
                "error": reason,
                "started_at": datetime.now(UTC),
            }
        ],
    )


def _device() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{torch.cuda.current_device()}"


def build_model(job: Job, *, num_classes: int) -> VideoModel:
    """The job's net at its initial weights.

    Raises:
        ValueError: If the weights file is damaged, or doesn't fit the net.
    """
    training = job.training
    torch.manual_seed(training.seed)
    model = create_model(training.model, num_classes=num_classes, **training.options)
    if job.weights_file is not None:
        model.load_backbone_weights(read_state_dict(Path(job.weights_file)))
    return model


def _clips(
    store: ClipStore,
    videos: Sequence[Video],
    model: VideoModel,
    job: Job,
    *,
    augment: bool,
    views: bool = False,
) -> ClipDataset:
    hyperparameters = job.training.hyperparameters
    return ClipDataset(
        store,
        videos,
        inputs=model.inputs,
        clip=clip_settings(hyperparameters, views=views),
        augment=augment,
        seed=job.training.seed,
    )


def _write(
    job: Job,
    store: ClipStore,
    parts: Parts,
    model: VideoModel,
    epochs: Sequence[EpochReport],
    scored: Mapping[str, Scores],
    started: datetime,
    seconds: float,
) -> None:
    """Scores and epochs first; the line in ``trainings`` last, for it says that all is there."""
    results = ResultStore(job.results)
    training = job.training
    identity = training.training_id
    results.write("epochs", identity, [epoch_row(identity, epoch) for epoch in epochs])
    judged = {part: scores for part, scores in scored.items() if part != "train"}
    if judged:
        results.write("scores", identity, list(_lines(identity, judged, "scores")))
    if "train" in scored:
        results.write("features", identity, list(_lines(identity, scored, "features")))
    results.write(
        "trainings",
        identity,
        [
            {
                **training_row(job),
                "status": "finished",
                "error": None,
                "scored_parts": canonical_json(sorted(scored)),
                "epochs": len(epochs),
                "train_videos": len(parts.train),
                "validation_videos": len(parts.validation),
                "missing_videos": parts.missing,
                "parameters": count_parameters(model),
                "gflops": _gflops(model, training),
                "seconds": seconds,
                "device": _device_name(),
                "workers": dist.get_world_size() if dist.is_initialized() else 1,
                "peak_memory_bytes": _peak_memory(),
                "started_at": started,
            }
        ],
    )


def training_row(job: Job) -> dict[str, Any]:
    """The columns of ``trainings`` that are known before the training starts."""
    training = job.training
    return {
        "training_id": training.training_id,
        "study": job.study,
        "space": job.space,
        "model": training.model,
        "options": canonical_json(training.options),
        "hyperparameters": canonical_json(asdict(training.hyperparameters)),
        "dataset": training.target.dataset,
        "store_fingerprint": training.target.store_fingerprint,
        "split": training.target.split,
        "seed": training.seed,
        "git_commit": job.provenance[0],
        "dirty": job.provenance[1],
        "versions": canonical_json(
            {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "numpy")}
        ),
    }


def epoch_row(training_id: str, epoch: EpochReport) -> dict[str, Any]:
    """A line of the ``epochs`` view."""
    return {
        **asdict(epoch),
        "training_id": training_id,
        "losses": canonical_json(epoch.losses),
    }


def _lines(training_id: str, parts: Mapping[str, Scores], kind: str) -> Iterator[dict[str, Any]]:
    """Lines of the ``scores`` or ``features`` view, one for each part, stream and video."""
    for part, scores in parts.items():
        for stream, matrix in getattr(scores, kind).items():
            for video, label, line in zip(scores.videos, scores.labels, matrix, strict=True):
                yield {
                    "training_id": training_id,
                    "part": part,
                    "video": video,
                    "label": int(label),
                    "stream": stream,
                    kind: line,
                }


def _gflops(model: VideoModel, training: Training) -> float:
    """Billions of multiply–adds of one training clip's forward pass."""
    hyperparameters = training.hyperparameters
    return count_flops(
        model,
        model.example_inputs(frames=hyperparameters.segments, size=hyperparameters.crop_size),
    )


def _device_name() -> str:
    """The GPU's or the processor's name, as the system gives it."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _peak_memory() -> int:
    """Bytes: of the GPU where there is one, else of this process since it began."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
