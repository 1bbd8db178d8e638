"""What the lifecycle does to one file, for every kind of tier: the loops know files by their rows and ask a keeper.

`LocalKeeper` does it to files of a directory tree, `archiver.s3.keeper.S3Keeper` to objects of a bucket. The order of
steps and the promises are the same in both (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, BinaryIO, Protocol

from archiver.catalog.rows import FileRow, HoldingRow
from archiver.codec.fidelity import FidelityReport
from archiver.formats import Inspection
from archiver.lifecycle.outcome import Outcome
from archiver.tiers.protocol import Where

if TYPE_CHECKING:
    from archiver.decoder.engine import Generated
    from archiver.lifecycle.pace import Pace
    from archiver.lifecycle.placeholder import Carried


class Readable(Protocol):
    """A file held open: its name for messages, and its bytes."""

    @property
    def path(self) -> Where: ...

    def reader(self) -> BinaryIO:
        """Its bytes from the first one; closing the reader leaves the file open."""
        ...


class Original(Readable, Protocol):
    """A file as it was scanned, held open: its size, time and identity are those of its row."""

    @property
    def row(self) -> FileRow: ...

    def sha256(self) -> bytes:
        """The hash of all its bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Releasing:
    """A recorded file to be released, or a recalled one to become its placeholder again, and the rule that says so.

    `inspection` and `packed` (of a lossless record: what `exact.pack` gave) save reading the original again; they are
    only of use while the file is still the version of `row`.
    """

    row: FileRow
    rule: str
    fidelity: FidelityReport | None = None
    inspection: Inspection | None = None
    packed: bytes | None = None


class Placeholder(Protocol):
    """A released file, held still while its image is generated."""

    @property
    def path(self) -> Where: ...

    @property
    def carried(self) -> Carried: ...

    def fill(self, generated: Generated) -> Outcome:
        """From released to recalled. Raises ArchiverError, OSError; the placeholder then stands as it was."""
        ...

    def restore(self) -> Outcome:
        """From released to recorded: the exact bytes of a lossless record. Raises as `fill`."""
        ...


class Keeper(Protocol):
    """The acts on the files of one tier. All raise ArchiverError or OSError where nothing else is said; the file is
    whole then, as it was.
    """

    @property
    def loaders(self) -> int:
        """Files that are worth opening at a time."""
        ...

    @property
    def together(self) -> int:
        """Files that are worth releasing in one call."""
        ...

    def reading(self, row: FileRow) -> AbstractContextManager[Original]:
        """An original that may be recorded, open. Raises FileModified, HardLinked."""
        ...

    def release(self, batch: Sequence[Releasing]) -> Iterator[Outcome]:
        """From recorded, or recalled, to released; one outcome a file, and nothing raised for one of them."""
        ...

    def recalling(self, row: FileRow) -> AbstractContextManager[Placeholder]:
        """A released file's placeholder, compared with the catalog."""
        ...

    def undo(self, row: FileRow, to: Path | None) -> Outcome:
        """The held original back in its place, or a copy of it in a folder."""
        ...

    def expire(self, held: HoldingRow) -> Outcome:
        """Delete a held original for good, unless it is the last copy of something."""
        ...

    def verify(self, row: FileRow, payload: bytes, *, decode: bool, pace: Pace) -> None:
        """That a released or recalled file carries the record `payload`, and that its held original is whole."""
        ...

    def adopt(self, row: FileRow) -> Outcome:
        """Take in a file that carries a record which the catalog does not know of."""
        ...

    def rebuild(self, stop: Event | None) -> Iterator[Outcome]:
        """Adopt whatever carries a record, of a tier just scanned; one outcome for each, nothing raised for one."""
        ...

    def tidy(self) -> Iterator[Outcome]:
        """Clear away what of ours nobody needs any more; one outcome each, nothing raised for one."""
        ...

    def settle(self) -> Iterator[Outcome]:
        """Finish or take back what dead processes left; one outcome an act, nothing raised for one."""
        ...
