"""Records of many objects in one: a ZIP of placeholders, stored and not compressed, below `.archiver/packs/`.

An entry has the object's key for its name and is a whole placeholder, so that any unzip gives pictures that carry their
records, and the ZIP's own directory is the index that survives the catalog. What the original wore (headers, user
metadata, tags) is the entry's comment. Packs are never changed: entries that nobody needs any more are left out when a
pack is written anew. Where a key is in several packs, the newest counts.
"""

from __future__ import annotations

import json
import math
import tempfile
import threading
import time
import uuid
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256
from io import BytesIO
from typing import BinaryIO, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from archiver import formats
from archiver.errors import ObjectChanged, ObjectMissing, PlaceholderDamaged
from archiver.s3.objects import Dressing, Encryption, Headers, ObjectInfo
from archiver.s3.placing import discard
from archiver.s3.ranged import open_ranged
from archiver.s3.store import ObjectStore
from archiver.s3.tier import PACKS

_IN_MEMORY = 32 << 20  # bytes of a pack being written
_OPEN = 8  # directories of packs that are kept parsed
_COMMENT = 0xFFFF  # bytes of a ZIP entry's comment
_PIECE = 1 << 20
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Packed:
    """One placeholder in a pack, and what the original wore."""

    key: str
    image: bytes
    dressing: Dressing
    modified_ns: int = 0  # when the original was written: the time that unzip gives the picture

    def carries(self, record: bytes) -> bool:
        """Whether it is the placeholder of that very record. Raises EnvelopeDamaged."""
        envelope = formats.read_envelope(BytesIO(self.image))
        return envelope is not None and envelope.record == record


@dataclass(frozen=True, slots=True)
class _Directory:
    """One pack's index."""

    info: ObjectInfo
    entries: dict[str, zipfile.ZipInfo]


class Packs:
    """All packs of a bucket, for any number of threads. What is in which is read when first asked for.

    Of every key 8 bytes are kept in memory: a hash of it, by which a pack is found that may have it.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._known: dict[str, NDArray[np.uint64]] = {}  # by the pack's key; sorted hashes of keys
        self._open: OrderedDict[str, _Directory] = OrderedDict()

    # -- writing -------------------------------------------------------------------------------------------------------

    def new_key(self) -> str:
        """The key of a pack yet to be written."""
        return f"{PACKS}{_uuid7()}.zip"

    def write(self, key: str, packed: Sequence[Packed]) -> None:
        """A new pack, durable and read back, encrypted as the first original was: see `alike`.

        Raises PlaceholderDamaged where it does not come back.
        """
        with tempfile.SpooledTemporaryFile(_IN_MEMORY) as spool:
            file = cast(BinaryIO, spool)
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                for one in packed:
                    archive.writestr(_info_of(one), one.image)
            file.seek(0)
            digest = _digest(file)
            file.seek(0)
            wears = Dressing(Headers(content_type="application/zip"), encryption=packed[0].dressing.encryption)
            written = self._store.put(key, file, dressing=wears, if_none_match=True)  # once, though it is sent again
        _, stream = self._store.get(key, if_match=written.etag)
        with stream:
            if _digest(stream) != digest:
                raise PlaceholderDamaged(path=self._store.url(key), problem="the pack just written does not come back")
        with self._lock:
            self._known[key] = _hashes(one.key for one in packed)

    # -- reading -------------------------------------------------------------------------------------------------------

    def find(self, key: str, record: bytes | None = None) -> Packed | None:
        """The newest placeholder of an object; None where no pack has one. `record`: one that carries it, if any does.

        Packs that another process wrote are seen.
        """
        found = self._find(key, record)
        is_wanted = found is not None and (record is None or found.carries(record))
        return self._find(key, record) if not is_wanted and self.look_again() else found

    def _find(self, key: str, record: bytes | None) -> Packed | None:
        wanted = _hash(key)
        with self._lock:
            packs = sorted(self._known.items(), reverse=True)
        newest: Packed | None = None
        for pack, hashes in packs:
            if not _among(hashes, wanted):
                continue
            try:
                found = self._entry(pack, key)
            except (ObjectMissing, ObjectChanged):
                self._forget(pack)  # compacted by another process
                continue
            if found is not None and (record is None or found.carries(record)):
                return found
            newest = newest or found
        return newest

    def _entry(self, pack: str, key: str) -> Packed | None:
        directory = self._directory(pack)
        info = directory.entries.get(key)
        if info is None:
            return None
        with self._opened(directory.info) as archive:
            return Packed(key, archive.read(info), _dressing_of(info.comment))

    def all(self, older_than: float = 0) -> list[str]:
        """The keys of all packs that were written so many seconds ago, newest first."""
        before = (time.time() - older_than) * 1e9 if older_than else math.inf
        return sorted((entry.key for entry in self._store.list(PACKS) if entry.modified_ns < before), reverse=True)

    def keys(self, pack: str) -> list[str]:
        """The objects that have an entry in a pack."""
        return list(self._directory(pack).entries)

    def read(self, pack: str, keys: Sequence[str]) -> Iterator[Packed]:
        """Entries of one pack, which is fetched as far as they reach."""
        directory = self._directory(pack)
        with self._opened(directory.info) as archive:
            for key in sorted(keys, key=lambda key: directory.entries[key].header_offset):
                info = directory.entries[key]
                yield Packed(key, archive.read(info), _dressing_of(info.comment), _modified(info))

    def has(self, pack: str, key: str, record: bytes) -> bool:
        """Whether a pack is there, and has an object's placeholder with that record."""
        try:
            found = self._entry(pack, key)
        except ObjectMissing:
            return False
        return found is not None and found.carries(record)

    def is_newest(self, pack: str, key: str) -> bool:
        """Whether no newer pack has that key, of those that were there when `look_again` was last called."""
        with self._lock:
            newer = [(other, hashes) for other, hashes in self._known.items() if other > pack]
        wanted = _hash(key)
        return not any(_among(hashes, wanted) and key in self._directory(other).entries for other, hashes in newer)

    def delete(self, pack: str) -> None:
        """Delete a pack of which nothing is needed any more."""
        directory = self._directory(pack)
        self._forget(pack)
        discard(self._store, directory.info)

    # -- what is where -------------------------------------------------------------------------------------------------

    def look_again(self) -> bool:
        """Take in packs that are not known yet; whether there were any."""
        fresh = [pack for pack in self.all() if pack not in self._known]
        if fresh:
            with ThreadPoolExecutor(self._store.settings.concurrency, "s3-packs") as pool:
                list(pool.map(self._take_in, fresh))
        return bool(fresh)

    def _take_in(self, pack: str) -> None:
        with suppress(ObjectMissing):  # compacted meanwhile
            hashes = _hashes(self._directory(pack).entries)
            with self._lock:
                self._known[pack] = hashes

    def _directory(self, pack: str) -> _Directory:
        with self._lock:
            known = self._open.get(pack)
            if known is not None:
                self._open.move_to_end(pack)
                return known
        info = self._store.head(pack)
        with self._opened(info) as archive:
            directory = _Directory(info, {entry.filename: entry for entry in archive.infolist()})
        with self._lock:
            self._open[pack] = directory
            while len(self._open) > _OPEN:
                self._open.popitem(last=False)
        return directory

    @contextmanager
    def _opened(self, info: ObjectInfo) -> Iterator[zipfile.ZipFile]:
        with open_ranged(self._store, info.key, info.etag, info.size) as file:
            try:
                with zipfile.ZipFile(file) as archive:
                    yield archive
            except zipfile.BadZipFile as error:
                raise PlaceholderDamaged(path=self._store.url(info.key), problem=f"no whole pack ({error})") from error

    def _forget(self, pack: str) -> None:
        with self._lock:
            self._known.pop(pack, None)
            self._open.pop(pack, None)


