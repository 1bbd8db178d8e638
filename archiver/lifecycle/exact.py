"""The lossless scheme on files: an original's exact bytes behind its placeholder, and back in their place.

A generated image can be generated again, so a recall may write over its placeholder. These bytes exist once: they are
copied to the holding area, durably, before the placeholder that has them is written over, and a crash in between is
made good from there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256

from archiver import formats
from archiver.catalog.rows import held_name
from archiver.codec import lossless
from archiver.codec.record import Scheme
from archiver.errors import FileModified, ImageRefused, NothingSaved, PlaceholderDamaged, TranscodeRefused
from archiver.formats import BLOCK, Envelope, Inspection, Refusal
from archiver.lifecycle import reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.keeper import Original, Readable
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.overwrite import write_over
from archiver.lifecycle.placeholder import require_unwritten
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject
from archiver.tiers import fileops

_ROOM_IN_HEAD = 2048  # bytes of packed metadata that surely fit into the first block


def is_exact(scheme: int) -> bool:
    """Whether a record of this scheme only says that the original's bytes are kept behind the placeholder."""
    return scheme == Scheme.LOSSLESS


def pack(original: Original, inspection: Inspection, digest: bytes) -> bytes:
    """An original's bytes, transcoded and proven to come back.

    Raises ImageRefused (no JPEG), TranscodeRefused, TranscoderNotInstalled, FileModified (its hash is not `digest`),
    NothingSaved.
    """
    if inspection.format is not formats.Format.JPEG:
        raise ImageRefused(reason=Refusal.UNSUPPORTED_FORMAT, detail=f"lossless is for JPEG, it is {inspection.format}")
    with original.reader() as file:
        data = file.read()
    if sha256(data).digest() != digest:
        raise FileModified(path=original.path, state=original.row.state.label)
    packed = lossless.transcode(data)
    metadata = len(inspection.metadata.to_bytes()) if inspection.metadata else 0
    behind = metadata if metadata > _ROOM_IN_HEAD else 0
    after, before = (_on_disk(size) for size in (BLOCK + behind + len(packed), len(data)))
    if after >= before:
        raise NothingSaved(after=after, before=before)
    return packed


def _on_disk(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def unpack(file: Readable, envelope: Envelope) -> bytes:
    """The original that a placeholder keeps behind its head, hash and length compared.

    Raises EnvelopeDamaged, PlaceholderDamaged, TranscoderNotInstalled, OSError.
    """
    with file.reader() as reader:
        packed = formats.read_payload(reader)
    try:
        original = lossless.restore(packed, envelope.source.length)
    except TranscodeRefused as error:
        raise PlaceholderDamaged(path=file.path, problem=error.message) from error
    if sha256(original).digest() != envelope.source.sha256:
        raise PlaceholderDamaged(path=file.path, problem="what is kept behind it is not the original")
    return original


def check(file: Readable, envelope: Envelope, *, decode: bool) -> None:
    """That the original's bytes are still behind a placeholder; with `decode`, that they come back.

    Raises EnvelopeDamaged, PlaceholderDamaged, TranscoderNotInstalled, OSError.
    """
    if decode:
        unpack(file, envelope)
        return
    with file.reader() as reader:
        formats.read_payload(reader)


def restore(
    site: Site, subject: Subject, envelope: Envelope, *, asker: str = "", written: Callable[[], object] = lambda: None
) -> Outcome:
    """From released to recorded: the original's bytes, in the placeholder's inode. `asker` goes into the audit.

    `written` is called when they stand there, durably, before the catalog knows. An original still held in its grace
    period is no longer needed then, and deleted. Raises what `unpack` raises, FileModified, StateConflict, OSError;
    settled then.
    """
    original = unpack(subject, envelope)
    require_unwritten(subject, envelope, original)
    row, tier = subject.row, subject.tier
    assert row.record_id is not None  # its caller compared the record with the catalog's
    before = fileops.allocated_bytes(subject.fd)
    # By the placeholder's inode: never the name of the original in its grace period.
    copy = held_name(row.inode, envelope.source.sha256)
    intent = Intent("restore", row.path, row.record_id, row.inode, held=copy)
    with reconcile.journalled(site, tier, intent):
        arrow("restore.journalled")
        subject.require_unchanged()
        fileops.reserve(subject.fd, len(original))  # before the copy: a full disk leaves the placeholder as it is
        _keep_copy(tier.holding_fd, copy, original)
        arrow("restore.copied")
        write_over(subject.fd, original, subject.path, "restore")
        fileops.set_times(subject.fd, subject.stat.st_atime_ns, subject.stat.st_mtime_ns)
        os.fsync(subject.fd)
        if fileops.sha256_of(subject.fd) != envelope.source.sha256:
            raise PlaceholderDamaged(path=subject.path, problem="the disk does not give back what was written to it")
        written()
        reconcile.commit_restore(site, tier, row, copy, os.fstat(subject.fd), detail=asker)
        arrow("restore.committed")
    after = fileops.allocated_bytes(subject.fd)
    size = len(envelope.record)
    return Outcome(subject.path, "recall", Result.DONE, bytes_before=before, bytes_after=after, record_bytes=size)


def _keep_copy(holding_fd: int, name: str, original: bytes) -> None:
    """Write the copy that a crash is made good from, durably. Raises OSError."""
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=holding_fd)
    try:
        os.posix_fallocate(fd, 0, len(original))
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(original)
        os.fsync(fd)
        fileops.fsync_directory(holding_fd)
    finally:
        os.close(fd)
