"""Which rule speaks for a file, and why: pure functions of what the catalog knows; a file is opened as a last resort.

A rule's conditions are tried from the cheapest to the dearest, and the first that fails ends it: first the names and
numbers of the catalog, then the tags (one xattr), then the image's own header, read only where all else holds.
A file of which something asked for cannot be told is left alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any, Protocol

from pathspec import PathSpec

from archiver.catalog.rows import FileRow, Pin, State
from archiver.config import RuleSettings, Settings, compile_patterns, path_matches
from archiver.errors import ArchiverError, ImageRefused
from archiver.units import about_duration, about_size, format_duration, format_size

EXCLUDED = "tier-exclude"  # the rule that stands for a tier's own `exclude`

_BY_EXTENSION = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".png": "png",
    ".webp": "webp",
    ".tif": "tiff",
    ".tiff": "tiff",
}


class Action(StrEnum):
    """What is to become of a file now."""

    RELEASE = "release"
    RECORD = "record"
    KEEP = "keep"  # somebody asked for it: by a pin, or by a rule
    SKIP = "skip"  # nothing asks for anything, or nothing can be done


class Why(StrEnum):
    """The kinds of reason, for counting."""

    COLD = "cold"
    PINNED = "pinned"
    KEPT = "kept by a rule"
    REFUSED = "refused before"
    RECORDED = "recorded already"
    NOTHING_TO_DO = "nothing to do"
    NO_RULE = "no rule for this tier"
    PATH = "path"
    FORMAT = "format"
    SIZE = "size"
    CHANGED = "changed lately"
    USED = "used lately"
    TAGS = "tags"
    PIXELS = "dimensions"
    UNKNOWN = "cannot be told"
    WATERMARK = "tier not full enough"
    SWEEP = "larger than a sweep"
    ROOM = "too little free space for placeholders"
    COSTS = "costs more than it saves"


@dataclass(frozen=True, slots=True)
class Picture:
    """What an image's own header says: its format, and its size in pixels."""

    format: str
    width: int
    height: int


class Probe(Protocol):
    """What only the file itself can tell. Both raise ArchiverError where it cannot be read or is no image we take."""

    def tags(self) -> frozenset[str]:
        """The words of its xattr user.xdg.tags."""

    def picture(self) -> Picture:
        """What its header says."""


@dataclass(frozen=True)
class Rule:
    """A rule of the configuration, made ready for many files."""

    settings: RuleSettings

    @property
    def name(self) -> str:
        return self.settings.name

    @cached_property
    def include(self) -> PathSpec[Any]:
        return compile_patterns(self.settings.include)

    @cached_property
    def exclude(self) -> PathSpec[Any]:
        return compile_patterns(self.settings.exclude)


