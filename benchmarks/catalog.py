"""What a catalog of a million released images costs: bytes an image, time of a status, memory of a stream of
candidates.

    python benchmarks/catalog.py [--files 1000000] [--small 10000] [--folder DIR] [--json]

Builds a SQLite catalog the way life does: a scan of the whole tree, then batch after batch recorded and released. Paths
are like those of a family's archive; payload and hashes are random, as entropy-coded bytes are. Needs about 1 GB in DIR
and some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table
from sqlalchemy import insert

from archiver.catalog import Catalog
from archiver.catalog.rows import Act, DirectoryChange, Found, NewRecord, State
from archiver.catalog.tables import Held

PAYLOAD = 88  # bytes: the goal for COCLI
PER_TRANSACTION = 1000
BARS = {"bytes_per_image": 400, "status_warm_seconds": 0.3, "status_cold_seconds": 0.3, "candidates_growth_mib": 50}

_EVENTS = (
    "Summer holiday",
    "Wedding Anna & Tom",
    "Garden",
    "Hike Säntis",
    "Birthday Grandma",
    "Scans",
    "Christmas",
    "Zoo",
)
_STATUS = """
import sys
from archiver.catalog.quick import open_reader
with open_reader("sqlite:///" + sys.argv[1]) as catalog:
    (summary,) = catalog.summary()
    assert summary.states[2].files == int(sys.argv[2]), summary
    assert catalog.find(1, sys.argv[3]) is not None
"""
_CANDIDATES = """
import sys
from archiver.catalog import Catalog
with Catalog.open("sqlite:///" + sys.argv[1]) as catalog:
    assert sum(1 for _ in catalog.candidates(1)) == int(sys.argv[2])
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of one run; seconds are process time (user and system) above `python -c pass`."""

    files: int
    bytes_per_image: float
    bytes_per_image_all_held: float
    status_warm_seconds: float
    status_cold_seconds: float
    candidates_mib: float
    candidates_small_mib: float
    candidates_growth_mib: float
    build_seconds: float
    mean_path_bytes: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options.files, options.small)
    if options.json:
        print(json.dumps(asdict(results)))
    else:
        show(results)


def measure(folder: Path, files: int, small: int) -> Results:
    """Build the catalogs in `folder` and take every figure."""
    scan(folder / "small.db", small)
    few = candidates_mib(folder / "small.db", small)
    path = folder / "catalog.db"
    start = time.perf_counter()
    length = scan(path, files)
    many = candidates_mib(path, files)
    probe = release_all(path)
    built = time.perf_counter() - start
    size = on_disk(path)
    idle = seconds("pass")
    warm = min(seconds(_STATUS, str(path), str(files), probe) for _ in range(5)) - idle
    cold = seconds(_STATUS, str(path), str(files), probe, before=lambda: drop_from_cache(path)) - idle
    hold_all(path)
    return Results(
        files=files,
        bytes_per_image=size / files,
        bytes_per_image_all_held=on_disk(path) / files,
        status_warm_seconds=warm,
        status_cold_seconds=cold,
        candidates_mib=many,
        candidates_small_mib=few,
        candidates_growth_mib=many - few,
        build_seconds=built,
        mean_path_bytes=length,
    )


# -- a family's archive ------------------------------------------------------------------------------------------------


def scan(path: Path, files: int) -> float:
    """A catalog of resident images, as a first scan leaves it; returns the mean length of a path."""
    chance = random.Random(7)
    length = 0
    with Catalog.open(f"sqlite:///{path}", create=True) as catalog:
        tier = catalog.ensure_tier("nas", "local", "/srv/photos")
        left = files
        changes: list[DirectoryChange] = []
        for directory in folders(chance):
            names = islice(images(chance), min(left, chance.randint(20, 180)))
            found = [
                Found(
                    name,
                    chance.randint(400_000, 12_000_000),
                    chance.randint(1_000_000_000, 1_700_000_000) * 1_000_000_000 + chance.randrange(1_000_000_000),
                    chance.randint(10_000_000, 99_000_000),
                    chance.randint(1_000_000_000, 1_700_000_000),
                )
                for name in names
            ]
            length += sum(len(directory) + 1 + len(file.name) for file in found)
            left -= len(found)
            changes.append(DirectoryChange(directory, fingerprint=chance.randbytes(8), new=found))
            if len(changes) == 50 or not left:
                catalog.apply_changes(tier.id, changes)
                changes = []
            if not left:
                break
        catalog.finish_scan(tier.id, 1_750_000_000)
    return length / files


def folders(chance: random.Random) -> Iterator[bytes]:
    """Paths of folders, none twice."""
    number = 0
    while True:
        number += 1
        year, month, day = chance.randint(1998, 2024), chance.randint(1, 12), chance.randint(1, 28)
        yield f"family/{year}/{year}-{month:02}-{day:02} {chance.choice(_EVENTS)} {number}".encode()


def images(chance: random.Random) -> Iterator[bytes]:
    """Names of one folder's images, as a telephone or a camera gives them."""
    first = chance.randint(1, 9000)
    if chance.random() < 0.5:
        for number in range(first, first + 10_000):
            yield b"IMG_%04d.JPG" % number
    day = chance.randint(20100101, 20241231)
    for number in range(first, first + 10_000):
        yield b"IMG_%08d_%06d.jpg" % (day, number * 7)


