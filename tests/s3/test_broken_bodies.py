"""Bodies of objects that stop coming in the middle."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest

from archiver.config import S3TierSettings
from archiver.errors import BucketUnreachable, ObjectChanged
from archiver.s3.store import ObjectStore

BODY = bytes(number % 251 for number in range(1000))


@contextmanager
def breaking(*answers: tuple[bytes, int], heard: list[str]) -> Iterator[ObjectStore]:
    """A store whose server answers each request for its object with a head and so many of the bytes asked for."""

    def serve(server: socket.socket) -> None:
        for head, count in answers:
            connection, _ = server.accept()
            request = connection.recv(65536).decode("latin-1")
            heard.append(request)
            start = int(request.partition("Range: bytes=")[2].partition("-")[0] or 0)
            connection.sendall(head + BODY[start : start + count])
            connection.close()

    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        thread = threading.Thread(target=serve, args=(server,))
        thread.start()
        endpoint = f"http://127.0.0.1:{server.getsockname()[1]}"
        with closing(ObjectStore(S3TierSettings(name="b", bucket="photos", endpoint=endpoint))) as store:
            yield store
        thread.join()


def head_of(status: str, start: int = 0, **others: str) -> bytes:
    headers = {"Content-Length": str(1000 - start), "ETag": '"e"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in (headers | others).items()), "", ""]
    return "\r\n".join(lines).encode()


def part_of(start: int) -> bytes:
    return head_of("206 Partial Content", start, **{"Content-Range": f"bytes {start}-999/1000"})


@pytest.mark.usefixtures("_s3_credentials")
def test_a_body_that_breaks_off_is_asked_for_from_there() -> None:
    heard: list[str] = []
    with breaking((head_of("200 OK"), 500), (part_of(500), 200), (part_of(700), 300), heard=heard) as store:
        info, stream = store.get("a")
        with stream:
            assert stream.read() == BODY
    assert info.size == 1000
    for request, start in zip(heard[1:], (500, 700), strict=True):
        assert f"Range: bytes={start}-999" in request
        assert 'If-Match: "e"' in request


@pytest.mark.usefixtures("_s3_credentials")
def test_a_body_that_always_ends_early_is_a_failure_and_no_end() -> None:
    answers = [(head_of("200 OK"), 500)] + [(part_of(500), 0)] * 4
    with breaking(*answers, heard=[]) as store:
        _, stream = store.get("a")
        with stream, pytest.raises(BucketUnreachable):
            stream.read()


@pytest.mark.parametrize(
    ("answer", "error"),
    [(head_of("200 OK"), BucketUnreachable), (head_of("412 Precondition Failed", 1000), ObjectChanged)],
    ids=["no ranges", "another object"],
)
@pytest.mark.usefixtures("_s3_credentials")
def test_the_rest_of_a_body_is_never_that_of_something_else(answer: bytes, error: type[Exception]) -> None:
    with breaking((head_of("200 OK"), 500), (answer, 1000), heard=[]) as store:
        _, stream = store.get("a")
        with stream, pytest.raises(error):
            stream.read()
