"""Proof that what is kept can be given back: records, placeholders, held originals."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from functools import partial
from threading import Event

from archiver import formats
from archiver.catalog.rows import FileRow, State
from archiver.codec import schemes
from archiver.codec.record import Record
from archiver.errors import HeldOriginalDamaged, PlaceholderDamaged
from archiver.formats import BLOCK
from archiver.lifecycle import exact
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally, attempt, ignore
from archiver.lifecycle.pace import Pace
from archiver.lifecycle.placeholder import read_carried
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.tiers import fileops
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier

_POSITION = "verify.position"
_FINISHED = "verify.finished_at"
_PAGE = 256  # files between two notes of the position


def verify(
    site: Site,
    *,
    bytes_per_second: int = 0,
    restart: bool = False,
    decode: bool = False,
    listener: Listener = ignore,
    stop: Event | None = None,
) -> Tally:
    """Check every recorded, released and recalled file and every held original; goes on where an earlier run was
    stopped.

    Every record is entropy-decoded; with `decode` the model generates its image too, which takes as long as recalling
    it would.
    """
    stop = stop or Event()
    pace = Pace(bytes_per_second, stop)
    tally = Tally()
    after = 0 if restart else int(site.catalog.setting(_POSITION) or 0)
    rows = site.catalog.stream_files(None, (State.RECORDED, State.RELEASED, State.RECALLED), after=after)
    last = after
    for number, row in enumerate(rows, start=1):
        if stop.is_set():
            site.catalog.set_setting(_POSITION, str(last))
            return tally
        tier = site.tier_of(row)
        if tier is None:
            continue  # there is nowhere to look
        outcome = attempt(tier.where(row.path), "verify", partial(_proven, site, tier, row, decode, pace))
        tally.add(outcome)
        listener(outcome)
        last = row.id
        if number % _PAGE == 0:
            site.catalog.set_setting(_POSITION, str(last))
    site.catalog.set_setting(_POSITION, "0")
    site.catalog.set_setting(_FINISHED, datetime.now(UTC).isoformat(timespec="seconds"))
    return tally


def _proven(site: Site, tier: Tier, row: FileRow, decode: bool, pace: Pace) -> Outcome:
    assert row.record_id is not None  # the schema says so for these states
    payload = site.catalog.record(row.record_id).payload
    record = Record.from_bytes(payload)
    schemes.check(record)
    site.vault.require(record.profile)
    if decode and not exact.is_exact(record.scheme):
        site.engine.decode([record])
    site.keeper(tier).verify(row, payload, decode=decode, pace=pace)
    return Outcome(tier.where(row.path), "verify", Result.DONE, record_bytes=len(payload))


def verify_file(site: Site, tier: LocalTier, row: FileRow, payload: bytes, *, decode: bool, pace: Pace) -> None:
    """That a placeholder or recalled image carries its record, and that the held original is whole.

    Raises ArchiverError, OSError.
    """
    if row.state is not State.RECORDED:
        with hold(tier, row) as subject:
            check_placeholder(subject, payload, decode=decode)
            is_large = exact.is_exact(Record.from_bytes(payload).scheme)
            pace.took(fileops.allocated_bytes(subject.fd) if is_large else BLOCK)
    _check_held(site, tier, row, pace)


def check_placeholder(subject: Subject, payload: bytes, *, decode: bool = False) -> None:
    """That what stands there carries this very record, and the original's bytes where the record says so; with
    `decode`, that these come back. Raises FileModified, PlaceholderDamaged, EnvelopeDamaged, TranscoderNotInstalled.
    """
    subject.require_unchanged()
    released = subject.row.state is State.RELEASED
    envelope, _ = read_carried(subject, formats.Kind.PLACEHOLDER if released else formats.Kind.GENERATED)
    if envelope.record != payload:
        raise PlaceholderDamaged(path=subject.path, problem="its record is not the catalog's")
    if released and exact.is_exact(Record.from_bytes(payload).scheme):
        exact.check(subject, envelope, decode=decode)


def _check_held(site: Site, tier: LocalTier, row: FileRow, pace: Pace) -> None:
    """Raises HeldOriginalDamaged, OSError."""
    held = site.catalog.holding_for(row.id)
    if held is None:
        return
    fd = fileops.open_file(tier.holding_fd, held.name, os.O_RDONLY)
    try:
        if fileops.sha256_of(fd) != site.catalog.record(held.record_id).sha256:
            raise HeldOriginalDamaged(path=tier.root / row.path, held=tier.root / ".archiver" / "holding" / held.name)
    finally:
        os.close(fd)
    pace.took(held.size)
