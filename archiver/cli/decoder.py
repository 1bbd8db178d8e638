"""decoder: decode for other hosts, and ask where records are decoded."""

from __future__ import annotations

import sys

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column
from archiver.cli.verb import VerbGroup
from archiver.errors import ServerNotInstalled


@click.group(cls=VerbGroup)
def decoder() -> None:
    """Decode for other hosts, or show where records are decoded."""


@decoder.command(
    example="""
    archiver decoder serve
    systemctl enable --now archiver-decoder      # the same as a service
    """,
)
@pass_invocation
def serve(invocation: Invocation) -> int:
    """Decode records for other hosts over HTTP.

    Listens where [decoder] says, which also names the token that callers must show and the certificate. They send
    records and get pixels; neither files nor catalogs are seen here, but the vault must hold their profiles. Stays in
    the foreground; SIGTERM finishes what is under way and stops.
    """
    from archiver import logs
    from archiver.notify import Notifier

    settings = invocation.settings
    try:
        from archiver.decoder import serving
    except ImportError as error:
        raise ServerNotInstalled(missing=error.name or error) from error
    logs.configure(settings.log)

    def ready(address: str) -> None:
        invocation.output.json({"address": address}, "decoder")
        invocation.output.text(f"decoding for other hosts at {address}")
        sys.stdout.flush()  # into a file or a pipe, too
        Notifier().ready(f"decoding at {address}")

    serving.serve(settings, ready)
    return 0


@decoder.command(example="archiver decoder status")
@pass_invocation
def status(invocation: Invocation) -> int:
    """Show where records are decoded, and ask the decoder of another host how it does."""
    from archiver.decoder.status import examine

    found = examine(invocation.settings)
    invocation.output.json(found, "decoder")
    invocation.output.table([Column("what"), Column("is")], [[name, value] for name, value in found.lines()])
    return 0
