"""Put a generated image where a placeholder stands, in the same inode, through an open descriptor.

Who opened it does not matter: `archiver recall` by its path, the recall desk through the descriptor of a waiting
reader.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

from archiver import __version__, formats
from archiver.codec import schemes
from archiver.decoder.engine import Engine, Generated
from archiver.errors import PlaceholderDamaged
from archiver.formats import BLOCK, Envelope, Kind, Label
from archiver.lifecycle import reconcile
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.overwrite import write_over
from archiver.lifecycle.placeholder import Carried, carried_by, require_unwritten
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import OpenFile, Subject
from archiver.tiers import fileops


def carried_by_released(site: Site, subject: Subject) -> Carried:
    """Read a placeholder that the catalog knows, and compare the two. Raises FileModified too."""
    subject.require_unchanged()
    carried = carried_by(subject)
    record_id = subject.row.record_id
    if record_id is None or site.catalog.record(record_id).payload != carried.envelope.record:
        raise PlaceholderDamaged(path=subject.path, problem="its record is not the catalog's")
    return carried


def fill(
    site: Site,
    subject: Subject,
    carried: Carried,
    decode: Callable[[], Generated],
    *,
    asker: str = "",
    written: Callable[[], object] = lambda: None,
) -> Outcome:
    """From released to recalled: journal, image, catalog. `asker` goes into the audit.

    `decode` gives the picture; the journal is written beside it. `written` is called when the whole image stands in the
    file, whether the catalog knows or not. Raises what `decode` raises, ImageRefused (no quality fits the length),
    FileModified where somebody wrote behind the placeholder's head; nothing was touched then. Raises FileModified,
    StateConflict, OSError; settled then.

    A reader waits for an image, not for its being durable: of the disk it waits only for what must be durable before
    the first block is written. Should the power fail before the rest is, a placeholder stands there again, which the
    journal tells the catalog of, and gives the next reader the same image.
    """
    row = subject.row
    assert row.record_id is not None  # carried_by_released compared it
    before = fileops.allocated_bytes(subject.fd)
    intent = Intent("recall", row.path, row.record_id, row.inode)
    with ThreadPoolExecutor(1, "fill") as beside:
        rendering = beside.submit(lambda: _fitting(site, subject, carried, decode()))
        with reconcile.journalled(site, subject.tier, intent, ready=rendering.result):
            arrow("recall.journalled")
            subject.require_unchanged()
            image = rendering.result()
            write_in_place(subject, image)
            version = reconcile.version_of(os.fstat(subject.fd))
            written()
            syncing = beside.submit(os.fsync, subject.fd)
            try:
                site.catalog.mark_recalled(row.id, sha256(image).digest(), version=version, detail=asker)
            finally:
                syncing.result()
            arrow("recall.committed")
    return _done(subject, carried, before)


def fill_unlisted(
    site: Site,
    file: OpenFile,
    carried: Carried,
    generated: Generated,
    *,
    written: Callable[[], object] = lambda: None,
) -> Outcome:
    """Fill a placeholder that no catalog row speaks for: a copy outside every tier, or one that no scan has seen yet.

    There is no journal to note it in. Where it dies the placeholder stands, with space behind its head that the next
    fill uses. Raises ImageRefused, FileModified, OSError.
    """
    image = _fitting(site, file, carried, generated)
    # Its metadata may stand behind the first block, and nothing else has it: it goes last too, in the same write.
    head = len(formats.build_placeholder(carried.envelope, carried.metadata, schemes.preview(carried.record)))
    before = fileops.allocated_bytes(file.fd)
    try:
        write_in_place(file, image, head=head)
        os.fsync(file.fd)
    except OSError:
        with file.reader() as reader:
            envelope = formats.read_envelope(reader)
        if envelope is not None and envelope.kind is Kind.PLACEHOLDER:
            fileops.punch_from(file.fd, head)
            fileops.set_times(file.fd, file.stat.st_atime_ns, file.stat.st_mtime_ns)
        raise
    written()
    return _done(file, carried, before)


def _fitting(site: Site, file: OpenFile, carried: Carried, generated: Generated) -> bytes:
    """The generated file, where nothing of anybody else's stands behind the placeholder's head.

    Raises ImageRefused, FileModified, OSError.
    """
    image = render(site, carried, generated)
    require_unwritten(file, carried.envelope, image)
    return image


def render(site: Site, carried: Carried, generated: Generated) -> bytes:
    """The generated file: the picture at the source's dimensions, format and exact length, labelled as synthetic.

    Raises ImageRefused when no quality fits the length.
    """
    return image_of(site.engine, carried, generated)


def image_of(engine: Engine, carried: Carried, generated: Generated) -> bytes:
    """As `render`, where there is an engine and no site."""
    source, record = carried.envelope.source, carried.record
    label = Label(
        scheme=record.scheme.label,
        profile=engine.profile_of(record).name,
        source_sha256=source.sha256,
        device=generated.device,
        version=__version__,
    )
    envelope = Envelope(kind=Kind.GENERATED, record=carried.envelope.record, source=source)
    image = formats.encode_exact(generated.pixels, envelope, carried.metadata, label)
    if len(image) != source.length:
        raise AssertionError(f"{len(image)} bytes generated for a file of {source.length}")
    return image


def write_in_place(file: OpenFile, image: bytes, *, head: int = BLOCK) -> None:
    """Put the image of the same length where a placeholder stands; see `write_over`."""
    write_over(file.fd, image, file.path, "recall", head=head)
    fileops.set_times(file.fd, file.stat.st_atime_ns, file.stat.st_mtime_ns)


def _done(file: OpenFile, carried: Carried, before: int) -> Outcome:
    after = fileops.allocated_bytes(file.fd)
    size = len(carried.envelope.record)
    return Outcome(file.path, "recall", Result.DONE, bytes_before=before, bytes_after=after, record_bytes=size)
