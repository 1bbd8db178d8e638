"""What objects that archiver wrote say of themselves, in user metadata that begins with `archiver-`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from archiver.formats import SourceFacts
from archiver.s3.objects import Dressing, ObjectInfo

OURS = "archiver-"
_NS = 1_000_000_000

MarkedKind = Literal["placeholder", "generated", "held"]


@dataclass(frozen=True, slots=True)
class Marks:
    """The original that an object stands for: its hash, bytes, ETag and time; where it is held; for a held one its key.

    `held` is "copy", or the version id of the original. A key that is no ASCII is percent-encoded by the store.
    """

    kind: MarkedKind
    sha256: bytes
    length: int  # bytes
    etag: str  # without its quotes
    modified_ns: int
    held: str = ""

    @classmethod
    def of_original(cls, kind: MarkedKind, info: ObjectInfo, sha256: bytes, held: str = "") -> Marks:
        """Of an object that is about to be released."""
        return cls(kind, sha256, info.size, info.etag, info.modified_ns, held)

    def as_metadata(self) -> dict[str, str]:
        """As user metadata."""
        modified = datetime.fromtimestamp(self.modified_ns // _NS, UTC)
        marks = {
            "kind": self.kind,
            "sha256": self.sha256.hex(),
            "length": str(self.length),
            "etag": self.etag,
            "modified": modified.isoformat(),
            "held": self.held,
        }
        return {f"{OURS}{name}": value for name, value in marks.items() if value}


def kind_of(info: ObjectInfo) -> str:
    """ "placeholder", "generated" or "held"; "" for an object that archiver did not write.

    Who edits a generated image with a tool that keeps user metadata leaves the mark on it. But generated images have
    exactly the length that they say.
    """
    kind = info.metadata.get(f"{OURS}kind", "")
    return "" if kind == "generated" and info.metadata.get(f"{OURS}length") != str(info.size) else kind


def marked(dressing: Dressing, marks: Marks, *, storage_class: str | None = None) -> Dressing:
    """What an object of ours wears: what the original wore, and its marks in the place of older ones."""
    dressing = replace(dressing, metadata={**users(dressing.metadata), **marks.as_metadata()})
    return dressing if storage_class is None else replace(dressing, storage_class=storage_class)


def remarked(dressing: Dressing, kind: MarkedKind) -> Dressing:
    """The same, of another kind: a generated image in the place of its placeholder, or the other way round."""
    return replace(dressing, metadata={**dressing.metadata, f"{OURS}kind": kind})


def unmarked(dressing: Dressing) -> Dressing:
    """What the original wore."""
    return replace(dressing, metadata=users(dressing.metadata))


def users(metadata: Mapping[str, str]) -> dict[str, str]:
    """The metadata that is not ours."""
    return {name: value for name, value in metadata.items() if not name.startswith(OURS)}


def from_facts(kind: MarkedKind, source: SourceFacts, etag: str, held: str = "") -> Marks:
    """Marks from what an envelope says, where no object says it."""
    return Marks(kind, source.sha256, source.length, etag, source.mtime_ns, held)
