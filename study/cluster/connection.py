"""The Ray that a study runs on: its own on this machine, or a cluster's."""

import os
import secrets
import shutil
import signal
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
from ray import PlacementGroupID, _raylet
from ray._private import ray_constants
from ray.util.placement_group import PlacementGroup, remove_placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from ray.util.state import list_jobs, list_placement_groups
from ray.util.state.exception import RayStateApiException

from study.cluster.resources import DRIVER_CPUS, Resources, trainings_at_once
from study.results.store import ResultStore

__all__ = [
    "LOOPBACK",
    "ClusterTooSmallError",
    "at_once_on",
    "check_seen",
    "check_shared",
    "node_folder",
    "on_every_node",
    "running_ray",
]

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
LOOPBACK_INTERFACE = "lo" if sys.platform == "linux" else "lo0"
WATCH_SECONDS = 0.5
_MOST = 10_000  # as many as Ray's state API lists
_READY = {
    # torch's optimisers import its compiler, whether or not it is used.
    "RAY_preload_python_modules": "study.cluster.queue,torch._dynamo",
    "OMP_NUM_THREADS": "1",  # which Ray sets too, but only once these are imported
    "PYTHONPATH": os.pathsep.join(
        filter(None, (str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")))
    ),
}


class ClusterTooSmallError(ValueError):
    """The cluster can't hold one training."""


@contextmanager
def running_ray(
    address: str | None, *, nested: bool = False, ready: bool = False
) -> Iterator[list[dict[str, float]]]:
    """Connects to the cluster at the address, or starts a local Ray and stops it afterwards.

    Inside another one, it is that one's.

    Args:
        address: The cluster's address; None for a local Ray.
        nested: Whether a training has several workers. Ray then needs its state API, and so the
            dashboard, to free the workers' resources when a trial is stopped.
        ready: Whether the processes of a local Ray, one a core, import what a training needs as
            they start, so that the first trainings needn't wait for it.

    Yields:
        The resources of each of the cluster's nodes, by Ray's names.

    Raises:
        ConnectionError: If there is no cluster at the address, or a local Ray doesn't start.
    """
    if ray.is_initialized():
        yield [node["Resources"] for node in _nodes()]
        return
    if address is None:
        _start(include_dashboard=nested, ready=ready)
    else:
        _connect(address)
    for name in ("ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # failures are told and kept by us
    try:
        if address is None:
            with _watched():
                yield [node["Resources"] for node in _nodes()]
        else:
            _remove_orphaned_placement_groups(ray.get_runtime_context().gcs_address)
            yield [node["Resources"] for node in _nodes()]
    finally:
        ray.shutdown()
        if address is None:  # its token is no other Ray's
            _read_environment_again()


def _connect(address: str) -> None:
    """Connects to a cluster."""
    try:
        _check_someone_listens(address)
        with _signals_kept():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"no Ray cluster answers at {address!r} ({error}). Give --address auto on a node of "
            "a running cluster, or leave --address out to run on this machine alone"
        ) from error


def _start(*, include_dashboard: bool, ready: bool) -> None:
    """Starts a local Ray that only this machine reaches, and only with the token of this run."""
    for attempt in (1, 2):
        with _own_ray(_READY if ready else {}), _signals_kept():
            try:
                ray.init(
                    address="local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=include_dashboard,
                    _node_ip_address=LOOPBACK,
                )
                return
            except Exception as error:  # a Ray that comes up too slowly raises just that
                ray.shutdown()
                reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
                if attempt == 2:
                    raise ConnectionError(
                        f"Ray doesn't start on this machine: {reason}. Where the machine is busy, "
                        "try again later; Ray's own logs are in /tmp/ray/session_latest/logs"
                    ) from error
        logger.warning(f"Ray didn't start ({reason}): trying once more")


@contextmanager
def _watched() -> Iterator[None]:
    """Ends this process with status 1 and a line of error if the local Ray ends before it does.

    A Ray whose raylet or GCS was killed, as where memory runs out, doesn't come back, but Ray waits
    for it: minutes, or for ever, in calls that no exception interrupts.
    """
    node = ray._private.worker._global_node
    servers = {name: node.all_processes[name][0].process for name in ("gcs_server", "raylet")}
    done = threading.Event()

    def watch() -> None:
        while not done.wait(WATCH_SECONDS):
            if ended := [name for name, process in servers.items() if process.poll() is not None]:
                break
        else:
            return
        node.kill_all_processes(check_alive=False, allow_graceful=False)
        print(
            f"Ray's {ended[0]} on this machine ended unexpectedly, as where memory runs out. What "
            "finished is kept; the same command goes on from there.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        done.set()
        watching.join()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Keeps the caller's answers to Ctrl-C and SIGTERM, which Ray replaces when it starts."""
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except SystemExit:  # Ray's own answer to a SIGTERM in between
        raise KeyboardInterrupt from None
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _remove_orphaned_placement_groups(address: str) -> None:
    """Removes placement groups that outlived their job and so hold CPUs and GPUs for ever.

    Ray removes a job's placement groups when the job ends. But where a study is interrupted while
    trainings of several workers wait for theirs, Ray may still create one afterwards, and every
    later study would wait for its CPUs and GPUs.

    Args:
        address: The cluster's, for several Rays may run on this machine.
    """
    try:
        jobs = list_jobs(address=address, limit=_MOST)
        groups = list_placement_groups(address=address, limit=_MOST, detail=True)
    except (RayStateApiException, OSError, ValueError):
        return  # a cluster without the dashboard
    ended = {job.job_id for job in jobs if job.status not in ("PENDING", "RUNNING")}
    for group in groups:
        if group.creator_job_id in ended and not group.is_detached and group.state != "REMOVED":
            identity = PlacementGroupID.from_hex(group.placement_group_id)
            remove_placement_group(PlacementGroup(identity))


def _check_someone_listens(address: str | None) -> None:
    """Fails at once where nobody listens at an address; Ray itself tries for minutes."""
    host, _, port = (address or "").rpartition(":")
    if port.isdigit():
        host = host.removeprefix("ray://").strip("[]")
        socket.create_connection((host, int(port)), timeout=10).close()


@contextmanager
def _own_ray(more: Mapping[str, str]) -> Iterator[None]:
    """Sets the environment of a local Ray, which its processes inherit, while it starts.

    Its address is in it since Ray Train's cleaner frees the place of a stopped trial's workers,
    but gives up where several Rays run on the machine and none is named; the next trial would wait
    for ever.
    """
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        port = free.getsockname()[1]
    own = {
        "RAY_GCS_SERVER_PORT": str(port),
        "RAY_ADDRESS": f"{LOOPBACK}:{port}",
        # Or its agents outlive a killed Ray by a minute, in which they call for the dead GCS.
        "RAY_gcs_rpc_server_reconnect_timeout_s": "10",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0",  # its processes bind the loopback only
        # And so do those of torch that train together.
        "GLOO_SOCKET_IFNAME": LOOPBACK_INTERFACE,
        "NCCL_SOCKET_IFNAME": LOOPBACK_INTERFACE,
        **more,
    }
    before = {name: os.environ[name] for name in own if name in os.environ}
    clusters = ray_constants.ENABLE_RAY_CLUSTER
    os.environ.update(own)
    ray_constants.ENABLE_RAY_CLUSTER = False
    _read_environment_again()
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in own:
            os.environ.pop(name, None)
        os.environ.update(before)


def _read_environment_again() -> None:
    """Has Ray take up the environment as it is now; by itself it reads it once a process."""
    _raylet.Config.initialize("")  # type: ignore[attr-defined]
    _raylet.AuthenticationTokenLoader.instance().reset_cache()  # type: ignore[attr-defined]


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]


@contextmanager
def node_folder() -> Iterator[str]:
    """Yields the path of a folder below Ray's own that every node may make for itself.

    On this node it is deleted afterwards; what other nodes have in theirs goes with Ray's files.
    """
    session = ray._private.worker._global_node.get_session_dir_path()
    folder = Path(session) / f"study-{secrets.token_hex(8)}"
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_shared(folder: str | Path) -> None:
    """Checks that every node that Ray has now sees what this process writes to a folder.

    Args:
        folder: A local folder, which is made if missing, or a URI.

    Raises:
        FileNotFoundError: If a node doesn't see it; what trains or prepares there would be lost.
    """
    files, mark = ResultStore(folder), f".shared-{secrets.token_hex(8)}"
    files.put_file(mark, b"")
    try:
        check_seen(folder, mark)
    finally:
        files.delete_file(mark)


def check_seen(folder: str | Path, name: str) -> None:
    """Checks that every node that Ray has now sees a file in a folder that this one sees.

    Raises:
        FileNotFoundError: If a node doesn't see it.
    """
    for host, fault in on_every_node(_fault, str(folder), name):
        if fault is not None:
            raise FileNotFoundError(
                f"node {host} doesn't see what this one has in {folder}{fault}: on a cluster it "
                "must be on storage that all nodes reach, such as /mnt/study or s3://bucket/study"
            )


def on_every_node(task: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Returns what a function returns on each of the nodes that Ray has now."""
    started = [
        ray.remote(task)
        .options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        )
        .remote(*arguments)
        for node in _nodes()
    ]
    answers: list[Any] = ray.get(started)
    return answers


def _fault(folder: str, name: str) -> tuple[str, str | None]:
    """Returns this node's name, and why it doesn't see a file; None where it does."""
    host = socket.gethostname()
    try:
        return host, None if ResultStore(folder).file(name) is not None else ""
    except (OSError, ValueError) as error:  # as without a key to the bucket
        return host, f" ({error})"


def at_once_on(
    nodes: Sequence[Mapping[str, float]],
    resources: Resources,
    *,
    asked: int | None,
    may_grow: bool,
) -> int:
    """Returns how many trainings to keep running at once.

    Args:
        nodes: The resources of each node, by Ray's names.
        resources: What one training takes.
        asked: What the user asks for; None means as many as the nodes hold now.
        may_grow: Whether an autoscaler may add nodes; then too few are waited for, with a warning.

    Raises:
        ClusterTooSmallError: If not even one training fits and the cluster can't grow.
    """
    fitting = trainings_at_once(resources, nodes)
    if fitting == 0:
        missing = _missing(nodes, resources)
        if not may_grow:
            raise ClusterTooSmallError(
                f"one training needs {missing}; give fewer --workers, --cpus-per-worker or "
                "--gpus-per-worker, or the --address of a larger cluster"
            )
        logger.warning(
            f"WAITING: one training needs {missing} now. Where no node is to come, stop this and "
            "give fewer --workers, --cpus-per-worker or --gpus-per-worker"
        )
    return asked or max(1, fitting)


def _missing(nodes: Sequence[Mapping[str, float]], resources: Resources) -> str:
    """Returns what one training needs and what there is instead, node by node."""

    def told(amounts: Mapping[str, float]) -> str:
        return ", ".join(f"{amounts.get(name, 0):g} {name}" for name in resources.total)

    need = told(resources.of_worker)
    if resources.workers > 1:
        need = f"{resources.workers} workers of {need}, and {DRIVER_CPUS:g} CPU beside them"
    have = " and ".join(
        f"{count} node{'s' if count > 1 else ''} of {node}"
        for node, count in Counter(map(told, nodes)).items()
    )
    return f"{need}, but there {'is' if len(nodes) == 1 else 'are'} {have}"
