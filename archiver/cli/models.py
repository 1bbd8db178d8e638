"""models: the profiles in the vault, without which records are noise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Column, Output
from archiver.cli.verb import VerbGroup
from archiver.errors import ArchiverError
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault


@dataclass(frozen=True, slots=True)
class Listed:
    """A profile and how many records need it."""

    name: str
    fingerprint: bytes
    licence: str
    long_side: int
    schemes: tuple[str, ...]
    live_records: int
    records: int


@click.group(cls=VerbGroup)
def models() -> None:
    """List, verify, export, import or remove profiles."""


@models.command("list", example="archiver models list")
@pass_invocation
def list_(invocation: Invocation) -> int:
    """List the profiles and how many records need each."""
    uses = _uses(invocation)
    listed = [_listed(profile, uses) for profile in _vault(invocation).list()]
    for profile in listed:
        invocation.output.json(profile, "profile")
    invocation.output.table(
        [
            Column("profile"),
            Column("fingerprint"),
            Column("side", number=True),
            Column("live records", number=True),
            Column("schemes"),
            Column("licence"),
        ],
        [
            [one.name, one.fingerprint.hex()[:16], one.long_side, one.live_records, ", ".join(one.schemes), one.licence]
            for one in listed
        ],
    )
    return 0


@models.command(example="archiver models verify")
@click.argument("names", metavar="[PROFILE]...", nargs=-1)
@pass_invocation
def verify(invocation: Invocation, names: tuple[str, ...]) -> int:
    """Compare every weight file with its pinned SHA-256."""
    vault, code = _vault(invocation), 0
    for profile in [vault.named(name) for name in names] or vault.list():
        try:
            vault.verify(profile)
        except ArchiverError as error:
            invocation.output.error(error)
            code = error.exit_code
            continue
        _tell(invocation.output, profile, "whole")
    return code


@models.command(example="archiver models export embedded-1 /mnt/usb/embedded-1.tar")
@click.argument("name", metavar="PROFILE")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_invocation
def export(invocation: Invocation, name: str, file: Path) -> int:
    """Write a profile as one tar file.

    It is verified first. Keep it where the archive is not.
    """
    vault = _vault(invocation)
    profile = vault.named(name)
    vault.export_tar(profile, file)
    _tell(invocation.output, profile, f"written to {file}")
    return 0


@models.command("import", example="archiver models import /mnt/usb/embedded-1.tar")
@click.argument("source", metavar="FILE|DIR", type=click.Path(exists=True, path_type=Path))
@pass_invocation
def import_(invocation: Invocation, source: Path) -> int:
    """Bring in a profile.

    From a file that was exported, or from a folder with a profile.toml and its weights. Every file is compared with
    its pinned hash. A profile of the same fingerprint that is damaged is repaired by it.
    """
    vault = _vault(invocation)
    profile = vault.import_directory(source) if source.is_dir() else vault.import_tar(source)
    _tell(invocation.output, profile, "in the vault")
    return 0


@models.command(example="archiver models remove embedded-0")
@click.argument("name", metavar="PROFILE")
@pass_invocation
def remove(invocation: Invocation, name: str) -> int:
    """Remove a profile that no live record needs.

    Refused for any other: without its weights a record is noise.
    """
    vault = _vault(invocation)
    profile = vault.named(name)
    vault.remove(profile, _listed(profile, _uses(invocation)).live_records)
    _tell(invocation.output, profile, "removed")
    return 0


def _vault(invocation: Invocation) -> Vault:
    return Vault(invocation.settings.vault.path)


def _uses(invocation: Invocation) -> dict[bytes, tuple[int, int]]:
    """Live and all records by profile key. Raises CatalogUnavailable: without a catalog nobody knows what is needed."""
    from archiver.catalog import Catalog

    with Catalog.open(invocation.settings.catalog_url) as catalog:
        return {use.profile: (use.live, use.total) for use in catalog.profiles()}


def _listed(profile: ProfileInfo, uses: dict[bytes, tuple[int, int]]) -> Listed:
    # Records carry the first bytes of a fingerprint.
    needed = [counts for key, counts in uses.items() if profile.fingerprint.startswith(key)]
    return Listed(
        profile.name,
        profile.fingerprint,
        profile.licence,
        profile.long_side,
        tuple(scheme.label for scheme in profile.schemes),
        sum(live for live, _ in needed),
        sum(total for _, total in needed),
    )


def _tell(output: Output, profile: ProfileInfo, what: str) -> None:
    output.json({"profile": profile.name, "fingerprint": profile.fingerprint, "result": what}, "profile")
    output.text(f"{profile.name} ({profile.fingerprint.hex()[:16]}): {what}")
