"""What was kept without loss: a reader gets the very bytes, and nothing is decoded for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from archiver.catalog.rows import Act, State
from archiver.desk.budget import READ_BY
from archiver.desk.history import Ending
from archiver.lifecycle.archive import archive
from archiver.lifecycle.site import Site
from tests.desk.conftest import Gate, ask, desk_of
from tests.lifecycle.conftest import photograph, row_of, scan_all


def _released(site: Site, path: Path) -> bytes:
    photograph(1).save(path, quality=92)  # large enough that a fifth of it is worth a block
    scan_all(site)
    original = path.read_bytes()
    rule = site.settings.rule[0].model_copy(update={"scheme": "lossless"})
    site.settings = site.settings.model_copy(update={"rule": (rule,)})
    archive(site, paths=[path])
    assert row_of(site, path).state is State.RELEASED
    return original


def test_a_reader_gets_the_very_bytes_in_the_file_it_has_open(site: Site, tier_root: Path) -> None:
    path = tier_root / "2019" / "a.jpg"
    original = _released(site, path)
    gate = Gate(site)
    with desk_of(site) as desk, path.open("rb") as reader:
        assert ask(desk, path).verdict().ending is Ending.RECALLED
        assert reader.read() == original
    assert gate.decodes == 0
    row = row_of(site, path)
    assert row.state is State.RECORDED
    told = next(one for one in site.catalog.audit_rows(tier_id=row.tier_id, path=row.path) if one.act is Act.RECALLED)
    assert told.detail.startswith(READ_BY)


def test_a_copy_that_no_catalog_knows_is_not_written_over(site: Site, tier_root: Path, tmp_path: Path) -> None:
    """It is the only copy of the bytes there is, and no journal could make good a crash."""
    path = tier_root / "2019" / "a.jpg"
    _released(site, path)
    copy = tmp_path / "copy.jpg"
    shutil.copyfile(path, copy)
    before = copy.read_bytes()
    with desk_of(site) as desk:
        assert ask(desk, copy).verdict().ending is not Ending.RECALLED
    assert copy.read_bytes() == before
