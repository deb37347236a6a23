import socket

import pytest

from study.tuning.cluster import ClusterTooSmallError, at_once_on, running_ray
from study.tuning.resources import Resources

ON_GPU = Resources(gpus_per_worker=1)


def test_as_many_trainings_run_at_once_as_the_cluster_holds():
    assert at_once_on({"CPU": 16, "GPU": 4}, ON_GPU, asked=None, may_grow=True) == 4


def test_a_cluster_that_will_grow_runs_as_many_as_the_user_says():
    assert at_once_on({"CPU": 8}, ON_GPU, asked=8, may_grow=True) == 8
    assert at_once_on({"CPU": 8}, ON_GPU, asked=None, may_grow=True) == 1


def test_a_machine_that_holds_not_one_training_is_refused_with_what_it_has():
    with pytest.raises(ClusterTooSmallError, match=r"needs 1 CPU, 1 GPU, .* has 2 CPU, 0 GPU"):
        at_once_on({"CPU": 2}, ON_GPU, asked=None, may_grow=False)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_at_once(scheme: str):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Ray cluster answers at '{address}'"):
            running_ray(address).__enter__()
