"""What a daemon may do inside the unit's sandbox: started in its place, tries, and reports as JSON on standard output.

    sandbox_probe.py TIER

Says READY=1 by itself, so it also shows that a Type=notify start of the unit works.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path

F_SETLEASE = 1024
RENAME_EXCHANGE = 2
AT_FDCWD = -100


def notify(state: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), os.environ["NOTIFY_SOCKET"])


def attempt(act: Callable[[], object]) -> str:
    """ "ok", or the error's name."""
    try:
        act()
    except OSError as error:
        return type(error).__name__ if error.errno is None else os.strerror(error.errno)
    return "ok"


def take_lease(path: Path) -> None:
    with path.open("r+b") as file:
        fcntl.fcntl(file, F_SETLEASE, fcntl.F_WRLCK)
        fcntl.fcntl(file, F_SETLEASE, fcntl.F_UNLCK)


def stand_in(original: Path, placeholder: Path) -> None:
    """Give a new file everything that the original has, and exchange their names."""
    facts = original.stat()
    placeholder.write_bytes(b"placeholder")
    os.chown(placeholder, facts.st_uid, facts.st_gid)
    os.chmod(placeholder, stat.S_IMODE(facts.st_mode))
    for name in os.listxattr(original):
        os.setxattr(placeholder, name, os.getxattr(original, name))
    os.utime(placeholder, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(placeholder), os.fsencode(original)
    if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def look(path: Path) -> list[object]:
    facts = path.stat()
    names = sorted(os.listxattr(path))
    return [
        facts.st_uid,
        facts.st_gid,
        facts.st_mode,
        facts.st_mtime_ns,
        [(n, os.getxattr(path, n).hex()) for n in names],
    ]


def main(tier: Path) -> None:
    original, placeholder = tier / "probe" / "photograph.jpg", tier / "probe" / "placeholder"
    before = look(original)
    report: dict[str, object] = {
        "user": os.geteuid(),
        "lease": attempt(lambda: take_lease(original)),
        "read without atime": attempt(lambda: os.close(os.open(original, os.O_RDONLY | os.O_NOATIME))),
        "stand in": attempt(lambda: stand_in(original, placeholder)),
        "kept": look(original) == before,
        "state": attempt(lambda: (Path(os.environ["STATE_DIRECTORY"]) / "probe").touch()),
    }
    for path in ("/etc/probe", "/usr/local/bin/probe", "/home/probe", "/root/probe", "/srv/probe", "/var/lib/probe"):
        report[path] = attempt(Path(path).touch)
    notify("READY=1")
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
