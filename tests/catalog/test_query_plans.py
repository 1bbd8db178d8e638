"""What is asked for every file of a run finds its rows by an index: a run over many files takes as long for each."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from fixtures_catalog import Shelf, found, new_record
from sqlalchemy import event

from archiver.catalog import Catalog
from archiver.catalog.rows import Adopted, DirectoryChange, State

GROWING = ("file", "record", "metadata", "holding", "recalled", "gone", "audit", "directory")


@contextmanager
def asked(catalog: Catalog) -> Iterator[list[tuple[str, Any]]]:
    """What the database is asked in the body: statements and their values."""
    statements: list[tuple[str, Any]] = []

    def hear(_connection: Any, _cursor: Any, statement: str, values: Any, _context: Any, many: bool) -> None:
        statements.append((statement, values[0] if many else values))

    event.listen(catalog._engine, "before_cursor_execute", hear)
    try:
        yield statements
    finally:
        event.remove(catalog._engine, "before_cursor_execute", hear)


def read_whole(catalog: Catalog, statements: list[tuple[str, Any]]) -> set[str]:
    """The tables that grow with the files, and of which some statement looks at every row."""
    steps = []
    with sqlite3.connect(str(catalog._engine.url.database)) as connection:
        for statement, values in statements:
            if statement.split()[0] in ("SELECT", "UPDATE", "DELETE"):
                steps += [row[3].split() for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    return {step[1] for step in steps if step[0] == "SCAN" and step[1] in GROWING}


@pytest.fixture
def here(sqlite_catalog: Catalog) -> Shelf:
    return Shelf(sqlite_catalog)


def test_no_act_on_a_file_reads_a_whole_table(here: Shelf) -> None:
    catalog = here.catalog
    with asked(catalog) as statements:
        here.add("a.jpg", "b.jpg", "c/d.jpg")
        here.record("a.jpg")
        here.release("a.jpg", expires_at=100)
        here.recall("a.jpg")
        row = here["a.jpg"]
        catalog.mark_rereleased(row.id, version=row.version)
        held = catalog.holding_for(row.id)
        assert held is not None and row.record_id is not None
        catalog.holder_of(here.id, row.inode - 1, catalog.record(row.record_id).sha256)
        catalog.held_since(row.id)
        catalog.recalled_hash(row.id)
        catalog.metadata(row.record_id)
        catalog.is_pinned(here.id, "a.jpg")
        catalog.mark_undone(row.id, version=row.version)
        here.release("a.jpg", expires_at=100)
        catalog.mark_expired(held)
        here.see("a.jpg", size=7)
        here.lose("b.jpg")
        catalog.adopt(Adopted(new_record(here["c/d.jpg"]), state=State.RELEASED))
        list(catalog.audit_rows(tier_id=here.id, path="a.jpg"))
    assert read_whole(catalog, statements) == set()


def test_no_look_at_one_folder_reads_a_whole_table(here: Shelf) -> None:
    catalog = here.catalog
    here.add("a.jpg", "c/d.jpg")
    with asked(catalog) as statements:
        folder = catalog.directory(here.id, "c")
        assert folder is not None
        catalog.files_in(folder.id)
        catalog.files_behind(folder.id)
        catalog.children(folder.id)
        catalog.note_access([(here.id, "c/d.jpg", 5)])
        catalog.apply_changes(here.id, [DirectoryChange(b"c", folder.id, new=[found("e.jpg")])])
        list(catalog.stream_files(here.id, under="c"))
    assert read_whole(catalog, statements) == set()


def test_that_nothing_was_moved_is_known_from_what_is_gone(here: Shelf) -> None:
    here.bring("a.jpg", State.RELEASED)
    here.lose("a.jpg")
    with asked(here.catalog) as statements:
        assert list(here.catalog.moved(here.id, since=2**40)) == []
    assert read_whole(here.catalog, statements) == {"gone"}
