"""What stands for an original: the facts it keeps and its head."""

from __future__ import annotations

from dataclasses import dataclass

from archiver import formats
from archiver.catalog.rows import FileRow, RecordRow
from archiver.codec import schemes
from archiver.codec.record import Record, Scheme
from archiver.errors import PlaceholderDamaged
from archiver.formats import Envelope, Inspection, Kind, Limits, Metadata, SourceFacts
from archiver.lifecycle.overwrite import require_untouched
from archiver.lifecycle.subject import OpenFile


@dataclass(frozen=True, slots=True)
class Carried:
    """What a placeholder says of itself."""

    envelope: Envelope
    metadata: Metadata
    record: Record


def source_facts(row: FileRow, inspection: Inspection, sha256: bytes) -> SourceFacts:
    """What an original was that still is the version of its row, as far as a recall must restore it."""
    return SourceFacts(
        format=inspection.format,
        length=row.size,
        sha256=sha256,
        width=inspection.width,
        height=inspection.height,
        orientation=inspection.orientation,
        mode=inspection.mode,
        mtime_ns=row.mtime_ns,
        inode=row.inode,
    )


def placeholder_head(record_row: RecordRow, source: SourceFacts, metadata: Metadata) -> bytes:
    """The placeholder's bytes up to the hole; read back before they are trusted. Raises PlaceholderDamaged."""
    preview = schemes.preview(Record.from_bytes(record_row.payload))
    envelope = Envelope(kind=Kind.PLACEHOLDER, record=record_row.payload, source=source)
    return formats.build_placeholder(envelope, metadata, preview)


def require_within(limits: Limits, envelope: Envelope, path: object) -> None:
    """Raises PlaceholderDamaged for what no original could have been: anybody can write a block that claims to stand
    for gigabytes.
    """
    source = envelope.source
    if source.width * source.height > limits.pixels or source.length > limits.file_size:
        claim = f"{source.width}x{source.height} pixels in {source.length} bytes"
        raise PlaceholderDamaged(path=path, problem=f"it claims to stand for {claim}, more than [limits] allows")


def require_unwritten(file: OpenFile, envelope: Envelope, content: bytes = b"") -> None:
    """What somebody wrote into a placeholder is theirs: no recall or undo may take it. `content`: what is about to be
    written, of which a fill that died may have left some. Raises FileModified, OSError.
    """
    if envelope.kind is Kind.PLACEHOLDER:
        kept = Record.from_bytes(envelope.record).scheme == Scheme.LOSSLESS
        with file.reader() as reader:
            own = formats.payload_end(reader) if kept else formats.metadata_end(reader)
        require_untouched(file.fd, content, file.path, own)


def read_carried(file: OpenFile, *kinds: Kind) -> tuple[Envelope, Metadata]:
    """What a placeholder or a generated image carries. Raises PlaceholderDamaged, EnvelopeDamaged, OSError."""
    with file.reader() as reader:
        envelope = formats.read_envelope(reader)
        if envelope is None or envelope.kind not in kinds:
            raise PlaceholderDamaged(path=file.path, problem=f"it carries no {' or '.join(kinds)} record")
        if envelope.source.length != file.stat.st_size:
            raise PlaceholderDamaged(path=file.path, problem="its length is not that of the original it stands for")
        return envelope, formats.read_metadata(reader)


def carried_by(file: OpenFile, limits: Limits | None = None) -> Carried:
    """Read a placeholder; `limits` where nothing but the file itself says that it is one of ours.

    Raises PlaceholderDamaged, EnvelopeDamaged, RecordCorrupt, RecordVersionUnknown, OSError.
    """
    envelope, metadata = read_carried(file, Kind.PLACEHOLDER)
    if limits is not None:
        require_within(limits, envelope, file.path)
    return Carried(envelope, metadata, Record.from_bytes(envelope.record))
