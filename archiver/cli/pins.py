"""pin, unpin, pins: what must never be archived."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column
from archiver.cli.verb import VerbCommand
from archiver.cli.where import absolute, where
from archiver.errors import EXIT_OK, EXIT_WARNINGS
from archiver.lifecycle import pinning
from archiver.lifecycle.opening import open_site
from archiver.tiers.protocol import Where


@dataclass(frozen=True, slots=True)
class Pinned:
    """A pin as it is printed."""

    path: Where
    subtree: bool


@click.command(
    cls=VerbCommand,
    example="""
    archiver pin /srv/photos/wedding.jpg
    archiver pin --subtree /srv/photos/family
    """,
)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=where)
@click.option("--subtree", is_flag=True, help="Pin folders with all that is or will be below them.")
@pass_invocation
def pin(invocation: Invocation, paths: tuple[Where, ...], subtree: bool) -> int:
    """Never archive a file or folder.

    Holds for files that do not exist yet, too. What is released already stays so: `archiver undo` brings it back.
    """
    for path in paths:
        if isinstance(path, Path) and path.is_dir() and not subtree:
            raise click.UsageError(f"{path} is a folder: pin it with --subtree")
    with open_site(invocation.settings) as site:
        for path in paths:
            pinning.pin(site, path, subtree=subtree)
            invocation.output.json(Pinned(absolute(path), subtree), "pin")
            invocation.output.text(f"{path}: pinned{' with all below' if subtree else ''}")
    return EXIT_OK


@click.command(cls=VerbCommand, example="archiver unpin /srv/photos/family")
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=where)
@pass_invocation
def unpin(invocation: Invocation, paths: tuple[Where, ...]) -> int:
    """Take a pin away.

    Exits with 1 where a path was not pinned itself: a file below a pinned folder is free only when the folder is.
    """
    code = EXIT_OK
    with open_site(invocation.settings) as site:
        for path in paths:
            located = site.locate(path)
            found = site.catalog.unpin(located.tier_id, located.relative)
            code = code if found else EXIT_WARNINGS
            invocation.output.json({"path": absolute(path), "was_pinned": found}, "unpin")
            invocation.output.text(f"{path}: {'no longer pinned' if found else 'was not pinned'}")
    return code


@click.command(cls=VerbCommand, example="archiver pins")
@pass_invocation
def pins(invocation: Invocation) -> int:
    """List the pins."""
    with open_site(invocation.settings, readonly=True) as site:
        found = [
            Pinned(site.tiers[name].where(pin.path), pin.subtree)
            for name, tier_id in site.tier_ids.items()
            if name in site.tiers
            for pin in site.catalog.pins(tier_id)
        ]
    for pin in found:
        invocation.output.json(pin, "pin")
    if not found:
        invocation.output.text("Nothing is pinned.")
    else:
        rows = [[str(pin.path), "all below" if pin.subtree else ""] for pin in found]
        invocation.output.table([Column("pinned"), Column("")], rows)
    return EXIT_OK
