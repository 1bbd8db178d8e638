"""What programs do to files, as a table: each operation in a folder of its own, with what it answered and what it left.

Run in two places, the answers must be the same. Not a test module; test_fuse_conformance.py runs it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

Operation = Callable[[Path], Any]
OPERATIONS: dict[str, Operation] = {}

_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def operation(function: Operation) -> Operation:
    OPERATIONS[function.__name__] = function
    return function


def run_all(folder: Path, given: Path) -> dict[str, Any]:
    """Every operation's answer (or error) and the tree it left; `given` is what the caller prepared beside."""
    answers: dict[str, Any] = {}
    for name, function in OPERATIONS.items():
        place = given if name.startswith("given_") else folder / name
        if place != given:
            place.mkdir()
        try:
            answer = function(place)
        except OSError as error:
            answer = errno.errorcode.get(error.errno or 0, str(error))
        except subprocess.CalledProcessError as error:
            answer = f"exit {error.returncode}"
        answers[name] = answer, tree(place)
    return answers


def tree(folder: Path) -> list[Any]:
    return [(os.fsencode(path.relative_to(folder)).hex(), facts(path)) for path in sorted(folder.rglob("*"))]


def facts(path: Path) -> list[Any]:
    """What stands there, without what differs between two places by nature (inode, device, times that nobody set)."""
    try:
        found = path.lstat()
    except PermissionError:
        return ["EACCES"]
    told: list[Any] = [oct(found.st_mode), found.st_nlink, found.st_uid, found.st_gid]
    if stat.S_ISREG(found.st_mode):
        told.append(found.st_size)
        try:
            told.append(hashlib.sha256(path.read_bytes()).hexdigest()[:16])
        except OSError as error:
            told.append(errno.errorcode[error.errno or 0])
    if stat.S_ISLNK(found.st_mode):
        told.append(os.readlink(path))
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        told.append(found.st_rdev)
    try:
        names = sorted(os.listxattr(path, follow_symlinks=False))
        told.append([(name, os.getxattr(path, name, follow_symlinks=False).hex()) for name in names])
    except OSError as error:
        told.append(errno.errorcode[error.errno or 0])
    return told


def made(path: Path, content: bytes = b"content", mode: int = 0o644) -> Path:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    os.write(fd, content)
    os.close(fd)
    return path


def outcome(act: Callable[[], Any]) -> Any:
    try:
        return act()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def call(function: Any, *arguments: Any) -> int:
    ctypes.set_errno(0)
    result = int(function(*arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


# -- making and opening ------------------------------------------------------------------------------------------------


@operation
def create_with_modes(d: Path) -> Any:
    for mode in (0o644, 0o600, 0o777, 0o4755, 0o2755, 0o000):
        made(d / oct(mode), mode=mode)


@operation
def the_umask_counts(d: Path) -> Any:
    before = os.umask(0o027)
    made(d / "file", mode=0o666)
    (d / "folder").mkdir()
    os.mkfifo(d / "fifo", 0o666)
    os.umask(before)


@operation
def create_what_is_there(d: Path) -> Any:
    made(d / "f")
    flags = [os.O_CREAT | os.O_EXCL, os.O_CREAT, os.O_CREAT | os.O_TRUNC, os.O_DIRECTORY]
    return [outcome(lambda flags=flags: os.close(os.open(d / "f", os.O_RDWR | flags))) for flags in flags]


@operation
def open_what_is_not_there(d: Path) -> Any:
    os.open(d / "f", os.O_RDONLY)


@operation
def open_a_folder_for_writing(d: Path) -> Any:
    os.open(d, os.O_WRONLY)


@operation
def open_through_a_file(d: Path) -> Any:
    made(d / "f")
    os.open(d / "f" / "g", os.O_RDONLY)


@operation
def open_a_link_without_following(d: Path) -> Any:
    os.symlink("f", d / "l")
    os.open(d / "l", os.O_RDONLY | os.O_NOFOLLOW)


@operation
def names_of_every_kind(d: Path) -> Any:
    for name in (b"a b", b"\xff\xfe", "ü€😀".encode(), b"-rf", b"new\nline", b"n" * 255, b"\\,", b".hidden"):
        made(Path(os.fsdecode(os.path.join(os.fsencode(d), name))))
    return outcome(lambda: made(d / ("n" * 256)))


@operation
def many_names(d: Path) -> Any:
    for number in range(600):
        (d / f"{number:04}").mkdir() if number % 50 == 0 else os.symlink("nowhere", d / f"{number:04}")
    with os.scandir(d) as entries:
        kinds = sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_symlink()) for entry in entries)
    return len(kinds), hashlib.sha256(repr(kinds).encode()).hexdigest()


# -- reading and writing -----------------------------------------------------------------------------------------------


@operation
def append_from_two_sides(d: Path) -> Any:
    fds = [os.open(d / "f", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644) for _ in range(2)]
    for turn in range(6):
        os.write(fds[turn % 2], str(turn).encode())
    for fd in fds:
        os.close(fd)
    return (d / "f").read_text()


