"""A watched disk, the service that watches it and a desk, each as a process that can be killed."""

from __future__ import annotations

import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from fixtures_fs import Disk, unavailable

import tests.formats.image_samples as made
from archiver.access import fanotify
from archiver.formats import build_placeholder
from tests.access.answering_desk import FILLING

REPOSITORY = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds; nothing here takes as many
READ = "import sys; sys.stdout.buffer.write(open(sys.argv[1], 'rb', 0).read())"


@cache
def placeholder() -> bytes:
    """A placeholder in full length."""
    data = made.samples()["jpeg"]
    envelope = made.envelope_for(data, np.random.default_rng(3).bytes(300))
    return build_placeholder(envelope, made.inspected(data).metadata, made.PREVIEW).ljust(len(data), b"\0")


@cache
def generated() -> bytes:
    """What the desk makes of it."""
    size = len(placeholder())
    return (FILLING * (size // len(FILLING) + 1))[:size]


def put_placeholder(path: Path) -> Path:
    """One block, then a hole, as a release leaves it."""
    with path.open("wb") as file:
        file.write(placeholder()[:4096])
        file.truncate(len(placeholder()))
    return path


def until(what: Callable[[], bool], patience: float = PATIENCE) -> None:
    """Return as soon as it is so. Raises AssertionError when that takes too long."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


class Talker:
    """A program whose lines are waited for."""

    def __init__(self, *script: str, command: Sequence[str] = (), stream: str = "stdout") -> None:
        pipes = {stream: subprocess.PIPE}
        self.process = subprocess.Popen(
            command or [sys.executable, "-u", *script],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")])},
            stdin=subprocess.PIPE,
            text=True,
            **pipes,  # type: ignore[call-overload]
        )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.seen: list[str] = []
        threading.Thread(target=self._listen, args=(getattr(self.process, stream),), daemon=True).start()

    def _listen(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.lines.put(line.strip())

    def expect(self, text: str) -> str:
        """The next line with this text; those before it are passed over."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                line = self.lines.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                raise AssertionError(f"no {text!r} after:\n" + "\n".join(self.seen)) from None
            self.seen.append(line)
            if text in line:
                return line

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def silent(self) -> bool:
        """Whether nothing was said that was not waited for."""
        return self.lines.empty()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)


@dataclass
class Site:
    """One disk and everything that is about it."""

    disk: Path
    socket: Path
    cleanup: ExitStack
    service: Talker | None = None
    made: int = field(default=0)

    def start(self, **terms: object) -> Talker:
        words = [f"{name}={value}" for name, value in {"deadline": 60.0, **terms}.items()]
        self.service = Talker("tests/access/short_service.py", str(self.socket), *words, stream="stderr")
        self.cleanup.callback(self.service.kill)
        self.service.expect("started")
        return self.service

    def desk(self, behaviour: str = "fill", *, watched: str = "READ", root: Path | None = None) -> Talker:
        desk = Talker("tests/access/answering_desk.py", str(self.socket), str(root or self.disk), behaviour)
        self.cleanup.callback(desk.kill)
        desk.expect(f"watched tier {watched}")
        return desk

    def responder(self) -> int:
        """The process that answers: the service has two children, and the other writes its log."""
        assert self.service is not None
        return next(child for child in reversed(children(self.service.process.pid)) if _is_locked(child))

    def logger(self) -> int:
        """The process that writes the log of one that has a responder."""
        assert self.service is not None
        return next(child for child in children(self.service.process.pid) if child != self.responder())

    def released(self, count: int = 1) -> list[Path]:
        """New placeholders."""
        self.made += count
        return [put_placeholder(self.disk / f"{self.made - n:04}.jpg") for n in range(count)]

    def reader(self, path: Path) -> subprocess.Popen[bytes]:
        """A process that reads a file whole."""
        # Not from this one: it holds descriptors of the disk's files.
        reader = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", READ, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.cleanup.callback(reader.kill)
        return reader

    def read(self, path: Path) -> bytes:
        """What a process of its own reads. Raises OSError as it did, AssertionError if it hangs."""
        return outcome(self.reader(path))

    @contextmanager
    def stopped(self, pid: int) -> Iterator[None]:
        """A process does nothing for a while."""
        os.kill(pid, signal.SIGSTOP)
        until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)


@contextmanager
def no_descriptor_free() -> Iterator[None]:
    """This process can open nothing meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(map(int, os.listdir("/proc/self/fd"))) + 1, hard))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        yield
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def site(tmp_path: Path, make_disk: Callable[..., Disk]) -> Iterator[Site]:
    """An ext4 disk on which reads can be watched."""
    try:
        os.close(fanotify.open_group())
    except OSError as error:
        unavailable(f"fanotify: {error.strerror}")
    with ExitStack() as cleanup:
        (tmp_path / "run").mkdir()
        yield Site(make_disk().path, tmp_path / "run" / "recall.sock", cleanup)


def outcome(reader: subprocess.Popen[bytes]) -> bytes:
    """What a reader got in the end."""
    try:
        data, complaint = reader.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise AssertionError("a reader hangs") from None
    if reader.returncode:
        number = int(complaint.decode().rpartition("[Errno ")[2].partition("]")[0])
        raise OSError(number, os.strerror(number))
    return data


def waits(reader: int) -> bool:
    """Whether a process is held by the kernel until somebody answers for its file."""
    try:
        return "fanotify" in Path(f"/proc/{reader}/stack").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """The processes that a process has started, in this order."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _is_locked(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return "VmLck:\t       0 kB" not in status
