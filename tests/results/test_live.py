"""A page that is renewed while its study runs."""

import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from study.results.live import LivePage, PageServer, watch


class Counted:
    """Renders pages 1, 2, …, or fails."""

    def __init__(self) -> None:
        self.pages = 0
        self.error: Exception | None = None

    def __call__(self, live: str | None = None) -> str:
        if self.error is not None:
            raise self.error
        self.pages += 1
        return f"page {self.pages} {live}"


@pytest.fixture
def rendered() -> Counted:
    return Counted()


@pytest.fixture
def server(rendered: Counted) -> Iterator[PageServer]:
    with PageServer(LivePage(rendered, least_seconds=0)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server: PageServer, path: str, **headers: str) -> tuple[int, str, str | None]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    said = (answer.status, answer.read().decode(), answer.getheader("ETag"))
    connection.close()
    return said


def test_only_the_address_with_its_token_shows_the_page(
    server: PageServer, rendered: Counted
) -> None:
    assert server.server_address[0] == "127.0.0.1"
    assert get(server, server.path)[:2] == (200, "page 1 None")
    for path in ("/", "/token/", server.path[:-2] + "/", server.path + "../x", f"{server.path}x"):
        assert get(server, path)[0] == 404
    assert get(server, server.path, Host="evil.example")[0] == 404
    assert rendered.pages == 1


def test_each_server_has_a_token_of_its_own(server: PageServer) -> None:
    with PageServer(LivePage(lambda: "")) as other:
        assert other.path != server.path
        assert len(other.path) > 30


def test_a_page_that_is_known_is_not_sent_again(rendered: Counted) -> None:
    with PageServer(LivePage(rendered, least_seconds=600)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        status, text, tag = get(server, server.path)
        again = get(server, server.path, **{"If-None-Match": tag or ""})
        server.shutdown()
        thread.join()
    assert (status, text) == (200, "page 1 None")
    assert again == (304, "", tag)
    assert rendered.pages == 1


def test_results_that_cannot_be_read_now_are_an_answer_and_not_the_end(
    server: PageServer, rendered: Counted
) -> None:
    rendered.error = ValueError("rows/x.parquet is damaged")
    assert get(server, server.path)[:2] == (503, "rows/x.parquet is damaged")
    rendered.error = None
    assert get(server, server.path)[0] == 200


def test_a_file_is_rewritten_until_the_study_has_ended(rendered: Counted, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    left, seen = iter([True, True, False]), []
    watch(
        rendered,
        output,
        runs=lambda: next(left),
        pause=lambda _: seen.append(output.read_text()),
    )
    assert seen == ["page 1 reload", "page 2 reload"]
    assert output.read_text() == "page 3 None"
    assert list(tmp_path.iterdir()) == [output]


def test_ctrl_c_leaves_a_file_that_no_longer_reloads_itself(
    rendered: Counted, tmp_path: Path
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    watch(rendered, tmp_path / "report.html", runs=lambda: True, pause=interrupt)
    assert (tmp_path / "report.html").read_text() == "page 2 None"
