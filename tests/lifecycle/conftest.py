"""A tier of real picture files, a real catalog, and a vault whose profile has the embedded networks with random
weights.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFilter
from PIL.PngImagePlugin import PngInfo

from archiver.catalog.rows import FileRow
from archiver.config import Settings
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.site import Site
from archiver.tiers.scan import scan

LAX_GATE = {"semantic": -1.0, "label_bce": "none", "colour": "none"}  # random weights mean nothing


def photograph(seed: int, size: tuple[int, int] = (640, 480)) -> Image.Image:
    """A picture with large shapes and fine grain, so that its file is as large as a photograph's."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = rng.normal(0, 18, (size[1], size[0], 3))
    blurred = coarse.filter(ImageFilter.GaussianBlur(8))
    return Image.fromarray(np.clip(np.asarray(blurred, dtype=np.float32) + grain, 0, 255).astype(np.uint8))


def exif_bytes(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Testcam"
    exif[0x0110] = "Mark IV"
    exif.get_ifd(0x8769)[0x9003] = "2019:07:14 10:20:30"
    return exif.tobytes()


def fill_with_photographs(folder: Path) -> list[Path]:
    """Eight pictures of four formats with the metadata that cameras and editors leave; relative paths."""
    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    (folder / "2019" / "summer").mkdir(parents=True, exist_ok=True)
    text = PngInfo()
    text.add_text("Comment", "a walk by the sea")
    jpeg = {"quality": 92, "icc_profile": icc}
    photograph(1).save(folder / "2019/a.jpg", exif=exif_bytes(1), **jpeg)
    photograph(2).save(folder / "2019/b.JPG", exif=exif_bytes(6), comment=b"by hand", **jpeg)
    photograph(3).save(folder / "2019/summer/c.jpeg", quality=88, progressive=True)
    photograph(4).convert("L").save(folder / "2019/summer/grey.jpg", quality=90, exif=exif_bytes(3))
    photograph(5, (400, 520)).save(folder / "2019/d.png", pnginfo=text)
    photograph(6).save(folder / "2019/e.webp", quality=90, exif=exif_bytes(8))
    photograph(7, (512, 384)).save(folder / "2019/f.tif", compression="tiff_lzw")
    photograph(8, (900, 300)).save(folder / "wide.jpg", quality=85)
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    for number, path in enumerate(paths):
        os.utime(folder / path, ns=(1_400_000_000_123_456_789 + number, 1_300_000_000_987_654_321 + number))
    return paths


@pytest.fixture(scope="session")
def random_vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault with one profile, random-7. Its weights mean nothing; what is tested here must hold whatever they are."""
    from archiver.models.embedded import init_random, save_profile
    from archiver.models.vault import Vault

    base = tmp_path_factory.mktemp("vault")
    save_profile(base / "profile", init_random(7, long_side=64), "random-7", "CC0-1.0")
    with (base / "profile" / "profile.toml").open("a") as file:
        file.write('\n[presets.draft.sgc]\nsampler = "ddim"\nsteps = 2\nguidance = 1.0\nstart = 0.7\n')
        file.write('\n[presets.draft.cocli]\nsampler = "ddim"\nsteps = 2\nguidance = 1.0\n')
    Vault(base / "vault").import_directory(base / "profile")
    return base / "vault"


@pytest.fixture
def tier_root(tmp_path: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    fill_with_photographs(root)
    return root


@pytest.fixture
def settings(tmp_path: Path, tier_root: Path, random_vault: Path) -> Settings:
    return make_settings(tmp_path, tier_root, random_vault)


def make_settings(state: Path, root: Path, vault: Path, **release: str) -> Settings:
    return Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{state}/catalog.db"},
            "vault": {"path": str(vault)},
            "model": {"profile": "random-7", "preset": "draft", "batch": 4},
            "release": {"min_free": 0, **release},
            "tier": [{"name": "photos", "path": str(root)}],
            "rule": [
                {
                    "name": "all",
                    "scheme": "sgc",
                    "min_size": 0,
                    "unused_for": "0s",
                    "unchanged_for": "0s",
                    "gate": LAX_GATE,
                }
            ],
        }
    )


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    from archiver.catalog.schema import upgrade

    upgrade(settings.catalog_url)
    with open_site(settings) as opened:
        scan_all(opened)
        yield opened


def scan_all(site: Site) -> None:
    for tier in site.tiers.values():
        scan(site.catalog, tier)


def row_of(site: Site, path: Path) -> FileRow:
    located = site.locate(path)
    row = site.catalog.find(located.tier_id, located.relative)
    assert row is not None, path
    return row


def decoded(path: Path) -> Image.Image:
    """The picture of a file, fully decoded; fails on anything truncated."""
    image = Image.open(BytesIO(path.read_bytes()))
    image.load()
    return image
