"""Finish or take back what a crash or an error left in a bucket, one journalled act at a time.

As on a local tier (`lifecycle.reconcile`), this is the only code that decides what an interrupted act amounts to, from
the objects and not from memory, and running it twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO

from archiver import formats
from archiver.catalog.rows import FileRow, Holding, State
from archiver.errors import ArchiverError
from archiver.lifecycle.outcome import Outcome, Result
from archiver.s3.ground import Ground, version_of
from archiver.s3.journal import Entry, Intent, left_behind, struck
from archiver.s3.marks import kind_of
from archiver.s3.objects import ObjectInfo

_PIECE = 1 << 20  # bytes


@contextmanager
def journalled(ground: Ground, intent: Intent) -> Iterator[Entry]:
    """Run one act under its journal entry; when it fails it is settled as after a crash, and the failure raised."""
    entry = Entry(ground.store, [intent])
    try:
        with settled(ground, entry, intent):
            yield entry
    finally:
        entry.close()


@contextmanager
def settled(ground: Ground, entry: Entry, intent: Intent) -> Iterator[None]:
    """Run one act of a journalled batch; see `journalled`."""
    try:
        yield
    except Exception:
        try:
            settle(ground, intent)
        except (ArchiverError, OSError):
            entry.keep()  # the server went away: it is settled when it is back
        raise


def settle_left_behind(ground: Ground) -> Iterator[Outcome]:
    """Settle every act of a bucket's journal that is not under way."""
    for left in left_behind(ground.store):
        outcomes = [_settle_left(ground, intent) for intent in left.acts]
        if all(outcome.result is Result.DONE for outcome in outcomes):
            struck(ground.store, left)
        yield from outcomes


def _settle_left(ground: Ground, intent: Intent) -> Outcome:
    path = ground.tier.url(intent.key)
    try:
        return Outcome(path, "reconcile", Result.DONE, f"{intent.act} {settle(ground, intent)}")
    except (ArchiverError, OSError) as error:
        return Outcome(path, "reconcile", Result.FAILED, f"{intent.act}: {error}")


def settle(ground: Ground, intent: Intent) -> str:
    """Bring object and catalog of one interrupted act into agreement; says what was found.

    The row is looked up by key: a catalog rebuilt meanwhile has other numbers, and one that was lost has none.
    """
    row = ground.site.catalog.find(ground.tier_id, intent.key)
    if row is None or row.record_id is None:
        return "left alone: rebuild adopts what stands there"
    return _SETTLE[intent.act](_Spot(ground, intent, row, ground.head(intent.key)))


@dataclass(frozen=True, slots=True)
class _Spot:
    """Where an interrupted act took place: its row, and what stands at the key now."""

    ground: Ground
    intent: Intent
    row: FileRow
    standing: ObjectInfo | None

    @property
    def is_untouched(self) -> bool:
        """Whether what stood there when the act began still does."""
        return (self.standing.etag if self.standing else "") == self.intent.etag

    def kind(self) -> str:
        return kind_of(self.standing) if self.standing else ""

    def holds_original(self) -> bool:
        """Whether the original's bytes stand at the key."""
        if self.standing is None or self.kind() or self.standing.size != self.intent.size:
            return False
        return _hash_of(self.ground, self.standing) == self.ground.site.catalog.record(self.intent.record_id).sha256

    def is_in_pack(self) -> bool:
        if not self.intent.pack:
            return False
        record = self.ground.site.catalog.record(self.intent.record_id).payload
        return self.ground.packs.has(self.intent.pack, self.intent.key, record)


def _settle_release(spot: _Spot) -> str:
    intent, row = spot.intent, spot.row
    if row.state is not State.RECORDED or row.record_id != intent.record_id:
        return "already settled"
    if spot.is_untouched:
        return "taken back"  # a copy that was made already is found, a day later, to be needed by nobody
    version = row.version
    if spot.standing is not None and spot.kind() == "placeholder":
        version = version_of(spot.standing)
    elif spot.standing is not None and spot.kind():
        return "left alone: rebuild adopts what stands there"
    elif not (spot.standing is None and spot.is_in_pack()) and spot.ground.held.copy(intent.held) is None:
        return "left alone: somebody wrote to it, or deleted it, meanwhile"
    # Where somebody did, and a copy was made, it is listed: `undo --to` gives it back while its grace period lasts.
    holding = Holding(intent.held, intent.size, intent.expires_at)
    spot.ground.site.catalog.mark_released(row.id, intent.record_id, version=version, holding=holding, rule=intent.rule)
    return "finished"


def _settle_rerelease(spot: _Spot) -> str:
    if spot.row.state is not State.RECALLED:
        return "already settled"
    version = spot.row.version
    if spot.standing is not None and spot.kind() == "placeholder":
        version = version_of(spot.standing)
    elif spot.standing is not None or not spot.is_in_pack():
        return "taken back: the recalled image stays"
    spot.ground.site.catalog.mark_rereleased(spot.row.id, version=version, rule=spot.intent.rule)
    return "finished"


def _settle_recall(spot: _Spot) -> str:
    if spot.row.state is not State.RELEASED:
        return "already settled"
    if spot.standing is None or spot.kind() != "generated":
        return "taken back: the placeholder stays"
    catalog, version = spot.ground.site.catalog, version_of(spot.standing)
    _, stream = spot.ground.store.get(spot.intent.key, if_match=spot.standing.etag)
    with stream:
        image = stream.read()
    if formats.look(BytesIO(image)) is not formats.Found.GENERATED:
        catalog.mark_superseded(spot.row.id, version=version)
        return "left alone: it was written to meanwhile"
    catalog.mark_recalled(spot.row.id, sha256(image).digest(), version=version)
    return "finished"


def _settle_return(spot: _Spot) -> str:
    """An undo, or the restoring of what was kept without loss: either way the original's bytes stand there, or not."""
    if spot.standing is None or not spot.holds_original():
        return "taken back"
    catalog, row = spot.ground.site.catalog, spot.row
    if row.state is State.RELEASED and spot.intent.act == "restore":
        catalog.mark_restored(row.id, version=version_of(spot.standing))
    elif row.state in (State.RELEASED, State.RECALLED, State.GONE):
        catalog.mark_undone(row.id, version=version_of(spot.standing))
    spot.ground.let_go(spot.intent)
    return "finished"


_SETTLE: dict[str, Callable[[_Spot], str]] = {
    "release": _settle_release,
    "rerelease": _settle_rerelease,
    "recall": _settle_recall,
    "restore": _settle_return,
    "undo": _settle_return,
}


def _hash_of(ground: Ground, info: ObjectInfo) -> bytes:
    digest = sha256()
    _, stream = ground.store.get(info.key, if_match=info.etag)
    with stream:
        while piece := stream.read(_PIECE):
            digest.update(piece)
    return digest.digest()