@operation
def write_here_and_there(d: Path) -> Any:
    fd = os.open(made(d / "f"), os.O_RDWR)
    os.pwrite(fd, b"x" * 10, 100_000)
    os.pwrite(fd, b"y" * 300_000, 50_000)
    answer = os.pread(fd, 20, 49_990), os.fstat(fd).st_size, os.pread(fd, 10, 1 << 30)
    os.close(fd)
    return [repr(part) for part in answer]


@operation
def a_large_file(d: Path) -> Any:
    block = hashlib.sha256(b"seed").digest() * 32768
    made(d / "f", block * 5)
    return hashlib.sha256((d / "f").read_bytes()).hexdigest()


@operation
def holes(d: Path) -> Any:
    fd = os.open(d / "f", os.O_RDWR | os.O_CREAT, 0o644)
    os.pwrite(fd, b"d" * 65536, 1 << 20)
    os.ftruncate(fd, 3 << 20)
    os.fsync(fd)
    asked = [
        (0, os.SEEK_DATA),
        (0, os.SEEK_HOLE),
        (1 << 20, os.SEEK_HOLE),
        (2 << 20, os.SEEK_DATA),
        (9 << 20, os.SEEK_HOLE),
    ]
    found = [outcome(lambda at=at, how=how: os.lseek(fd, at, how)) for at, how in asked]
    os.close(fd)
    return found


@operation
def allocate_and_punch(d: Path) -> Any:
    fd = os.open(d / "f", os.O_RDWR | os.O_CREAT, 0o644)
    os.write(fd, b"w" * 65536)
    steps = [(0, 0, 131072), (_KEEP_SIZE, 0, 1 << 20), (_KEEP_SIZE | _PUNCH_HOLE, 4096, 8192), (_ZERO_RANGE, 0, 4096)]
    steps += [(64, 0, 4096), (0, -1, 5), (0, 0, 0)]
    answers = [outcome(lambda step=step: call(libc.fallocate, fd, *step)) for step in steps]
    answers.append(os.fstat(fd).st_size)
    os.close(fd)
    return answers


@operation
def truncate(d: Path) -> Any:
    made(d / "short", b"s" * 10000)
    made(d / "long", b"l" * 10)
    made(d / "none")
    os.truncate(d / "short", 5000)
    os.truncate(d / "long", 5000)
    os.truncate(d / "none", 0)
    fd = os.open(d / "short", os.O_RDONLY)
    answers = [
        outcome(lambda: os.ftruncate(fd, 1)),
        outcome(lambda: os.truncate(d, 0)),
        outcome(lambda: os.truncate(d / "short", -1)),
    ]
    os.close(fd)
    os.close(os.open(d / "long", os.O_WRONLY | os.O_TRUNC))
    return answers


@operation
def map_and_write(d: Path) -> Any:
    fd = os.open(made(d / "f", b"m" * 10000), os.O_RDWR)
    with mmap.mmap(fd, 10000) as memory:
        memory[5000:5005] = b"MAPPY"
        memory.flush()
    answer = os.pread(fd, 7, 4999)
    os.close(fd)
    return repr(answer)


@operation
def copy_within_the_kernel(d: Path) -> Any:
    source, target = (
        os.open(made(d / "a", b"c" * 70000), os.O_RDONLY),
        os.open(d / "b", os.O_WRONLY | os.O_CREAT, 0o644),
    )
    counts = os.copy_file_range(source, target, 50000, 10, 0), os.sendfile(target, source, 60000, 100)
    os.close(source)
    os.close(target)
    return counts


@operation
def read_around_the_cache(d: Path) -> Any:
    fd = os.open(made(d / "f", b"o" * 16384), os.O_RDONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, 8192)
    answer = os.preadv(fd, [memory], 4096), bytes(memory[:4])
    os.close(fd)
    return repr(answer)


@operation
def sync(d: Path) -> Any:
    fd, folder = os.open(made(d / "f"), os.O_RDWR), os.open(d, os.O_RDONLY)
    os.fsync(fd)
    os.fdatasync(fd)
    os.fsync(folder)
    os.close(fd)
    os.close(folder)


@operation
def go_on_with_what_was_deleted(d: Path) -> Any:
    fd = os.open(made(d / "f"), os.O_RDWR)
    os.unlink(d / "f")
    os.write(fd, b"more")
    os.ftruncate(fd, 3)
    answer = os.pread(fd, 10, 0), (d / "f").exists(), os.fstat(fd).st_size
    os.close(fd)
    return repr(answer)


@operation
def go_on_with_what_was_replaced(d: Path) -> Any:
    fd = os.open(made(d / "f", b"old"), os.O_RDWR)
    os.rename(made(d / "g", b"new"), d / "f")
    answer = os.pread(fd, 10, 0), (d / "f").read_bytes()
    os.close(fd)
    return repr(answer)


@operation
def go_on_with_what_was_moved(d: Path) -> Any:
    fd = os.open(made(d / "f", b"old"), os.O_RDWR)
    os.rename(d / "f", d / "g")
    os.write(fd, b"NEW")
    os.fchmod(fd, 0o600)
    os.utime(fd, ns=(5_000_000_001, 6_000_000_002))
    answer = (d / "g").stat().st_mtime_ns, os.fstat(fd).st_atime_ns
    os.close(fd)
    return answer
