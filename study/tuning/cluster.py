"""The Ray that a study runs on: one of its own on this machine, or a cluster's."""

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

# Read when Ray is imported. Its own progress output and loggers give way to the study's; a first
# Ctrl-C ends the study at once, for everything that finished is on disk already.
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("RAY_TRAIN_ENABLE_PRINT_PATCH", "0")
os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import logging

import ray

from study.tuning.resources import Resources, trainings_at_once

__all__ = ["ClusterTooSmallError", "at_once_on", "running_ray"]


class ClusterTooSmallError(ValueError):
    """The cluster can't hold one training."""


@contextmanager
def running_ray(address: str | None, *, nested: bool = False) -> Iterator[dict[str, float]]:
    """Connects to the cluster at the address, or starts a local Ray and stops it afterwards.

    Args:
        address: The cluster's address; None for a local Ray.
        nested: Whether trainings have workers of their own. Ray then needs its state API, and so
            the dashboard, to free the workers' place when a trial is stopped.

    Yields:
        The cluster's resources by Ray's names.

    Raises:
        ConnectionError: If there is no cluster at the address.
    """
    own = {} if address else _own_address()
    before = {name: os.environ.get(name) for name in own}
    os.environ.update(own)
    try:
        _knock(address)
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"include_dashboard": nested}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}). Give --address auto on a node of "
            "a running cluster, or leave --address out to run on this machine alone"
        ) from error
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told and kept by us
    try:
        yield ray.cluster_resources()
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Fails at once where nobody listens at an address; Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit():
        host = host.removeprefix("ray://").strip("[]")
        socket.create_connection((host, int(port)), timeout=10).close()


def _own_address() -> dict[str, str]:
    """The environment of a local Ray whose processes know which Ray is theirs.

    Ray Train's cleaner frees the place of a stopped trial's workers, but gives up where several
    Rays run on the machine and none is named; the next trial would wait for ever.
    """
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    return {"RAY_GCS_SERVER_PORT": str(port), "RAY_ADDRESS": f"127.0.0.1:{port}"}


def at_once_on(
    cluster: Mapping[str, float], resources: Resources, *, asked: int | None, may_grow: bool
) -> int:
    """How many trainings to keep running at once.

    Args:
        asked: What the user asks for; None means as many as the cluster holds now.
        may_grow: Whether an autoscaler may add what is missing; then one waits for it.

    Raises:
        ClusterTooSmallError: If not one training fits and the cluster doesn't grow.
    """
    fitting = trainings_at_once(resources, cluster)
    if fitting == 0 and not may_grow:
        need = ", ".join(f"{amount:g} {name}" for name, amount in resources.total.items())
        have = ", ".join(f"{cluster.get(name, 0):g} {name}" for name in resources.total)
        raise ClusterTooSmallError(
            f"one training needs {need}, but this machine has {have}; give fewer --workers or "
            "--gpus-per-worker, or the --address of a larger cluster"
        )
    return asked or max(1, fitting)
