"""One training from its clip store to its rows in Parquet, on one process or many.

This is where the plan meets the data: nothing here knows of Ray or of a search.
"""

import contextlib
import json
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from models import VideoModel
from models.flops import count_flops, count_parameters
from study.data.clips.dataset import ClipDataset
from study.data.datasets.parts import Parts, split_parts
from study.data.store.clip_store import ClipStore
from study.data.store.remote import CachedFolder, divided_uri, is_uri, joined_uri
from study.networks import kept_networks, read_network, ready_to_score
from study.plan import Training, served_trainings
from study.provenance import canonical_json
from study.results.schema import Block
from study.results.store import ResultStore
from study.scores import Scores
from study.stages import start_network, told_starts
from study.training.checkpoint import (
    CheckpointPlace,
    checkpoint_exists,
    load_checkpoint,
    trained_state,
)
from study.training.clips import clip_settings
from study.training.evaluation import score
from study.training.initialisation import StartReport, initial_network
from study.training.loop import EpochReport, train
from study.training.weights import read_state_dict

__all__ = [
    "GpuMemoryError",
    "Job",
    "build_model",
    "checkpoint_place",
    "device_name",
    "epoch_row",
    "finished_epochs",
    "is_finished",
    "record_failure",
    "run_job",
    "rung_key",
    "score_blocks",
    "stored_parts",
    "trained_again",
    "training_row",
]

EPOCHS_EVERY_SECONDS = 10.0


class GpuMemoryError(ValueError):
    """The GPU's memory is too small for a job as it is."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training and all that running it needs; small, so that it can cross to any process.

    Attributes:
        training: What to train.
        store: The clip store's path or URI.
        results: The results folder or address.
        checkpoints: The folder of checkpoints or its URI, on storage that every node sees.
        study: The study's name.
        space: The space's name.
        protocol: The study's protocol.
        until: The epoch after which the job ends: a rung of the search, or the last.
        parts: The parts to score at the end; none for a trial of the search.
        network: Whether its network is to be stored at the end: another training starts from it.
        sources: By each of the training's `starts`, the training whose stored network it is.
        weights_files: The weights file, or its URI, of each stream that doesn't start from scratch.
        provenance: Git commit and whether the working tree differed from it.
        compile: Whether to use ``torch.compile``.
        loader_workers: Loader processes for each training process; None where the process that
            runs the job chooses, which is 0 unless Ray gave it a GPU.
        gpu: Whether it trains on a GPU.
        accumulation_steps: Forward and backward passes of a process in a step; None for the
            hyperparameters'. It differs from theirs only where the result doesn't depend on it.
        halved: Whether forward passes have half the videos that were planned, as one of the job's
            processes ran out of memory.
        activation_checkpointing: Whether activations are computed again in the backward pass.
        scoring_batch: Clips that are scored in one forward pass; None for the batch size.
        plugins: Modules from outside the project that register its model, to be imported first.
    """

    training: Training
    store: str
    results: str
    checkpoints: str
    study: str
    space: str
    protocol: str
    until: int
    parts: tuple[str, ...] = ()
    network: bool = False
    sources: Mapping[str, str] = field(default_factory=dict)
    weights_files: Mapping[str, str] = field(default_factory=dict)
    provenance: tuple[str, bool] = ("", False)
    compile: bool = False
    loader_workers: int | None = None
    gpu: bool = False
    accumulation_steps: int | None = None
    halved: bool = False
    activation_checkpointing: bool = False
    scoring_batch: int | None = None
    plugins: tuple[str, ...] = ()

    @property
    def checkpoint(self) -> CheckpointPlace:
        """The checkpoint's place, the same on every node and for every study."""
        return checkpoint_place(self.checkpoints, self.training.training_id)


def checkpoint_place(folder: str, training_id: str) -> CheckpointPlace:
    """Returns the place of a training's checkpoint in the folder of checkpoints, or its URI."""
    name = f"{training_id}.pt"
    return joined_uri(folder, name) if is_uri(folder) else Path(folder) / name