def alike(items: Iterable[Item], wears: Callable[[Item], Dressing]) -> list[list[Item]]:
    """What may share a pack: who may not decrypt an original must not read what is kept of it."""
    groups: dict[Encryption, list[Item]] = {}
    for item in items:
        groups.setdefault(wears(item).encryption, []).append(item)
    return list(groups.values())


def _info_of(packed: Packed) -> zipfile.ZipInfo:
    modified = datetime.fromtimestamp(packed.modified_ns // 1_000_000_000, UTC)
    info = zipfile.ZipInfo(packed.key, (max(modified.year, 1980), *modified.timetuple()[1:6]))
    info.external_attr = 0o644 << 16
    info.comment = _comment_of(packed.dressing)
    return info


def _modified(info: zipfile.ZipInfo) -> int:
    return int(datetime(*info.date_time, tzinfo=UTC).timestamp()) * 1_000_000_000


def _comment_of(dressing: Dressing) -> bytes:
    comment = json.dumps(asdict(dressing), ensure_ascii=False).encode()
    if len(comment) > _COMMENT:  # a server takes 2 KB of metadata and ten tags
        raise ValueError(f"{len(comment)} bytes of headers and metadata")
    return comment


def _dressing_of(comment: bytes) -> Dressing:
    fields: Mapping[str, dict[str, str]] = json.loads(comment)
    return Dressing(
        headers=Headers(**fields["headers"]),
        metadata=fields["metadata"],
        tags=fields["tags"],
        storage_class=str(fields["storage_class"]),
        encryption=Encryption(**fields["encryption"]),
    )


def _digest(file: BinaryIO) -> bytes:
    digest = sha256()
    while piece := file.read(_PIECE):
        digest.update(piece)
    return digest.digest()


def _hash(key: str) -> np.uint64:
    return np.uint64(int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big"))


def _hashes(keys: Iterator[str] | Mapping[str, object]) -> NDArray[np.uint64]:
    return np.sort(np.array([_hash(key) for key in keys], dtype=np.uint64))


def _among(hashes: NDArray[np.uint64], wanted: np.uint64) -> bool:
    at = int(np.searchsorted(hashes, wanted))
    return at < len(hashes) and hashes[at] == wanted


def _uuid7() -> uuid.UUID:
    """A UUID that begins with the time, to a quarter of a microsecond, so that packs sort by age (RFC 9562, 6.2)."""
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction, random = rest * 4096 // 1_000_000, uuid.uuid4().int & ((1 << 62) - 1)
    return uuid.UUID(int=milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | random)
