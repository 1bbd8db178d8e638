"""A real filesystem for the tests of tiers: a small ext4 where we are root, else that of pytest's folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fixtures_fs import MIB, enter_private_mounts, run

from archiver.catalog import Catalog
from archiver.catalog.rows import FileRow
from archiver.config import LocalTierSettings
from archiver.tiers.local import LocalTier


@pytest.fixture(scope="session")
def ext4(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The root of an ext4 filesystem of 48 MiB made for these tests; without root, pytest's own folder."""
    base = tmp_path_factory.mktemp("ext4")
    if os.geteuid() != 0:
        yield base
        return
    enter_private_mounts()
    image, mount = base / "image", base / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(48 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    run("mount", "-o", "loop", image, mount)
    yield mount
    run("umount", "--lazy", mount)


@pytest.fixture
def folder(ext4: Path, request: pytest.FixtureRequest) -> Path:
    """An empty folder of this test's own on the filesystem."""
    folder = ext4 / request.node.name.replace("/", "_")[:100]
    folder.mkdir()
    return folder


@pytest.fixture
def tier(folder: Path) -> Iterator[LocalTier]:
    """An empty local tier."""
    local = LocalTier(LocalTierSettings(name="photos", path=folder))
    yield local
    local.close()


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    """An empty catalog in SQLite."""
    with Catalog.open(f"sqlite:///{tmp_path}/catalog.db", create=True) as opened:
        yield opened


def put(path: Path, content: bytes = b"photograph", *, mtime: int = 1_500_000_000, atime: int = 0) -> Path:
    """Write a file, last changed and read at these times (seconds since 1970)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (atime or mtime, mtime))
    return path


@pytest.fixture(name="put")
def _put(folder: Path) -> Callable[..., Path]:
    """put("2019/a.jpg", b"content", mtime=...) -> the path"""
    return lambda relative, *arguments, **times: put(folder / relative, *arguments, **times)


@pytest.fixture
def files(catalog: Catalog, tier: LocalTier) -> Callable[[], dict[str, FileRow]]:
    """files() -> what the catalog knows of the tier's files, by path"""

    def read() -> dict[str, FileRow]:
        tier_id = catalog.ensure_tier(tier.name, "local", str(tier.root)).id
        return {row.path: row for row in catalog.stream_files(tier_id)}

    return read
