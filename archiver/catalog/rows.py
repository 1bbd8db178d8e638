"""What the catalog hands out and takes in: plain values, no database.

Importing this module costs next to nothing, so that `archiver status` can use it without SQLAlchemy. Paths are relative
to their tier, `/` between the parts, `""` for the tier itself; as `str` they are `os.fsdecode`d (surrogates where a
name is not UTF-8), in the types of the scan they are the kernel's bytes. Times are whole seconds since 1970, UTC; sizes
are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple, overload

SCHEMA = "0003"
"""The Alembic revision that this program reads and writes."""


LONGEST_PATH = 2600
"""Bytes of the longest directory path that is catalogued: PostgreSQL cannot index a longer one."""


class State(IntEnum):
    """Where an image stands; the numbers are those in the database."""

    RESIDENT = 1
    RECORDED = 2
    RELEASED = 3
    RECALLED = 4
    SUPERSEDED = 5
    GONE = 6

    @property
    def label(self) -> str:
        return self.name.lower()


LEGAL: dict[State, frozenset[State]] = {
    State.RESIDENT: frozenset({State.RECORDED, State.GONE}),
    State.RECORDED: frozenset({State.RELEASED, State.SUPERSEDED, State.RESIDENT, State.GONE}),
    State.RELEASED: frozenset({State.RECALLED, State.RECORDED, State.SUPERSEDED, State.GONE}),
    State.RECALLED: frozenset({State.RELEASED, State.RECORDED, State.SUPERSEDED, State.GONE}),
    State.SUPERSEDED: frozenset({State.RECORDED, State.GONE}),
    State.GONE: frozenset({State.RESIDENT, State.RECORDED, State.RELEASED, State.RECALLED, State.SUPERSEDED}),
}
"""The state changes that the schema's triggers let through."""


class Act(IntEnum):
    """What an audit row tells of; the numbers are those in the database and are never used anew."""

    SCANNED = 1
    SUPERSEDED = 2
    GONE = 3
    RETURNED = 4
    RECORDED = 5
    REFUSED = 6
    RELEASED = 7
    RECALLED = 8
    RERELEASED = 9
    UNDONE = 10
    ADOPTED = 11
    EXPIRED = 12
    DROPPED = 13
    FORGOTTEN = 14
    PINNED = 15
    UNPINNED = 16
    FAILED = 17
    UNREACHABLE = 18
    REACHABLE = 19
    VERIFIED = 20
    CORRECTED = 21
    ACCEPTED = 22

    @property
    def label(self) -> str:
        return self.name.lower()


class Version(NamedTuple):
    """What the version guard compares: a file is unchanged while all three are."""

    size: int
    mtime_ns: int
    inode: int


# -- what the scan speaks; tuples, because there are a million of them -------------------------------------------------


class Found(NamedTuple):
    """A file that the scan saw in a directory."""

    name: bytes
    size: int
    mtime_ns: int
    inode: int
    accessed_at: int


class FoundColumns(Sequence[Found]):
    """Files that the scan saw in one directory, column by column, as the database takes them: a first scan has hundreds
    of thousands, and a tuple for each is what it would wait for.
    """

    __slots__ = ("accessed_at", "inodes", "mtimes_ns", "names", "sizes")

    def __init__(
        self,
        names: Sequence[bytes],
        sizes: Sequence[int],
        mtimes_ns: Sequence[int],
        inodes: Sequence[int],
        accessed_at: Sequence[int],
    ) -> None:
        self.names, self.sizes, self.mtimes_ns = names, sizes, mtimes_ns
        self.inodes, self.accessed_at = inodes, accessed_at

    @classmethod
    def of(cls, files: Sequence[Found]) -> FoundColumns:
        """The same files, sorted by name."""
        if isinstance(files, FoundColumns):
            return files
        return cls(*zip(*sorted(files), strict=True)) if files else cls((), (), (), (), ())

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Found: ...
    @overload
    def __getitem__(self, index: slice) -> list[Found]: ...
    def __getitem__(self, index: int | slice) -> Found | list[Found]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        columns = (self.names, self.sizes, self.mtimes_ns, self.inodes, self.accessed_at)
        return Found._make(column[index] for column in columns)


class Known(NamedTuple):
    """A file that the catalog has in a directory, gone ones included."""

    id: int
    name: bytes
    state: int
    size: int
    mtime_ns: int
    inode: int


class DirectoryRow(NamedTuple):
    """A directory of a tier. `fingerprint` is the scanner's own; None where the next scan has to look at every file."""

    id: int
    path: bytes
    fingerprint: bytes | None


@dataclass(frozen=True, slots=True)
class DirectoryChange:
    """How a directory differs from the catalog.

    `directory_id` None: not known yet (it is made, with its parents). `changed` pairs a known file with what stands
    there now, `missing` are known files that are not there any more, `vanished` are child directories (by id) that are
    not there any more, with all below them. `fingerprint` is stored; None makes the next scan look again.
    """

    path: bytes
    directory_id: int | None = None
    fingerprint: bytes | None = None
    new: Sequence[Found] = ()
    changed: list[tuple[int, Found]] | tuple[tuple[int, Found], ...] = ()
    missing: list[int] | tuple[int, ...] = ()
    vanished: list[int] | tuple[int, ...] = ()