def run_job(job: Job, report: Callable[[EpochReport], None] | None = None) -> list[EpochReport]:
    """Trains up to the job's epoch, scores, and writes the results; every rank calls it.

    What is finished is not done again: the training goes on from its checkpoint, a finished one is
    scored from its kept network, and a job whose results are there reports its last epoch and ends.

    Args:
        job: The job.
        report: Called after every epoch on every rank.

    Returns:
        Every epoch of the training up to the job's.

    Raises:
        ValueError: If the store is not the one that the plan was made for.
        GpuMemoryError: If the GPU's memory is too small for half the videos in each forward pass,
            or with several processes for those that were planned.
    """
    started = datetime.now(UTC)
    if (epochs := finished_epochs(job)) is not None and not _lacks_network(job):
        if report is not None:
            report(epochs[-1])
        return epochs
    setup = _Setup.of(job)
    with _memory_errors_explained(job):
        return _run(setup, report, started)


def _run(
    setup: "_Setup", report: Callable[[EpochReport], None] | None, started: datetime
) -> list[EpochReport]:
    """Trains, scores and writes."""
    job, writer = setup.job, _EpochWriter(setup.job)
    judged: dict[int, Scores] = {}

    def validated(epoch: int, scores: Scores) -> None:
        if epoch == job.until:
            judged[epoch] = scores

    def reported(epoch: EpochReport) -> None:
        writer.add(epoch)
        if report is not None:
            report(epoch)

    epochs = _load_kept(setup, reported) or train(
        setup.model,
        setup.clips("train", augment=True),
        setup.clips("validation") if setup.parts.validation else None,
        hyperparameters=job.training.hyperparameters,
        seed=job.training.seed,
        device=setup.device,
        checkpoint=job.checkpoint,
        report=reported,
        validated=validated,
        compile=job.compile,
        accumulation_steps=job.accumulation_steps,
        halved=job.halved,
        activation_checkpointing=job.activation_checkpointing,
        loader_workers=job.loader_workers or 0,
        until=job.until,
    )
    clock = time.perf_counter()
    if setup.parts.validation and not judged:  # the checkpoint was there, but not its scores
        judged[job.until] = setup.score("validation")
    rung = judged.get(job.until)
    scored = {part: setup.score_finally(part, rung) for part in _wanted_parts(job)}
    writer.finish(epochs)
    if _is_first():
        seconds = sum(epoch.seconds for epoch in epochs) + time.perf_counter() - clock
        _write_scores(setup, rung, scored)
        if job.until == job.training.hyperparameters.epochs:
            again = is_finished(ResultStore(job.results), job.training.training_id)
            if writer.trained(epochs) or not again:
                _write_training(setup, epochs, started=started, seconds=seconds, again=again)
    return epochs


def _load_kept(setup: "_Setup", report: Callable[[EpochReport], None]) -> list[EpochReport]:
    """Loads the kept network of a finished training; returns its epochs, or none to train them."""
    job = setup.job
    if not _is_kept(job):
        return []
    epochs = _stored_epochs(job)
    network = read_network(ResultStore(job.results), job.training.training_id)
    if network is None or len(epochs) < job.until:
        return []
    setup.model.load_state_dict(network.state)
    ready_to_score(setup.model, setup.device)
    report(epochs[-1])
    return epochs


def _is_kept(job: Job) -> bool:
    """Returns whether the network at the job's last epoch is kept, and its checkpoint is gone."""
    return (
        job.until == job.training.hyperparameters.epochs
        and not checkpoint_exists(job.checkpoint)
        and job.training.training_id in kept_networks(ResultStore(job.results))
    )


def _lacks_network(job: Job) -> bool:
    """Returns whether the job's network is to be stored and isn't."""
    return job.network and not checkpoint_exists(job.checkpoint) and not _is_kept(job)


