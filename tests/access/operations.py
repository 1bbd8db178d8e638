"""What programs do to files, as a table: each operation in a folder of its own, with what it answered and what it left.

Run in two places, the answers must be the same. Not a test module; test_fuse_conformance.py runs it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
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

_NOREPLACE, _EXCHANGE = 1, 2
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


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


def renameat2(old: Path, new: Path, flags: int) -> int:
    return call(_libc.renameat2, -100, os.fsencode(old), -100, os.fsencode(new), flags)


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
    answers = [outcome(lambda step=step: call(_libc.fallocate, fd, *step)) for step in steps]
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


# -- names -------------------------------------------------------------------------------------------------------------


@operation
def rename_over(d: Path) -> Any:
    made(d / "a", b"a")
    made(d / "b", b"b")
    os.rename(d / "a", d / "b")


@operation
def rename_folders(d: Path) -> Any:
    (d / "a" / "x").mkdir(parents=True)
    (d / "b").mkdir()
    (d / "c").mkdir()
    made(d / "c" / "f")
    made(d / "file")
    return [
        outcome(lambda: os.rename(d / "a", d / "a" / "x" / "y")),
        outcome(lambda: os.rename(d / "a", d / "c")),
        outcome(lambda: os.rename(d / "a", d / "b")),
        outcome(lambda: os.rename(d / "file", d / "b")),
        outcome(lambda: os.rename(d / "b", d / "file")),
        outcome(lambda: os.rename(d / "missing", d / "there")),
        outcome(lambda: os.rename(d / "c" / "f", d / "b" / "g")),
    ]


@operation
def rename_without_replacing(d: Path) -> Any:
    made(d / "a", b"a")
    made(d / "b", b"b")
    return [outcome(lambda to=to: renameat2(d / "a", d / to, _NOREPLACE)) for to in ("b", "c")]


@operation
def exchange(d: Path) -> Any:
    made(d / "a", b"a")
    (d / "b").mkdir()
    made(d / "b" / "f")
    answer = [outcome(lambda to=to: renameat2(d / "a", d / to, _EXCHANGE)) for to in ("b", "missing")]
    return answer, (d / "b").read_bytes().decode(), outcome(lambda: renameat2(d / "a", d / "b", _EXCHANGE | _NOREPLACE))


@operation
def hard_links(d: Path) -> Any:
    made(d / "a", b"one")
    os.link(d / "a", d / "b")
    first = [(d / name).stat().st_nlink for name in "ab"], (d / "a").samefile(d / "b")
    (d / "b").write_bytes(b"two and more")
    second = (d / "a").read_bytes().decode(), (d / "a").stat().st_size
    answers = [outcome(lambda: os.link(d / "a", d / "b")), outcome(lambda: os.link(d, d / "c"))]
    os.unlink(d / "a")
    return first, second, answers, (d / "b").stat().st_nlink


@operation
def symbolic_links(d: Path) -> Any:
    os.symlink("../nowhere/" + "x" * 200, d / "dangling")
    os.symlink("loop", d / "loop")
    os.symlink(".", d / "here")
    os.link(d / "dangling", d / "same", follow_symlinks=False)
    return [outcome((d / "loop").read_bytes), outcome((d / "dangling").stat), (d / "here" / "here").is_dir()]


@operation
def folders(d: Path) -> Any:
    (d / "a").mkdir(0o1777)
    made(d / "a" / "f")
    made(d / "file")
    return [
        outcome(lambda: (d / "a").mkdir()),
        outcome(lambda: (d / "a").rmdir()),
        outcome(lambda: (d / "file").rmdir()),
        outcome(lambda: os.unlink(d / "a")),
        outcome(lambda: (d / "missing" / "x").mkdir()),
        outcome(lambda: (d / "missing").rmdir()),
        (d / "a").stat().st_nlink,
    ]


@operation
def special_files(d: Path) -> Any:
    os.mkfifo(d / "fifo")
    return outcome(lambda: os.mknod(d / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)))


# -- attributes --------------------------------------------------------------------------------------------------------


@operation
def change_modes(d: Path) -> Any:
    for mode in (0o0, 0o777, 0o4711, 0o2755, 0o1777):
        made(d / oct(mode)).chmod(mode)
    os.symlink(oct(0o777), d / "link")
    (d / "link").chmod(0o640)
    (d / "folder").mkdir()
    (d / "folder").chmod(0o2770)
    (d / "folder" / "inner").mkdir()


@operation
def change_owners(d: Path) -> Any:
    os.symlink("f", d / "link")
    made(d / "f").chmod(0o6755)
    me = os.getuid(), os.getgid()
    return [
        outcome(lambda: os.chown(d / "f", *me)),
        outcome(lambda: os.chown(d / "f", 1234, -1)),
        outcome(lambda: os.chown(d / "f", -1, 4321)),
        outcome(lambda: os.lchown(d / "link", 77, 88)),
    ]


@operation
def set_times(d: Path) -> Any:
    made(d / "f")
    os.symlink("f", d / "link")
    os.utime(d / "f", ns=(1_234_567_890_123_456_789, 987_654_321_012_345_678))
    os.utime(d / "link", ns=(1_000_000_000, 2_000_000_000), follow_symlinks=False)
    before = (d / "f").stat()
    times = (ctypes.c_int64 * 4)(0, _UTIME_OMIT, 7, 8)
    call(_libc.utimensat, -100, os.fsencode(d / "f"), times, 0)
    after, link = (d / "f").stat(), (d / "link").lstat()
    os.utime(d / "f", ns=(-5_000_000_000, 5_000_000_000_000_000_000))
    extreme = (d / "f").stat()
    return [(found.st_atime_ns, found.st_mtime_ns) for found in (before, after, link, extreme)]


@operation
def a_write_sets_the_time(d: Path) -> Any:
    os.utime(made(d / "f"), ns=(1, 1))
    with (d / "f").open("ab") as file:
        file.write(b"x")
    written = (d / "f").stat().st_mtime_ns > 1
    os.utime(d, ns=(1, 1))
    made(d / "g")
    return written, d.stat().st_mtime_ns > 1


@operation
def extended_attributes(d: Path) -> Any:
    f = made(d / "f")
    os.setxattr(f, "user.a", b"1")
    os.setxattr(f, "user.empty", b"")
    os.setxattr(f, "user.binary", bytes(range(256)))
    os.setxattr(d, "user.folder", b"yes")
    answers = [
        outcome(lambda: os.setxattr(f, "user.a", b"2", os.XATTR_CREATE)),
        outcome(lambda: os.setxattr(f, "user.b", b"2", os.XATTR_REPLACE)),
        outcome(lambda: os.getxattr(f, "user.none")),
        outcome(lambda: os.removexattr(f, "user.none")),
        outcome(lambda: os.setxattr(f, "user.huge", b"x" * 60000)),
        outcome(lambda: os.setxattr(f, "nonsense", b"x")),
        outcome(lambda: os.setxattr(f, "trusted.t", b"x")),
        outcome(lambda: os.getxattr(f, "user.empty").hex()),
        outcome(lambda: os.getxattr(f, "user.binary").hex()),
        sorted(os.listxattr(f)),
    ]
    os.symlink("f", d / "link")
    answers.append(outcome(lambda: os.setxattr(d / "link", "user.l", b"x", follow_symlinks=False)))
    os.removexattr(f, "user.a")
    return answers


@operation
def access_control_lists(d: Path) -> Any:
    f = made(d / "f", mode=0o640)
    subprocess.run(["setfacl", "-m", "u:1234:rw,g:4321:r", f], check=True)
    subprocess.run(["setfacl", "-d", "-m", "u:1234:rwx,o::-", d], check=True)
    before = os.umask(0o077)
    made(d / "inherits", mode=0o666)
    (d / "folder").mkdir(mode=0o777)
    os.umask(before)
    f.chmod(0o600)
    listing = subprocess.run(["getfacl", "-pcn", f, d / "folder", d / "inherits"], check=True, capture_output=True)
    return listing.stdout.decode()


@operation
def may_i(d: Path) -> Any:
    made(d / "f", mode=0o400)
    made(d / "x", mode=0o711)
    (d / "f").chmod(0o400)
    return [[os.access(d / name, how) for how in (os.R_OK, os.W_OK, os.X_OK)] for name in ("f", "x")]


@operation
def execute(d: Path) -> Any:
    made(d / "script", b"#!/bin/sh\necho run $1\n", mode=0o755)
    return subprocess.run([d / "script", "me"], capture_output=True, check=True).stdout.decode()


@operation
def lock(d: Path) -> Any:
    made(d / "f")
    fds = [os.open(d / "f", os.O_RDWR) for _ in range(3)]
    fcntl.flock(fds[0], fcntl.LOCK_SH)
    answers = [outcome(lambda: fcntl.flock(fds[1], fcntl.LOCK_SH | fcntl.LOCK_NB))]
    answers.append(outcome(lambda: fcntl.flock(fds[2], fcntl.LOCK_EX | fcntl.LOCK_NB)))
    for fd in fds[:2]:
        fcntl.flock(fd, fcntl.LOCK_UN)
    answers.append(outcome(lambda: fcntl.flock(fds[2], fcntl.LOCK_EX | fcntl.LOCK_NB)))
    fcntl.lockf(fds[0], fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
    for start in (10, 20):
        child = os.fork()  # locks of fcntl belong to a process
        if child == 0:
            refused = outcome(lambda start=start: fcntl.lockf(fds[1], fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start))
            os._exit(1 if refused else 0)
        answers.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    for fd in fds:
        os.close(fd)
    return answers


@operation
def the_filesystem(d: Path) -> Any:
    found = os.statvfs(d)
    return found.f_bsize, found.f_frsize, found.f_blocks, found.f_files, found.f_namemax


@operation
def the_same_numbers_everywhere(d: Path) -> Any:
    made(d / "f")
    (d / "g").mkdir()
    with os.scandir(d) as entries:
        return all(entry.inode() == (d / entry.name).stat().st_ino for entry in entries)


# -- what others have prepared (see `prepare`) -------------------------------------------------------------------------


def prepare(given: Path, uid: int, gid: int, group: int) -> None:
    """As root: files of others that user `uid`, in `gid` and `group`, may or may not touch."""
    given.mkdir()
    given.chmod(0o755)
    for name, owner, mode in (
        ("secret", (0, 0), 0o600),
        ("public", (0, 0), 0o644),
        ("group", (0, group), 0o660),
        ("own", (uid, gid), 0o600),
        ("suid", (0, group), 0o6770),
    ):
        os.chown(made(given / name, name.encode()), *owner)
        (given / name).chmod(mode)
    for name, owner, mode in (
        ("closed", (0, 0), 0o700),
        ("sticky", (0, 0), 0o1777),
        ("shared", (0, group), 0o2775),
        ("listed-not-entered", (0, 0), 0o744),
        ("entered-not-listed", (0, 0), 0o711),
    ):
        (given / name).mkdir()
        made(given / name / "f", b"inside", 0o644)
        os.chown(given / name, *owner)
        (given / name).chmod(mode)
    subprocess.run(["setfacl", "-m", f"u:{uid}:r", given / "secret-for-one"], check=True) if made(
        given / "secret-for-one", b"acl", 0o600
    ) else None


def _tries(path: Path) -> list[Any]:
    return [
        outcome(lambda: path.read_bytes().decode()),
        outcome(lambda: os.close(os.open(path, os.O_WRONLY))),
        outcome(lambda: path.chmod(0o666)),
        outcome(lambda: os.utime(path)),
        outcome(lambda: os.utime(path, ns=(1, 1))),
        outcome(lambda: os.setxattr(path, "user.x", b"1")),
        outcome(lambda: os.truncate(path, 2)),
        outcome(lambda: os.chown(path, os.getuid(), -1)),
    ]


@operation
def given_files_of_others(d: Path) -> Any:
    return {name: _tries(d / name) for name in ("secret", "public", "group", "own", "secret-for-one")}


@operation
def given_folders_of_others(d: Path) -> Any:
    told = {}
    for name in ("closed", "sticky", "shared", "listed-not-entered", "entered-not-listed"):
        folder = d / name
        told[name] = [
            outcome(lambda folder=folder: sorted(os.listdir(folder))),
            outcome(lambda folder=folder: (folder / "f").read_bytes().decode()),
            outcome(lambda folder=folder: bool(made(folder / "new"))),
            outcome(lambda folder=folder: (folder / "sub").mkdir()),
            outcome(lambda folder=folder: os.rename(folder / "f", folder / "g")),
            outcome(lambda folder=folder: os.unlink(folder / "f")),
            outcome(lambda folder=folder: os.link(d / "public", folder / "hard")),
        ]
    return told


@operation
def given_set_id_bits_fall_on_a_write(d: Path) -> Any:
    with (d / "suid").open("r+b") as file:
        file.write(b"W")
    return oct((d / "suid").stat().st_mode)
