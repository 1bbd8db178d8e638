"""From released to recalled: generate an image from the record and put it where the placeholder stands, in the same
inode.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event

import numpy as np
from numpy.typing import NDArray

from archiver import __version__, formats
from archiver.catalog.rows import FileRow, State
from archiver.codec.record import Record
from archiver.errors import ArchiverError, NotReleased, PlaceholderDamaged, from_os_error
from archiver.formats import BLOCK, Envelope, Kind, Label, Metadata
from archiver.lifecycle import reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, ignore
from archiver.lifecycle.placeholder import read_carried
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier

_RECALLABLE = (State.RELEASED,)


@dataclass(frozen=True, slots=True)
class _Request:
    """A held-open placeholder and what it says of itself."""

    subject: Subject
    envelope: Envelope
    metadata: Metadata
    record: Record
    resources: ExitStack


def recall(site: Site, paths: Sequence[Path], *, listener: Listener = ignore, stop: Event | None = None) -> Tally:
    """Regenerate every released file among `paths` (files, or folders with all below them), in place.

    A file that cannot be recalled stays the placeholder that it is and is reported; the others go on.
    Raises NotInAnyTier, NotTracked for a path that names nothing, and the errors of the models.
    """
    tally = Tally()

    def tell(outcome: Outcome) -> None:
        tally.add(outcome)
        listener(outcome)

    wanted = (found for path in paths for found in site.rows(path, _RECALLABLE))
    while batch := list(islice(wanted, site.settings.model.batch)):
        if stop is not None and stop.is_set():
            break
        requests = list(_open(site, batch, tell))
        try:
            if requests:
                decoded = site.engine.decode([request.record for request in requests])
                arrow("recall.decoded")
                for request, pixels in zip(requests, decoded, strict=True):
                    tell(_attempt(request.subject.path, partial(_fill, site, request, pixels)))
        finally:
            for request in requests:
                request.resources.close()
    return tally


def _attempt(path: Path, act: Callable[[], Outcome]) -> Outcome:
    """One file's failure is its own."""
    try:
        return act()
    except OSError as error:
        failure: ArchiverError = from_os_error(error, path)
    except ArchiverError as error:
        failure = error
    return Outcome(path, "recall", Result.FAILED, failure.message, error=failure)


def _open(site: Site, batch: Sequence[tuple[LocalTier, FileRow]], tell: Listener) -> Iterator[_Request]:
    for tier, row in batch:
        path = tier.root / row.path
        if row.state is State.RECALLED:
            tell(Outcome(path, "recall", Result.SKIPPED, "already recalled"))
            continue
        with ExitStack() as resources:
            try:
                if row.state is not State.RELEASED:
                    raise NotReleased(path=path, state=row.state.label)
                subject = resources.enter_context(hold(tier, row, os.O_RDWR))
                envelope, metadata = _read_placeholder(site, subject)
                record = Record.from_bytes(envelope.record)
            except (OSError, ArchiverError) as error:
                failure = from_os_error(error, path) if isinstance(error, OSError) else error
                result = Result.SKIPPED if isinstance(failure, NotReleased) else Result.FAILED
                tell(Outcome(path, "recall", result, failure.message, error=failure))
                continue
            yield _Request(subject, envelope, metadata, record, resources.pop_all())


def _read_placeholder(site: Site, subject: Subject) -> tuple[Envelope, Metadata]:
    """The placeholder's envelope, checked against the catalog. Raises FileModified, PlaceholderDamaged."""
    subject.require_unchanged()
    envelope, metadata = read_carried(subject, Kind.PLACEHOLDER)
    if subject.row.record_id is None or site.catalog.record(subject.row.record_id).payload != envelope.record:
        raise PlaceholderDamaged(path=subject.path, problem="its record is not the catalog's")
    return envelope, metadata


def _fill(site: Site, request: _Request, pixels: NDArray[np.uint8]) -> Outcome:
    subject, tier = request.subject, request.subject.tier
    image = render(site, request.envelope, request.metadata, request.record, pixels)
    before = fileops.allocated_bytes(subject.fd)
    row = subject.row
    assert row.record_id is not None  # _read_placeholder compared it
    intent = Intent("recall", row.path, row.record_id, row.inode)
    with reconcile.journalled(site, tier, intent):
        arrow("recall.journalled")
        subject.require_unchanged()
        write_in_place(subject, image)
        digest = fileops.sha256_of(subject.fd)
        site.catalog.mark_recalled(row.id, digest, version=reconcile.version_of(os.fstat(subject.fd)))
        arrow("recall.committed")
    after = fileops.allocated_bytes(subject.fd)
    return Outcome(
        subject.path,
        "recall",
        Result.DONE,
        bytes_before=before,
        bytes_after=after,
        record_bytes=len(request.envelope.record),
    )


def render(site: Site, envelope: Envelope, metadata: Metadata, record: Record, pixels: NDArray[np.uint8]) -> bytes:
    """The generated file: `pixels` at the source's dimensions, format and exact length, labelled as synthetic.

    Raises ImageRefused when no quality fits the length.
    """
    label = Label(
        scheme=record.scheme.label,
        profile=site.engine.profile_of(record).name,
        source_sha256=envelope.source.sha256,
        device=site.engine.device,
        version=__version__,
    )
    generated = Envelope(kind=Kind.GENERATED, record=envelope.record, source=envelope.source)
    image = formats.encode_exact(pixels, generated, metadata, label)
    if len(image) != envelope.source.length:
        raise AssertionError(f"{len(image)} bytes generated for a file of {envelope.source.length}")
    return image


def write_in_place(subject: Subject, image: bytes) -> None:
    """Overwrite a placeholder with the image of the same length, the first block last.

    Until that block is written the file is a placeholder with its record; from then on it is the whole image. Space is
    claimed before anything is written, so that a full disk leaves the placeholder untouched. Raises OSError.
    """
    os.posix_fallocate(subject.fd, BLOCK, len(image) - BLOCK)
    view = memoryview(image)
    offset = BLOCK
    while offset < len(image):
        offset += os.pwrite(subject.fd, view[offset : offset + (1 << 20)], offset)
    os.fdatasync(subject.fd)
    arrow("recall.tail_written")
    os.pwrite(subject.fd, view[:BLOCK], 0)
    arrow("recall.head_written")
    fileops.set_times(subject.fd, subject.stat.st_atime_ns, subject.stat.st_mtime_ns)
    os.fsync(subject.fd)
