"""Who reads: what /proc tells of a process while it waits."""

from __future__ import annotations

import pwd
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_NFS_THREAD = "nfsd"


@dataclass(frozen=True, slots=True)
class Asker:
    """A process that waits for a file. What could not be learnt is "" or -1.

    uid, gid: those that the kernel checks files against, so that a file server's client is itself.
    """

    pid: int
    comm: str = ""
    exe: str = ""
    cgroup: str = ""
    uid: int = -1
    gid: int = -1

    @classmethod
    def of(cls, pid: int) -> Asker:
        """Read /proc/PID; a process that is gone, hidden or in another namespace (0) leaves gaps."""
        if pid <= 0:
            return cls(0)
        here = Path(f"/proc/{pid}")
        return cls(
            pid=pid,
            comm=_text(here / "comm").rstrip("\n"),
            exe=_program(here / "exe"),
            cgroup=_cgroup(_text(here / "cgroup")),
            uid=_last_id(_text(here / "status"), "Uid:"),
            gid=_last_id(_text(here / "status"), "Gid:"),
        )

    @property
    def user(self) -> str:
        """The user's name, or the number where it has none."""
        return _user_name(self.uid) if self.uid >= 0 else ""

    @property
    def name(self) -> str:
        """What a person calls the process."""
        return self.comm or ("a process of another namespace" if self.pid == 0 else "a process")

    @property
    def is_kernel_nfs(self) -> bool:
        """Whether it is a thread of the kernel's NFS server, which takes EAGAIN for "try again later"."""
        return self.comm == _NFS_THREAD and not self.exe

    def __str__(self) -> str:
        known = [f"pid {self.pid}" if self.pid else "", f"user {self.user}" if self.user else ""]
        facts = ", ".join(fact for fact in known if fact)
        return f"{self.name} ({facts})" if facts else self.name


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # it was killed, or is not ours to see: the rules must do with what is known
        return ""


def _program(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:  # a kernel thread has none; that of another user needs CAP_SYS_PTRACE
        return ""


def _cgroup(text: str) -> str:
    """The unified hierarchy's path, "0::/system.slice/smbd.service"; else that of systemd's own."""
    paths = dict(line.split(":", 2)[1:] for line in text.splitlines() if line.count(":") >= 2)
    return paths.get("", "") or paths.get("name=systemd", "")


def _last_id(status: str, name: str) -> int:
    """Real, effective, saved, filesystem: the last one of a line of /proc/PID/status."""
    line = next((line for line in status.splitlines() if line.startswith(name)), "")
    return int(line.split()[4]) if line else -1


@lru_cache(maxsize=1024)
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
