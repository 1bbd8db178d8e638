"""The acts on objects of a bucket; see `lifecycle.keeper.Keeper` for what each is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING

from archiver.catalog.rows import FileRow, HoldingRow
from archiver.lifecycle.keeper import Releasing
from archiver.lifecycle.outcome import Outcome
from archiver.lifecycle.pace import Pace
from archiver.s3.adopting import adopt_object, rebuild_objects
from archiver.s3.caring import expire_object, tidy, verify_object
from archiver.s3.ground import Ground
from archiver.s3.original import FetchedOriginal, reading
from archiver.s3.releasing import release
from archiver.s3.returning import ObjectPlaceholder, recalling, undo_object
from archiver.s3.settling import settle_left_behind
from archiver.s3.tier import S3Tier

if TYPE_CHECKING:
    from archiver.lifecycle.site import Site

_MOST_LOADERS = 32  # beyond that the model, not the requests, is what is waited for
_IN_PLACE = 64  # placeholders written under one journal entry
_IN_PACK = 1000


class S3Keeper:
    """Does a lifecycle's acts to the objects of one S3 tier. For any number of threads."""

    def __init__(self, site: Site, tier: S3Tier) -> None:
        self.ground = Ground(site, tier)

    @property
    def loaders(self) -> int:
        """As many originals are fetched at a time as the tier lets requests run."""
        return min(self.ground.tier.settings.concurrency, _MOST_LOADERS)

    @property
    def together(self) -> int:
        """A pack is worth as much as there is in it; placeholders share a journal entry and the wait for the server."""
        return _IN_PACK if self.ground.is_packed else _IN_PLACE

    def reading(self, row: FileRow) -> AbstractContextManager[FetchedOriginal]:
        return reading(self.ground, row)

    def release(self, batch: Sequence[Releasing]) -> Iterator[Outcome]:
        return release(self.ground, batch)

    @contextmanager
    def recalling(self, row: FileRow) -> Iterator[ObjectPlaceholder]:
        yield recalling(self.ground, row)

    def undo(self, row: FileRow, to: Path | None) -> Outcome:
        return undo_object(self.ground, row, to)

    def expire(self, held: HoldingRow) -> Outcome:
        return expire_object(self.ground, held)

    def verify(self, row: FileRow, payload: bytes, *, decode: bool, pace: Pace) -> None:
        verify_object(self.ground, row, payload, decode=decode, pace=pace)

    def adopt(self, row: FileRow) -> Outcome:
        return adopt_object(self.ground, row)

    def rebuild(self, stop: Event | None) -> Iterator[Outcome]:
        return rebuild_objects(self.ground, stop)

    def tidy(self) -> Iterator[Outcome]:
        return tidy(self.ground)

    def settle(self) -> Iterator[Outcome]:
        return settle_left_behind(self.ground)
