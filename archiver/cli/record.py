"""record: what a semantic record holds, field by field."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from archiver import formats
from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Cell, Column, Output
from archiver.cli.verb import VerbGroup
from archiver.cli.where import where
from archiver.codec.record import NO_PROFILE, Record, Scheme
from archiver.errors import NoRecord
from archiver.tiers.protocol import Where
from archiver.units import about_size

_NAMES = {formats.Kind.PLACEHOLDER: "placeholder", formats.Kind.GENERATED: "generated image"}


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a record and its bytes."""

    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Shown:
    """A record as it is printed. `metadata_bytes`: the file's own metadata, kept beside the record."""

    path: Where
    found_in: str
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
    """Show a record field by field, with the bytes of every part.

    Reads it from the placeholder or the generated image itself, wherever that lies, with no catalog; for a recorded
    file, whose original is in place, and for an object of a bucket from the catalog.
    """
    shown = (_from_file(file) if isinstance(file, Path) else None) or _from_catalog(invocation, file)
    invocation.output.json(shown, "record")
    if not invocation.as_json:
        _print(invocation.output, shown)
    return 0


def _from_file(path: Path) -> Shown | None:
    with path.open("rb") as file:
        envelope = formats.read_envelope(file)
        if envelope is None:
            return None
        metadata = formats.read_metadata(file)
    kept = len(metadata.to_bytes()) if metadata else 0
    return _shown(path, f"the {_NAMES[envelope.kind]} itself", envelope.record, kept, envelope.source)


def _from_catalog(invocation: Invocation, path: Where) -> Shown:
    """Raises NotInAnyTier, NoRecord."""
    from archiver.lifecycle.site import open_site

    with open_site(invocation.settings, readonly=True) as site:
        located = site.locate(path)
        row = site.catalog.find(located.tier_id, located.relative)
        if row is None or row.record_id is None:
            raise NoRecord(path=path)
        metadata = site.catalog.metadata(row.record_id)
        return _shown(path, "the catalog", site.catalog.record(row.record_id).payload, len(metadata or b""), None)


def _shown(path: Where, found_in: str, payload: bytes, metadata: int, source: formats.SourceFacts | None) -> Shown:
    record = Record.from_bytes(payload)
    parts = [Part(section.kind.name.lower().replace("_", " "), len(section.payload)) for section in record.sections]
    rest = len(payload) - sum(part.bytes for part in parts)
    rate = 8 * len(payload) / (record.width * record.height)
    parts.append(Part("header, steering and checksum", rest))
    return Shown(path, found_in, record, tuple(parts), len(payload), rate, metadata, source)


def _print(output: Output, shown: Shown) -> None:
    record = shown.record
    facts: list[tuple[str, Cell]] = [
        ("record of", str(shown.path)),
        ("found in", shown.found_in),
        ("scheme", record.scheme.label),
        ("profile", record.profile.hex() if record.profile != NO_PROFILE else "none: no weights are needed"),
        ("source", f"{record.width} x {record.height} pixels, upright"),
    ]
    if record.scheme is not Scheme.LOSSLESS:
        facts += _sampling(record)
    if shown.source is not None:
        facts += [
            ("original", f"{shown.source.format.upper()}, {about_size(shown.source.length)}"),
            ("original sha256", shown.source.sha256.hex()),
        ]
    output.facts(facts)
    output.table(
        [Column("part"), Column("bytes", number=True)],
        [[part.name, part.bytes] for part in shown.parts],
        total=["record", shown.bytes],
    )
    output.text(f"{shown.bits_per_pixel:.5f} bits per pixel of the source.")
    if shown.metadata_bytes:
        output.text(f"Beside it: the file's own metadata, {shown.metadata_bytes:,} bytes compressed.")


def _sampling(record: Record) -> list[tuple[str, Cell]]:
    steering = record.steering
    facts: list[tuple[str, Cell]] = [
        ("seed", str(record.seed)),
        ("latent grid", f"{record.grid[0]} x {record.grid[1]} cells"),
        ("sampler", f"{steering.sampler.name.lower().replace('_', '-')}, {steering.steps} steps"),
        ("guidance", f"{steering.guidance:g}"),
        ("start", f"{steering.start:.2f} T, from the colour map" if steering.start is not None else "from noise"),
    ]
    if steering.linear is not None:
        linear = steering.linear
        facts.append(("linear guidance", f"strength {linear.strength:.2f}, cutoff {linear.cutoff:.2f}"))
    if steering.attention is not None:
        attention = steering.attention
        facts.append(("attention guidance", f"strength {attention.strength:.2f}, first {attention.until:.0%} of steps"))
    if steering.embedding is not None:
        embedding = steering.embedding
        facts.append(("embedding guidance", f"strength {embedding.strength:.2f}, {embedding.steps} steps"))
    return facts
