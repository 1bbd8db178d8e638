"""A desk in a process of its own: fills every file it is asked about with known bytes, or does as it is told.

    answering_desk.py SOCKET ROOT [fill | hold | errno=N | as-it-is]

Tells on standard output, one line each, what reaches it. With `hold` a line on standard input answers all that wait.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

from archiver.access.client import RecallClient
from archiver.access.protocol import Ask, How

FILLING = b"generated "


class Desk:
    def __init__(self, behaviour: str) -> None:
        self.behaviour = behaviour
        self.client: RecallClient
        self.held: list[tuple[Ask, int]] = []
        self.lock = threading.Lock()

    def asked(self, ask: Ask, fd: int, pidfd: int | None) -> None:
        if self.behaviour == "hold":
            with self.lock:
                self.held.append((ask, fd))
        tell("asked", ask.id, ask.pid, ask.kind.name, os.readlink(f"/proc/self/fd/{fd}"), pidfd is not None)
        if pidfd is not None:
            os.close(pidfd)
        if self.behaviour != "hold":
            self.settle(ask, fd)

    def settle(self, ask: Ask, fd: int) -> None:
        if self.behaviour in ("fill", "hold"):
            size = os.fstat(fd).st_size
            image = (FILLING * (size // len(FILLING) + 1))[:size]
            os.pwrite(fd, image[4096:], 4096)
            os.pwrite(fd, image[:4096], 0)
        os.close(fd)
        self.client.answer(ask.id, int(self.behaviour.partition("=")[2] or 0))

    def withdrawn(self, id: int) -> None:
        tell("withdrawn", id)

    def watched(self, name: str, how: How, errno: int) -> None:
        tell("watched", name, how.name, errno)


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def main() -> None:
    socket, root, behaviour = sys.argv[1:]
    desk = Desk(behaviour)
    with RecallClient(Path(socket), desk) as client:
        desk.client = client
        client.watch("tier", os.open(root, os.O_RDONLY | os.O_DIRECTORY))
        for line in sys.stdin:
            with desk.lock:
                held, desk.held = desk.held, []
            for ask, fd in held:
                desk.settle(ask, fd)
            tell("went", line.strip())


if __name__ == "__main__":
    main()
