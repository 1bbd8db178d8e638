"""Archive, release, recall, release again, undo: what a user and any other program see of a file stays what it was."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from archiver import formats
from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from tests.lifecycle.conftest import decoded, scan_all


@dataclass(frozen=True)
class Seen:
    """What `stat` and a metadata reader say of a file, without its inode and what is on disk."""

    size: int
    mtime_ns: int
    mode: int
    owner: tuple[int, int]
    xattrs: tuple[tuple[str, bytes], ...]

    @classmethod
    def of(cls, path: Path) -> Seen:
        stat = path.stat()
        xattrs = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_mode, (stat.st_uid, stat.st_gid), xattrs)


def files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and ".archiver" not in path.parts)


def state_of(site: Site, path: Path) -> State:
    located = site.locate(path)
    row = site.catalog.find(located.tier_id, located.relative)
    assert row is not None
    return row.state


def test_a_tier_goes_through_release_recall_release_and_undo(site: Site, tier_root: Path) -> None:
    paths = files(tier_root)
    os.setxattr(paths[0], "user.xdg.tags", b"holiday")
    paths[1].chmod(0o640)
    before = {path: (Seen.of(path), path.read_bytes(), decoded(path).size) for path in paths}

    tally = archive(site)
    assert tally.count("release", Result.DONE) == len(paths), tally.reasons
    for path in paths:
        seen, _, _ = before[path]
        assert Seen.of(path) == seen
        assert path.stat().st_blocks * 512 == 4096
        assert state_of(site, path) is State.RELEASED
        decoded(path)  # a valid picture
    released_inodes = {path: path.stat().st_ino for path in paths}

    tally = recall(site, [tier_root])
    assert tally.count("recall", Result.DONE) == len(paths), tally.reasons
    for path in paths:
        seen, original, size = before[path]
        assert Seen.of(path) == seen
        assert path.stat().st_ino == released_inodes[path]
        image = decoded(path)
        assert image.size == size
        assert path.read_bytes() != original
        assert b"trainedAlgorithmicMedia" in path.read_bytes()
        assert state_of(site, path) is State.RECALLED
    first_recall = {path: path.read_bytes() for path in paths}

    tally = archive(site, paths=paths)
    assert tally.count("release", Result.DONE) == len(paths), tally.reasons
    assert tally.count("record", Result.DONE) == 0  # a punch, not an encode
    assert all(path.stat().st_blocks * 512 == 4096 for path in paths)

    recall(site, [tier_root])
    assert {path: path.read_bytes() for path in paths} == first_recall

    tally = undo(site, [tier_root])
    assert tally.count("undo", Result.DONE) == len(paths), tally.reasons
    for path in paths:
        seen, original, _ = before[path]
        assert path.read_bytes() == original
        assert Seen.of(path) == seen
        assert state_of(site, path) is State.RECORDED
    assert not os.listdir(tier_root / ".archiver" / "holding")
    assert not os.listdir(tier_root / ".archiver" / "journal")
    assert site.catalog.recount() == []


def test_metadata_of_a_recalled_file_is_that_of_the_original(site: Site, tier_root: Path) -> None:
    paths = files(tier_root)
    with_files = {path: path.read_bytes() for path in paths}
    before = {path: _metadata(path) for path in paths}
    archive(site)
    recall(site, [tier_root])
    for path in paths:
        assert path.read_bytes() != with_files[path]
        assert _metadata(path) == before[path], path


def _metadata(path: Path) -> tuple[object, ...]:
    with Image.open(path) as image:
        exif = image.getexif()
        tags = {
            tag: value
            for tag, value in exif.items()
            if tag not in {273, 278, 279, 256, 257, 258, 259, 262, 277, 284, 317, 700, 530, 532, 347, 320, 34665}
        }
        details = dict(exif.get_ifd(0x8769))
        return (
            image.format,
            image.mode,
            tags if image.format != "TIFF" else None,
            details,
            image.info.get("icc_profile"),
            image.info.get("comment"),
            image.info.get("Comment"),
        )


def test_pictures_are_generated_upright_whatever_their_orientation(site: Site, tier_root: Path) -> None:
    turned = tier_root / "2019" / "b.JPG"
    with turned.open("rb") as file:
        before = formats.survey(file, site.limits)
    archive(site, paths=[turned])
    recall(site, [turned])
    with Image.open(turned) as image:
        assert (image.width, image.height) == (before.width, before.height)
        assert image.getexif()[0x0112] == 6


@pytest.mark.parametrize("grace", ["0s"])
def test_without_grace_the_original_is_gone_at_once(site: Site, tier_root: Path, grace: str) -> None:
    site.settings = site.settings.model_copy(
        update={"release": site.settings.release.model_copy(update={"grace": _zero()})}
    )
    archive(site)
    assert not os.listdir(tier_root / ".archiver" / "holding")
    tally = undo(site, [tier_root])
    assert tally.count("undo", Result.DONE) == 0
    assert recall(site, [tier_root]).count("recall", Result.DONE) == len(files(tier_root))


def _zero() -> object:
    from datetime import timedelta

    return timedelta(0)


def test_a_caption_written_into_a_recalled_file_makes_it_a_new_original(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    recall(site, [path])
    image = path.read_bytes()
    path.write_bytes(image[:2] + b"\xff\xfe\x00\x0aour cat." + image[2:])  # what was in it stays: label and record, too
    scan_all(site)
    edited = path.read_bytes()
    assert (
        undo(site, [path]).exit_code and path.read_bytes() == edited
    )  # the original is there, but --to has to fetch it
    tally = archive(site, paths=[path])
    assert tally.count("release", Result.DONE) == 1, tally.reasons
    assert archive(site, paths=[path]).count("release", Result.DONE) == 0
    undo(site, [path])
    assert path.read_bytes() == edited


def test_rebuild_leaves_an_edited_recalled_file_to_its_user(
    site: Site, tier_root: Path, settings: Settings, tmp_path: Path
) -> None:
    untouched, edited = tier_root / "wide.jpg", tier_root / "2019" / "a.jpg"
    archive(site, paths=[untouched, edited])
    recall(site, [untouched, edited])
    image = edited.read_bytes()
    edited.write_bytes(image[:2] + b"\xff\xfe\x00\x0aour cat." + image[2:])
    site.catalog.dispose()
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    upgrade(settings.catalog_url)
    with open_site(settings) as fresh:
        rebuild(fresh)
        assert state_of(fresh, untouched) is State.RECALLED
        assert state_of(fresh, edited) is State.RESIDENT


def test_an_edited_recalled_file_is_a_new_original(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    recall(site, [path])
    image = decoded(path)
    image.rotate(180).save(path, quality=90)
    scan_all(site)
    assert state_of(site, path) is State.SUPERSEDED
    edited = path.read_bytes()
    tally = archive(site, paths=[path])
    assert tally.count("release", Result.DONE) == 1, tally.reasons
    undo(site, [path])
    assert path.read_bytes() == edited
