"""What a reader of a released file waits for beside the decode; a part of benchmarks/recall.py."""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.decoder.engine import Generated
from archiver.desk.service import DeskService
from archiver.lifecycle import fill
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.site import Site
from archiver.models.embedded import init_random, save_profile
from archiver.models.vault import Vault
from archiver.tiers.scan import scan

_WORKING_SIZE = 512  # pixels of the long side


class Stopwatch:
    """Wraps functions, and adds up the time spent in each."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._lock = threading.Lock()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                with self._lock:
                    self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began

        return wrapped

    def take(self) -> dict[str, float]:
        with self._lock:
            taken, self.seconds = self.seconds, {}
        return taken


def photograph(seed: int, width: int, height: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), 3)
    grain = rng.normal(0, 12, (height, width, 3))
    blurred = coarse.filter(ImageFilter.GaussianBlur(8))
    return Image.fromarray(np.clip(np.asarray(blurred, dtype=np.float32) + grain, 0, 255).astype(np.uint8))


def at_working_size(generate: Callable[..., list[Generated]]) -> Callable[..., list[Generated]]:
    """Decoding as it is, with pictures as large and as detailed as the weights of the package make them."""
    grain = np.random.default_rng(1).normal(0, 6, (_WORKING_SIZE, _WORKING_SIZE, 3))

    def larger(*args: Any, **kwargs: Any) -> list[Generated]:
        made = []
        for one in generate(*args, **kwargs):
            scale = _WORKING_SIZE / max(one.pixels.shape[:2])
            height, width = (round(side * scale) for side in one.pixels.shape[:2])
            picture = np.asarray(Image.fromarray(one.pixels).resize((width, height), Image.Resampling.BICUBIC))
            made.append(replace(one, pixels=np.clip(picture + grain[:height, :width], 0, 255).astype(np.uint8)))
        return made

    return larger


def released(work: Path, root: Path, options: argparse.Namespace, cleanup: ExitStack) -> tuple[Site, list[Path]]:
    """A site with small random weights and that many released photographs."""
    save_profile(work / "profile", init_random(7, long_side=64), "random-7", "CC0-1.0")
    Vault(work / "vault").import_directory(work / "profile")
    (root / "photos").mkdir()
    paths = [root / f"photos/{number:04}.jpg" for number in range(options.files)]
    for number, path in enumerate(paths):
        photograph(number, options.width, options.width * 3 // 4).save(path, quality=90)
    gate = {"semantic": -1.0, "colour": "none"}
    rule = {"name": "all", "min_size": 0, "unused_for": "0s", "unchanged_for": "0s", "gate": gate}
    settings = Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{work}/catalog.db"},
            "vault": {"path": str(work / "vault")},
            "model": {"profile": "random-7"},
            "recall": {"socket": str(work / "run" / "recall.sock"), "per_hour": "none"},
            "tier": [{"name": "bench", "path": str(root / "photos")}],
            "rule": [rule],
        }
    )
    upgrade(settings.catalog_url)
    site = cleanup.enter_context(open_site(settings))
    scan(site.catalog, site.tiers["bench"])
    archive(site)
    states = {row.state for row in site.catalog.stream_files(site.tier_ids["bench"])}
    if states != {State.RELEASED}:
        raise RuntimeError(f"not everything could be released: {states}")
    return site, paths


def latencies(
    site: Site, paths: list[Path], first_read: Callable[[Path], float], cleanup: ExitStack
) -> list[tuple[str, list[float]]]:
    """Seconds, a value for each file but the first: the whole wait, the decode, and what is beside it."""
    watch = Stopwatch()
    decode = at_working_size(site.engine.generate)
    site.engine.generate = watch.timed("decode", decode)  # type: ignore[method-assign]
    fill.render = watch.timed("render", fill.render)
    service = DeskService(site)
    service.start()
    cleanup.callback(lambda: service.stop(for_good=True))
    while not any(one.how == "read" for one in service.report().watches):
        time.sleep(0.05)
    waits, decodes, renders = [], [], []
    for path in paths:
        waits.append(first_read(path))
        while not (taken := watch.take()).get("decode"):
            raise RuntimeError(f"{path} was not recalled")
        decodes.append(taken["decode"])
        renders.append(taken["render"])
    beside = [wait - decode for wait, decode in zip(waits, decodes, strict=True)]
    rest = [wait - render for wait, render in zip(beside, renders, strict=True)]
    # The first one loads the networks.
    return [
        ("a reader waits", waits[1:]),
        ("of it, decoding", decodes[1:]),
        ("of it, encoding the image", renders[1:]),
        ("of it, all else (kernel, desk, journal, disk, catalog)", rest[1:]),
        ("beside the decode (bar: 20 ms)", beside[1:]),
    ]
