"""The quick reader gives the catalog's own answers, and imports next to nothing for them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_catalog import Shelf

from archiver.catalog import Catalog
from archiver.catalog.quick import QuickCatalog, open_reader
from archiver.catalog.rows import State
from archiver.errors import CatalogOutdated, CatalogUnavailable, NotTracked


def test_both_readers_give_the_same_answers(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    shelf = Shelf(sqlite_catalog)
    Shelf(sqlite_catalog, "another")
    paths = [f"d/\udcff{state.label}.jpg" for state in State]
    for path, state in zip(paths, State, strict=True):
        shelf.bring(path, state)
    shelf.add("held.jpg", inode=2**64 - 1)
    shelf.record("held.jpg", metadata=b"m", rule="cold", semantic=0.5, label_bce=0.25, colour=None)
    shelf.release("held.jpg", expires_at=5)
    sqlite_catalog.pin(shelf.id, "d", subtree=True)
    sqlite_catalog.pin(shelf.id, "held.jpg")
    sqlite_catalog.set_setting("scan.last", "5")
    sqlite_catalog.mark_reachable(shelf.id, False)
    sqlite_catalog.finish_scan(shelf.id, 77)
    with open_reader(sqlite_url) as quick:
        assert isinstance(quick, QuickCatalog)
        assert quick.tiers() == sqlite_catalog.tiers()
        assert quick.summary() == sqlite_catalog.summary()
        for path in [*paths, "held.jpg", "d", "none", "d/none.jpg", ""]:
            row = sqlite_catalog.find(shelf.id, path)
            assert quick.find(shelf.id, path) == row
            assert quick.is_pinned(shelf.id, path) == sqlite_catalog.is_pinned(shelf.id, path)
            if row is not None:
                assert quick.holding_for(row.id) == sqlite_catalog.holding_for(row.id)
                if row.record_id is not None:
                    assert quick.record(row.record_id) == sqlite_catalog.record(row.record_id)
        assert quick.setting("scan.last") == "5"
        assert quick.setting("none") is None
        with pytest.raises(NotTracked):
            quick.record(999)


def test_the_quick_reader_imports_no_database_library(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    Shelf(sqlite_catalog).add("a.jpg")
    ask = f"""
import sys
from archiver.catalog.quick import open_reader
with open_reader({sqlite_url!r}) as catalog:
    assert catalog.summary()[0].states[0].files == 1
    assert catalog.find(1, "a.jpg") is not None
heavy = {{"sqlalchemy", "alembic", "pydantic", "numpy", "torch"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", ask], check=True, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})


def test_the_quick_reader_writes_nothing(sqlite_catalog: Catalog, sqlite_url: str) -> None:
    with open_reader(sqlite_url) as quick:
        assert isinstance(quick, QuickCatalog)
        with pytest.raises(CatalogUnavailable, match="readonly"):
            quick._ask("DELETE FROM setting")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="no such file"):
        open_reader(f"sqlite:///{tmp_path / 'none.db'}")
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"garbage" * 1000)
    with pytest.raises(CatalogUnavailable, match="not a database"):
        open_reader(f"sqlite:///{garbage}")
    empty = tmp_path / "empty.db"
    empty.touch()
    with pytest.raises(CatalogOutdated):
        open_reader(f"sqlite:///{empty}")


@pytest.mark.postgresql
def test_any_other_catalog_is_opened_as_a_whole(postgresql_url: str) -> None:
    with open_reader(postgresql_url) as catalog:
        assert isinstance(catalog, Catalog)
