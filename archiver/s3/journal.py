"""What is under way in a bucket: one small object for every batch of acts, written before the first of them touches
anything and deleted when the last is committed or taken back.

    {"owner": {"host", "pid", "started"}, "acts": [{"act", "key", "etag", "record_id", ...}, ...]}

It lies in the bucket and not in the catalog, so that it always describes the objects beside it.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from archiver.errors import ArchiverError, ObjectChanged, ObjectMissing, PlaceholderDamaged
from archiver.s3.objects import ObjectInfo
from archiver.s3.placing import discard, forget_version
from archiver.s3.store import ObjectStore
from archiver.s3.tier import JOURNAL

_LOG = logging.getLogger("archiver.s3.journal")
_LARGEST = 64 << 20  # bytes of an entry
_STALE = 15 * 60  # seconds after which an owner on another host is taken for dead
_RENEWED = 5 * 60  # seconds after which a living owner says so again

_under_way: set[str] = set()  # entries of this process
_noting = threading.Lock()


@dataclass(frozen=True, slots=True)
class Intent:
    """One act on one object. `etag` is that of what stood at `key` when it began, "" for nothing."""

    act: str  # "release", "rerelease", "recall", "restore", "undo"
    key: str
    etag: str
    record_id: int
    held: str = ""  # name of the held original, whether as copy or version
    size: int = 0  # bytes of the original
    rule: str = ""
    expires_at: int = 0  # seconds since 1970, for a release
    pack: str = ""  # of a packed release: where its record is


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that wrote an entry."""

    host: str
    pid: int
    started: str

    @classmethod
    @cache
    def here(cls) -> Owner:
        return cls(_host(), os.getpid(), _started(os.getpid()))

    def is_alive(self, written_ns: int) -> bool:
        """Whether it may still be at work; of another host that is so until its entry has become old."""
        if self.host != _host():
            return time.time_ns() - written_ns < _STALE * 1_000_000_000
        return bool(self.started) and _started(self.pid) == self.started


class Entry:
    """An entry of this process, while its acts are under way."""

    def __init__(self, store: ObjectStore, acts: Sequence[Intent]) -> None:
        self._store = store
        self._body = json.dumps({"owner": asdict(Owner.here()), "acts": [asdict(act) for act in acts]}).encode()
        self._key = f"{JOURNAL}{uuid.uuid4()}"
        self._lock = threading.Lock()
        self._kept = False
        with _noting:
            _under_way.add(self._key)
        try:
            # Of what is sent again a bucket with versions keeps two, and shows one when the other has been deleted.
            self._written = store.put(self._key, self._body, if_none_match=True)
        except BaseException:
            self._leave()
            raise
        self._at = _passed()

    def hold_on(self) -> None:
        """Before a step that cannot be taken back: that everybody still takes these acts for under way.

        Raises ObjectChanged where another process has taken them for dead and settled them.
        """
        with self._lock:
            if _passed() - self._at < _RENEWED:
                return
            try:
                renewed = self._store.put(self._key, self._body, if_match=self._written.etag)
            except ObjectMissing:
                raise ObjectChanged(path=self._store.url(self._key)) from None
            forget_version(self._store, self._written)
            self._written, self._at = renewed, _passed()

    def keep(self) -> None:
        """Some act could be neither ended nor settled: the entry is left for whoever looks next."""
        self._kept = True

    def close(self) -> None:
        """No act is under way any more."""
        try:
            if not self._kept:
                discard(self._store, self._written)
        except ArchiverError:
            # All acts have ended: an entry that stays is settled once more, to no effect.
            _LOG.info("the journal entry %s could not be deleted", self._key)
        finally:
            self._leave()

    def _leave(self) -> None:
        with _noting:
            _under_way.discard(self._key)


@dataclass(frozen=True, slots=True)
class Left:
    """An entry that a dead process, or a failure, left."""

    info: ObjectInfo
    acts: tuple[Intent, ...]


def left_behind(store: ObjectStore) -> Iterator[Left]:
    """Every entry whose acts are not under way any more. Raises PlaceholderDamaged for one that cannot be read."""
    for entry in store.list(JOURNAL):
        with _noting:
            if entry.key in _under_way:
                continue
        try:
            info = store.head(entry.key)
            fields = json.loads(store.read(entry.key, limit=_LARGEST, if_match=info.etag))
            owner, acts = Owner(**fields["owner"]), tuple(Intent(**act) for act in fields["acts"])
        except (ObjectMissing, ObjectChanged):
            continue  # it ended just now, or its owner is alive
        except (ValueError, TypeError, KeyError) as error:
            raise PlaceholderDamaged(path=store.url(entry.key), problem=f"no journal entry ({error})") from error
        if owner == Owner.here() or not owner.is_alive(info.modified_ns):
            yield Left(info, acts)


def struck(store: ObjectStore, left: Left) -> None:
    """Delete an entry whose acts were settled."""
    discard(store, left.info)


def _passed() -> float:
    """Seconds, those in which the machine was suspended too: others counted them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@cache
def _host() -> str:
    """Within which a process number names a process: two containers of a machine may share all but that."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        numbers = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        boot = numbers = ""
    return f"{socket.gethostname()}/{boot}/{numbers}"


def _started(pid: int) -> str:
    """When a process began, in ticks since boot; "" where there is none of that number, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]
