"""What a plan says: its acts, and what they come to."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from archiver import formats
from archiver.catalog.rows import FileRow
from archiver.config import GateSettings, RuleSettings
from archiver.config_fields import SchemeName
from archiver.lifecycle.policy import Action, Decision, Why
from archiver.s3.costs import Money

_LOSSLESS_SHARE = 0.85  # of a JPEG file's bytes that JPEG XL takes; 0.73 to 0.86 on made pictures of every kind


@dataclass(frozen=True, slots=True)
class PlannedAct:
    """One file that is to be recorded or released, by which rule, and why."""

    file: FileRow
    action: Action
    rule: str
    rungs: tuple[SchemeName, ...]  # the schemes that are tried until the gate lets one pass
    gate: GateSettings
    formats: tuple[str, ...]
    reasons: tuple[str, ...]

    @classmethod
    def of(cls, file: FileRow, decision: Decision, rule: RuleSettings) -> PlannedAct:
        reasons = decision.reasons
        if len(rule.rungs) > 1:
            reasons += (f"tried as {rule.rungs[0]}, below the gate as {', then '.join(rule.rungs[1:])}",)
        return cls(file, decision.action, rule.name, rule.rungs, rule.gate, rule.formats, reasons)

    @property
    def scheme(self) -> SchemeName:
        """The scheme that is tried first, and that most files are expected to pass with."""
        return self.rungs[0]

    @property
    def bytes_after(self) -> int:
        """Bytes expected on disk when it is done and the grace period is over."""
        if self.action is not Action.RELEASE:
            return self.file.size
        # Metadata that does not fit into one block takes more, and so does a file that climbs to lossless; only the act
        # itself can tell.
        kept = int(_LOSSLESS_SHARE * self.file.size) if self.scheme == "lossless" else 0
        return min(formats.BLOCK + kept, self.file.size)

    def accepts(self, found: str) -> bool:
        """Whether the rule is for the format that the file, once opened, turned out to have."""
        return found in self.formats


@dataclass(slots=True)
class Line:
    """What one rule would do with one scheme."""

    rule: str
    action: Action
    scheme: SchemeName
    files: int = 0
    bytes_now: int = 0
    bytes_after: int = 0


@dataclass(slots=True)
class PlanSummary:
    """Totals of one plan of one tier, filled as its stream is read."""

    lines: list[Line] = field(default_factory=list)
    skipped: Counter[Why] = field(default_factory=Counter)
    capped: bool = False  # the sweep's caps (or the limit) ended it; the next sweep goes on
    used_share: float = 0.0  # of the tier's filesystem, without what ends of grace periods will free
    has_room: bool = True  # release.min_free is there; else nothing is released
    to_free: int | None = None  # bytes down to the low watermark; None: no watermark, everything cold
    money: Money | None = None  # what the plan costs and saves; None: its tier has no prices
    declined: Money | None = None  # and what those would that were left alone because they do not pay

    @property
    def files(self) -> int:
        return sum(line.files for line in self.lines)

    @property
    def bytes_now(self) -> int:
        return sum(line.bytes_now for line in self.lines)

    @property
    def bytes_after(self) -> int:
        return sum(line.bytes_after for line in self.lines)

    @property
    def saving(self) -> int:
        return self.bytes_now - self.bytes_after

    def add(self, act: PlannedAct) -> None:
        for line in self.lines:
            if (line.rule, line.action, line.scheme) == (act.rule, act.action, act.scheme):
                break
        else:
            line = Line(act.rule, act.action, act.scheme)
            self.lines.append(line)
        line.files += 1
        line.bytes_now += act.file.size
        line.bytes_after += act.bytes_after

    def spend(self, money: Money) -> None:
        """Count what an act costs and saves."""
        self.money = (self.money or Money()) + money

    def decline(self, money: Money) -> None:
        """Count one that is left alone because it does not pay."""
        self.skipped[Why.COSTS] += 1
        self.declined = (self.declined or Money()) + money
