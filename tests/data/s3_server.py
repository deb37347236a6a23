"""A small S3 in this process: a client can put, list, get, copy and delete objects."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BytesIO
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape, unescape


class S3Server(ThreadingHTTPServer):
    """One bucket.

    Attributes:
        objects: Content by key.
        requests: Method and key of each request, in order.
        pause: Where not None, answers stop in the middle of an object until it is set.
        refused: Keys that match this pattern can't be written.
    """

    bucket = "bucket"
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self.pause: threading.Event | None = None
        self.refused: str | None = None

    def uri(self, place: str) -> str:
        return (
            f"s3://key:secret@{place}?scheme=http&region=us-east-1&allow_bucket_creation=false"
            f"&endpoint_override=127.0.0.1:{self.server_port}"
        )

    def gets(self, pattern: str) -> int:
        """How often objects of matching keys were read."""
        return self._asked("GET", pattern)

    def puts(self, pattern: str) -> int:
        """How often objects of matching keys were written."""
        return self._asked("PUT", pattern)

    def _asked(self, method: str, pattern: str) -> int:
        return sum(one == method and bool(re.search(pattern, k)) for one, k in self.requests)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _unchunked(stream: BufferedIOBase) -> bytes:
    content = b""
    while (size := int(stream.readline().partition(b";")[0], 16)) > 0:
        content += stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass  # checksums, which follow
    return content


class _Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def parse_request(self) -> bool:
        if not super().parse_request():
            return False
        url = urlsplit(self.path)
        _, self.bucket, *rest = unquote(url.path).split("/", 2)
        self.key = rest[0] if rest else ""
        self.query = {k: v[0] for k, v in parse_qs(url.query, keep_blank_values=True).items()}
        self.server.requests.append((self.command, self.key))
        return True

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.bucket != self.server.bucket:
            self._error(404, "NoSuchBucket")
        elif not self.key:
            self._answer(200, self._listing() if "list-type" in self.query else b"")
        elif self.key not in self.server.objects:
            self._error(404, "NoSuchKey")
        else:
            content = self.server.objects[self.key]
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if not asked:
                self._answer(200, content)
                return
            first, last = int(asked[1]), min(int(asked[2] or 1 << 60), len(content) - 1)
            self._answer(
                206,
                content[first : last + 1],
                {"Content-Range": f"bytes {first}-{last}/{len(content)}"},
            )

    def do_PUT(self) -> None:
        content = self._content()
        if self.bucket != self.server.bucket:
            self._error(404, "NoSuchBucket")
            return
        if self.server.refused and re.search(self.server.refused, self.key):
            self._error(403, "AccessDenied")
            return
        if "x-amz-copy-source" in self.headers:
            _, _, source = unquote(self.headers["x-amz-copy-source"]).lstrip("/").partition("/")
            self.server.objects[self.key] = self.server.objects[source]
            self._xml('<CopyObjectResult><ETag>"1"</ETag></CopyObjectResult>')
            return
        if "uploadId" in self.query:
            self.server.parts[f"{self.key} {int(self.query['partNumber']):05d}"] = content
        elif self.key:
            self.server.objects[self.key] = content
        self._answer(200, b"")

    def do_DELETE(self) -> None:
        self.server.objects.pop(self.key, None)
        self._answer(204, b"")

    def do_POST(self) -> None:
        content = self._content()
        if "delete" in self.query:
            for key in re.findall("<Key>(.*?)</Key>", content.decode()):
                self.server.objects.pop(unescape(key), None)
            self._xml("<DeleteResult></DeleteResult>")
            return
        if "uploads" in self.query:
            self._xml(
                f"<InitiateMultipartUploadResult><Bucket>{self.bucket}</Bucket>"
                f"<Key>{escape(self.key)}</Key><UploadId>1</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
            return
        parts = sorted(part for part in self.server.parts if part.rpartition(" ")[0] == self.key)
        self.server.objects[self.key] = b"".join(self.server.parts.pop(part) for part in parts)
        self._xml(
            f"<CompleteMultipartUploadResult><Key>{escape(self.key)}</Key>"
            '<ETag>"1"</ETag></CompleteMultipartUploadResult>'
        )

    def _listing(self) -> bytes:
        prefix, delimiter = self.query.get("prefix", ""), self.query.get("delimiter", "")
        keys = sorted(key for key in self.server.objects if key.startswith(prefix))
        entries, folders = "", set()
        for key in keys[: int(self.query.get("max-keys", 1000))]:
            head, cut, _ = key.removeprefix(prefix).partition(delimiter or "\0")
            if cut:
                folders.add(f"{prefix}{head}{cut}")
                continue
            entries += (
                f"<Contents><Key>{escape(key)}</Key><Size>{len(self.server.objects[key])}</Size>"
                '<LastModified>2020-01-01T00:00:00.000Z</LastModified><ETag>"1"</ETag></Contents>'
            )
        entries += "".join(
            f"<CommonPrefixes><Prefix>{escape(folder)}</Prefix></CommonPrefixes>"
            for folder in sorted(folders)
        )
        return (
            f"<ListBucketResult><IsTruncated>false</IsTruncated><KeyCount>{len(keys)}</KeyCount>"
            f"{entries}</ListBucketResult>"
        ).encode()

    def _content(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = _unchunked(self.rfile)
        else:
            content = self.rfile.read(int(self.headers["Content-Length"] or 0))
        if "aws-chunked" in self.headers.get("Content-Encoding", ""):
            return _unchunked(BytesIO(content))
        return content

    def _xml(self, text: str) -> None:
        self._answer(200, text.encode())

    def _error(self, status: int, code: str) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._answer(status, body.encode())

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        about = {
            "Content-Length": str(len(body)),
            "Content-Type": "application/xml" if body.startswith(b"<") else "binary/octet-stream",
            "ETag": '"1"',
            "Last-Modified": formatdate(usegmt=True),
        }
        for name, value in {**about, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        half = len(body) // 2
        self.wfile.write(body[:half])
        if self.server.pause is not None and self.key and status < 300:
            self.wfile.flush()
            self.server.pause.wait()
        self.wfile.write(body[half:])
