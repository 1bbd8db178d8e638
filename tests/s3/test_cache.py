"""The gateway's images on disk: never a byte that was not generated, never more than the limit, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from itertools import count
from pathlib import Path

import pytest

from archiver.errors import ArchiverError, CacheTaken
from archiver.s3.cache import ImageCache


def key(number: int) -> str:
    return sha256(str(number).encode()).hexdigest()


def kept(cache: ImageCache, number: int) -> bytes | None:
    """The image that the cache has."""
    found = cache.get(key(number))
    if found is None:
        return None
    with found.file as file:
        body = file.read()
    assert len(body) == found.size
    return body


def image(number: int, size: int = 1000) -> bytes:
    return bytes([number % 256]) * size


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ImageCache]:
    with ImageCache(tmp_path / "cache", 5000, clock=count(1_700_000_000 * 10**9, 10**9).__next__) as opened:
        yield opened


def on_disk(cache: ImageCache) -> int:
    return sum(file.stat().st_size for file in cache.folder.glob("??/*"))


def test_what_was_kept_comes_back_and_nothing_else_does(cache: ImageCache) -> None:
    assert kept(cache, 1) is None
    assert cache.put(key(1), image(1))
    assert kept(cache, 1) == image(1)
    assert kept(cache, 2) is None
    assert cache.put(key(1), image(2))  # another process may have generated it, too
    assert kept(cache, 1) == image(2)


def test_the_limit_holds_and_what_was_unused_for_longest_goes_first(cache: ImageCache) -> None:
    for number in range(4):
        cache.put(key(number), image(number))
    assert kept(cache, 0) == image(0)
    cache.put(key(4), image(4))
    assert [kept(cache, number) is not None for number in range(5)] == [True, False, True, True, True]
    assert cache.used == on_disk(cache) <= 5000
    assert not cache.put(key(5), image(5, 6000))
    assert kept(cache, 4) is not None


def test_a_restart_remembers_what_was_used_and_holds_a_smaller_limit(tmp_path: Path) -> None:
    ticks = count(1_700_000_000 * 10**9, 10**9)
    with ImageCache(tmp_path, 5000, clock=ticks.__next__) as cache:
        for number in range(4):
            cache.put(key(number), image(number))
            os.utime(cache._path(key(number)), ns=(next(ticks),) * 2)
        kept(cache, 0)
    with ImageCache(tmp_path, 2500) as cache:
        assert [kept(cache, number) is not None for number in range(4)] == [True, False, False, True]
        assert cache.used == on_disk(cache) <= 2500


@pytest.mark.parametrize("damage", ["flip", "cut", "longer", "head", "empty", "folder"])
def test_a_damaged_image_is_as_if_it_were_not_there(cache: ImageCache, damage: str) -> None:
    cache.put(key(1), image(1))
    file = cache._path(key(1))
    data = file.read_bytes()
    changed = {
        "flip": data[:-1] + b"\xff",
        "cut": data[:-1],
        "longer": data + b"\0",
        "head": b"XXXX" + data[4:],
        "empty": b"",
        "folder": b"",
    }[damage]
    file.unlink()
    if damage == "folder":
        file.mkdir()
        assert kept(cache, 1) is None
        assert not cache.put(key(1), image(1))
        return
    file.write_bytes(changed)
    assert kept(cache, 1) is None
    assert not file.exists()
    assert cache.used == 0
    assert cache.put(key(1), image(1))
    assert kept(cache, 1) == image(1)


def test_only_names_of_the_cache_reach_the_disk(cache: ImageCache) -> None:
    for name in ("", "../../etc/passwd", key(1).upper(), key(1) + "\n", key(1)[:-1]):
        with pytest.raises(ValueError, match="no key"):
            cache.get(name)


def test_two_gateways_do_not_share_a_folder(cache: ImageCache) -> None:
    with pytest.raises(CacheTaken, match=str(cache.folder)), ImageCache(cache.folder, 5000):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArchiverError, match="file/cache"), ImageCache(tmp_path / "file" / "cache", 5000):
        pass


def test_many_threads_never_see_half_an_image(cache: ImageCache) -> None:
    def work(number: int) -> None:
        for turn in range(30):
            wanted = (number + turn) % 8
            assert kept(cache, wanted) in (None, image(wanted))
            cache.put(key(wanted), image(wanted))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert cache.used == on_disk(cache) <= 5000


def test_a_process_killed_while_it_writes_leaves_only_whole_images(tmp_path: Path) -> None:
    writer = (
        "import sys\nfrom pathlib import Path\nfrom tests.s3.test_cache import image, key\n"
        "from archiver.s3.cache import ImageCache\n"
        f"with ImageCache(Path({str(tmp_path)!r}), 40_000_000) as cache:\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        for n in range(8): cache.put(key(n), image(n, 3_000_000))\n"
    )
    with subprocess.Popen([sys.executable, "-c", writer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        while not list(tmp_path.glob("??/*.new")):
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
    with ImageCache(tmp_path, 40_000_000) as cache:
        assert not list(tmp_path.glob("??/*.new"))
        assert all(kept(cache, n) in (None, image(n, 3_000_000)) for n in range(8))
        assert cache.used == on_disk(cache)
