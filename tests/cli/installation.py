"""A whole installation in a folder, and the program called on it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import CliRunner
from PIL import Image

from archiver.cli.main import cli


@dataclass(frozen=True)
class Answer:
    """How one call of the program ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[Any]:
        """What was printed with --json."""
        return [json.loads(line) for line in self.out.splitlines()]

    def ok(self) -> Answer:
        assert self.code == 0, self.out + self.err
        return self


@dataclass(frozen=True)
class Installation:
    """One configuration with its tier."""

    config: Path
    photos: Path

    def run(self, *args: object) -> Answer:
        return call("--config", self.config, *args)


def call(*args: object) -> Answer:
    """Call the program as a shell would, in this process."""
    done = CliRunner().invoke(cli, [str(arg) for arg in args])
    return Answer(done.exit_code, done.stdout, done.stderr)


def photograph(path: Path, seed: int, size: tuple[int, int] = (480, 320)) -> Path:
    """Soft random colours with some grain; large enough that releasing it gains something."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 12, (size[1], size[0], 3))
    pixels = np.clip(np.asarray(small, dtype=np.float64) + grain, 0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=90)
    return path


def install(folder: Path) -> Installation:
    """Three photographs, configuration, catalog and vault; the gate lets all pass, as random weights mean nothing."""
    photos = folder / "photos"
    photograph(photos / "rome.jpg", 1)
    photograph(photos / "2009" / "paris.png", 2)
    photograph(photos / "2009" / "oslo.webp", 3)
    installation = Installation(folder / "archiver.toml", photos)
    installation.run("init", photos, "--state", folder / "state").ok()
    text = installation.config.read_text().replace('min_size = "64 KiB"', "min_size = 0")
    text += 'gate = { semantic = -1.0, colour = "none" }\n[model]\nthreads = 1\n'
    installation.config.write_text(text)
    return installation
