"""recalls: who reads released files, as it happens."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Output
from archiver.cli.verb import VerbGroup
from archiver.errors import EXIT_OK

if TYPE_CHECKING:
    from archiver.desk.history import Event

_STYLES = {"recalled": "green", "refused": "yellow", "full": "yellow", "late": "red", "failed": "red"}


@click.group(cls=VerbGroup)
def recalls() -> None:
    """Follow recalls by readers as they happen."""


@recalls.command(
    example="""
    archiver recalls tail
    archiver recalls tail --json | jq 'select(.ending == "refused")'
    """,
)
@pass_invocation
def tail(invocation: Invocation) -> int:
    """Print a line whenever a reader of a released file gets its verdict.

    Who read what, what it got, by which rule or for what reason, and how long it waited. Until Ctrl-C, or until the
    daemon ends. `archiver status --recalls` shows where things stand now.
    """
    from archiver.desk.client import events

    output = invocation.output
    for event in events(invocation.settings.recall.desk_socket):
        output.json(event, "recall")
        if not output.as_json:
            _print(output, event)
    return EXIT_OK


def _print(output: Output, event: Event) -> None:
    when = datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    who = f"{event.process} ({event.pid or '?'}{f', {event.user}' if event.user else ''})"
    why = event.reason or (f"rule {event.rule}" if event.rule else "")
    line = f"{when}  {event.ending:<11}  {event.seconds:7.2f} s  {who}  {event.path}{f'  {why}' if why else ''}"
    output.text(line, style=_STYLES.get(event.ending, ""))
