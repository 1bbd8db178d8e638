"""Where a path really lies, through real mounts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_fs import Disk, run

from archiver.config import parse
from archiver.errors import ConfigInvalid
from archiver.mounts import location, mounts

TWO = '[[tier]]\nname = "a"\npath = "{}"\n[[tier]]\nname = "b"\npath = "{}"\n'


@pytest.fixture
def bound(small_disk: Disk, tmp_path: Path) -> Iterator[Path]:
    """A folder of the disk, `a b/2019`, that shows in another place, too."""
    (small_disk.path / "a b" / "2019").mkdir(parents=True)
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    run("mount", "--bind", small_disk.path / "a b" / "2019", elsewhere)
    yield elsewhere
    run("umount", elsewhere)


def test_a_path_has_one_location_through_every_mount(small_disk: Disk, bound: Path) -> None:
    there = location(small_disk.path / "a b" / "2019" / "x")
    assert location(bound / "x") == there
    assert there.parts[1:] == ("a b", "2019", "x")
    assert next(mount.kind for mount in mounts() if mount.point == str(bound)) == "ext4"


def test_a_path_of_no_mount_is_told_from_the_root() -> None:
    assert location(Path("/no/such/path")).is_relative_to(location(Path("/")))


def test_tiers_that_overlap_by_a_bind_mount_are_refused(small_disk: Disk, bound: Path) -> None:
    with pytest.raises(ConfigInvalid, match="tiers 'a' and 'b' overlap") as refused:
        parse(TWO.format(small_disk.path / "a b", bound), Path("config.toml"))
    assert refused.value.problems[0].endswith("are one folder, or one lies in the other")
    (small_disk.path / "apart").mkdir()
    assert len(parse(TWO.format(small_disk.path / "apart", bound), Path("config.toml")).tier) == 2
