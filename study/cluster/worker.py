"""Runs a job where Ray put it: inline for one worker, under Ray Train for several."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import FailureConfig, RunConfig, ScalingConfig, WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.tune.integration.ray_train import TuneReportCallback

from study.cluster.connection import LOOPBACK
from study.cluster.plugins import receive
from study.cluster.rendezvous import MeetInFile
from study.cluster.resources import Resources, loader_workers_on
from study.job import GpuMemoryError, Job, run_job
from study.training.loop import EpochReport

__all__ = ["REPEATING", "execute", "metrics_of"]

REPEATING = (ArithmeticError, ValueError, TypeError, LookupError, FileNotFoundError)
"""Errors that a job would only meet again."""


def metrics_of(job: Job, epoch: EpochReport) -> dict[str, Any]:
    """Returns what an epoch reports to Tune."""
    return {
        "epoch": epoch.epoch,
        "validation_top1": epoch.validation_top1,
        "train_loss": epoch.train_loss,
        "losses": epoch.losses,
        "lr": epoch.lr,
        "clips_per_second": epoch.clips_per_second,
        "training_id": job.training.training_id,
    }


def execute(
    job: Job,
    resources: Resources,
    report: Callable[[dict[str, Any]], None],
    *,
    at_once: int,
    storage: str,
    sources: Mapping[str, bytes],
) -> None:
    """Runs the job in this process, or with several workers through Ray Train's TorchTrainer.

    Args:
        job: The job.
        resources: The training's processes and what each takes.
        report: Takes the metrics of each epoch; with several workers they reach Tune through
            Ray Train instead.
        at_once: How many trainings run at once, which share the nodes' cores for loading.
        storage: A folder of each node's own, for the study's plug-ins and Ray Train's files.
        sources: The plug-ins' source.

    Raises:
        WorkerGroupError: If one of several workers was lost.
        GpuMemoryError: If the GPU's memory is too small for half the videos in each forward pass
            as well.
        Exception: Whatever else the job raises, by one worker or several.
    """
    if resources.workers == 1:
        torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
        receive(job.plugins, sources, storage)
        here = _with_loaders(job, resources, at_once)
        run_job(here, lambda epoch: report(metrics_of(job, epoch)))
        return
    shared = {"resources": resources, "at_once": at_once, "storage": storage, "sources": sources}
    try:
        _train_on_several(job, shared)
    except GpuMemoryError as error:
        if job.halved:
            raise
        warnings.warn(
            f"{error}; the training is started again with half the videos in each forward pass",
            RuntimeWarning,
            stacklevel=2,
        )
        _train_on_several(replace(job, halved=True), shared)


def _train_on_several(job: Job, shared: Mapping[str, Any]) -> None:
    """Runs a job with Ray Train, which starts none again but where a node was taken away.

    Args:
        job: The job.
        shared: The other arguments of `execute`, but for `report`.
    """
    resources, storage = shared["resources"], shared["storage"]
    backend = "nccl" if resources.gpus_per_worker else "gloo"
    here_alone = ray.util.get_node_ip_address() == LOOPBACK  # as a local Ray is started
    trainer = TorchTrainer(
        _train_on_worker,
        torch_config=(
            MeetInFile(backend=backend, folder=storage)
            if here_alone
            else TorchConfig(backend=backend)
        ),
        train_loop_config={"job": job, **shared},
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus_per_worker > 0,
            resources_per_worker=resources.of_worker,
        ),
        run_config=RunConfig(
            name=f"train-{job.training.training_id}-{job.until}{'-halved' * job.halved}",
            storage_path=storage,
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=3),
            callbacks=[TuneReportCallback()],
        ),
    )
    try:
        trainer.fit()
    except WorkerGroupError as error:
        # The other workers fail too, for the one that failed first no longer answers them.
        failures = [one for one in error.worker_failures.values() if isinstance(one, REPEATING)]
        if failures:
            raise failures[0] from error
        raise


def _train_on_worker(config: dict[str, Any]) -> None:
    resources: Resources = config["resources"]
    job = _with_loaders(config["job"], resources, config["at_once"])
    torch.set_num_threads(max(1, int(resources.cpus_per_worker)))
    receive(job.plugins, config["sources"], config["storage"])
    run_job(job, lambda epoch: ray.train.report(metrics_of(job, epoch)))


def _with_loaders(job: Job, resources: Resources, at_once: int) -> Job:
    """The job with loader processes for this node, where the user didn't say how many."""
    if job.loader_workers is not None:
        return job
    here = ray.get_runtime_context().get_node_id()
    (node,) = (node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return replace(job, loader_workers=loader_workers_on(node, resources, at_once=at_once))
