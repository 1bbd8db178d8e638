"""What a scan tells while it runs and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from archiver.catalog.rows import Applied
from archiver.tiers.listing import Listing, Skip
from archiver.units import counted

_MOST_WARNINGS = 1000  # kept; further ones are counted


@dataclass(frozen=True, slots=True)
class ScanWarning:
    """Something that could not be looked at; what the catalog knows below it stays as it is."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a scan is."""

    files: int
    directories: int
    path: str


@dataclass(frozen=True, slots=True)
class ScanReport:
    """What a scan saw and what it changed in the catalog."""

    tier: str
    complete: bool  # False: cancelled, or nothing but an empty folder was ever seen
    files: int
    directories: int
    changes: Applied
    hard_linked: int  # tracked, but never released
    skipped: Mapping[Skip, int]
    unsupported: Mapping[str, int]  # images of formats that are never archived, by format
    warnings: tuple[ScanWarning, ...]  # the first thousand
    warned: int
    seconds: float

    def summary(self) -> str:
        """One line for the audit."""
        told = zip(self.changes._fields, self.changes, strict=True)
        changes = ", ".join(f"{count} {what}" for what, count in told if count) or "nothing changed"
        found = f"{counted(self.files, 'file')} in {counted(self.directories, 'folder')}"
        return f"{found}: {changes}; {counted(self.warned, 'warning')}"


@dataclass(slots=True)
class Tally:
    """The sums of a scan under way."""

    files: int = 0
    directories: int = 0
    hard_linked: int = 0
    applied: Applied = field(default_factory=Applied)
    skipped: Counter[Skip] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)
    warnings: list[ScanWarning] = field(default_factory=list)
    warned: int = 0

    def add(self, listing: Listing) -> None:
        self.files += len(listing.files)
        self.directories += 1
        self.hard_linked += listing.hard_linked
        if listing.skipped:
            self.skipped.update(listing.skipped)
        if listing.unsupported:
            self.unsupported.update(listing.unsupported)

    def warn(self, path: str, reason: str) -> None:
        self.warned += 1
        if len(self.warnings) < _MOST_WARNINGS:
            self.warnings.append(ScanWarning(path, reason))

    def report(self, tier: str, complete: bool, seconds: float) -> ScanReport:
        return ScanReport(
            tier=tier,
            complete=complete,
            files=self.files,
            directories=self.directories,
            changes=self.applied,
            hard_linked=self.hard_linked,
            skipped=dict(self.skipped),
            unsupported=dict(self.unsupported),
            warnings=tuple(self.warnings),
            warned=self.warned,
            seconds=seconds,
        )
