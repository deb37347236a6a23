"""A Ray cluster of this machine's own, whose nodes come and go."""

from collections.abc import Iterator

import pytest
import ray
from ray.cluster_utils import Cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of a head that neither trains nor prepares, and soon knows that a node is gone."""
    head = {
        "num_cpus": 0,
        "include_dashboard": False,
        "include_log_monitor": False,
        "no_monitor": True,  # nothing scales it
        "dashboard_agent_listen_port": None,  # another cluster may have the usual one
        "_system_config": {"health_check_period_ms": 500},
    }
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
