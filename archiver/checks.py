"""What `archiver doctor` says of each thing that it looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from archiver.errors import EXIT_OK, EXIT_WARNINGS, ArchiverError, SystemRefused, TierOfAnotherCatalog
from archiver.lifecycle.ownership import is_anothers
from archiver.tiers.protocol import Tier


class Verdict(StrEnum):
    """How one check ended."""

    OK = "ok"
    WARNING = "warning"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at, what was found, and what to do about it."""

    subject: str
    verdict: Verdict
    finding: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order in which they were made."""

    checks: tuple[Check, ...]

    @property
    def exit_code(self) -> int:
        """7 when something is broken, 1 when something is worth a look."""
        found = {check.verdict for check in self.checks}
        if Verdict.BROKEN in found:
            return SystemRefused.exit_code
        return EXIT_WARNINGS if Verdict.WARNING in found else EXIT_OK


def broken(subject: str, error: ArchiverError) -> Check:
    """An error as what was found."""
    return Check(subject, Verdict.BROKEN, error.message, error.hint)


def belonging(tier: Tier, identity: str | None) -> Iterator[Check]:
    """What follows where another catalog than the one of this identity has the tier. Raises ArchiverError."""
    if is_anothers(tier, identity):
        error = TierOfAnotherCatalog(tier=tier.name)
        yield Check(f"tier {tier.name}", Verdict.WARNING, error.message, error.hint)
