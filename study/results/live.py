"""A page that is renewed while a study runs: served to this machine alone, or as a file."""

import contextlib
import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

__all__ = ["POLL_SECONDS", "LivePage", "PageServer", "watch", "write_page"]

POLL_SECONDS = 5.0  # between two looks at a page
LEAST_SECONDS = 4.0  # between two renderings
SHARE = 0.1  # of one processor that rendering may take from the study


class LivePage:
    """A page that is rendered again when it is asked for and isn't new.

    Args:
        render: Returns the whole page.
        least_seconds: How long a page stays new; longer where rendering takes long, so that it
            takes no more than a tenth of one processor.
    """

    def __init__(self, render: Callable[[], str], *, least_seconds: float = LEAST_SECONDS) -> None:
        self._render = render
        self._least_seconds = least_seconds
        self._lock = threading.Lock()
        self._new_until = 0.0
        self._content = b""

    def content(self) -> bytes:
        """Returns the page; whoever asks at the same time waits for the same rendering."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._new_until:
                self._content = self._render().encode()
                took = time.monotonic() - begun
                self._new_until = begun + max(self._least_seconds, took / SHARE)
            return self._content


class PageServer(ThreadingHTTPServer):
    """Serves one page on a free port of 127.0.0.1, to those who know its address.

    The address holds a token, so that other users of the machine, and pages of other sites that
    this browser shows, don't read it.

    Args:
        page: The page.
    """

    daemon_threads = True

    def __init__(self, page: LivePage) -> None:
        self.page = page
        self.path = f"/{secrets.token_urlsafe(24)}/"
        super().__init__(("127.0.0.1", 0), _PageRequest)

    @property
    def address(self) -> str:
        """The page's address."""
        return f"http://127.0.0.1:{self.server_port}{self.path}"


class _PageRequest(BaseHTTPRequestHandler):
    server: PageServer
    server_version, sys_version = "study.report", ""

    def do_GET(self) -> None:
        """Answers with the page, or with 304 where the asker has it."""
        known_host = self.headers.get("Host") in {
            f"{name}:{self.server.server_port}" for name in ("127.0.0.1", "localhost")
        }
        if not (known_host and secrets.compare_digest(self.path.encode(), self._path)):
            self._answer(HTTPStatus.NOT_FOUND, b"There is no such page.", "text/plain")
            return
        try:
            content = self.server.page.content()
        except (OSError, ValueError) as error:  # what is being written, or damaged
            self._answer(HTTPStatus.SERVICE_UNAVAILABLE, str(error).encode(), "text/plain")
            return
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        if self.headers.get("If-None-Match") == tag:
            self._answer(HTTPStatus.NOT_MODIFIED, b"", "text/html", tag)
        else:
            self._answer(HTTPStatus.OK, content, "text/html", tag)

    @property
    def _path(self) -> bytes:
        return self.server.path.encode()

    def _answer(self, status: HTTPStatus, content: bytes, kind: str, tag: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("X-Content-Type-Options", "nosniff")
        if tag:
            self.send_header("ETag", tag)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Says nothing: an address would give the token away."""


def write_page(text: str, output: Path) -> None:
    """Writes a page as a file, whole or not at all."""
    temporary = output.with_name(f".{output.name}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(output)


def watch(
    render: Callable[..., str],
    output: Path,
    *,
    runs: Callable[[], bool],
    pause: Callable[[float], object] = time.sleep,
) -> None:
    """Rewrites a page while its study runs, and once more when it has ended, or at Ctrl-C.

    Args:
        render: Returns the page; with ``live="reload"``, one that reloads itself.
        output: The file.
        runs: Whether the study runs.
        pause: Waits some seconds.
    """
    with contextlib.suppress(KeyboardInterrupt):
        while runs():
            begun = time.monotonic()
            write_page(render(live="reload"), output)
            pause(max(POLL_SECONDS, (time.monotonic() - begun) / SHARE))
    write_page(render(), output)
