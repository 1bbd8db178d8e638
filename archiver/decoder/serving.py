"""The HTTP server around `archiver.decoder.server`: who may be served, and until when."""

from __future__ import annotations

from collections.abc import Callable

from archiver import http_server
from archiver.config import Settings
from archiver.decoder.opening import open_here
from archiver.decoder.server import create_app
from archiver.errors import ConfigInvalid, DecoderUnguarded
from archiver.http_server import Listening
from archiver.models.vault import Vault


def serve(settings: Settings, ready: Callable[[str], None]) -> None:
    """Decode for other hosts until SIGTERM or SIGINT; `ready` hears the address once it listens.

    Raises DecoderUnguarded, ConfigInvalid, SystemRefused (the address is taken), and what `open_here` raises.
    """
    decoder = settings.decoder
    if decoder.url is not None:
        problem = 'decoder.where must be "process" or "worker" here: a decoder that asks another serves nobody'
        raise ConfigInvalid(path="decoder.where", problem=problem)
    at = Listening(decoder.listen, decoder.certificate_file, decoder.key_file)
    token = decoder.token
    if token is None and not at.reaches_only_this_machine:
        raise DecoderUnguarded(address=decoder.listen)
    with http_server.bind(at) as listener:
        engine = open_here(settings)
        seconds = decoder.timeout.total_seconds()
        app = create_app(engine, Vault(settings.vault.path), token, most=decoder.waiting, seconds=seconds)
        http_server.serve(app, at, listener, ready)