@contextlib.contextmanager
def _memory_errors_explained(job: Job) -> Iterator[None]:
    """Turns an out-of-memory error into one that says what to do about it."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        hyperparameters = job.training.hyperparameters
        passes = job.accumulation_steps or hyperparameters.accumulation_steps
        needed = str(error).splitlines()[0].partition(" See documentation")[0]
        raise GpuMemoryError(
            f"the GPU's memory is too small for batches of {hyperparameters.batch_size} videos in "
            f"{passes} passes: {needed} Set a smaller --gpu-memory, or --set "
            f"accumulation_steps={min(2 * passes, hyperparameters.batch_size)}"
        ) from error


def _wanted_parts(job: Job) -> tuple[str, ...]:
    """Returns the job's parts and those that are stored, which are written together."""
    if not job.parts:
        return ()
    return tuple(sorted({*job.parts, *_stored_parts(job)}))


def finished_epochs(job: Job) -> list[EpochReport] | None:
    """Returns a training's epochs up to the job's if all results of the job are stored, or None."""
    results, identity = ResultStore(job.results), job.training.training_id
    if job.until == job.training.hyperparameters.epochs and not is_finished(results, identity):
        return None
    if job.training.train_on == "train" and not results.read(
        "validation_scores", keys=[rung_key(identity, job.until)], columns=["epoch"]
    ):
        return None
    if job.parts and not set(job.parts) <= _stored_parts(job):
        return None
    epochs = _stored_epochs(job)
    return epochs if len(epochs) == job.until else None


def _stored_epochs(job: Job) -> list[EpochReport]:
    """Returns a training's epochs up to the job's, as far as stored."""
    lines = ResultStore(job.results).read("epochs", keys=[job.training.training_id])
    rows = lines.sort_by("epoch").to_pylist()[: job.until]
    names = [field.name for field in fields(EpochReport)]
    return [
        EpochReport(**{name: row[name] for name in names} | {"losses": json.loads(row["losses"])})
        for row in rows
    ]


def rung_key(training_id: str, epoch: int) -> str:
    """Returns the key of a training's validation scores at an epoch."""
    return f"{training_id}-{epoch}"


def stored_parts(results: ResultStore, training_id: str, scoring_id: str) -> frozenset[str]:
    """Returns the parts whose scores in a training's views, or features, are stored.

    There are none before the training's last epoch.
    """
    if not is_finished(results, training_id):
        return frozenset()
    scored, featured = (
        frozenset(results.read(view, keys=[scoring_id], columns=["part"])["part"].to_pylist())
        for view in ("scores", "features")
    )
    return scored if "train" in featured else scored - {"train"}


def _stored_parts(job: Job) -> frozenset[str]:
    training = job.training
    return stored_parts(ResultStore(job.results), training.training_id, training.scoring_id)


def trained_again(job: Job) -> bool:
    """Returns whether a finished training has to be trained again.

    That is where the results say that it is finished, but its scores in the wanted views are
    missing or another training is to start from its network, its checkpoint is gone, and its
    network wasn't kept.
    """
    finished = is_finished(ResultStore(job.results), job.training.training_id)
    trained = checkpoint_exists(job.checkpoint) or _is_kept(job)
    return finished and (finished_epochs(job) is None or job.network) and not trained


def is_finished(results: ResultStore, training_id: str) -> bool:
    """Returns whether all of a training is stored: its line in ``trainings`` is written last."""
    lines = results.read("trainings", keys=[training_id], columns=["status"])
    return "finished" in lines["status"].to_pylist()


def record_failure(job: Job, reason: str, *, traceback: str | None = None) -> None:
    """Writes a training that failed to ``trainings``, with the reason and where it failed.

    One that is finished, and failed to be scored again, stays as it is.
    """
    results = ResultStore(job.results)
    if is_finished(results, job.training.training_id):
        return
    results.write(
        "trainings",
        job.training.training_id,
        [
            {
                **training_row(job),
                "status": "failed",
                "error": reason,
                "traceback": traceback,
                "started_at": datetime.now(UTC),
            }
        ],
    )


