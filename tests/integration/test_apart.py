"""A study whose clips and results are at an address, on nodes that share no folder."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from ray.cluster_utils import Cluster

from study import run
from study.data.store.remote import CACHE_VARIABLE
from study.data.store.upload import upload
from tests.data.s3_server import S3Server, s3_server
from tests.integration.conftest import ROOT, environment, run_here
from tests.integration.kills import study_content
from tests.integration.test_plugins import FILES

CHECKPOINT = r"^results/checkpoints/.*\.pt$"
STUDY = (
    *("--space", "gem.py", "--arms", "gem", "--seeds", "1", "--trials", "2", "--weights", "none"),
    *("--set", "options.backbone=small", "epochs=4", "batch_size=8", "test_segments=2"),
)


@contextmanager
def cluster_apart(hidden: Path) -> Iterator[str]:
    """Yields the address of a head that trains nothing and two nodes of a core each.

    Each node is in a mount namespace of its own, where a folder and Ray's own are empty ones that
    no other process sees.
    """
    head = {"num_cpus": 0, "include_dashboard": False, "dashboard_agent_listen_port": None}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    rays = cluster.head_node.get_temp_dir_path()
    start = "&&".join(f"mount -t tmpfs tmpfs {folder}" for folder in (hidden, rays))
    ray = Path(sys.executable).with_name("ray")
    start += f"&& exec {ray} start --address {cluster.address} --num-cpus 1 --block"
    start += " --min-worker-port 0 --max-worker-port 0 --dashboard-agent-listen-port 0"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", start]
    nodes = [subprocess.Popen(command, env=environment(), cwd="/") for _ in range(2)]
    try:
        yield cluster.address
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()
        cluster.shutdown()


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    while not happened():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.timeout(900)  # of a busy machine
def test_nodes_that_share_no_folder_train_and_another_machine_goes_on(
    tiny_store: Path,
    plug_in_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver is killed; another one, in a folder of its own, ends the study."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces may be made here")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    (plug_in_folder / "gem.py").write_text(FILES["gem.py"])
    torch.set_num_threads(1)
    monkeypatch.setattr(run, "run_study", lambda study, *_, **__: run_here(study).failures)
    assert run.main([*STUDY, "--data", str(tiny_store)]) == 0

    with s3_server() as server, cluster_apart(tmp_path) as address:
        upload(tiny_store, server.uri("bucket/store"))
        first = start(tmp_path / "first", address, server)
        wait_until(lambda: server.puts(CHECKPOINT) > 0, first)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        read = server.gets(CHECKPOINT)
        second = start(tmp_path / "second", address, server)
        output, errors = second.communicate()
        assert second.returncode == 0, output + errors
        assert server.gets(CHECKPOINT) > read, "a trial goes on from its rung"
        assert study_content(server.uri("bucket/results")) == study_content("results")
        left = [key for key in server.objects if "checkpoints/" in key or "claims/" in key]
        assert [key for key in left if not key.endswith("/")] == []


def start(folder: Path, address: str, server: S3Server) -> "subprocess.Popen[str]":
    """Starts the study from a folder of its own."""
    folder.mkdir()
    (folder / "gem.py").write_text(FILES["gem.py"])
    places = ["--data", server.uri("bucket/store"), "--results", server.uri("bucket/results")]
    return subprocess.Popen(
        [sys.executable, "-m", "study.run", *STUDY, *places, "--address", address],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
