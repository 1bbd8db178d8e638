"""`archiver mount` as a process of its own, for as long as a test needs it."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fixtures_fs import need_programs, need_root, unavailable


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder and where it is seen."""

    source: Path
    path: Path
    server: subprocess.Popen[str]


def need_fuse() -> None:
    need_root()
    need_programs("umount")
    if not Path("/dev/fuse").exists():
        unavailable("the kernel has no FUSE")


@contextmanager
def mounted(config: Path, source: Path, where: Path, *options: str) -> Iterator[Mount]:
    """Mount, and unmount in the end, however the server fares meanwhile."""
    need_fuse()
    where.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "archiver", "--config", str(config), "mount", *options, str(source), str(where)]
    with tempfile.TemporaryFile("w+") as log:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        try:
            assert server.stdout is not None
            if not server.stdout.readline():
                server.wait(60)
                log.seek(0)
                raise RuntimeError(f"archiver mount: exit {server.returncode}: {log.read()}")
            yield Mount(source, where, server)
        finally:
            subprocess.run(["umount", "--lazy", str(where)], check=False, capture_output=True)
            server.send_signal(signal.SIGTERM)
            try:
                server.communicate(timeout=20)
            finally:
                server.kill()


def blocked(pid: int, file: Path) -> None:
    """Return when a process has the file open and sleeps in a system call on it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            opened = any(link.readlink() == file for link in Path(f"/proc/{pid}/fd").iterdir())
        except FileNotFoundError:
            continue
        if opened and state in "SD" and "read" in _doing(pid):
            return
        time.sleep(0.01)
    raise TimeoutError(f"process {pid} does not wait for {file}")


def _doing(pid: int) -> str:
    """The innermost kernel functions of a sleeping process, or "read" where the kernel does not tell."""
    stack = Path(f"/proc/{pid}/stack")
    return stack.read_text() if stack.exists() else "read"
