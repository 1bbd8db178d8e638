"""What a scan costs: its time beside that of `find -printf` over the same tree, its memory beside that of a small one.

    python benchmarks/scan.py [--files 300000] [--small 10000] [--rounds 5] [--folder DIR] [--json]

Makes a tree like that of a family's archive (100 to 300 tiny files a folder, times as cameras left them), then takes
turns: find, a first scan into a new SQLite catalog, find, a scan with nothing changed. The cache is warm. The best of
all rounds counts, as whatever else runs on the machine only adds to it. Times do not hold the start of Python. DIR must
have room for FILES inodes and a catalog of 100 bytes a file.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

BARS = {"first_scan_ratio": 2.5, "rescan_ratio": 1.5, "memory_growth_mib": 50.0}

_EVENTS = ("Holiday", "Birthday", "Hike", "Wedding", "Beach", "Garden", "Christmas", "Zoo")
_SCAN = """
import json, resource, sys, time
from pathlib import Path
from archiver.catalog import Catalog
from archiver.config import LocalTierSettings
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import scan
catalog = Catalog.open("sqlite:///" + sys.argv[2], create=True)
tier = LocalTier(LocalTierSettings(name="photos", path=Path(sys.argv[1])))
wall, cpu = time.perf_counter(), time.process_time()
report = scan(catalog, tier)
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
assert report.complete and not report.warned, report
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps([wall, cpu, peak, report.files, sum(report.changes)]))
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run: seconds on the clock, seconds of processor time, peak memory in MiB."""

    wall: float
    cpu: float
    mib: float

    def least(self, other: Cost) -> Cost:
        """The better of each."""
        return Cost(min(self.wall, other.wall), min(self.cpu, other.cpu), min(self.mib, other.mib))


@dataclass(frozen=True, slots=True)
class Results:
    """All figures of one run."""

    files: int
    find: Cost
    first_scan: Cost
    rescan: Cost
    small_first_scan: Cost
    first_scan_ratio: float
    rescan_ratio: float
    first_scan_cpu_ratio: float
    rescan_cpu_ratio: float
    memory_growth_mib: float
    load: float  # runnable processes, mean of the last minute: above the number of cores the ratios are noise
    cores: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300_000)
    parser.add_argument("--small", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        results = measure(Path(folder), options.files, options.small, options.rounds)
    if options.json:
        print(json.dumps(asdict(results)))
    else:
        show(results)


def measure(folder: Path, files: int, small: int, rounds: int) -> Results:
    """Make the trees in `folder` and take every figure."""
    make_tree(folder / "small", small)
    few = first_scan(folder / "small", folder)
    tree = folder / "tree"
    make_tree(tree, files)
    find(tree)  # warms the cache
    finds, firsts, rescans = [], [], []
    for _ in range(rounds):
        finds.append(find(tree))
        firsts.append(first_scan(tree, folder))
        finds.append(find(tree))
        rescans.append(run_scan(tree, folder / "catalog.db", changes=False))
    best_find, first, rescan = best(finds), best(firsts), best(rescans)
    return Results(
        files=files,
        find=best_find,
        first_scan=first,
        rescan=rescan,
        small_first_scan=few,
        first_scan_ratio=first.wall / best_find.wall,
        rescan_ratio=rescan.wall / best_find.wall,
        first_scan_cpu_ratio=first.cpu / best_find.cpu,
        rescan_cpu_ratio=rescan.cpu / best_find.cpu,
        memory_growth_mib=first.mib - few.mib,
        load=os.getloadavg()[0],
        cores=os.cpu_count() or 1,
    )


def best(costs: list[Cost]) -> Cost:
    least = costs[0]
    for cost in costs[1:]:
        least = least.least(cost)
    return least


def make_tree(root: Path, files: int) -> None:
    """Folders by year and event with 100 to 300 photographs each."""
    chance = random.Random(7)
    made = number = 0
    while made < files:
        number += 1
        year, month, day = chance.randint(1998, 2024), chance.randint(1, 12), chance.randint(1, 28)
        folder = root / str(year) / f"{year}-{month:02}-{day:02} {chance.choice(_EVENTS)} {number}"
        folder.mkdir(parents=True)
        taken = int(time.mktime((year, month, day, 12, 0, 0, 0, 0, 0)))
        first, extension = chance.randint(1, 9000), chance.choice(("JPG", "JPG", "jpg", "jpg", "png", "tif"))
        count = min(chance.randint(100, 300), files - made)
        for index in range(count):
            path = folder / f"IMG_{first + index:04d}.{extension}"
            path.write_bytes(b"\xff\xd8\xff\xe0" + bytes(chance.randint(10, 60)))
            os.utime(path, (taken + chance.randint(0, 10**7), taken + 60 * index))
        made += count


def find(tree: Path) -> Cost:
    """The yardstick: a walk that says of every file what the scan has to know."""
    wall = time.perf_counter()
    command = ["find", str(tree), "-printf", r"%p %s %T@ %A@ %i\n"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - wall
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"find failed with {process.returncode}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def first_scan(tree: Path, folder: Path) -> Cost:
    """A scan into a new catalog."""
    for path in folder.glob("catalog.db*"):
        path.unlink()
    return run_scan(tree, folder / "catalog.db", changes=True)


def run_scan(tree: Path, catalog: Path, changes: bool) -> Cost:
    command = [sys.executable, "-c", _SCAN, str(tree), str(catalog)]
    wall, cpu, mib, files, changed = json.loads(subprocess.check_output(command))
    assert changed == (files if changes else 0), f"{changed} of {files} files changed"
    return Cost(wall, cpu, mib)


def show(results: Results) -> None:
    table = Table(title=f"{results.files:,} files, warm cache, {results.cores} cores at load {results.load:.1f}")
    for heading in ("", "seconds", "x find", "bar", "cpu seconds", "x find (cpu)", "peak MiB"):
        table.add_column(heading, justify="left" if not heading else "right")
    row: Callable[..., None] = table.add_row
    one = results.find
    row("find -printf", f"{one.wall:.2f}", "1.00", "", f"{one.cpu:.2f}", "1.00", f"{one.mib:.0f}")
    for name, cost, ratio, cpu_ratio, bar in (
        ("first scan", results.first_scan, results.first_scan_ratio, results.first_scan_cpu_ratio, "first_scan_ratio"),
        ("rescan, nothing changed", results.rescan, results.rescan_ratio, results.rescan_cpu_ratio, "rescan_ratio"),
    ):
        bound = f"<= {BARS[bar]}"
        row(name, f"{cost.wall:.2f}", f"{ratio:.2f}", bound, f"{cost.cpu:.2f}", f"{cpu_ratio:.2f}", f"{cost.mib:.0f}")
    Console().print(table)
    growth, most = results.memory_growth_mib, BARS["memory_growth_mib"]
    Console().print(f"peak memory above that of a small scan: {growth:.0f} MiB (bar: <= {most:.0f})")


if __name__ == "__main__":
    main()
