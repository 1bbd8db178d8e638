"""What would be done now, and why: rules, watermarks and the sweep's caps over a tier's candidates, coldest first.

Planning changes nothing: the catalog is only read, and a file that a rule needs to look into is read without moving its
access time. `archiver plan` prints this stream and the archive step acts upon it, so that the two cannot differ.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from archiver import formats
from archiver.catalog import Catalog
from archiver.catalog.rows import FileRow, State, TierRow
from archiver.config import RuleSettings, Settings, TierSettings
from archiver.errors import NotTracked, TierNotScanned
from archiver.formats import Limits
from archiver.lifecycle.ownership import require_own
from archiver.lifecycle.planned import PlannedAct, PlanSummary
from archiver.lifecycle.policy import (
    Action,
    Condition,
    Decision,
    Picture,
    Pins,
    Rule,
    Why,
    by_hand,
    compile_rules,
    conditions,
    decide,
)
from archiver.lifecycle.refusals import are_outdated
from archiver.lifecycle.worth import Purse
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier

_BY_HAND = RuleSettings(name="by-hand")  # the defaults, for what no rule is for


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule held against one file, every condition told."""

    rule: RuleSettings
    conditions: tuple[Condition, ...]

    @property
    def matches(self) -> bool:
        return all(condition.holds for condition in self.conditions)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What becomes of a file now, and what every rule says of it."""

    file: FileRow
    decision: Decision
    verdicts: tuple[Verdict, ...]


def plan(
    catalog: Catalog,
    tier: Tier,
    settings: Settings,
    now: datetime,
    limit: int | None = None,
    summary: PlanSummary | None = None,
) -> Iterator[PlannedAct]:
    """The acts of one sweep, coldest first, streamed; `summary` fills up as they are taken.

    Raises, before the first act, TierNotScanned, TierUnreachable and TierOfAnotherCatalog.
    """
    row = _usable(catalog, tier)
    # Files once refused are not acted upon: they are worth reading only where somebody counts.
    count_refused = summary is not None
    summary = PlanSummary() if summary is None else summary
    if isinstance(tier, LocalTier):  # a bucket is never full
        _measure(catalog, tier, settings.release.min_free, summary)
    return _acts(catalog, tier, row, settings, now, limit, summary, count_refused)


def affordable(
    catalog: Catalog, tier: Tier, settings: Settings, now: datetime, limit: int | None = None
) -> Iterator[PlannedAct]:
    """As `plan`, but of a tier with prices only a plan that pays.

    Raises PlanCostsMore too: before the first act where records would cost more than releases save, which takes a look
    through the whole plan; else behind the last, where none paid.
    """
    purse = Purse.of(tier, settings, now)
    if purse is None:
        yield from plan(catalog, tier, settings, now, limit)
        return
    if any(rule.settings.action == "record" for rule in compile_rules(settings, tier.name)):
        purse.judge(summed(catalog, tier, settings, now, limit))
    summary = PlanSummary()
    yield from plan(catalog, tier, settings, now, limit, summary)
    purse.judge(summary)


def summed(catalog: Catalog, tier: Tier, settings: Settings, now: datetime, limit: int | None = None) -> PlanSummary:
    """The totals of a plan. Raises as `plan` does."""
    summary = PlanSummary()
    for _ in plan(catalog, tier, settings, now, limit, summary):
        pass
    return summary


def forced(file: FileRow, tier: str, settings: Settings) -> PlannedAct:
    """The act on a file that somebody named to be archived now: by its rule, whatever its age. Nothing is opened."""
    decision = by_hand(file, compile_rules(settings, tier))
    return PlannedAct.of(file, decision, decision.rule or _BY_HAND)


def explain(catalog: Catalog, tier: Tier, settings: Settings, now: datetime, path: str) -> Explanation:
    """What becomes of the file at `path` (relative to its tier), and which condition of which rule holds or fails.

    Raises TierNotScanned, TierUnreachable, TierOfAnotherCatalog, NotTracked.
    """
    row = _usable(catalog, tier)
    file = catalog.find(row.id, path)
    if file is None:
        raise NotTracked(path=tier.where(path))
    if are_outdated(catalog, settings, tier.name):
        file = replace(file, refusal=None)
    rules = compile_rules(settings, tier.name)
    probe = _FileProbe(catalog, tier, file, _limits(settings))
    decision = decide(file, rules, now, Pins(catalog.pins(row.id)), probe)
    verdicts = tuple(Verdict(rule.settings, tuple(conditions(rule, file, now, probe))) for rule in rules)
    return Explanation(file, decision, verdicts)


# -- the sweep ---------------------------------------------------------------------------------------------------------


def _usable(catalog: Catalog, tier: Tier) -> TierRow:
    row = next((row for row in catalog.tiers() if row.name == tier.name), None)
    if row is None or row.first_scan_done_at is None:
        raise TierNotScanned(tier=tier.name)
    tier.expect(row.identity)
    tier.check()
    require_own(catalog, tier)
    return row


def _measure(catalog: Catalog, tier: LocalTier, min_free: int, summary: PlanSummary) -> None:
    """How full the tier is, and how much must go. Held originals are on their way out and count as free already."""
    space = tier.space()
    device = os.fstat(tier.root_fd).st_dev
    # Tiers may share a filesystem; each would otherwise free what the others are freeing already.
    held = sum(other.held_bytes for other in catalog.summary() if _device(other.tier.root) == device)
    free = min(space.free + held, space.total)
    summary.used_share = 1.0 - free / space.total if space.total else 0.0
    summary.has_room = space.free >= min_free
    if high := tier.settings.high_watermark:
        wanted = int(space.total * (1.0 - tier.settings.low_watermark)) - free
        summary.to_free = max(wanted, 0) if summary.used_share >= high else 0


def _device(root: str) -> int | None:
    try:
        return os.stat(root).st_dev
    except OSError:
        return None  # an unreachable tier shares nothing that could be counted now


def _acts(
    catalog: Catalog,
    tier: Tier,
    row: TierRow,
    settings: Settings,
    now: datetime,
    limit: int | None,
    summary: PlanSummary,
    count_refused: bool,
) -> Iterator[PlannedAct]:
    rules, purse = compile_rules(settings, tier.name), Purse.of(tier, settings, now)
    sweep = _Sweep(tier.settings, limit, summary)
    pins, limits = Pins(catalog.pins(row.id)), _limits(settings)
    again = are_outdated(catalog, settings, tier.name)
    for file in catalog.candidates(row.id, accessed_before=_warm_since(rules, now), refused=count_refused or again):
        file = replace(file, refusal=None) if again else file
        if sweep.has_freed_enough and not any(rule.settings.action == "record" for rule in rules):
            return
        decision = decide(file, rules, now, pins, _FileProbe(catalog, tier, file, limits))
        if decision.why is not Why.COLD or decision.rule is None:
            summary.skipped[decision.why] += 1
            continue
        act = PlannedAct.of(file, decision, decision.rule)
        if purse is not None and not purse.pays(act):
            summary.decline(purse.price(act))
            continue
        if (withheld := sweep.withholds(act)) is not None:
            summary.skipped[withheld] += 1
            continue
        if not sweep.has_room_for(act):
            summary.capped = True
            return
        sweep.take(act)
        summary.add(act)
        if purse is not None:
            summary.spend(purse.price(act))
        yield act


def _warm_since(rules: Sequence[Rule], now: datetime) -> int | None:
    """What was used at or after this time is cold by no rule, so that the database need not hand it out."""
    waits = [rule.settings.unused_for for rule in rules if rule.settings.action != "keep"]
    soonest = min(waits, default=timedelta(0))
    return int((now - soonest).timestamp()) + 1 if soonest else None


class _Sweep:
    """What one sweep may still do: its caps, and how much the watermarks want freed."""

    def __init__(self, tier: TierSettings, limit: int | None, summary: PlanSummary) -> None:
        self._files = tier.sweep_files if limit is None else min(limit, tier.sweep_files)
        self._largest = self._bytes = tier.sweep_bytes
        self._to_free = summary.to_free
        self._has_room = summary.has_room

    @property
    def has_freed_enough(self) -> bool:
        """Whether the low watermark will be reached; never without watermarks."""
        return self._to_free is not None and self._to_free <= 0

    def withholds(self, act: PlannedAct) -> Why | None:
        """Why this act has to wait although its rule matches; others may still go ahead."""
        # Recording frees nothing and writes nothing to the tier, so that neither has a say in it.
        if act.action is Action.RELEASE and not self._has_room:
            return Why.ROOM
        if act.action is Action.RELEASE and self.has_freed_enough:
            return Why.WATERMARK
        # It would hold up all that is warmer for ever.
        return Why.SWEEP if act.file.size > self._largest else None

    def has_room_for(self, act: PlannedAct) -> bool:
        """Whether the caps leave room for one more."""
        return self._files > 0 and act.file.size <= self._bytes

    def take(self, act: PlannedAct) -> None:
        """Count an act."""
        self._files -= 1
        self._bytes -= act.file.size
        if self._to_free is not None:
            self._to_free -= act.file.size - act.bytes_after


# -- looking into files ------------------------------------------------------------------------------------------------


def _limits(settings: Settings) -> Limits:
    return Limits(pixels=settings.limits.pixels, file_size=settings.limits.file_size)


class _FileProbe:
    """Reads one file without leaving a trace, each thing when it is first asked for."""

    def __init__(self, catalog: Catalog, tier: Tier, file: FileRow, limits: Limits) -> None:
        self._catalog = catalog
        self._tier = tier
        self._file = file
        self._limits = limits

    def tags(self) -> frozenset[str]:
        """The words that users gave it. Raises ArchiverError where they cannot be read."""
        return self._tier.tags(self._file)

    def picture(self) -> Picture:
        """What the record says where one speaks for the file, else its header.

        Raises ArchiverError, as ImageRefused.
        """
        if self._file.state in (State.RECORDED, State.RECALLED) and self._file.record_id is not None:
            record = self._catalog.record(self._file.record_id)
            return Picture(record.format, record.width, record.height)
        with self._tier.peek(self._file) as reader:
            inspection = formats.survey(reader, self._limits)
        return Picture(inspection.format, inspection.width, inspection.height)
