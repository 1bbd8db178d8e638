"""What is under way on a tier, so that a crash leaves a short list instead of a search.

One small file an act in `<root>/.archiver/journal/`, durable before the act touches anything and struck out when it is
committed or taken back. It lives on the tier, not in the catalog, so that it always describes the files beside it,
whatever happened to the catalog.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from archiver.errors import PlaceholderDamaged
from archiver.tiers import fileops

_ACTS = frozenset({"release", "recall", "restore", "rerelease", "undo"})
_MOST_BYTES = 64 * 1024  # a path is at most 4096 bytes; anything larger is not ours


@dataclass(frozen=True, slots=True)
class Intent:
    """One act on one file that has begun."""

    act: str  # of _ACTS
    path: str  # relative to the tier
    record_id: int
    inode: int  # of the file at `path` when the act began
    held: str = ""  # name in the holding area, "" where the act has none
    rule: str = ""
    expires_at: int = 0  # seconds since 1970, for a release

    @property
    def name(self) -> str:
        return f"{self.inode:x}-{self.act}"

    @property
    def unfinished(self) -> str:
        """In the holding area, the name of what is not whole yet and then named `held`."""
        return f".{self.held}.part"


@contextmanager
def begun(journal_fd: int, intent: Intent) -> Iterator[None]:
    """Write `intent` durably and keep its entry locked while the body runs. Raises OSError; nothing has begun then.

    The lock tells entries of acts under way from those that a dead process left.
    """
    body = json.dumps(asdict(intent) | {"path": os.fsencode(intent.path).hex()}).encode()
    temporary = f".{intent.name}.part"
    fd = _open_locked(journal_fd, temporary)
    try:
        with os.fdopen(os.dup(fd), "wb") as file:
            file.write(body)
        os.fsync(fd)
        os.rename(temporary, intent.name, src_dir_fd=journal_fd, dst_dir_fd=journal_fd)
        fileops.fsync_directory(journal_fd)
        yield
    finally:
        os.close(fd)


def _open_locked(journal_fd: int, name: str) -> int:
    """A new file, locked. Whoever looks for what was left behind takes it away if it is seen before it is locked."""
    while True:
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600, dir_fd=journal_fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def strike(journal_fd: int, intent: Intent) -> None:
    """Remove an entry. Not synced: one that comes back after a power cut is settled again, to no effect."""
    os.unlink(intent.name, dir_fd=journal_fd)


def left_behind(journal_fd: int) -> Iterator[Intent | PlaceholderDamaged]:
    """Every act that did not end and is not under way, locked while it is looked at; the error of an entry that cannot
    be read.
    """
    for name in sorted(os.listdir(journal_fd)):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=journal_fd)
        except FileNotFoundError:
            continue  # it ended just now
        try:
            if not _take(fd):
                continue
            if name.startswith("."):
                os.unlink(name, dir_fd=journal_fd)  # it never became an intent
                continue
            yield _read(name, os.read(fd, _MOST_BYTES))
        finally:
            os.close(fd)


def outlast(journal_fd: int, which: Callable[[Intent], bool]) -> None:
    """Wait for the end of such acts as are under way now. Raises OSError."""
    for name in os.listdir(journal_fd):
        try:
            fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=journal_fd)
        except FileNotFoundError:
            continue  # it ended just now
        try:
            if not name.startswith("."):  # else it has not begun
                intent = _read(name, os.read(fd, _MOST_BYTES))
                if isinstance(intent, Intent) and which(intent):
                    fcntl.flock(fd, fcntl.LOCK_SH)
        finally:
            os.close(fd)


def _read(name: str, body: bytes) -> Intent | PlaceholderDamaged:
    try:
        fields = json.loads(body)
        intent = Intent(**fields | {"path": os.fsdecode(bytes.fromhex(fields["path"]))})
        if intent.act not in _ACTS:
            raise ValueError(f"{intent.act} is no act")
    except (ValueError, TypeError, KeyError) as error:
        return PlaceholderDamaged(path=f".archiver/journal/{name}", problem=f"no journal entry ({error})")
    return intent


def _take(fd: int) -> bool:
    """Lock an entry unless the process that wrote it still has it, or has ended the act while we looked."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return os.fstat(fd).st_nlink > 0
