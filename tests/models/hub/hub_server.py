"""A server of model repositories over HTTP, as huggingface_hub asks one: commits, hashes, sizes and byte ranges."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee0000000000000000000000000000000001"
_RESOLVE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


class HubServer(ThreadingHTTPServer):
    """Serves `root`/<owner>/<name>/<path> at every revision, which is `commit`.

    stall_after: bytes after which the answer to each GET of a larger file comes no further; None: never. stalled: set
    when that has happened.
    lie: a hash to announce in the place of every weight file's own. asked: (method, path, range) of all requests.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.commit = COMMIT
        self.stall_after: int | None = None
        self.stalled = threading.Event()
        self.closing = threading.Event()
        self.lie: str | None = None
        self.asked: list[tuple[str, str, str]] = []
        self.tokens: list[str] = []
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def downloads(self) -> list[tuple[str, str]]:
        """(path, range) of every file that was asked for, not only about."""
        return [(path, asked) for method, path, asked in self.asked if method == "GET"]

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are part of the tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: HubServer

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def _answer(self, *, with_body: bool) -> None:
        found = _RESOLVE.fullmatch(self.path)
        self.server.asked.append((self.command, found.group(3) if found else self.path, self.headers.get("Range", "")))
        self.server.tokens.append(self.headers.get("Authorization", ""))
        file = None if found is None else self.server.root / found.group(1) / found.group(3)
        if file is None or not file.is_file():
            is_known = found is not None and (self.server.root / found.group(1)).is_dir()
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound" if is_known else "RepoNotFound")
            self.send_header("X-Repo-Commit", self.server.commit)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        data = file.read_bytes()
        first, last = 0, len(data) - 1
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        if asked:
            first, last = int(asked.group(1)), int(asked.group(2) or last)
        part = data[first : last + 1]
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Repo-Commit", self.server.commit)
        self.send_header("ETag", f'"{self._etag(file, data)}"')
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if not with_body:
            return
        limit = self.server.stall_after
        if limit is not None and len(part) > limit:
            self.wfile.write(part[:limit])
            self.wfile.flush()
            self.server.stalled.set()
            self.server.closing.wait()
            self.close_connection = True
            return
        self.wfile.write(part)

    def _etag(self, file: Path, data: bytes) -> str:
        if file.suffix == ".safetensors":  # what a hub keeps as large files, it names by SHA-256
            return self.server.lie or hashlib.sha256(data).hexdigest()
        return hashlib.sha1(data, usedforsecurity=False).hexdigest()


@contextmanager
def serving(root: Path) -> Iterator[HubServer]:
    server = HubServer(root)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
