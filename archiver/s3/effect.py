"""What becomes of events: the keys that they name are looked at, and what went cold is archived.

An event says where to look and no more, so that the effect is the same whether it comes once, twice, late or in another
order: the catalog is brought up to date from the object as it is now, and whether it may be archived is for the rules,
the checks and the gate to say. Two steps, because the first must be done before a sender may forget its event:

    look: events -> HEAD of each key -> catalog (committed)
    act:  what a lifecycle rule found cold, and the rules are for -> archive
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from threading import Event

from archiver.catalog.rows import Applied, FileRow, State
from archiver.errors import TierUnreachable
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Listener, Outcome, Result, Tally
from archiver.lifecycle.policy import Pins, by_hand, compile_rules
from archiver.lifecycle.site import Site
from archiver.s3.address import ObjectUrl, etag64
from archiver.s3.events import EventKind, ObjectEvent
from archiver.s3.scan import scan_keys
from archiver.s3.tier import S3Tier

_MAY_GO = (State.RESIDENT, State.SUPERSEDED, State.RECORDED, State.RECALLED)


@dataclass(frozen=True, slots=True)
class Looked:
    """What looking found. cold: what is to be archived now. elsewhere: events of objects that lie in no tier."""

    keys: int = 0
    elsewhere: int = 0
    changes: Applied = field(default_factory=Applied)
    cold: tuple[ObjectUrl, ...] = ()


@dataclass(frozen=True, slots=True)
class Acted:
    """What archiving did. unfinished: what was not decided, because it was stopped or something broke."""

    tally: Tally
    unfinished: frozenset[ObjectUrl] = frozenset()

    def is_done(self, events: Iterable[ObjectEvent]) -> bool:
        """Whether nothing is left to do for any of some events."""
        return not any(ObjectUrl(event.bucket, event.key) in self.unfinished for event in events)


def look(site: Site, tiers: Sequence[S3Tier], events: Iterable[ObjectEvent]) -> Looked:
    """Bring the catalog up to date about the objects of some events; committed when it returns.

    Raises TierUnreachable and TierNotScanned; what was looked at until then is kept, and looking again does no harm.
    """
    looked = Looked()
    elsewhere = 0
    by_tier: dict[str, list[ObjectEvent]] = {}
    for event in events:
        tier = _tier_of(event, tiers)
        if tier is None:
            elsewhere += 1
        else:
            by_tier.setdefault(tier.name, []).append(event)
    for tier in tiers:
        if tier.name in by_tier:
            looked = _look_into(site, tier, by_tier[tier.name], looked)
    return Looked(looked.keys, elsewhere, looked.changes, looked.cold)


def act(site: Site, cold: Sequence[ObjectUrl], listener: Listener, stop: Event) -> Acted:
    """Archive what went cold, now; every check and gate holds. Once `stop` is set it ends after the batch in hand.

    Raises as `archive` does.
    """
    heard: set[ObjectUrl] = set()
    broken: set[ObjectUrl] = set()

    def hear(outcome: Outcome) -> None:
        if isinstance(outcome.path, ObjectUrl):
            (broken if _is_worth_another_try(outcome) else heard).add(outcome.path)
        listener(outcome)

    tally = archive(site, paths=cold, listener=hear, stop=stop) if cold else Tally()
    return Acted(tally, frozenset(cold) - (heard - broken))


def _is_worth_another_try(outcome: Outcome) -> bool:
    """What was refused stays refused until the object changes; what broke may have been mended meanwhile."""
    return outcome.result is Result.FAILED or isinstance(outcome.error, TierUnreachable)


def _tier_of(event: ObjectEvent, tiers: Sequence[S3Tier]) -> S3Tier | None:
    return next(
        (tier for tier in tiers if tier.settings.bucket == event.bucket and event.key.startswith(tier.settings.prefix)),
        None,
    )


def _look_into(site: Site, tier: S3Tier, events: Sequence[ObjectEvent], before: Looked) -> Looked:
    by_key: dict[str, list[ObjectEvent]] = {}
    for event in events:
        by_key.setdefault(event.key[len(tier.settings.prefix) :], []).append(event)
    report = scan_keys(site.catalog, tier, by_key)
    cold = [
        tier.url(key)
        for key, those in by_key.items()
        if (moved := _moved(those)) is not None and _should_go(site, tier, key, moved)
    ]
    return Looked(before.keys + len(by_key), 0, before.changes.plus(report.changes), (*before.cold, *cold))


def _moved(events: Sequence[ObjectEvent]) -> ObjectEvent | None:
    """The event by which a lifecycle rule called an object cold, unless another says that it was written since."""
    moved = next((event for event in events if event.kind is EventKind.TRANSITIONED), None)
    if moved is None or any(moved.is_older(event) for event in events if event.kind is not EventKind.TRANSITIONED):
        return None
    return moved


def _should_go(site: Site, tier: S3Tier, key: str, moved: ObjectEvent) -> bool:
    """Whether the object that stands there now is the one that was moved, and some rule is for it, but for its age."""
    tier_id = site.tier_ids[tier.name]
    row = site.catalog.find(tier_id, key)
    if row is None or row.state not in _MAY_GO or (moved.etag and row.inode != etag64(moved.etag)):
        return False
    if row.refusal is not None or Pins(site.catalog.pins(tier_id)).covering(row.path) is not None:
        return False
    return _is_named(site, tier, row)


def _is_named(site: Site, tier: S3Tier, row: FileRow) -> bool:
    """By itself, nothing is archived that no rule names."""
    rule = by_hand(row, compile_rules(site.settings, tier.name)).rule
    return rule is not None and rule.action != "keep"
