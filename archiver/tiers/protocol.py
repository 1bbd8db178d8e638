"""What every kind of tier is to the rest of the program: a place with an identity and files by relative path."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from archiver.catalog.rows import FileRow
from archiver.config import TierSettings
from archiver.s3.address import ObjectUrl

Where = Path | ObjectUrl
"""How a file of any tier is named to people."""


class Tier(Protocol):
    """One configured tier, for any number of threads; opened when first used."""

    @property
    def name(self) -> str: ...

    @property
    def kind(self) -> Literal["local", "s3"]: ...

    @property
    def settings(self) -> TierSettings: ...

    def expect(self, identity: str | None) -> None:
        """Tell what the catalog remembers as this tier's identity; None before the first scan."""
        ...

    def check(self) -> object:
        """Look again whether the tier is there; its str() is its identity. Raises TierUnreachable."""
        ...

    def owner(self) -> str:
        """The identity of the catalog that it is archived with, "" before the first release. Raises TierUnreachable,
        OSError.
        """
        ...

    def own(self, catalog: str, *, instead: bool = False) -> None:
        """Say durably which catalog it is archived with: where nobody said so yet, or `instead` of who did.

        Raises ArchiverError, OSError.
        """
        ...

    def close(self) -> None:
        """Let go of everything; the next use opens it again."""
        ...

    def where(self, relative: str) -> Where:
        """The full name of a file, or of the tier itself for ""."""
        ...

    def relative(self, where: Where) -> str | None:
        """The inverse of `where`; None for what lies elsewhere. Nothing needs to be there."""
        ...

    def tags(self, row: FileRow) -> frozenset[str]:
        """The words that users gave a file, which rules ask for. Raises ArchiverError."""
        ...

    def peek(self, row: FileRow) -> AbstractContextManager[BinaryIO]:
        """The file of a row, open for reading its header, without that counting as a use of it.

        Raises FileModified when another version stands there, PermissionRefused, any ArchiverError.
        """
        ...
