"""What one training takes of a cluster, and how many fit at once."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from models.checks import check_count, check_number

__all__ = ["DRIVER_CPUS", "Resources", "loader_workers_on", "trainings_at_once"]

DRIVER_CPUS = 0.01  # the process that waits for a training's workers; Ray rejects zero


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """The processes of one training.

    Attributes:
        workers: Training processes; more than one train with DistributedDataParallel.
        cpus_per_worker: CPU cores, and so threads, of each.
        gpus_per_worker: GPUs of each, at most 1; 0 trains on the CPU.

    Raises:
        ValueError: If a number isn't finite or is out of its range.
    """

    workers: int = 1
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0

    def __post_init__(self) -> None:
        check_count("--workers", self.workers, least=1, most=10_000)
        check_number("--cpus-per-worker", self.cpus_per_worker, least=0.01, most=10_000)
        check_number("--gpus-per-worker", self.gpus_per_worker, least=0)
        if self.gpus_per_worker > 1:
            raise ValueError(
                "--gpus-per-worker must be at most 1, for a worker trains on one GPU, got "
                f"{self.gpus_per_worker:g}; give more --workers instead"
            )

    @property
    def total(self) -> dict[str, float]:
        """What one training takes, by Ray's names of resources."""
        total = {"CPU": self.workers * self.cpus_per_worker}
        if self.gpus_per_worker:
            total["GPU"] = self.workers * self.gpus_per_worker
        return total

    @property
    def of_driver(self) -> dict[str, float]:
        """What Tune reserves for a trial: the training itself with one worker, else its driver."""
        if self.workers > 1:
            return {"cpu": DRIVER_CPUS}
        return {name.lower(): amount for name, amount in self.total.items()}

    @property
    def of_worker(self) -> dict[str, float]:
        """What Ray Train reserves for each of several workers."""
        return {name: amount / self.workers for name, amount in self.total.items()}


def trainings_at_once(resources: Resources, nodes: Sequence[Mapping[str, float]]) -> int:
    """Returns how many such trainings the nodes hold at once; 0 when not even one.

    A worker takes all that it needs from one node; several workers may be on several.

    Args:
        resources: What one training takes.
        nodes: The resources of each node, by Ray's names.
    """
    drivers = DRIVER_CPUS if resources.workers > 1 else 0
    need = {**resources.total, "CPU": resources.total["CPU"] + drivers}
    together = {name: sum(node.get(name, 0) for node in nodes) for name in need}
    workers = sum(_times(resources.of_worker, node) for node in nodes)
    return min(_times(need, together), workers // resources.workers)


def loader_workers_on(node: Mapping[str, float], resources: Resources, *, at_once: int) -> int:
    """How many loader processes each training process on a node gets.

    Where it trains on a GPU it gets its share of the node's cores, less one for itself, from 1 to
    8; on the CPU none, for the training has the cores.

    Args:
        node: The node's resources, by Ray's names.
        resources: What each training takes.
        at_once: How many trainings run at once, on all nodes.
    """
    if not resources.gpus_per_worker:
        return 0
    processes = min(_times(resources.of_worker, node), at_once * resources.workers)
    return min(8, max(1, int(node["CPU"] // max(1, processes)) - 1))


def _times(need: Mapping[str, float], have: Mapping[str, float]) -> int:
    return min(math.floor(have.get(name, 0) / amount + 1e-9) for name, amount in need.items())
