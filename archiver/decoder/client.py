"""The requests that a decoder on another host understands. Imports no torch."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any

import urllib3

from archiver import __version__
from archiver.codec.record import Record
from archiver.config import Settings
from archiver.decoder import wire
from archiver.decoder.engine import Generated, Priority
from archiver.errors import (
    DeadlineMissed,
    DecoderAnswerInvalid,
    DecoderBusy,
    DecoderProfileMissing,
    DecoderRefused,
    DecoderUnreachable,
    ProfileInvalid,
    ProfileUnknown,
)
from archiver.models.profiles import ProfileInfo, parse_profile

_CONNECTIONS = 32
_CONNECT_SECONDS = 10.0
_PART = 1 << 20  # bytes
_MOST_PAUSE = 30.0  # seconds that a busy decoder may ask for


@dataclass(frozen=True, slots=True)
class RemoteStats:
    """What a decoder says of itself; `done` and `failed` since it started."""

    version: str
    device: str
    loaded: tuple[str, ...]
    waiting: int
    running: int
    done: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    body: bytes
    pause: float  # seconds that it asks to wait before another try


class Client:
    """The requests that a decoder understands, from any number of threads. Raises ConfigInvalid (no usable token)."""

    def __init__(self, settings: Settings) -> None:
        url, decoder = settings.decoder.url, settings.decoder
        assert url is not None  # or nobody would ask
        self.where = url
        self._timeout = decoder.timeout.total_seconds()
        self._headers = {"User-Agent": f"archiver/{__version__}"}
        if token := decoder.token:
            self._headers["Authorization"] = f"Bearer {token}"
        trusted = None if decoder.ca_file is None else str(decoder.ca_file)
        self._pool = urllib3.PoolManager(maxsize=_CONNECTIONS, retries=False, ca_certs=trusted)
        self._closed = threading.Event()

    def decode(self, records: Sequence[Record], priority: Priority, deadline: float | None) -> list[Generated]:
        """The pictures of one request. Raises as `RemoteEngine.decode` does."""
        began = monotonic()
        patience = began + self._timeout if deadline is None else deadline
        body, headers = wire.pack_records(records), {wire.PRIORITY: priority.name.lower()}
        while True:
            left = patience - monotonic()
            if left <= 0:
                raise DeadlineMissed(where=self.where, seconds=f"{monotonic() - began:.1f}")
            # Even for whoever can wait longer: a host that lost its power says no more, nor that it is back.
            seconds = min(left, self._timeout)
            headers[wire.DEADLINE] = f"{seconds:.3f}"
            try:
                reply = self._ask("POST", wire.DECODE, wire.most_answer(len(records)), headers, body, seconds)
                pictures = wire.unpack_pictures(reply, len(records), self.where)
                wire.require_sizes(pictures, records, self.where)
                return pictures
            except ProfileUnknown as error:
                raise DecoderProfileMissing(where=self.where, profile=error.facts["profile"]) from None
            except DecoderBusy as error:
                # Whoever gave a deadline, and whoever has time, waits; a reader without one gets its answer now.
                pause = float(str(error.facts.get("pause", 1)))
                if (deadline is None and priority is Priority.INTERACTIVE) or pause >= left or self._closed.wait(pause):
                    raise

    def profiles(self) -> tuple[ProfileInfo, ...]:
        """The profiles that the decoder has. Raises DecoderUnreachable, DecoderRefused, DecoderAnswerInvalid."""
        try:
            listed = self._json(wire.PROFILES)["profiles"]
            return tuple(parse_profile(str(text).encode(), self.where) for text in listed)
        except (KeyError, TypeError, ProfileInvalid) as problem:
            raise DecoderAnswerInvalid(where=self.where, problem=problem) from problem

    def stats(self) -> RemoteStats:
        """What the decoder says of itself. Raises DecoderUnreachable, DecoderRefused, DecoderAnswerInvalid."""
        raw = self._json(wire.STATS)
        try:
            return RemoteStats(
                version=str(raw["version"]),
                device=str(raw["device"]),
                loaded=tuple(str(name) for name in raw["loaded"]),
                waiting=int(raw["interactive_waiting"]) + int(raw["bulk_waiting"]),
                running=int(raw["running"]),
                done=int(raw["done"]),
                failed=int(raw["failed"]),
            )
        except (KeyError, TypeError, ValueError) as problem:
            raise DecoderAnswerInvalid(where=self.where, problem=f"no {problem}") from problem

    def close(self) -> None:
        """Wake who waits for a busy decoder, and close the connections."""
        self._closed.set()
        self._pool.clear()

    def _json(self, path: str) -> Any:
        body = self._ask("GET", path, wire.MOST_JSON, {}, None, min(self._timeout, _CONNECT_SECONDS))
        try:
            return json.loads(body)
        except (ValueError, RecursionError) as problem:
            raise DecoderAnswerInvalid(where=self.where, problem=problem) from problem

    def _ask(
        self, method: str, path: str, most: int, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> bytes:
        """The body of a good answer. Raises what a bad one tells of, DecoderUnreachable, DeadlineMissed."""
        try:
            try:
                reply = self._send(method, path, most, headers, body, seconds)
            except urllib3.exceptions.ProtocolError:
                # A kept connection that the other side has closed meanwhile looks like this. Asking twice harms nobody.
                reply = self._send(method, path, most, headers, body, seconds)
        except urllib3.exceptions.ReadTimeoutError as error:
            raise DeadlineMissed(where=self.where, seconds=f"{seconds:.1f}") from error
        except urllib3.exceptions.HTTPError as error:
            raise DecoderUnreachable(where=self.where, reason=_reason(error, self.where)) from error
        if reply.status == 200:
            return reply.body
        if not reply.body.startswith(b"{"):  # it does not come from a decoder, but from something before it
            if reply.status in (429, 503):
                raise DecoderBusy(where=self.where, waiting="too many", pause=reply.pause)
            raise DecoderRefused(where=self.where, reason=f"HTTP status {reply.status}")
        failure = wire.unpack_error(reply.body, self.where)
        if isinstance(failure, DecoderBusy):
            failure.facts["pause"] = reply.pause
        raise failure

    def _send(
        self, method: str, path: str, most: int, headers: Mapping[str, str], body: bytes | None, seconds: float
    ) -> _Reply:
        end = monotonic() + seconds + 1
        timeout = urllib3.Timeout(connect=min(_CONNECT_SECONDS, seconds), total=seconds + 1)
        response = self._pool.request(
            method,
            self.where + path,
            body=body,
            headers={**self._headers, **headers, **({"Content-Type": wire.RECORDS_TYPE} if body else {})},
            timeout=timeout,
            redirect=False,
            preload_content=False,
            decode_content=False,
        )
        try:
            found = bytearray()
            while part := response.read1(_PART):  # as it comes: urllib3's timeout begins anew with every byte
                found += part
                if len(found) > most:
                    response.close()
                    raise DecoderAnswerInvalid(where=self.where, problem=f"more than {most} bytes")
                if monotonic() > end:
                    response.close()
                    raise DeadlineMissed(where=self.where, seconds=f"{seconds:.1f}")
        finally:
            response.release_conn()
        return _Reply(response.status, bytes(found), _pause(response.headers.get("Retry-After", "")))


def _pause(header: str) -> float:
    return min(_MOST_PAUSE, float(header)) if header.isascii() and header.isdigit() else 1.0


def _reason(error: urllib3.exceptions.HTTPError, url: str) -> str:
    """The cause in a few words, without the addresses of objects that urllib3 puts there."""
    causes: list[BaseException] = [error]
    while causes:
        cause = causes[0]
        within = (cause.__cause__, getattr(cause, "reason", None), *cause.args)
        causes = [one for one in within if isinstance(one, BaseException)]
    if isinstance(cause, ConnectionResetError):  # or http.client.RemoteDisconnected, which is one
        return "it hung up without an answer" + ("; is its address an https:// one?" if url.startswith("http:") else "")
    if isinstance(cause, ssl.SSLError) and cause.reason == "WRONG_VERSION_NUMBER":
        return "it does not speak TLS; is its address an http:// one?"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return str(cause).rpartition(": ")[2] or type(cause).__name__
