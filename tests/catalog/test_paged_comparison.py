"""A directory of any size is compared page by page, in the order of the bytes of its names, in both databases."""

from __future__ import annotations

from fixtures_catalog import Shelf

from archiver.catalog import Catalog
from archiver.catalog.rows import Known


def test_files_come_behind_a_name_in_the_order_of_its_bytes(catalog: Catalog) -> None:
    shelf = Shelf(catalog)
    names = ["Z.jpg", "a.jpg", "a b.jpg", "ä.jpg", b"\xff.jpg", "b/below.jpg"]
    shelf.add(*names, inode=(1 << 64) - 1)
    directory = catalog.directory(shelf.id, "")
    assert directory is not None
    ordered = [b"Z.jpg", b"a b.jpg", b"a.jpg", "ä.jpg".encode(), b"\xff.jpg"]
    assert [row.name for row in catalog.files_behind(directory.id)] == ordered
    assert [row.name for row in catalog.files_behind(directory.id, b"a b.jpg", 2)] == ordered[2:4]
    assert catalog.files_behind(directory.id, ordered[-1]) == []
    assert sorted(catalog.files_behind(directory.id)) == sorted(catalog.files_in(directory.id))
    rows = catalog.files_behind(directory.id)
    assert all(isinstance(row, Known) and row.inode == (1 << 64) - 1 for row in rows)
    assert catalog.files_known([row.id for row in rows] + [10**9]) == {row.id: row for row in rows}