def _device(job: Job) -> str:
    """The device that the job trains on.

    Raises:
        ValueError: If it is to be a GPU and there is none, or none with the job's precision.
    """
    if not job.gpu:
        return "cpu"
    if not torch.cuda.is_available():
        raise ValueError(
            "a GPU was asked for, but torch finds none here; check the driver with nvidia-smi, or "
            "leave --gpus-per-worker out"
        )
    precision = job.training.hyperparameters.precision
    if precision == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            f"{torch.cuda.get_device_name()} has no bfloat16; give --set precision=float32"
        )
    return f"cuda:{torch.cuda.current_device()}"


def build_model(
    job: Job, *, num_classes: int, report: Callable[[StartReport], None] | None = None
) -> VideoModel:
    """Returns the job's network at its initial weights.

    Args:
        job: The job.
        num_classes: Number of classes of its dataset.
        report: Receives what became of each weights file.

    Raises:
        ValueError: If a weights file is damaged, or doesn't fit the net.
    """
    training, streams = job.training, defaultdict(list)
    for stream, file in job.weights_files.items():
        streams[file].append(stream)
    try:
        return initial_network(
            training.model,
            training.options,
            num_classes=num_classes,
            seed=training.seed,
            weights=[(read_state_dict(_at_hand(file)), own) for file, own in streams.items()],
            report=report,
        )
    except ValueError as error:
        if not streams:
            raise
        raise ValueError(f"--weights {' '.join(streams)}: {error}") from error


def _start_from_trained(job: Job, model: VideoModel) -> None:
    """Starts a network from those that other trainings gave.

    A job without them only scores what its checkpoint holds, which must then be whole.

    Raises:
        ValueError: If a network doesn't fit, or a checkpoint is damaged.
        FileNotFoundError: If one isn't stored.
        RuntimeError: If one is in training.
    """
    training = job.training
    if training.starts.keys() - job.sources.keys():
        _read_trained(job, training.training_id, training.hyperparameters.epochs)
        return
    states: dict[str, Mapping[str, Tensor]] = {}
    for given in training.starts:
        source = job.sources[given]
        if source not in states:
            epochs = training.first_stage(given).hyperparameters.epochs
            states[source] = _read_trained(job, source, epochs)
        start_network(training, given, model, states[source])


def _read_trained(job: Job, training_id: str, epochs: int) -> Mapping[str, Tensor]:
    """Returns a finished training's network by tensor: the kept one, or that of its checkpoint."""
    network = read_network(ResultStore(job.results), training_id)
    if network is not None:
        return network.state
    try:
        checkpoint = load_checkpoint(checkpoint_place(job.checkpoints, training_id))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"the network of training {training_id} is gone; start the study again, which trains "
            "it again"
        ) from error
    if len(checkpoint["history"]) < epochs:
        raise RuntimeError(f"another study trains {training_id} again")
    return trained_state(checkpoint)


def _at_hand(file: str) -> Path:
    """Returns a weights file's path; one that is at a URI is fetched to this machine, once."""
    if not is_uri(file):
        return Path(file)
    folder, name = divided_uri(file)
    return CachedFolder(folder).locate(name)


