"""What the lifecycle tells its callers: one outcome a file as it happens, and totals at the end.

A run may touch a million files, so outcomes are handed to a callback and never collected here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from archiver.codec.fidelity import FidelityReport
from archiver.errors import (
    EXIT_OK,
    EXIT_WARNINGS,
    ArchiverError,
    CatalogUnavailable,
    DiskFull,
    InputOutputError,
    ReadOnlyFilesystem,
    TierUnreachable,
    from_os_error,
)
from archiver.tiers.protocol import Where

_BROKEN = (CatalogUnavailable, TierUnreachable, DiskFull, ReadOnlyFilesystem, InputOutputError)


class Result(StrEnum):
    """How one act on one file ended."""

    DONE = "done"
    REFUSED = "refused"  # a promise or a rule forbids it; the file is as it was
    FAILED = "failed"  # something broke; the file is as it was
    SKIPPED = "skipped"  # nothing to do


@dataclass(frozen=True, slots=True)
class Rung:
    """One scheme that a file was tried with: its label, its record's bytes, what the trial decode was worth, and why it
    fell short ("": it passed). No fidelity: it could not be tried.
    """

    scheme: str
    record_bytes: int
    fidelity: FidelityReport | None
    shortfall: str = ""

    def __str__(self) -> str:
        measured = f"{self.scheme}, {self.record_bytes} bytes" if self.fidelity else self.scheme
        if self.fidelity:
            measured += f", semantic {self.fidelity.semantic:.3f}, colour {self.fidelity.colour:.1f}"
            measured += f", label BCE {self.fidelity.label_bce:.3f}" if self.fidelity.label_bce is not None else ""
        return f"{measured}: {self.shortfall or 'passed'}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One act on one file."""

    path: Where
    act: str  # "record", "release", "recall", "undo", "expire", "verify", "rebuild", "reconcile"
    result: Result
    reason: str = ""
    bytes_before: int = 0  # on disk
    bytes_after: int = 0
    record_bytes: int = 0
    fidelity: FidelityReport | None = None
    error: ArchiverError | None = None
    rungs: tuple[Rung, ...] = ()  # of a record that could climb: every scheme tried, in order


def attempt(path: Where, act: str, do: Callable[[], Outcome], *, otherwise: Result = Result.FAILED) -> Outcome:
    """What `do` says, or its failure as the outcome of that one file: `otherwise` for what the archiver refused,
    FAILED for what the system did.
    """
    try:
        return do()
    except OSError as error:
        return failed(path, act, from_os_error(error, path))
    except ArchiverError as error:
        return failed(path, act, error, otherwise)


def failed(path: Where, act: str, error: ArchiverError, result: Result = Result.FAILED) -> Outcome:
    """The outcome of an act that ended with an error: `result`, but what broke is no refusal, whoever met it."""
    return Outcome(path, act, Result.FAILED if isinstance(error, _BROKEN) else result, error.message, error=error)


@dataclass(slots=True)
class Tally:
    """Totals of a run; feed it every outcome."""

    counts: Counter[tuple[str, Result]] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    bytes_before: int = 0
    bytes_after: int = 0
    record_bytes: int = 0

    def add(self, outcome: Outcome) -> None:
        self.counts[outcome.act, outcome.result] += 1
        if outcome.result in (Result.REFUSED, Result.FAILED):
            self.reasons[outcome.error.kind if outcome.error else outcome.reason] += 1
        if outcome.result is Result.DONE:
            self.bytes_before += outcome.bytes_before
            self.bytes_after += outcome.bytes_after
            # A release tells the size of its record, too; it is the same record.
            self.record_bytes += outcome.record_bytes if outcome.act != "release" else 0

    def include(self, other: Tally) -> Tally:
        """This one, with the totals of another run in it."""
        self.counts += other.counts
        self.reasons += other.reasons
        self.bytes_before += other.bytes_before
        self.bytes_after += other.bytes_after
        self.record_bytes += other.record_bytes
        return self

    def count(self, act: str, result: Result) -> int:
        return self.counts[act, result]

    @property
    def exit_code(self) -> int:
        """1 when any file was refused or failed: warnings, not an error."""
        troubled = any(result in (Result.REFUSED, Result.FAILED) for (_, result), n in self.counts.items() if n)
        return EXIT_WARNINGS if troubled else EXIT_OK


Listener = Callable[[Outcome], None]


def ignore(_outcome: Outcome) -> None:
    """The listener of callers that only want the tally."""
