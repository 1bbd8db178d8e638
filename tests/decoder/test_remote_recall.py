"""A host without model libraries and without weights recalls what another host decodes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from archiver import config
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.tiers.scan import scan
from tests.decoder.conftest import Small
from tests.decoder.test_http import TOKEN, served

# As on a host where they were never installed: importing one fails, and so does looking for one.
WITHOUT_MODELS = """
import sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in {"torch", "diffusers", "safetensors", "efficientnet_lite_pytorch", "starlette"}:
            raise ModuleNotFoundError(name, name=name)

sys.meta_path.insert(0, Missing())
from archiver.cli.main import main
main()
"""

COMMON = """
[catalog]
url = "sqlite:///{folder}/catalog.db"
[model]
profile = "random-5"
preset = "quick"
threads = 1
[release]
min_free = 0
[[tier]]
name = "photos"
path = "{folder}/photos"
[[rule]]
name = "all"
unused_for = "0s"
unchanged_for = "0s"
min_size = 0
gate = {{ semantic = -1.0, colour = "none" }}
"""


def settings(folder: Path, name: str, text: str) -> tuple[Path, Settings]:
    path = folder / name
    path.write_text(text + COMMON.format(folder=folder))
    return path, config.load(path)


def released(folder: Path, small: Small) -> list[Path]:
    """Two photographs, archived by a host that has everything."""
    (folder / "photos").mkdir()
    paths = [folder / "photos" / name for name in ("a.jpg", "b.png")]
    rng = np.random.default_rng(1)
    for path in paths:
        Image.fromarray(rng.integers(0, 256, (240, 320, 3), np.uint8)).save(path)
    _, own = settings(folder, "own.toml", f'[vault]\npath = "{small.vault.path}"\n')
    upgrade(own.catalog_url)
    with open_site(own) as site:
        for tier in site.tiers.values():
            scan(site.catalog, tier)
        tally = archive(site)
    assert tally.count("release", Result.DONE) == len(paths), tally.reasons
    return paths


def test_a_nas_without_torch_recalls_through_another_host(small: Small, tmp_path: Path) -> None:
    paths = released(tmp_path, small)
    sizes = [path.stat().st_size for path in paths]
    (tmp_path / "token").write_text(TOKEN)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", WITHOUT_MODELS, "--config", str(nas), *words]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    with served(small) as decoder:
        place = f'where = "{decoder.url}"\ntoken_file = "{tmp_path}/token"\n'
        nas, _ = settings(tmp_path, "nas.toml", f'[vault]\npath = "{tmp_path}/empty"\n[decoder]\n{place}')
        done = run("recall", str(tmp_path / "photos"))
        assert done.returncode == 0, done.stdout + done.stderr
        for path, size in zip(paths, sizes, strict=True):
            assert path.stat().st_size == size
            Image.open(path).load()
            image = path.read_bytes()
            assert b"trainedAlgorithmicMedia" in image
            assert b'archiver:Profile="random-5"' in image
            assert decoder.engine.device.replace(",", "_").encode() in image  # what decoded it over there
