"""The part of the table that is about names and attributes; see operations.py."""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
import subprocess
from pathlib import Path
from typing import Any

from tests.access.operations import call, libc, made, operation, outcome

_NOREPLACE, _EXCHANGE = 1, 2
_UTIME_NOW, _UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2


def renameat2(old: Path, new: Path, flags: int) -> int:
    return call(libc.renameat2, -100, os.fsencode(old), -100, os.fsencode(new), flags)


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
    call(libc.utimensat, -100, os.fsencode(d / "f"), times, 0)
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
