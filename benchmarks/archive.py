"""Archive throughput: images/s of the whole pipeline over those of the bare models on pictures already in memory.

    python benchmarks/archive.py PHOTOS [--count N] [--batch B] [--json]

Copies JPEG, PNG, WebP or TIFF files of PHOTOS (each as often as it takes) into a scratch tier, times the models alone
on the pictures that the pipeline would hand them, then `archive` over the tier: open, hash, inspect, shrink, encode,
trial decode, measure, commit, placeholder, lease, exchange, sync. Warm cache, one run each after a warm-up batch. The
bar is 0.90.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from archiver import formats
from archiver.catalog.schema import upgrade
from archiver.codec.record import Scheme
from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.site import Site, open_site
from archiver.models.vault import Vault
from archiver.tiers.scan import scan

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"}


def settings_for(work: Path, batch: int, scheme: str) -> Settings:
    gate = {"semantic": -1.0, "colour": "none"}
    rule = {"name": "all", "scheme": scheme, "min_size": 0, "unused_for": "0s", "unchanged_for": "0s", "gate": gate}
    return Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{work}/catalog.db"},
            "vault": {"path": str(work / "vault")},
            "model": {"batch": batch},
            "tier": [{"name": "bench", "path": str(work / "photos")}],
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


def bare(site: Site, photos: Path, scheme: Scheme, batch: int) -> float:
    """Images/s of encode, trial decode and measure on pictures in memory."""
    engine = site.engine
    pictures = []
    for path in sorted(photos.iterdir()):
        if path.is_file():
            with path.open("rb") as file:
                inspection = formats.inspect(file, site.limits)
                pictures.append(
                    formats.load_picture(file, inspection, engine.profile.long_side, engine.profile.multiple)
                )
    batches = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    engine.measure(batches[0], engine.decode(engine.encode(batches[0], scheme)))  # loads and warms up
    began = time.perf_counter()
    for some in batches:
        engine.measure(some, engine.decode(engine.encode(some, scheme)))
    return len(pictures) / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("photos", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--scheme", default="sgc")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archiver-bench-") as folder:
        work = Path(folder)
        fill(options.photos, work / "photos", options.count)
        settings = settings_for(work, options.batch, options.scheme)
        Vault(settings.vault.path).install_embedded()
        upgrade(settings.catalog_url)
        with open_site(settings) as site:
            scan(site.catalog, site.tiers["bench"])
            models = bare(site, work / "photos", Scheme.parse(options.scheme), options.batch)
            began = time.perf_counter()
            tally = archive(site)
            seconds = time.perf_counter() - began
        released = tally.count("release", Result.DONE)
        result = {
            "images": released,
            "models_images_per_second": round(models, 3),
            "pipeline_images_per_second": round(released / seconds, 3),
            "ratio": round(released / seconds / models, 3),
        }
    if options.json:
        print(json.dumps(result))
        return
    table = Table("what", "figure")
    for name, value in result.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


if __name__ == "__main__":
    main()
