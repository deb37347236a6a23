import json
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from study.cluster import spot

TOKEN = "AQAEAPkqzg"


class Instance:
    """An EC2 instance's metadata: each item's answers in turn, of which the last stays.

    By Amazon's documentation: a token is had by PUT with a time to live, and asked for from then
    on; what there isn't is 404.
    """

    def __init__(self, **items: list[str | int]) -> None:
        self.items = {name.replace("_", "-"): answers for name, answers in items.items()}
        self.address = ""

    def answer(self, name: str) -> str | int:
        answers = self.items.get(name.rpartition("/")[2], [404])
        return answers.pop(0) if len(answers) > 1 else answers[0]


@pytest.fixture
def serve() -> Iterator[Any]:
    servers = []

    def start(instance: Instance) -> str:
        class Handler(BaseHTTPRequestHandler):
            def say(self, answer: str | int) -> None:
                self.send_response(answer if isinstance(answer, int) else 200)
                self.end_headers()
                self.wfile.write(str(answer).encode())

            def do_PUT(self) -> None:
                ttl = int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"])
                right = self.path == "/latest/api/token" and 1 <= ttl <= 21600
                self.say(TOKEN if right else 400)

            def do_GET(self) -> None:
                if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
                    self.say(401)
                else:
                    self.say(instance.answer(self.path.removeprefix("/latest/meta-data/")))

            def log_message(self, *_: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/latest"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def notice(seconds: float) -> str:
    when = datetime.now(UTC) + timedelta(seconds=seconds)
    return json.dumps({"action": "terminate", "time": f"{when:%Y-%m-%dT%H:%M:%SZ}"})


def watched(address: str, *, failures: int = 0) -> tuple[list[float], list[float]]:
    """Returns the drains that were asked for, and the waits."""
    drains: list[float] = []
    waits: list[float] = []

    def drain(seconds: float) -> None:
        drains.append(seconds)
        if len(drains) <= failures:
            raise subprocess.CalledProcessError(1, "ray")

    spot.watch(drain, metadata=address, wait=waits.append)
    return drains, waits


def test_a_notice_drains_the_node_with_the_time_that_is_left(serve: Any) -> None:
    instance = Instance(instance_life_cycle=["spot"], instance_action=[404, 404, notice(120)])
    drains, waits = watched(serve(instance))
    assert drains == [pytest.approx(119, abs=2)]
    assert waits == [5.0, 5.0]


def test_an_instance_that_is_not_spot_is_not_watched(serve: Any) -> None:
    assert watched(serve(Instance(instance_life_cycle=["on-demand"]))) == ([], [])


def test_a_notice_whose_time_has_passed_drains_at_once(serve: Any) -> None:
    instance = Instance(instance_life_cycle=["spot"], instance_action=[notice(-30)])
    assert watched(serve(instance))[0] == [0.0]


def test_metadata_that_fails_and_a_drain_that_fails_are_tried_again(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    instance = Instance(instance_life_cycle=[500, "spot"], instance_action=[503, notice(60)])
    drains, waits = watched(serve(instance), failures=1)
    assert (len(drains), len(waits)) == (2, 3)
    assert len(caplog.records) == 3


def test_the_drain_is_a_command_that_ray_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = pytest.importorskip("ray.scripts.scripts")
    ran: list[list[str]] = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: ran.append(command))
    spot.drain_node(119.7)
    ((program, name, *arguments),) = ran
    assert program.endswith("/bin/ray")
    taken = commands.cli.commands[name].make_context(name, arguments).params
    assert taken["reason"] == "DRAIN_NODE_REASON_PREEMPTION"
    assert taken["deadline_remaining_seconds"] == 89  # before it is taken away
    assert taken["node_id"] is None  # this node
