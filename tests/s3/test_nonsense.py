"""What answers but is no S3 server, or no sane one: the tier is then unreachable, and nothing of it is believed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from archiver.config import S3TierSettings
from archiver.errors import BucketUnreachable
from archiver.s3.store import ObjectStore

HEADERS = {"ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
ENTRY = "<Contents><Key>a.jpg</Key><LastModified>2026-01-01T00:00:00Z</LastModified><Size>1</Size></Contents>"
ONWARDS = "<IsTruncated>true</IsTruncated>"
END = "<IsTruncated>false</IsTruncated>"
KEY_AGAIN = "<NextKeyMarker>a.jpg</NextKeyMarker><NextVersionIdMarker>1</NextVersionIdMarker>"


@contextmanager
def answering(body: str, headers: dict[str, str]) -> Iterator[ObjectStore]:
    """The store of a server that says the same to every request."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            for name, value in (headers | {"Content-Length": str(len(body))}).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body.encode())

        do_GET = do_HEAD = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            endpoint = f"http://127.0.0.1:{server.server_port}"
            with closing(ObjectStore(S3TierSettings(name="b", bucket="photos", endpoint=endpoint))) as store:
                yield store
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "<html><body>Please log in</body></html>",
        f"<ListBucketResult>{ENTRY}</ListBucketResult>",
        f"<ListBucketResult>{ENTRY}{ONWARDS}</ListBucketResult>",
        f"<ListBucketResult>{ENTRY}{ONWARDS}<NextContinuationToken>t</NextContinuationToken></ListBucketResult>",
        f"<ListBucketResult>{ENTRY.replace('<Size>1</Size>', '')}{END}</ListBucketResult>",
        f"<ListBucketResult>{ENTRY.replace('>1<', '>one<')}{END}</ListBucketResult>",
        f"<ListBucketResult>{ENTRY.replace('2026-01-01T00:00:00Z', 'yesterday')}{END}</ListBucketResult>",
    ],
    ids=["nothing", "a web page", "no end", "no way on", "in circles", "no size", "no number", "no time"],
)
def test_no_listing_is_not_an_empty_one(_s3_credentials: None, body: str) -> None:
    with answering(body, {}) as store, pytest.raises(BucketUnreachable):
        list(store.list())


@pytest.mark.parametrize("more", ["", ONWARDS, ONWARDS + KEY_AGAIN], ids=["no end", "no way on", "in circles"])
def test_no_list_of_versions_is_not_an_empty_one(_s3_credentials: None, more: str) -> None:
    body = f"<ListVersionsResult>{more}</ListVersionsResult>"
    with answering(body, {}) as store, pytest.raises(BucketUnreachable):
        list(store.versions("a.jpg"))


@pytest.mark.parametrize(
    "headers",
    [{}, {"ETag": '"e"'}, HEADERS | {"Last-Modified": "yesterday"}],
    ids=["no tag", "no time", "another time"],
)
@pytest.mark.parametrize(
    "ask",
    [lambda store: store.head("a.jpg"), lambda store: store.get("a.jpg"), lambda store: store.copy("a.jpg", "b.jpg")],
    ids=["head", "get", "copy"],
)
def test_an_object_that_lacks_what_every_object_has_is_not_believed(
    _s3_credentials: None, headers: dict[str, str], ask: Callable[[ObjectStore], object]
) -> None:
    with answering("", headers) as store, pytest.raises(BucketUnreachable, match="no answer of an S3 server"):
        ask(store)


def test_a_write_that_is_not_confirmed_is_not_taken_for_done(_s3_credentials: None) -> None:
    with answering("", {}) as store, pytest.raises(BucketUnreachable):
        store.put("a.jpg", b"photograph")
    with answering("", HEADERS) as store, pytest.raises(BucketUnreachable):
        store.copy("a.jpg", "b.jpg")
    with answering("", {}) as store, pytest.raises(BucketUnreachable):
        store.tags("a.jpg")
