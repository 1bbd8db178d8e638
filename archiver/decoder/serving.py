"""Binding, TLS and the life of the HTTP server around `archiver.decoder.server`."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from archiver.config import Settings
from archiver.decoder.engine import open_here
from archiver.decoder.server import create_app
from archiver.errors import ConfigInvalid, DecoderUnguarded, SystemRefused
from archiver.models.vault import Vault

_CONNECTIONS = 512  # at a time; the next is told to come back
_HEAD_SECONDS = 10.0  # in which a request's head must have arrived
_KEPT_SECONDS = 60  # that an idle connection is kept
_STOP_SECONDS = 30  # that a stop waits for answers under way


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Decode for other hosts until SIGTERM or SIGINT; `ready` hears the address once it listens.

    Raises DecoderUnguarded, ConfigInvalid, SystemRefused (the address is taken), and what `open_here` raises.
    """
    decoder = settings.decoder
    if decoder.url is not None:
        problem = 'decoder.where must be "process" or "worker" here: a decoder that asks another serves nobody'
        raise ConfigInvalid(path="decoder.where", problem=problem)
    host, _, port = decoder.listen.rpartition(":")
    token = decoder.token
    if token is None and not _reaches_only_this_machine(host):
        raise DecoderUnguarded(address=decoder.listen)
    with _listen(host.strip("[]"), int(port)) as listener:
        engine = open_here(settings)
        seconds = decoder.timeout.total_seconds()
        app = create_app(engine, Vault(settings.vault.path), token, most=decoder.waiting, seconds=seconds)
        config = uvicorn.Config(
            app,
            http=_PatientProtocol,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_keep_alive=_KEPT_SECONDS,
            timeout_graceful_shutdown=_STOP_SECONDS,
            ssl_certfile=decoder.certificate_file,
            ssl_keyfile=decoder.key_file,
        )
        try:
            config.load()
        except (ssl.SSLError, FileNotFoundError, PermissionError) as error:
            raise ConfigInvalid(path=decoder.certificate_file, problem=f"no usable certificate: {error}") from None
        scheme = "https" if config.is_ssl else "http"
        _Server(config, lambda: ready(f"{scheme}://{host}:{listener.getsockname()[1]}")).run([listener])


def _reaches_only_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_CONNECTIONS)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SystemRefused(path=f"{host}:{port}", reason=reason) from None


class _Server(uvicorn.Server):
    """Tells when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


class _PatientProtocol(H11Protocol):
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

    def _watch(self) -> None:
        head_is_due = self.cycle is None or self.cycle.response_complete
        if head_is_due and self._head_timer is None:
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self.transport.close)
        elif not head_is_due and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
