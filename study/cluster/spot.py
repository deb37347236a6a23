"""Drains this node of a Ray cluster when EC2 gives notice that it takes the spot instance away.

``python -m study.cluster.spot`` runs next to Ray on every worker that `cluster.yaml` starts, and
ends at once on one that is no spot instance. The notice comes two minutes ahead. From then on Ray
places nothing more on the node, and counts what it loses there as preempted: such a training goes
on elsewhere from its checkpoint, and nothing of it counts as a failure.
"""

import json
import logging
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from urllib.error import HTTPError

__all__ = ["drain_node", "seconds_left", "watch"]

METADATA = "http://169.254.169.254/latest"  # the instance's own, by Amazon's documentation
POLL_SECONDS = 5.0  # as often as Amazon recommends
ANSWER_SECONDS = 2.0
TOKEN_SECONDS = 60
EARLY_SECONDS = 30.0  # Ray takes a loss for a preemption once the deadline that it knows has passed

logger = logging.getLogger(__name__)


def watch(
    drain: Callable[[float], None],
    *,
    metadata: str = METADATA,
    wait: Callable[[float], None] = time.sleep,
) -> None:
    """Waits for the notice, and drains the node; returns at once where none can come.

    Args:
        drain: Drains the node, given the seconds until it goes; tried again where it fails.
        metadata: Address of the instance's metadata.
        wait: Waits for some seconds.
    """
    while True:
        try:
            if _read(metadata, "instance-life-cycle") != "spot":
                return
            if (seconds := seconds_left(metadata)) is not None:
                drain(seconds)
                return
        except (OSError, subprocess.SubprocessError) as error:
            logger.warning("%s: trying again", error)
        wait(POLL_SECONDS)


def seconds_left(metadata: str = METADATA) -> float | None:
    """Returns in how many seconds the instance is taken away; None without a notice.

    Raises:
        OSError: If the metadata can't be read.
    """
    notice = _read(metadata, "spot/instance-action")
    if notice is None:
        return None
    end = datetime.fromisoformat(json.loads(notice)["time"])
    return max(0.0, (end - datetime.now(UTC)).total_seconds())


def drain_node(seconds: float) -> None:
    """Drains the node by Ray's own command.

    Args:
        seconds: Until the node goes.

    Raises:
        subprocess.CalledProcessError: If Ray refuses or doesn't answer.
    """
    subprocess.run(
        [
            *(str(Path(sys.executable).with_name("ray")), "drain-node"),
            *("--reason", "DRAIN_NODE_REASON_PREEMPTION"),
            *("--reason-message", "EC2 takes the spot instance away"),
            *("--deadline-remaining-seconds", str(max(0, int(seconds - EARLY_SECONDS)))),
        ],
        check=True,
    )
    logger.warning("drained: this spot instance goes in %.0f s", seconds)


def _read(metadata: str, name: str) -> str | None:
    """Returns an item of the instance's metadata (IMDSv2); None where there is none."""
    token = _ask(f"{metadata}/api/token", "PUT", "ttl-seconds", str(TOKEN_SECONDS))
    try:
        return _ask(f"{metadata}/meta-data/{name}", "GET", "", token)
    except HTTPError as error:
        if error.code == 404:
            return None
        raise


def _ask(address: str, method: str, header: str, value: str) -> str:
    name = "-".join(filter(None, ("X-aws-ec2-metadata-token", header)))
    request = urllib.request.Request(address, method=method, headers={name: value})
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:
        text: str = answer.read().decode()
    return text


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s")
    watch(drain_node)
