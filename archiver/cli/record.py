"""record: what a semantic record holds, field by field."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import click

from archiver import formats
from archiver.access.client import RecallClient, let_through
from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Cell, Column, Output
from archiver.cli.verb import VerbGroup
from archiver.cli.where import where
from archiver.codec.explain import Part, explain
from archiver.codec.record import Record
from archiver.config import RecallSettings
from archiver.errors import ConfigMissing, NoRecord, NotInAnyTier
from archiver.tiers.protocol import Where
from archiver.units import about_size

_NAMES = {formats.Kind.PLACEHOLDER: "placeholder", formats.Kind.GENERATED: "generated image"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as it is printed. `metadata_bytes`: the file's own metadata, kept beside the record."""

    path: Where
    found_in: str
    version: int
    record: Record
    parts: tuple[Part, ...]
    bytes: int
    bits_per_pixel: float
    metadata_bytes: int
    source: formats.SourceFacts | None


@click.group(cls=VerbGroup)
def record() -> None:
    """Show what a semantic record holds."""


@record.command(example="archiver record show /srv/photos/rome.jpg")
@click.argument("file", type=where)
@pass_invocation
def show(invocation: Invocation, file: Where) -> int:
    """Show a record field by field, with the bytes of every part and what it says.

    Reads it from the placeholder or the generated image itself, wherever that lies, with no catalog; for a recorded
    file, whose original is in place, and for an object of a bucket from the catalog.
    """
    shown = (_from_file(invocation, file) if isinstance(file, Path) else None) or _from_catalog(invocation, file)
    invocation.output.json(shown, "record")
    if not invocation.as_json:
        _print(invocation.output, shown)
    return 0


def _unnoticed(invocation: Invocation) -> AbstractContextManager[RecallClient | None]:
    """Who looks at a record does not want the image: nothing is recalled for this."""
    try:
        return let_through(invocation.settings.recall.socket)
    except ConfigMissing:  # a record can be looked at without any
        return let_through(RecallSettings().socket)


def _from_file(invocation: Invocation, path: Path) -> Shown | None:
    if not path.is_file():
        return None  # the catalog may know what stood there
    with _unnoticed(invocation), path.open("rb") as file:
        envelope = formats.read_envelope(file)
        if envelope is None:
            return None
        metadata = formats.read_metadata(file)
    kept = len(metadata.to_bytes()) if metadata else 0
    return _shown(path, f"the {_NAMES[envelope.kind]} itself", envelope.record, kept, envelope.source)


def _from_catalog(invocation: Invocation, path: Where) -> Shown:
    """Raises NoRecord, also where no catalog could have one."""
    from archiver.lifecycle.opening import open_site

    with open_site(invocation.settings, readonly=True) as site:
        try:
            located = site.locate(path)
        except NotInAnyTier as outside:
            raise NoRecord(path=path) from outside
        row = site.catalog.find(located.tier_id, located.relative)
        if row is None or row.record_id is None:
            raise NoRecord(path=path)
        metadata = site.catalog.metadata(row.record_id)
        return _shown(path, "the catalog", site.catalog.record(row.record_id).payload, len(metadata or b""), None)


def _shown(path: Where, found_in: str, payload: bytes, metadata: int, source: formats.SourceFacts | None) -> Shown:
    record = Record.from_bytes(payload)
    told = explain(record)
    return Shown(path, found_in, record.version, record, told.parts, told.bytes, told.bits_per_pixel, metadata, source)


def _print(output: Output, shown: Shown) -> None:
    facts: list[tuple[str, Cell]] = [
        ("record of", str(shown.path)),
        ("found in", shown.found_in),
        ("layout", f"version {shown.version}"),
    ]
    if shown.source is not None:
        facts += [
            ("original", f"{shown.source.format.upper()}, {about_size(shown.source.length)}"),
            ("original sha256", shown.source.sha256.hex()),
        ]
    output.facts(facts)
    output.table(
        [Column("part"), Column("bytes", number=True), Column("what it says")],
        [[part.name, part.bytes, part.text] for part in shown.parts],
        total=["record", shown.bytes, f"{shown.bits_per_pixel:.5f} bits per pixel of the source"],
    )
    if shown.metadata_bytes:
        output.text(f"Beside it: the file's own metadata, {shown.metadata_bytes:,} bytes compressed.")
