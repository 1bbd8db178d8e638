"""What `archiver status --recalls` shows: plain values, which travel as JSON from the daemon to the command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recall:
    """One file that somebody waits for. `readers`: how many; `process` and `user` are the first one's."""

    path: str
    stage: str  # "waiting", "decoding", "writing", "committing"
    priority: str
    seconds: float
    readers: int
    process: str
    user: str


@dataclass(frozen=True, slots=True)
class Share:
    """What one program of one user causes: readers that wait now, and how those of the last hour ended."""

    process: str
    user: str
    waiting: int = 0
    recalled: int = 0
    placeholder: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Watch:
    """Whether reads on a tier are noticed: "read", "open", or "nothing" for the reason `problem`."""

    tier: str
    how: str
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The desk at one moment. Lists show the first of many; the totals count all."""

    mode: str
    responder: bool  # archiver-recall is connected
    watches: tuple[Watch, ...]
    under_way: tuple[Recall, ...]
    queued: tuple[Recall, ...]
    files_under_way: int
    files_queued: int
    readers: int
    shares: tuple[Share, ...]
    counted: float  # seconds for which refused, full, failed, late and shares were counted: an hour, or since the start
    last_hour: int  # files, from the audit too
    per_hour: int | None
    refused: int  # in the last hour, by a rule
    full: int  # in the last hour, by a limit
    failed: int
    late: int