@dataclass(frozen=True, kw_only=True)
class _Setup:
    """What a job needs: the network at its initial weights and the videos."""

    job: Job
    store: ClipStore
    parts: Parts
    model: VideoModel
    device: str

    @classmethod
    def of(cls, job: Job) -> "_Setup":
        store = ClipStore.open(job.store)
        if store.fingerprint != job.training.target.store_fingerprint:
            raise ValueError(
                f"clip store {job.store} has fingerprint {store.fingerprint}, but the training was "
                f"planned for {job.training.target.store_fingerprint}; the store changed since"
            )
        model = build_model(job, num_classes=len(store.annotations.classes))
        if not _is_kept(job):
            _start_from_trained(job, model)
        return cls(
            job=job,
            store=store,
            parts=split_parts(
                store.annotations,
                job.training.target.split,
                stored=store,
                train_on=job.training.train_on,
                carve=job.training.target.carve,
            ),
            model=model,
            device=_device(job),
        )

    def clips(self, part: str, *, augment: bool = False, views: bool = False) -> ClipDataset:
        return ClipDataset(
            self.store,
            getattr(self.parts, part),
            inputs=self.model.inputs,
            clip=clip_settings(self.job.training.hyperparameters, views=views),
            augment=augment,
            seed=self.job.training.seed,
        )

    def score(self, part: str, *, views: bool = False) -> Scores:
        hyperparameters = self.job.training.hyperparameters
        return score(
            self.model,
            self.clips(part, views=views),
            device=self.device,
            batch_size=self.job.scoring_batch or hyperparameters.batch_size,
            precision=hyperparameters.precision,
            loader_workers=self.job.loader_workers or 0,
        )

    def score_finally(self, part: str, rung: Scores | None) -> Scores:
        """Returns a part's scores as its rows report them; the rung's if views agree.

        The train part is scored in the same views: what is fitted on it sees scores and features
        that are made like those that it will judge.
        """
        hyperparameters = self.job.training.hyperparameters
        alike = clip_settings(hyperparameters) == clip_settings(hyperparameters, views=True)
        if part == "validation" and rung is not None and alike:
            return rung
        return self.score(part, views=True)


class _EpochWriter:
    """Writes a training's epochs every few seconds, so that a report can show them."""

    def __init__(self, job: Job) -> None:
        self._results = ResultStore(job.results)
        self._identity = job.training.training_id
        stored = self._results.read("epochs", keys=[self._identity]).to_pylist()
        self._seconds = {row["epoch"]: row["seconds"] for row in stored}
        self._rows = {row["epoch"]: row for row in stored}
        self._written = time.monotonic()

    def add(self, epoch: EpochReport) -> None:
        self._rows[epoch.epoch] = epoch_row(self._identity, epoch)
        if time.monotonic() - self._written > EPOCHS_EVERY_SECONDS:
            self._write()

    def finish(self, epochs: Sequence[EpochReport]) -> None:
        self._rows |= {epoch.epoch: epoch_row(self._identity, epoch) for epoch in epochs}
        self._write()

    def trained(self, epochs: Sequence[EpochReport]) -> bool:
        """Returns whether any of the training's epochs isn't one that was stored before."""
        return any(self._seconds.get(epoch.epoch) != epoch.seconds for epoch in epochs)

    def _write(self) -> None:
        if _is_first():
            rows = [self._rows[number] for number in sorted(self._rows)]
            self._results.write("epochs", self._identity, rows)
        self._written = time.monotonic()


def _is_first() -> bool:
    """Returns whether this is the process that writes, of those that train together."""
    return not dist.is_initialized() or dist.get_rank() == 0


def _write_scores(setup: _Setup, rung: Scores | None, scored: Mapping[str, Scores]) -> None:
    """Writes the validation scores of the job's last epoch, and those of the parts."""
    job = setup.job
    results, training = ResultStore(job.results), job.training
    identity = training.training_id
    if rung is not None:
        blocks = score_blocks(rung, "scores", training_id=identity, epoch=job.until)
        results.write_blocks("validation_scores", rung_key(identity, job.until), blocks)
    for view in ("scores", "features"):
        blocks = [
            block
            for part, scores in scored.items()
            if view == "scores" or "train" in scored
            for block in score_blocks(
                scores, view, training_id=identity, scoring_id=training.scoring_id, part=part
            )
        ]
        if blocks:
            results.write_blocks(view, training.scoring_id, blocks)