def release_all(path: Path) -> str:
    """Record and release every image, batch after batch, by the catalog's own statements; returns a path to ask for."""
    chance = random.Random(8)
    with Catalog.open(f"sqlite:///{path}") as catalog:
        resident = catalog.candidates(1, states=[State.RESIDENT])
        probe = ""
        while page := list(islice(resident, PER_TRANSACTION)):
            probe = page[0].path
            catalog.commit_records(
                [
                    NewRecord(
                        row.id,
                        row.version,
                        payload=chance.randbytes(PAYLOAD),
                        sha256=chance.randbytes(32),
                        profile=b"profile1",
                        scheme=2,
                        format="jpeg",
                        width=chance.choice((4000, 3000, 4032, 6000)),
                        height=chance.choice((3000, 4000, 3024)),
                        rule="cold photographs",
                        semantic=chance.uniform(0.3, 0.9),
                        label_bce=chance.uniform(0.1, 2.0),
                        colour=chance.uniform(1.0, 20.0),
                    )
                    for row in page
                ]
            )
            # mark_released is a transaction a file, as it has to be; a million of them would only wait for the disk.
            with catalog._change() as ledger:
                pairs = [
                    (file, file._replace(state=State.RELEASED, inode=chance.randint(10_000_000, 99_000_000)))
                    for file in ledger.lock(row.id for row in page).values()
                ]
                ledger.write(pairs)
                for _, released in pairs:
                    ledger.tell(Act.RELEASED, released, rule="cold photographs")
    return probe


def hold_all(path: Path) -> None:
    """Put every original into the holding area, as if all had been released within one grace period."""
    chance = random.Random(9)
    with Catalog.open(f"sqlite:///{path}") as catalog:
        released = catalog.stream_files(1, [State.RELEASED])
        while page := list(islice(released, PER_TRANSACTION)):
            with catalog._write() as connection:
                connection.execute(
                    insert(Held),
                    [
                        {
                            "record_id": row.record_id,
                            "inode": chance.randint(10_000_000, 99_000_000),
                            "size": row.size,
                            "expires_at": 1_760_000_000 + row.id,
                        }
                        for row in page
                    ],
                )


# -- figures -----------------------------------------------------------------------------------------------------------


def on_disk(path: Path) -> int:
    """Bytes of the database once its write-ahead log is written back, as SQLite does when the last user closes it."""
    assert not path.with_name(path.name + "-wal").exists()
    return path.stat().st_size


def seconds(code: str, *arguments: str, before: Callable[[], None] = lambda: None) -> float:
    """Process time of one Python that runs `code`."""
    before()
    process = subprocess.Popen([sys.executable, "-c", code, *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"a measured process failed with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def candidates_mib(path: Path, files: int) -> float:
    """Peak memory of a process that streams every candidate."""
    told = subprocess.run(
        [sys.executable, "-c", _CANDIDATES, str(path), str(files)], check=True, capture_output=True, text=True
    )
    return int(told.stdout) / 1024


def drop_from_cache(path: Path) -> None:
    """Let the kernel forget the file's pages."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def show(results: Results) -> None:
    """The figures as a table, with the bars of those that have one."""
    table = Table("figure", "measured", "bar")
    for name, value in asdict(results).items():
        bar = BARS.get(name)
        met = "" if bar is None else f"<= {bar} {'met' if value <= bar else 'MISSED'}"
        table.add_row(name.replace("_", " "), f"{value:,.3f}" if isinstance(value, float) else f"{value:,}", met)
    Console().print(table)


if __name__ == "__main__":
    main()