@dataclass(frozen=True, slots=True)
class Condition:
    """One condition of a rule, held against a file; `holds` is None where it cannot be told."""

    why: Why
    holds: bool | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a file, and why in sentences; `rule` is the one that matched, if any did."""

    action: Action
    why: Why
    reasons: tuple[str, ...]
    rule: RuleSettings | None = None


class Pins:
    """The pins of one tier, ready to be asked about a million files."""

    def __init__(self, pins: Iterable[Pin]) -> None:
        pins = list(pins)
        self._exact = frozenset(pin.path for pin in pins)
        self._subtrees = frozenset(pin.path for pin in pins if pin.subtree)

    def covering(self, path: str) -> str | None:
        """The pinned path that covers `path`: its own, or that of a pinned folder above it."""
        if path in self._exact:
            return path
        if self._subtrees:
            while path:
                path = path.rpartition("/")[0]
                if path in self._subtrees:
                    return path
        return None


def compile_rules(settings: Settings, tier: str) -> tuple[Rule, ...]:
    """The rules that are for a tier, in their order; first of all, what the tier excludes is kept."""
    # The scan does not look at what is excluded, but what it saw before that was configured is still in the catalog.
    excluded = [
        RuleSettings(
            name=EXCLUDED,
            action="keep",
            include=one.exclude,
            min_size=0,
            unused_for=timedelta(),
            unchanged_for=timedelta(),
        )
        for one in settings.tier
        if one.name == tier and one.exclude
    ]
    configured = [rule for rule in settings.rule if not rule.tiers or tier in rule.tiers]
    return tuple(Rule(rule) for rule in (*excluded, *configured))


def decide(file: FileRow, rules: Sequence[Rule], now: datetime, pins: Pins, probe: Probe | None = None) -> Decision:
    """What the rules make of one file: pins first, then the first rule whose every condition holds.

    Without a probe nothing is opened, and what only the file could tell counts as unknown: it is left alone.
    """
    settled = _settled(file, pins)
    if settled is not None:
        return settled
    furthest, nearest = -1, Why.NO_RULE
    reasons: list[str] = []
    for rule in rules:
        said: list[str] = []
        for position, condition in enumerate(conditions(rule, file, now, probe)):
            if condition.holds:
                said.append(condition.sentence)
                continue
            if condition.holds is None:
                return Decision(Action.SKIP, Why.UNKNOWN, (f"rule {rule.name}: {condition.sentence}",))
            reasons.append(f"rule {rule.name}: {condition.sentence}")
            if position > furthest:
                furthest, nearest = position, condition.why
            break
        else:
            return _act(rule.settings, file, tuple(said))
    return Decision(Action.SKIP, nearest, tuple(reasons) or ("no rule is for this tier",))


def conditions(rule: Rule, file: FileRow, now: datetime, probe: Probe | None) -> Iterator[Condition]:
    """A rule's conditions on a file, cheapest first; each is evaluated only when it is asked for."""
    yield from _from_catalog(rule, file)
    yield _aged(Why.CHANGED, "changed", file.mtime_ns // 10**9, rule.settings.unchanged_for, now)
    yield _aged(Why.USED, "opened", file.accessed_at, rule.settings.unused_for, now)
    yield from _from_file(rule.settings, probe)


def by_hand(file: FileRow, rules: Sequence[Rule], probe: Probe | None = None) -> Decision:
    """What the rules make of a file that somebody named to be archived now: the same, but for its age.

    The first rule that is for such a file says how. A rule that keeps or only records still stands: the file is
    recorded and not released, also where it cannot be told whether the rule is for it. Where no rule is for it, it is
    released, and `rule` is None.
    """
    for rule in rules:
        found = [*_from_catalog(rule, file), *_from_file(rule.settings, probe)]
        if all(condition.holds is not False for condition in found):
            action = Action.RELEASE if rule.settings.action == "release" else Action.RECORD
            reasons = (
                "asked for by hand",
                *(() if action is Action.RELEASE else (f"rule {rule.name} does not release",)),
            )
            return Decision(action, Why.COLD, reasons, rule.settings)
    return Decision(Action.RELEASE, Why.COLD, ("asked for by hand", "no rule is for it"))


def _settled(file: FileRow, pins: Pins) -> Decision | None:
    """What holds whatever the rules say."""
    if (pinned := pins.covering(file.path)) is not None:
        what = "it is pinned" if pinned == file.path else f"{pinned or 'the whole tier'} is pinned"
        return Decision(Action.KEEP, Why.PINNED, (what,))
    if file.state in (State.RELEASED, State.GONE):
        return Decision(Action.SKIP, Why.NOTHING_TO_DO, (f"it is {file.state.label}",))
    if file.refusal is not None:
        # Trying again what failed would cost the same every sweep; the scan forgets the refusal when the file changes,
        # a sweep all of them when the rules do.
        return Decision(
            Action.SKIP, Why.REFUSED, (f"{file.refusal}; it is not tried again until it or its rule changes",)
        )
    return None


def _act(rule: RuleSettings, file: FileRow, reasons: tuple[str, ...]) -> Decision:
    if rule.action == "keep":
        return Decision(Action.KEEP, Why.KEPT, (f"rule {rule.name} keeps it", *reasons), rule)
    if rule.action == "record" and file.state in (State.RECORDED, State.RECALLED):
        return Decision(
            Action.SKIP, Why.RECORDED, (f"it is {file.state.label}, and rule {rule.name} only records",), rule
        )
    return Decision(Action(rule.action), Why.COLD, reasons, rule)


# -- single conditions -------------------------------------------------------------------------------------------------


def _from_catalog(rule: Rule, file: FileRow) -> Iterator[Condition]:
    yield _placed(rule, file.path)
    yield _named(rule.settings, file.name)
    yield _sized(rule.settings, file.size)


def _from_file(rule: RuleSettings, probe: Probe | None) -> Iterator[Condition]:
    if rule.tags or rule.without_tags:
        yield _asked(Why.TAGS, probe, lambda file: _tagged(rule, file.tags()))
    if rule.min_pixels or rule.max_pixels is not None:
        yield _asked(Why.PIXELS, probe, lambda file: _pictured(rule, file.picture()))


def _placed(rule: Rule, path: str) -> Condition:
    if not path_matches(rule.include, path):
        return Condition(Why.PATH, False, "its path matches nothing in include")
    if path_matches(rule.exclude, path):
        return Condition(Why.PATH, False, "its path matches exclude")
    return Condition(Why.PATH, True, "its path is included")


def _named(rule: RuleSettings, name: str) -> Condition:
    """By its name only: what it really is shows when it is opened, see `_pictured` and PlannedAct.accepts."""
    found = _BY_EXTENSION.get(PurePosixPath(name).suffix.lower())
    if found is None:
        return Condition(Why.FORMAT, False, "by its name it is no image that can be archived")
    return Condition(Why.FORMAT, *_among(found, rule, "by its name "))


def _among(found: str, rule: RuleSettings, how: str) -> tuple[bool, str]:
    if found in rule.formats:
        return True, f"{how}it is {found}"
    return False, f"{how}it is {found}, the rule is for {', '.join(rule.formats)}"


def _sized(rule: RuleSettings, size: int) -> Condition:
    if size < rule.min_size:
        return Condition(
            Why.SIZE, False, f"it has {about_size(size)}, the rule wants {format_size(rule.min_size)} or more"
        )
    if rule.max_size is not None and size > rule.max_size:
        return Condition(
            Why.SIZE, False, f"it has {about_size(size)}, the rule wants {format_size(rule.max_size)} or less"
        )
    return Condition(Why.SIZE, True, f"it has {about_size(size)}")


def _aged(why: Why, verb: str, at: int, wait: timedelta, now: datetime) -> Condition:
    age = int(now.timestamp()) - at
    note = ""
    if age < 0:
        # A clock that was wrong once, here or on the machine that wrote the file, must not make it cold.
        age, note = 0, f" (its time stamp lies {about_duration(timedelta(seconds=-age))} ahead and counts as just now)"
    since = about_duration(timedelta(seconds=age))
    if age < wait.total_seconds():
        return Condition(why, False, f"it was {verb} {since} ago{note}, the rule waits for {format_duration(wait)}")
    return Condition(why, True, f"not {verb} for {since}{note}")


def _asked(why: Why, probe: Probe | None, ask: Callable[[Probe], Condition]) -> Condition:
    if probe is None:
        return Condition(why, None, f"its {why.value} cannot be told without opening it")
    try:
        return ask(probe)
    except ImageRefused as error:
        return Condition(why, None, f"it would be refused: {error.message}")
    except ArchiverError as error:
        return Condition(why, None, f"its {why.value} cannot be told: {error.message}")


def _tagged(rule: RuleSettings, tags: frozenset[str]) -> Condition:
    if missing := [tag for tag in rule.tags if tag not in tags]:
        return Condition(Why.TAGS, False, f"it is not tagged {', '.join(missing)}")
    if present := [tag for tag in rule.without_tags if tag in tags]:
        return Condition(Why.TAGS, False, f"it is tagged {', '.join(present)}")
    return Condition(Why.TAGS, True, f"it is tagged {', '.join(rule.tags)}" if rule.tags else "its tags allow it")


def _pictured(rule: RuleSettings, picture: Picture) -> Condition:
    is_right, sentence = _among(picture.format, rule, "")
    if not is_right:
        return Condition(Why.FORMAT, False, sentence)
    pixels, shown = picture.width * picture.height, f"it has {picture.width} x {picture.height} pixels"
    if pixels < rule.min_pixels:
        return Condition(Why.PIXELS, False, f"{shown}, the rule wants {rule.min_pixels} in all or more")
    if rule.max_pixels is not None and pixels > rule.max_pixels:
        return Condition(Why.PIXELS, False, f"{shown}, the rule wants {rule.max_pixels} in all or fewer")
    return Condition(Why.PIXELS, True, shown)
