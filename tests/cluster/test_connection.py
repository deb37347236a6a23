import os
import signal
import socket
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import ray

from study.cluster import connection
from study.cluster.connection import ClusterTooSmallError, at_once_on, running_ray
from study.cluster.resources import Resources

THREADS = "OMP_NUM_THREADS"
ON_GPU = Resources(gpus_per_worker=1)


def test_as_many_trainings_run_at_once_as_the_cluster_holds():
    assert at_once_on([{"CPU": 16, "GPU": 4}], ON_GPU, asked=None, may_grow=True) == 4


def test_a_cluster_that_will_grow_runs_as_many_as_the_user_says():
    assert at_once_on([{"CPU": 8}], ON_GPU, asked=8, may_grow=True) == 8
    assert at_once_on([{"CPU": 8}], ON_GPU, asked=None, may_grow=True) == 1


def test_a_machine_that_holds_not_one_training_is_refused_with_what_it_has():
    with pytest.raises(
        ClusterTooSmallError, match=r"needs 1 CPU, 1 GPU, .* 1 node of 2 CPU, 0 GPU;"
    ):
        at_once_on([{"CPU": 2}], ON_GPU, asked=None, may_grow=False)


def test_who_waits_for_a_cluster_to_grow_is_told_so(caplog: pytest.LogCaptureFixture):
    two = [{"CPU": 2}, {"CPU": 2}]
    at_once_on(two, Resources(workers=2, cpus_per_worker=2), asked=None, may_grow=True)
    assert "2 workers of 2 CPU, and 0.01 CPU beside them, but there are 2 nodes of 2 CPU now" in (
        caplog.text
    )
    caplog.clear()
    at_once_on(two, Resources(workers=2), asked=4, may_grow=True)
    assert not caplog.records


def test_a_folder_that_a_node_does_not_see_is_refused(tmp_path, monkeypatch):
    def ask(task: Callable[..., tuple[str, str | None]], folder: str, mark: str) -> list[Any]:
        elsewhere = folder.replace(str(tmp_path), "/nowhere")
        return [task(folder, mark), ("worker-7", task(elsewhere, mark)[1])]

    monkeypatch.setattr(connection, "on_every_node", ask)
    with pytest.raises(FileNotFoundError, match=r"node worker-7 doesn't see .*/results"):
        connection.check_shared(tmp_path / "results")
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.timeout(60)  # Ray itself would try for minutes
@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nobody_listens_is_refused_at_once(scheme: str):
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConnectionError, match=f"no Ray cluster answers at '{address}'"):
            running_ray(address).__enter__()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_answered_under_ray_as_before(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
):
    """Ray answers them in its own way, which would end the process without a word."""
    before = signal.getsignal(number)
    monkeypatch.setattr(ray, "init", lambda **_: signal.signal(number, signal.SIG_IGN))
    connection._start(include_dashboard=False, ready=False)
    assert signal.getsignal(number) == before


def test_inside_another_it_is_that_ones_ray_and_goes_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0}}, {"Alive": False, "Resources": {}}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    for name in ("init", "shutdown"):
        monkeypatch.setattr(ray, name, lambda **_: pytest.fail("it is another's"))
    with running_ray(None) as cluster:
        assert cluster == [{"CPU": 3.0}]


@pytest.mark.slow
@pytest.mark.timeout(300)  # of a busy machine
def test_processes_of_a_ready_ray_have_imported_what_a_training_needs():
    def imported() -> tuple[bool, str | None]:
        return {"study.cluster.queue", "torch._dynamo"} <= {*sys.modules}, os.environ.get(THREADS)

    with running_ray(None, ready=True):
        assert ray.get(ray.remote(imported).remote()) == (True, "1")


def test_only_placement_groups_that_outlived_their_job_are_removed(monkeypatch: pytest.MonkeyPatch):
    groups = [
        ("a" * 28 + "01000000", "01000000", "CREATED", False),
        ("b" * 28 + "01000000", "01000000", "CREATED", True),  # is meant to
        ("c" * 28 + "01000000", "01000000", "REMOVED", False),
        ("d" * 28 + "02000000", "02000000", "CREATED", False),  # of a study that runs
    ]
    names = ("placement_group_id", "creator_job_id", "state", "is_detached")
    jobs = [("01000000", "FAILED"), ("02000000", "RUNNING")]
    found = {
        "list_placement_groups": [
            SimpleNamespace(**dict(zip(names, group, strict=True))) for group in groups
        ],
        "list_jobs": [SimpleNamespace(job_id=job, status=status) for job, status in jobs],
    }
    for name, listed in found.items():
        monkeypatch.setattr(connection, name, lambda listed=listed, **_: listed)
    freed = []
    monkeypatch.setattr(connection, "remove_placement_group", lambda group: freed.append(group.id))
    connection._remove_orphaned_placement_groups("head:6379")
    assert [identity.hex() for identity in freed] == [groups[0][0]]
