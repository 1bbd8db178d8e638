"""One recall through an open descriptor, from finding out what the file is to the image that stands in it."""

from __future__ import annotations

import logging
import os
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from archiver import formats
from archiver.catalog.rows import FileRow, State, Version
from archiver.codec.record import Record
from archiver.decoder.engine import Generated
from archiver.desk.place import Place
from archiver.errors import FileVanished, NotTracked, StateConflict, TierBeingScanned, TierNotScanned, TierUnreachable
from archiver.formats import Kind
from archiver.lifecycle import exact
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.fill import carried_by_released, fill, fill_unlisted
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.placeholder import Carried, carried_by
from archiver.lifecycle.reconcile import version_of
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import OpenFile, Subject, hold_open, locked
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import scan_directory

_LOG = logging.getLogger("archiver.desk")
_Row = tuple[LocalTier, FileRow]
_taking_in = threading.Lock()  # one after the other: of two scans of a tier at once, the second is refused


class Unwanted(Exception):
    """Nobody waits for it any more."""


class Progress(Protocol):
    """What a recall asks and tells on its way."""

    def decode(self, record: Record) -> Generated:
        """The picture, and what made it. Raises the errors of the models, Unwanted."""
        ...

    def is_wanted(self) -> bool:
        """Whether anybody still waits; asked before anything is written."""
        ...

    def written(self) -> None:
        """The whole image stands in the file; only the catalog does not know yet."""
        ...


@dataclass(frozen=True, slots=True)
class Request:
    """A file that somebody reads: its descriptor (O_RDWR), its place, and who it is for, in words for the audit."""

    fd: int
    place: Place
    asker: str


def recall_open_file(site: Site, request: Request, progress: Progress) -> Outcome:
    """Fill a placeholder with its image; SKIPPED where there is none any more.

    A placeholder that its tier's catalog does not know is adopted first; one that no tier's catalog can know is filled
    all the same. Raises Unwanted (nobody waits any more), FileBusy (another archiver process acts on it), OSError and
    whatever a recall raises; the placeholder is then as it was.
    """
    if kind_of(request.fd) is not Kind.PLACEHOLDER:
        return Outcome(request.place.path, "recall", Result.SKIPPED, "no placeholder")
    released = _released(site, request)
    with ExitStack() as resources:
        file = _hold(resources, request, released)
        if kind_of(request.fd) is not Kind.PLACEHOLDER:
            return Outcome(file.path, "recall", Result.SKIPPED, "recalled meanwhile")
        carried = carried_by_released(site, file) if isinstance(file, Subject) else carried_by(file, site.limits)
        give_back = _restored if exact.is_exact(carried.record.scheme) else _generated
        return give_back(site, file, carried, request, progress)


def _generated(site: Site, file: OpenFile, carried: Carried, request: Request, progress: Progress) -> Outcome:
    """The image that the record gives. Raises Unwanted."""

    def decode() -> Generated:
        generated = progress.decode(carried.record)
        arrow("recall.decoded")
        _require_wanted(progress)
        return generated

    if isinstance(file, Subject):
        return fill(site, file, carried, decode, asker=request.asker, written=progress.written)
    return fill_unlisted(site, file, carried, decode(), written=progress.written)


def _restored(site: Site, file: OpenFile, carried: Carried, request: Request, progress: Progress) -> Outcome:
    """The very bytes of a file kept without loss. Raises Unwanted, NotTracked (no journal for it)."""
    if not isinstance(file, Subject):
        raise NotTracked(path=file.path)
    _require_wanted(progress)
    return exact.restore(site, file, carried.envelope, asker=request.asker, written=progress.written)


def _require_wanted(progress: Progress) -> None:
    if not progress.is_wanted():
        raise Unwanted


def kind_of(fd: int) -> Kind | None:
    """Whether an open file is a placeholder or a generated image; None: neither. Raises EnvelopeDamaged, OSError."""
    with os.fdopen(fd, "rb", closefd=False) as file:
        file.seek(0)
        envelope = formats.read_envelope(file)
    return None if envelope is None else envelope.kind


def _hold(resources: ExitStack, request: Request, released: _Row | None) -> OpenFile:
    """The file, locked: a Subject where its row is known and it still stands there. Raises FileBusy, OSError."""
    if released is not None:
        try:
            return resources.enter_context(hold_open(*released, request.fd))
        except FileVanished:
            _LOG.info("%s was moved while it was read", request.place.path)  # the next scan finds it where it is
    resources.enter_context(locked(request.fd, request.place.path))
    return OpenFile(request.place.path, request.fd, os.fstat(request.fd))


def _released(site: Site, request: Request) -> _Row | None:
    """The row that speaks for the file, adopted where it has to be; None where there can be none now.

    Raises CatalogUnavailable and what adopt raises.
    """
    tier, path = request.place.tier, request.place.relative
    version = version_of(os.fstat(request.fd))
    if tier is None:
        return _of_inode(site, request.fd, version)
    tier_id = site.tier_ids[tier.name]
    row = site.catalog.find(tier_id, path)
    if not _speaks_for(row, version):
        if os.fstat(request.fd).st_nlink > 1 and (other := _of_inode(site, request.fd, version)) is not None:
            return other  # under its other name it was released: one row speaks for the file
        try:
            row = _taken_in(site, tier, path, version)
        except (TierBeingScanned, TierNotScanned, StateConflict) as error:
            _LOG.info("%s is recalled without its catalog: %s", request.place.path, error.message)
    return (tier, row) if row is not None and _speaks_for(row, version) else None


def _taken_in(site: Site, tier: LocalTier, path: str, version: Version) -> FileRow | None:
    """The row of a file that its tier's catalog did not know as it is. Raises as scan_directory and adopt do."""
    tier_id = site.tier_ids[tier.name]
    with _taking_in:
        row = site.catalog.find(tier_id, path)
        if row is None or row.version != version:
            scan_directory(site.catalog, tier, path.rpartition("/")[0])  # which takes in its neighbours, too
            row = site.catalog.find(tier_id, path)
        if row is not None and row.state in (State.RESIDENT, State.SUPERSEDED):
            adopt(site, tier, row)
            row = site.catalog.find(tier_id, path)
        return row


def _of_inode(site: Site, fd: int, version: Version) -> _Row | None:
    """A file that was opened by a path that means nothing here, as from a container, or by another of its names."""
    device = os.fstat(fd).st_dev
    for tier in site.local_tiers:
        try:
            if os.fstat(tier.root_fd).st_dev != device:
                continue
        except (TierUnreachable, OSError):
            continue
        for row in site.catalog.released_as(site.tier_ids[tier.name], version):
            return tier, row
    return None


def _speaks_for(row: FileRow | None, version: Version) -> bool:
    return row is not None and row.state is State.RELEASED and row.version == version
