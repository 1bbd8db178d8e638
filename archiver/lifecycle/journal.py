"""What is under way on a tier, so that a crash leaves a short list instead of a search.

One small file an act in `<root>/.archiver/journal/`, durable before the act touches anything and struck out when it is
committed or taken back. It lives on the tier, not in the catalog, so that it always describes the files beside it,
whatever happened to the catalog.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from archiver.errors import PlaceholderDamaged
from archiver.tiers import fileops

_MOST_BYTES = 64 * 1024  # a path is at most 4096 bytes; anything larger is not ours


@dataclass(frozen=True, slots=True)
class Intent:
    """One act on one file that has begun."""

    act: str  # "release", "recall", "rerelease", "undo"
    path: str  # relative to the tier
    file_id: int
    record_id: int
    inode: int  # of the file at `path` when the act began
    held: str = ""  # name in the holding area, "" where the act has none
    rule: str = ""
    expires_at: int = 0  # seconds since 1970, for a release

    @property
    def name(self) -> str:
        return f"{self.inode:x}-{self.act}"


def begin(journal_fd: int, intent: Intent) -> None:
    """Write `intent` durably. Raises OSError; nothing has begun then."""
    body = json.dumps(asdict(intent) | {"path": os.fsencode(intent.path).hex()}).encode()
    temporary = f".{intent.name}.part"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=journal_fd)
    try:
        os.write(fd, body)
        os.fsync(fd)
    finally:
        os.close(fd)
    os.rename(temporary, intent.name, src_dir_fd=journal_fd, dst_dir_fd=journal_fd)
    fileops.fsync_directory(journal_fd)


def strike(journal_fd: int, intent: Intent) -> None:
    """Remove an entry. Not synced: one that comes back after a power cut is settled again, to no effect."""
    os.unlink(intent.name, dir_fd=journal_fd)


def entries(journal_fd: int) -> Iterator[Intent]:
    """Every act that did not end. Raises PlaceholderDamaged for an entry that cannot be read."""
    for name in sorted(os.listdir(journal_fd)):
        if name.startswith("."):
            os.unlink(name, dir_fd=journal_fd)  # it never became an intent
            continue
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=journal_fd)
        try:
            fields = json.loads(os.read(fd, _MOST_BYTES))
            yield Intent(**fields | {"path": os.fsdecode(bytes.fromhex(fields["path"]))})
        except (ValueError, TypeError, KeyError) as error:
            raise PlaceholderDamaged(path=f".archiver/journal/{name}", problem=f"no journal entry ({error})") from error
        finally:
            os.close(fd)