class Applied(NamedTuple):
    """How many files a batch of changes touched, by what became of them; how many directories it had to leave out."""

    new: int = 0
    changed: int = 0
    superseded: int = 0
    gone: int = 0
    returned: int = 0
    too_deep: int = 0

    def plus(self, other: Applied) -> Applied:
        """The sums."""
        return Applied(*(mine + its for mine, its in zip(self, other, strict=True)))


# -- rows --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TierRow:
    """A tier as the catalog knows it; `identity` is what the tier said of itself when it was first seen."""

    id: int
    name: str
    kind: str
    root: str
    identity: str
    reachable: bool
    first_scan_done_at: int | None
    last_scan_at: int | None


@dataclass(frozen=True, slots=True)
class FileRow:
    """A tracked file. Size, mtime and inode are those of what stands there: original, placeholder or recalled image."""

    id: int
    tier_id: int
    directory: str
    name: str
    state: State
    size: int
    mtime_ns: int
    inode: int
    accessed_at: int
    record_id: int | None
    refusal: str | None

    @property
    def path(self) -> str:
        return f"{self.directory}/{self.name}" if self.directory else self.name

    @property
    def version(self) -> Version:
        return Version(self.size, self.mtime_ns, self.inode)


@dataclass(frozen=True, slots=True)
class RecordRow:
    """A durable record and what the original was; `profile` is the fingerprint of the weights that it needs."""

    id: int
    file_id: int
    payload: bytes
    sha256: bytes
    profile: bytes
    scheme: int
    rule: str
    created_at: int
    format: str
    width: int
    height: int
    semantic: float | None
    label_bce: float | None
    colour: float | None


@dataclass(frozen=True, slots=True)
class HoldingRow:
    """A held original, by its name in the tier's holding area."""

    file_id: int
    record_id: int
    name: str
    size: int
    expires_at: int


def held_name(inode: int, sha256: bytes) -> str:
    """Name of an original in the holding area; it tells which file it was even without a catalog."""
    return f"{inode:x}-{sha256.hex()[:32]}"


@dataclass(frozen=True, slots=True)
class Pin:
    """A file, or a directory with all below it, that is never released."""

    tier_id: int
    path: str
    subtree: bool


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One act. `path` is that of the file today, or the one it had when it was forgotten."""

    id: int
    at: int
    act: Act
    tier_id: int | None
    file_id: int | None
    record_id: int | None
    rule: str
    path: str | None
    detail: str


@dataclass(frozen=True, slots=True)
class StateCount:
    """How many files of a tier are in a state, and the bytes they show."""

    state: State
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TierSummary:
    """A tier with its counters, kept and not counted; every state has an entry.

    `behind_bytes`: what placeholders take on disk beyond one block each, for those that keep more than a record.
    """

    tier: TierRow
    states: tuple[StateCount, ...]
    held_files: int
    held_bytes: int
    behind_bytes: int

    def of(self, state: State) -> StateCount:
        """The count of one state."""
        return self.states[state - 1]


@dataclass(frozen=True, slots=True)
class Correction:
    """A counter that did not agree with the rows; `what` is a state's label, "held" or "behind"."""

    tier: str
    what: str
    files: int
    bytes: int
    counted_files: int
    counted_bytes: int


@dataclass(frozen=True, slots=True)
class ProfileUse:
    """How many live records (of files not superseded) need a profile's weights, and how many there are in all."""

    profile: bytes
    live: int
    total: int


# -- what the lifecycle hands in ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Holding:
    """An original that went to the holding area: its `held_name` there, its bytes, when its grace period ends."""

    name: str
    size: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A verified record of the file as it was at `expected`. `detail` goes into the audit."""

    file_id: int
    expected: Version
    payload: bytes
    sha256: bytes
    profile: bytes
    scheme: int
    format: str
    width: int
    height: int
    metadata: bytes | None = None
    rule: str = ""
    semantic: float | None = None
    label_bce: float | None = None
    colour: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why the file, as it was at `expected`, stays resident: a short reason, and what it was in particular."""

    file_id: int
    expected: Version
    reason: str
    detail: str = ""
    rule: str = ""


@dataclass(frozen=True, slots=True)
class Adopted:
    """A tracked file that turned out to be a placeholder (RELEASED) or a generated image (RECALLED) with its own record
    inside.

    `record` holds what it carries; its `file_id` and `expected` name the row and what was read. `recalled_sha256` is
    the hash of a generated image's bytes, `holding` the held original if it is still there, `behind` the bytes on disk
    that a placeholder takes beyond one block.
    """

    record: NewRecord
    state: State
    recalled_sha256: bytes | None = None
    holding: Holding | None = None
    behind: int = 0
