"""run: the daemon in the foreground, as systemd wants it."""

from __future__ import annotations

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.verb import VerbCommand


@click.command(
    cls=VerbCommand,
    example="""
    archiver run
    systemctl enable --now archiver      # the same as a service
    """,
)
@pass_invocation
def run(invocation: Invocation) -> int:
    """Run the daemon: scan, watch, archive, expire and verify.

    Stays in the foreground and logs to stderr or the journal. SIGHUP reads the configuration again, SIGTERM finishes
    the file in hand and stops. One daemon per catalog.
    """
    from archiver.daemon import run as serve

    serve(invocation.settings, invocation.config_path)
    return 0
