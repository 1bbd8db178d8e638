"""Binding, TLS and the life of an HTTP server: what the decoder and the S3 gateway share."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from archiver.errors import CannotListen, ConfigInvalid

_CONNECTIONS = 512  # at a time; the next is told to come back
_HEAD_SECONDS = 10.0  # in which a request's head must have arrived
_KEPT_SECONDS = 60  # that an idle connection is kept
_STOP_SECONDS = 30  # that a stop waits for answers under way
_GOODBYE_SECONDS = 1.0  # in which an idle client must have hung up, too, once a stop has closed its connection
# What uvicorn warns of for every connection that deserves it, as many as anybody cares to open.
_ANYBODY_S_WARNINGS = ("Exceeded concurrency limit.", "Invalid HTTP request received.")
_WARNING_SECONDS = 60.0  # in which each of them is heard once


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a server listens ("host:port"), and the files that prove who it is."""

    address: str
    certificate_file: Path | None = None
    key_file: Path | None = None

    @property
    def host(self) -> str:
        return self.address.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def reaches_only_this_machine(self) -> bool:
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return False


def bind(at: Listening) -> socket.socket:
    """The listening socket. Raises CannotListen, as where the address is taken."""
    host = at.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, at.port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CannotListen(address=at.address, reason=reason) from None


def serve(app: Starlette, at: Listening, listener: socket.socket, ready: Callable[[str], None]) -> None:
    """Answer until SIGTERM or SIGINT; `ready` hears the address once it does. Raises ConfigInvalid (certificate)."""
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=_CONNECTIONS,
        timeout_keep_alive=_KEPT_SECONDS,
        timeout_graceful_shutdown=_STOP_SECONDS,
        ssl_certfile=at.certificate_file,
        ssl_keyfile=at.key_file,
    )
    try:
        config.load()
    except (ssl.SSLError, FileNotFoundError, PermissionError) as error:
        raise ConfigInvalid(path=at.certificate_file, problem=f"no usable certificate: {error}") from None
    logging.getLogger("uvicorn.error").addFilter(_Seldom())
    scheme = "https" if config.is_ssl else "http"
    Server(config, lambda: ready(f"{scheme}://{at.host}:{listener.getsockname()[1]}")).run([listener])


class Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


class _Seldom(logging.Filter):
    """Keeps clients from filling the log."""

    def __init__(self) -> None:
        super().__init__()
        self._heard: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg in _ANYBODY_S_WARNINGS:
            if monotonic() < self._heard.get(record.msg, 0.0):
                return False
            self._heard[record.msg] = monotonic() + _WARNING_SECONDS
        return True


class PatientProtocol(H11Protocol):
    """uvicorn's, and a client that does not finish the head of its request is hung up on, which uvicorn leaves open."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # type: ignore[arg-type]
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._head_timer is not None:
            self._head_timer.cancel()

    def shutdown(self) -> None:
        """Over TLS asyncio closes a connection when the client has agreed, for which it waits 30 s. One that keeps an
        idle connection for its next request looks at it only then, and a stop would wait all that time for nobody."""
        super().shutdown()
        if self._is_idle():
            self.loop.call_later(_GOODBYE_SECONDS, self.transport.abort)

    def _is_idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _watch(self) -> None:
        head_is_due = self._is_idle()
        if head_is_due and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)
        elif not head_is_due and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
