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


class OneJob(JobSource):
    """One job, whose node is drained and taken away after its first epochs."""

    def __init__(self, job: Job, cluster: Cluster) -> None:
        self.job, self.cluster, self.node = job, cluster, cluster.add_node(num_cpus=1)
        self.said: list[str] = []
        self.taken_away_after = 0
        self.moments = 0

    @property
    def done(self) -> bool:
        return any(word in self.said for word in ("ended", "failed", "lost"))

    def next_job(self) -> Job | None:
        return None if self.said else self.job

    def started(self, job: Job) -> None:
        self.said.append("started")

    def reported(self, job: Job, metrics: Mapping[str, Any]) -> None:
        if self.taken_away_after or metrics["epoch"] < 2:
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
        self.said.append("ended")

    def failed(self, job: Job, reason: str) -> None:
        self.said.append("failed")

    def lost(self, job: Job, reason: str) -> None:
        self.said.append("lost")

    def time_passed(self) -> None:
        self.moments += 1


@pytest.mark.slow
@pytest.mark.timeout(900)  # of a busy machine
def test_a_training_on_a_drained_node_goes_on_elsewhere_and_counts_as_no_failure(
    cluster: Cluster, tiny_store: Path, tmp_path: Path
) -> None:
    ray.init(cluster.address, log_to_driver=False)
    study = study_of(tiny_store, tmp_path / "results", {**SMALL, "epochs": EPOCHS})
    (training,) = study.plan().trainings.values()
    source = OneJob(study.job(training, until=EPOCHS, parts=("test",)), cluster)
    run_jobs(source, Placement(resources=Resources(), at_once=1, scratch=str(tmp_path / "ray")))
    assert 2 <= source.taken_away_after < EPOCHS
    assert source.moments > EPOCHS, "more often than anything happens"
    assert source.said in (["started", "ended"], ["started", "started", "ended"])
    (line,) = ResultStore(tmp_path / "results").read("trainings").to_pylist()
    assert (line["status"], line["epochs"]) == ("finished", EPOCHS)
