"""Image containers: what may be archived, and the placeholder and generated files that take its place.

Functions take binary, seekable files, which they neither close nor open by name. Nothing here knows of tiers or the
catalog.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from archiver.formats.facts import (
    BLOCK,
    RECORD_ROOM,
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

if TYPE_CHECKING:
    from archiver.formats.containers import sniff
    from archiver.formats.generation import encode_exact
    from archiver.formats.inspection import load_picture, survey
    from archiver.formats.payload import metadata_end, payload_end, placed_behind, read_payload
    from archiver.formats.placeholder import build_placeholder
    from archiver.formats.reading import read_envelope, read_metadata
    from archiver.formats.stamp import Found, look

__all__ = [
    "BLOCK",
    "RECORD_ROOM",
    "Block",
    "Envelope",
    "Format",
    "Found",
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
    "load_picture",
    "look",
    "metadata_end",
    "payload_end",
    "placed_behind",
    "read_envelope",
    "read_metadata",
    "read_payload",
    "sniff",
    "survey",
]

# The functions need numpy and Pillow, the facts do not: a command that only names them starts in half the time.
_FUNCTIONS = {
    "Found": "stamp",
    "build_placeholder": "placeholder",
    "encode_exact": "generation",
    "load_picture": "inspection",
    "look": "stamp",
    "metadata_end": "payload",
    "payload_end": "payload",
    "placed_behind": "payload",
    "read_envelope": "reading",
    "read_metadata": "reading",
    "read_payload": "payload",
    "sniff": "containers",
    "survey": "inspection",
}


def __getattr__(name: str) -> object:
    if name not in _FUNCTIONS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    function = getattr(import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    globals()[name] = function
    return function
