"""A file that behaves like a failing disk: EIO where it is told to, and a cache that a loss of power empties.

    faulty_device.py IMAGE MOUNTPOINT

serves IMAGE as MOUNTPOINT/disk, to be put under a loop device. Prints "ready" once it is mounted and "ok" after each
command read from standard input:

    fail read|write OFFSET LENGTH     answer EIO there
    heal                              answer properly again everywhere
    cut SEED COPY                     write to COPY what a loss of power would leave

Writes go to a cache of sectors that only a sync empties into IMAGE, as in a disk with a volatile cache. It ends with
its standard input. It stands in for the device mapper (dm-flakey, dm-log-writes), which not every kernel has.
"""

from __future__ import annotations

import errno
import os
import random
import stat
import subprocess
import sys
import threading

import mfusepy

SECTOR = 512
NAME = "/disk"


def say(word: str) -> None:
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


class FaultyDevice(mfusepy.Operations):
    """One file over one image, all requests under one lock."""

    def __init__(self, image: str) -> None:
        self.image = image
        self.descriptor = os.open(image, os.O_RDWR)
        self.size = os.fstat(self.descriptor).st_size
        self.lock = threading.Lock()
        self.faults: list[tuple[str, int, int]] = []
        self.unsynced: dict[int, bytes] = {}

    # -- what it is told -----------------------------------------------------------------------------------------------

    def obey(self, command: str) -> None:
        words = command.split(maxsplit=2)
        with self.lock:
            if words[0] == "fail":
                offset, length = map(int, words[2].split())
                self.faults.append((words[1], offset, offset + length))
            elif words[0] == "heal":
                self.faults.clear()
            elif words[0] == "cut":
                self._cut(random.Random(int(words[1])), words[2])
            else:
                raise ValueError(command)

    def _cut(self, chance: random.Random, copy: str) -> None:
        subprocess.run(["cp", "--sparse=always", self.image, copy], check=True)
        survivors = chance.random()
        with open(copy, "r+b") as file:
            for sector, data in self.unsynced.items():
                if chance.random() < survivors:
                    file.seek(sector * SECTOR)
                    file.write(data)

    # -- what the kernel asks ------------------------------------------------------------------------------------------

    def init_with_config(self, conn_info: object, config_3: object) -> None:
        say("ready")

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        if path == "/":
            return {"st_mode": stat.S_IFDIR | 0o700, "st_nlink": 2}
        if path != NAME:
            raise OSError(errno.ENOENT, path)
        return {"st_mode": stat.S_IFREG | 0o600, "st_nlink": 1, "st_size": self.size}

    def readdir(self, path: str, fh: int) -> list[str]:
        return [".", "..", NAME[1:]]

    def open(self, path: str, flags: int) -> int:
        return 0

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        with self.lock:
            self._raise_faults("read", offset, size)
            return self._read(offset, size)

    def write(self, path: str, data: bytes, offset: int, fh: int) -> int:
        with self.lock:
            self._raise_faults("write", offset, len(data))
            first, last = offset // SECTOR, -(-(offset + len(data)) // SECTOR)
            whole = bytearray(self._read(first * SECTOR, (last - first) * SECTOR))
            start = offset - first * SECTOR
            whole[start : start + len(data)] = data
            for number in range(last - first):
                self.unsynced[first + number] = bytes(whole[number * SECTOR : (number + 1) * SECTOR])
            return len(data)

    def fsync(self, path: str, datasync: int, fh: int) -> int:
        with self.lock:
            for sector, data in self.unsynced.items():
                os.pwrite(self.descriptor, data, sector * SECTOR)
            self.unsynced.clear()
        return 0

    def _read(self, offset: int, size: int) -> bytes:
        data = bytearray(os.pread(self.descriptor, size, offset))
        for sector in range(offset // SECTOR, -(-(offset + size) // SECTOR)):
            if (cached := self.unsynced.get(sector)) is not None:
                start = sector * SECTOR - offset
                low, high = max(start, 0), min(start + SECTOR, len(data))
                data[low:high] = cached[low - start : high - start]
        return bytes(data)

    def _raise_faults(self, operation: str, offset: int, size: int) -> None:
        if any(kind == operation and offset < end and begin < offset + size for kind, begin, end in self.faults):
            raise OSError(errno.EIO, "told to fail")


def main(image: str, mountpoint: str) -> None:
    device = FaultyDevice(image)

    def listen() -> None:
        for line in sys.stdin:
            device.obey(line.strip())
            say("ok")
        # Nobody is there to command it any more; the kernel closes what hangs on it.
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    mfusepy.FUSE(device, mountpoint, foreground=True, nothreads=True, direct_io=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
