"""How fast a study's networks are: from earlier trainings, or from a few steps of each, here."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from models.video_model import VideoModel
from study.data.clips.dataset import ClipDataset
from study.data.datasets.annotations import Video
from study.estimate import BACKWARD, Paces, gflops_of
from study.job import build_model, device_name
from study.plan import Training
from study.request import Study
from study.results.store import ResultStore
from study.training.clips import clip_settings
from study.training.loop import NonFiniteLossError, train

__all__ = ["device_of", "earlier_paces", "measure_pace"]

PROBE_VIDEOS = 2  # as few as batch normalisation works on
SECONDS = 3.0  # of what is measured, about
BATCHES = 4  # that are measured at the most
MOST_GFLOPS = 100.0  # of a clip that is tried on a CPU: two take some ten seconds


def device_of(study: Study) -> str | None:
    """Returns the device here that a study's trainings would run on; None if there is none.

    The name is as in the column ``device`` of ``trainings``.
    """
    if study.gpu is None:
        with _threads(study):
            return device_name("cpu")
    return device_name("cuda") if torch.cuda.is_available() else None


def earlier_paces(results: ResultStore, device: str | None) -> tuple[Paces, str | None]:
    """Returns what finished trainings in the results tell of networks' speed on a device.

    Args:
        results: The results.
        device: The device; None takes the GPU of the latest training on one.

    Returns:
        The paces, and the device that they are of; None if there is no training on any.
    """
    lines = results.read("trainings", status="finished").sort_by("started_at").to_pylist()
    if device is None:
        gpus = [one["device"] for one in lines if " thread" not in (one["device"] or " thread")]
        device = gpus[-1] if gpus else None
    used = {line["training_id"]: line for line in lines if line["device"] == device}
    paces, seconds = Paces(), dict.fromkeys(used, 0.0)
    if used:
        for epoch in results.read("epochs", keys=list(used)).to_pylist():
            seconds[epoch["training_id"]] += epoch["seconds"]
    for identity, line in used.items():
        if line["train_videos"] and line["gflops"] and seconds[identity]:
            paces.add_earlier(line, seconds=seconds[identity])
    return paces, device


def measure_pace(study: Study, training: Training) -> float | None:
    """Trains a few steps of a training here and returns a process's seconds for a pass.

    First two videos, then as many as take about `SECONDS`; nothing is written. None where there
    isn't the device, the clips are too large to be tried, or the loss isn't finite.
    """
    if study.gpu is None and gflops_of(training) > MOST_GFLOPS:
        return None
    if study.gpu is not None and not torch.cuda.is_available():
        return None
    job = study.job(training, until=1)
    videos = study.parts_of(training).train
    model = build_model(job, num_classes=len(study.store_of(training).annotations.classes))

    def seconds_of(chosen: Iterable[Video]) -> float:
        began = time.perf_counter()
        train(
            model,
            _clips(study, training, model, chosen),
            hyperparameters=replace(training.hyperparameters, warmup_epochs=0.0),
            seed=training.seed,
            device="cpu" if study.gpu is None else "cuda",
            accumulation_steps=job.accumulation_steps,
            activation_checkpointing=job.activation_checkpointing,
            loader_workers=0,
            until=1,
        )
        return time.perf_counter() - began

    try:
        with _threads(study):
            count, batch = PROBE_VIDEOS, training.hyperparameters.batch_size
            while True:  # the first round loads kernels too, so at most four
                seconds = seconds_of((videos * (1 + count // len(videos)))[:count])
                if seconds > SECONDS / 2 or count >= BATCHES * batch:
                    break
                count = min(max(2, int(SECONDS / seconds)) * count, BATCHES * batch)
                count -= count % batch if count > batch else 0  # whole batches
    except (NonFiniteLossError, torch.OutOfMemoryError):
        return None
    return seconds / ((1 + BACKWARD) * count * training.hyperparameters.segments)


def _clips(
    study: Study, training: Training, model: VideoModel, videos: Iterable[Video]
) -> ClipDataset:
    return ClipDataset(
        study.store_of(training),
        tuple(videos),
        inputs=model.inputs,
        clip=clip_settings(training.hyperparameters),
        augment=True,
        seed=training.seed,
    )


@contextmanager
def _threads(study: Study) -> Iterator[None]:
    """As many threads as a worker of the study has."""
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, int(study.request.resources.cpus_per_worker)))
    try:
        yield
    finally:
        torch.set_num_threads(before)