def _write_training(
    setup: _Setup,
    epochs: Sequence[EpochReport],
    *,
    started: datetime,
    seconds: float,
    again: bool,
) -> None:
    """Writes the line in ``trainings``, after the scores: what it says is finished is there."""
    job = setup.job
    ResultStore(job.results).write(
        "trainings",
        job.training.training_id,
        [
            {
                **training_row(job),
                "serves": canonical_json(
                    [one.training_id for one in served_trainings(job.training)]
                ),
                "status": "finished",
                "error": None,
                "epochs": len(epochs),
                "train_videos": len(setup.parts.train),
                "validation_videos": len(setup.parts.validation),
                "missing_videos": setup.parts.missing,
                "parameters": count_parameters(setup.model),
                "gflops": _gflops(setup.model, job.training),
                "seconds": seconds,
                "device": device_name(setup.device),
                "device_kind": _device_kind(setup.device),
                "compiled": job.compile,
                "precision": _precision(job),
                "notes": _notes(job.training, epochs, again=again),
                "workers": dist.get_world_size() if dist.is_initialized() else 1,
                "peak_memory_bytes": _peak_memory(setup.device),
                "started_at": started,
            }
        ],
    )


def training_row(job: Job) -> dict[str, Any]:
    """Returns the columns of ``trainings`` that are known before the training starts.

    They are known too where its model isn't, as on a machine that lacks a library of it.
    """
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
        "starts_from": canonical_json(training.starts) if training.starts else None,
        "protocol": job.protocol,
        "git_commit": job.provenance[0],
        "dirty": job.provenance[1],
        "versions": canonical_json(
            {"python": platform.python_version()}
            | {name: version(name) for name in ("torch", "torchvision", "numpy")}
        ),
        "torch": version("torch"),
    }


def epoch_row(training_id: str, epoch: EpochReport) -> dict[str, Any]:
    """Returns a line of the ``epochs`` view."""
    return {
        **asdict(epoch),
        "training_id": training_id,
        "losses": canonical_json(epoch.losses),
    }


def score_blocks(scores: Scores, kind: str, **same: Any) -> list[Block]:
    """Returns the lines of a view of ``scores`` or ``features``, those of a stream together."""
    return [
        {**same, "video": scores.videos, "label": scores.labels, "stream": stream, kind: matrix}
        for stream, matrix in getattr(scores, kind).items()
    ]


def _gflops(model: VideoModel, training: Training) -> float:
    """Returns billions of multiply–adds of one training clip's forward pass."""
    hyperparameters = training.hyperparameters
    return count_flops(
        model,
        model.example_inputs(frames=hyperparameters.segments, size=hyperparameters.crop_size),
    )


def _precision(job: Job) -> str:
    """Returns what it was computed in: on a GPU float32's products are TF32's."""
    precision = job.training.hyperparameters.precision
    return "tf32" if job.gpu and precision == "float32" else precision


def _notes(training: Training, epochs: Sequence[EpochReport], *, again: bool) -> str | None:
    """Returns what whoever reads the training's rows must know."""
    notes = [f"starts from {what}" for what in told_starts(training)]
    if halved := [epoch.epoch for epoch in epochs if epoch.halved]:
        notes.append(
            "the GPU's memory was too small for the planned micro-batch: from epoch "
            f"{halved[0]} on each forward pass had half the videos"
        )
    if again:
        notes.append("trained again, as its network was wanted and gone")
    return "; ".join(notes) or None


def device_name(device: str) -> str:
    """Returns the GPU's or the processor's name, as the system gives it."""
    if device != "cpu":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{_processor()}, {threads} thread{'s' if threads > 1 else ''}"


def _device_kind(device: str) -> str:
    """Returns what its numbers depend on: the GPU's name, or ``cpu``."""
    return "cpu" if device == "cpu" else torch.cuda.get_device_name(device)


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _peak_memory(device: str) -> int:
    """Returns peak bytes: the GPU's if it trains on one, else this process's since it began."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
