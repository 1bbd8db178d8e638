"""Image containers: what may be archived, and the placeholder and generated files that take its place.

Functions take binary, seekable files, which they neither close nor open by name. Nothing here knows of tiers or the
catalog.
"""

from __future__ import annotations

from archiver.formats.containers import sniff
from archiver.formats.facts import (
    BLOCK,
    Block,
    Envelope,
    Format,
    Inspection,
    Kind,
    Label,
    Limits,
    Metadata,
    Mode,
    Refusal,
    SourceFacts,
)
from archiver.formats.generation import encode_exact
from archiver.formats.inspection import inspect, load_picture
from archiver.formats.placeholder import build_placeholder
from archiver.formats.reading import read_envelope, read_metadata

__all__ = [
    "BLOCK",
    "Block",
    "Envelope",
    "Format",
    "Inspection",
    "Kind",
    "Label",
    "Limits",
    "Metadata",
    "Mode",
    "Refusal",
    "SourceFacts",
    "build_placeholder",
    "encode_exact",
    "inspect",
    "load_picture",
    "read_envelope",
    "read_metadata",
    "sniff",
]
