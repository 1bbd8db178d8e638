"""The acts on files of a directory tree, each in a module of its own; this is where the loops find them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event

from archiver.catalog.rows import FileRow, HoldingRow, State
from archiver.decoder.engine import Generated
from archiver.errors import HardLinked
from archiver.lifecycle import exact
from archiver.lifecycle.adopt import adopt
from archiver.lifecycle.expire import expire_file
from archiver.lifecycle.fill import carried_by_released, fill
from archiver.lifecycle.keeper import Releasing
from archiver.lifecycle.outcome import Outcome, Result, attempt
from archiver.lifecycle.pace import Pace
from archiver.lifecycle.placeholder import Carried
from archiver.lifecycle.rebuild import rebuild_files
from archiver.lifecycle.reconcile import settle_left_behind
from archiver.lifecycle.release import release
from archiver.lifecycle.rerelease import rerelease
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import Subject, hold
from archiver.lifecycle.undo import undo_file
from archiver.lifecycle.verify import verify_file
from archiver.tiers.local import LocalTier


class LocalKeeper:
    """Does a lifecycle's acts to the files of one local tier; see `keeper.Keeper`."""

    loaders = max(2, (os.cpu_count() or 2) - 1)  # what takes time is decoding
    together = 1

    def __init__(self, site: Site, tier: LocalTier) -> None:
        self._site = site
        self._tier = tier

    @contextmanager
    def reading(self, row: FileRow) -> Iterator[Subject]:
        """An original that may be recorded, open. Raises FileModified, HardLinked, FileBusy, OSError."""
        with hold(self._tier, row) as subject:
            if subject.stat.st_nlink != 1:
                raise HardLinked(path=subject.path, links=subject.stat.st_nlink)
            subject.require_unchanged()
            yield subject

    def release(self, batch: Sequence[Releasing]) -> Iterator[Outcome]:
        """One after the other: a release is a few renames."""
        for item in batch:
            path = self._tier.where(item.row.path)
            yield attempt(path, "release", partial(self._release, item), otherwise=Result.REFUSED)

    def _release(self, item: Releasing) -> Outcome:
        if item.row.state is State.RECALLED:
            return rerelease(self._site, self._tier, item.row, item.rule)
        return release(
            self._site,
            self._tier,
            item.row,
            item.rule,
            fidelity=item.fidelity,
            inspection=item.inspection,
            packed=item.packed,
        )

    @contextmanager
    def recalling(self, row: FileRow) -> Iterator[LocalPlaceholder]:
        """A released file's placeholder, locked. Raises FileModified, PlaceholderDamaged, FileBusy, OSError."""
        with hold(self._tier, row, os.O_RDWR) as subject:
            yield LocalPlaceholder(self._site, subject, carried_by_released(self._site, subject))

    def undo(self, row: FileRow, to: Path | None) -> Outcome:
        return undo_file(self._site, self._tier, row, to)

    def expire(self, held: HoldingRow) -> Outcome:
        return expire_file(self._site, self._tier, held)

    def verify(self, row: FileRow, payload: bytes, *, decode: bool, pace: Pace) -> None:
        verify_file(self._site, self._tier, row, payload, decode=decode, pace=pace)

    def adopt(self, row: FileRow) -> Outcome:
        return adopt(self._site, self._tier, row)

    def rebuild(self, stop: Event | None) -> Iterator[Outcome]:
        return rebuild_files(self._site, self._tier, stop)

    def tidy(self) -> Iterator[Outcome]:
        """Nothing is ever left over: what an act makes, it makes in the journal's sight, and settling it clears it."""
        return iter(())

    def settle(self) -> Iterator[Outcome]:
        return settle_left_behind(self._site, self._tier)


@dataclass(frozen=True, slots=True)
class LocalPlaceholder:
    """A placeholder, open and locked, and what it says of itself."""

    site: Site
    subject: Subject
    carried: Carried

    @property
    def path(self) -> Path:
        return self.subject.path

    def fill(self, generated: Generated) -> Outcome:
        return fill(self.site, self.subject, self.carried, lambda: generated)

    def restore(self) -> Outcome:
        return exact.restore(self.site, self.subject, self.carried.envelope)
