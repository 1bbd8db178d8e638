"""init, config, db: what there must be before anything can happen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column, program, quoted
from archiver.cli.verb import VerbCommand, VerbGroup
from archiver.cli.where import where
from archiver.errors import ConfigInvalid
from archiver.tiers.protocol import Where
from archiver.units import format_duration


@click.command(
    cls=VerbCommand,
    example="""
    archiver init /srv/photos
    archiver --config ~/archiver.toml init ~/Pictures --state ~/.archiver
    archiver init s3://family-photos/phones --endpoint https://s3.example:8333
    """,
)
@click.argument("folders", metavar="[DIR]...", nargs=-1, type=where)
@click.option("--endpoint", default="", metavar="URL", help="The server of the buckets among them (default: AWS).")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Where catalog and vault go (default: /var/lib/archiver for root, ~/.local/share/archiver for others).",
)
@pass_invocation
def init(invocation: Invocation, folders: tuple[Where, ...], endpoint: str, state: Path | None) -> int:
    """Write a configuration, create the catalog and the vault.

    One tier for each DIR (or s3://bucket/prefix), and one cautious rule: images not opened for 180 days, originals kept
    for 30 more. Nothing is archived. Without a DIR the configuration must exist already, and what it names is created.
    Safe to run again.
    """
    from archiver.setup import initialise

    made = initialise(invocation.config, folders, state, endpoint)
    output = invocation.output
    output.json(made)
    output.facts(
        [
            ("configuration", f"{made.config}{'' if made.config_written else ' (was there)'}"),
            ("catalog", made.catalog),
            ("vault", f"{made.vault} (profile {made.profile})"),
            *((f"tier {name}", root) for name, root in made.tiers),
        ]
    )
    output.text()
    output.text("Nothing has been archived. Next:" if made.config_written else "Next:")
    asked = program() if invocation.config is None else f"{program()} --config {quoted(invocation.config)}"
    output.text(f"  {asked} doctor    does everything work here?")
    output.text(f"  {asked} scan      read the tiers")
    output.text(f"  {asked} plan      what would be archived, and why")
    output.text(f"  {asked} archive   do it once; `run` does it for ever")
    return 0


@click.group(cls=VerbGroup)
def config() -> None:
    """Check, show or locate the configuration."""


@dataclass(frozen=True, slots=True)
class _Checked:
    path: Path
    valid: bool
    problems: tuple[str, ...]
    tiers: tuple[tuple[str, str], ...]


@config.command(example="archiver config check")
@pass_invocation
def check(invocation: Invocation) -> int:
    """Validate the configuration and list every problem.

    Unknown keys are refused, and the nearest known one is named. Lists the tiers and whether their folders are there.
    """
    output = invocation.output
    try:
        settings = invocation.settings
    except ConfigInvalid as error:
        output.json(_Checked(invocation.config_path, False, error.problems, ()))
        for problem in error.problems:
            output.text(f"{invocation.config_path}: {problem}")
        return error.exit_code
    tiers = tuple((tier.name, tier.root) for tier in settings.tier)
    output.json(_Checked(invocation.config_path, True, (), tiers))
    output.text(f"{invocation.config_path} is valid: {len(settings.tier)} tier(s), {len(settings.rule)} rule(s).")
    missing = {tier.name for tier in settings.tier if tier.kind == "local" and not tier.path.is_dir()}
    rows = [(name, root, "not there" if name in missing else "") for name, root in tiers]
    output.table([Column("tier"), Column("folder"), Column("")], rows)
    return 0


@config.command(example="archiver config show --json | jq .release")
@pass_invocation
def show(invocation: Invocation) -> int:
    """Show the settings in force, defaults included; passwords are left out."""
    settings = invocation.settings
    values = settings.model_dump()
    values["catalog"]["url"] = settings.redacted_url
    invocation.output.json(values)
    for section, keys in values.items():
        for number, entry in enumerate(keys if isinstance(keys, tuple) else [keys], 1):
            name = f"{section} {entry.get('name', number)}" if isinstance(keys, tuple) else section
            invocation.output.facts([(f"  {key}", _plain(value)) for key, value in entry.items()], title=name)
    return 0


def _plain(value: object) -> str:
    match value:
        case dict():
            return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
        case tuple():
            return ", ".join(_plain(item) for item in value) or "none"
        case timedelta():
            return format_duration(value)
        case bool() | None:
            return {True: "yes", False: "no", None: "none"}[value]
        case int():
            return f"{value:,}"
    return str(value)


@config.command(example='$EDITOR "$(archiver config path)"')
@pass_invocation
def path(invocation: Invocation) -> int:
    """Print which file is read, whether or not it is there."""
    invocation.output.json({"path": invocation.config_path, "exists": invocation.config_path.exists()})
    if not invocation.output.as_json:
        click.echo(os.fsencode(invocation.config_path))  # its very bytes: it is for `$(...)`
    return 0


@click.group(cls=VerbGroup)
def db() -> None:
    """Upgrade the catalog's schema or show its version."""


@db.command(example="archiver db upgrade")
@pass_invocation
def upgrade(invocation: Invocation) -> int:
    """Bring the catalog to the schema of this program.

    Creates an empty catalog where there is none. A database server's must exist already; back it up before.
    """
    from archiver.catalog import schema
    from archiver.catalog.rows import SCHEMA

    before = schema.upgrade(invocation.settings.catalog_url)
    invocation.output.json({"before": before, "after": SCHEMA})
    changed = "was current" if before == SCHEMA else f"upgraded from {before}" if before else "created"
    invocation.output.text(f"Schema {SCHEMA}: {changed}.")
    return 0


@db.command(example="archiver db current")
@pass_invocation
def current(invocation: Invocation) -> int:
    """Show the schema the catalog has and the one this program needs. Exits with 3 when they differ."""
    from archiver.catalog import schema
    from archiver.catalog.rows import SCHEMA

    found = schema.current_revision(invocation.settings.catalog_url)
    invocation.output.json({"found": found, "wanted": SCHEMA})
    invocation.output.facts([("found", found or "none"), ("wanted", SCHEMA)])
    return 0 if found == SCHEMA else 3
