import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.scripts.scripts import drain_node

from study.cluster.queue import JobSource, Placement, run_jobs
from study.cluster.resources import Resources
from study.job import Job
from study.results.store import ResultStore
from tests.test_fit import SMALL, study_of

EPOCHS = 30


class TwoJobs(JobSource):
    """A job that diverges, then one whose node is drained and taken away after some epochs."""

    def __init__(self, jobs: list[Job], cluster: Cluster) -> None:
        self.jobs, self.cluster, self.node = jobs, cluster, cluster.add_node(num_cpus=1)
        self.running = False
        self.said: list[str] = []
        self.reason = ""
        self.taken_away_after = 0
        self.moments = 0

    @property
    def done(self) -> bool:
        return not self.jobs and not self.running

    def next_job(self) -> Job | None:
        if self.running:
            return None
        self.running = True
        return self.jobs.pop(0)

    def started(self, job: Job) -> None:
        self.said.append("started")

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        if self.jobs or self.taken_away_after or metrics["epoch"] < 2:
            return
        self.taken_away_after = metrics["epoch"]
        command = ["--address", self.cluster.address, "--node-id", self.node.node_id]
        command += ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "test"]
        command += ["--deadline-remaining-seconds", "0"]
        drain_node.main(command, standalone_mode=False)
        time.sleep(0.1)
        self.cluster.remove_node(self.node, allow_graceful=False)
        self.cluster.add_node(num_cpus=1)

    def ended(self, job: Job) -> None:
        self._over("ended")

    def failed(self, job: Job, reason: str) -> None:
        self.reason = reason
        self._over("failed")

    def lost(self, job: Job, reason: str) -> None:
        self._over("lost")

    def _over(self, how: str) -> None:
        self.said.append(how)
        self.running = False

    def time_passed(self) -> None:
        self.moments += 1


DIVERGES = {"learning_rate": 1e6, "loss_weights.temporal": 1e30, "batch_size": 4}


@pytest.mark.slow
def test_what_diverges_fails_and_what_is_on_a_drained_node_goes_on_elsewhere(
    cluster: Cluster, tiny_store: Path, tmp_path: Path
) -> None:
    """The first is recorded with its reason, and the second counts as no failure."""
    ray.init(cluster.address, log_to_driver=False)
    jobs = []
    for changes, until in ((DIVERGES, 1), ({}, EPOCHS)):
        study = study_of(tiny_store, tmp_path / "results", {**SMALL, **changes, "epochs": until})
        (training,) = study.plan().trainings.values()
        jobs.append(study.job(training, until=until, parts=("test",)))
    source = TwoJobs(jobs, cluster)
    run_jobs(source, Placement(resources=Resources(), at_once=1, scratch=str(tmp_path / "ray")))
    assert 2 <= source.taken_away_after < EPOCHS
    assert source.moments > EPOCHS, "more often than anything happens"
    assert source.said[:2] == ["started", "failed"]
    assert source.said[2:] in (["started", "ended"], ["started", "started", "ended"])
    assert source.reason.startswith("NonFiniteLossError: the ")
    lines = ResultStore(tmp_path / "results").read("trainings").to_pylist()
    failed, finished = sorted(lines, key=lambda line: line["status"])
    assert (failed["status"], failed["error"].partition(":")[0]) == ("failed", "NonFiniteLossError")
    assert (finished["status"], finished["epochs"]) == ("finished", EPOCHS)
