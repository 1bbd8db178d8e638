"""The state machine and the audit hold whatever program writes to the database."""

from __future__ import annotations

from itertools import product

import pytest
from fixtures_catalog import Shelf, found, new_record
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from archiver.catalog import Catalog
from archiver.catalog.rows import LEGAL, Act, DirectoryChange, State


def raw(catalog: Catalog, statement: str) -> None:
    """Past every method: what another program could send."""
    with catalog._write() as connection:
        connection.execute(text(statement))


def test_only_the_legal_changes_of_state_pass_the_schema(shelf: Shelf) -> None:
    row = shelf.bring("a.jpg", State.RECORDED)
    route: dict[State, list[State]] = {
        State.RESIDENT: [State.RESIDENT],
        State.RECORDED: [],
        State.RELEASED: [State.RELEASED],
        State.RECALLED: [State.RELEASED, State.RECALLED],
        State.SUPERSEDED: [State.SUPERSEDED],
        State.GONE: [State.GONE],
    }
    passed = set()
    for before, after in product(State, State):
        with shelf.catalog._engine.connect() as connection:
            for state in [*route[before], after]:
                record = "NULL" if state is State.RESIDENT else str(row.record_id)
                update = f"UPDATE file SET state = {state:d}, record_id = {record} WHERE id = {row.id}"
                try:
                    connection.execute(text(update))
                except IntegrityError as error:
                    assert state is after
                    assert "illegal change" in str(error)
                    break
            else:
                passed.add((before, after))
            connection.rollback()
    unchanged = {(state, state) for state in State}
    assert passed - unchanged == {(before, after) for before in State for after in LEGAL[before]}


@pytest.mark.parametrize("state", [state for state in State if state is not State.RESIDENT])
def test_a_file_begins_as_resident(shelf: Shelf, state: State) -> None:
    shelf.add("a.jpg")
    copy = "directory_id, tier_id, size, mtime_ns, inode, accessed_at"
    with pytest.raises(IntegrityError, match="begins as resident"):
        raw(
            shelf.catalog,
            f"INSERT INTO file (name, state, {copy}) SELECT CAST('x' AS BYTEA), {state:d}, {copy} FROM file",
        )


@pytest.mark.parametrize("statement", ["UPDATE audit SET at = 0", "UPDATE audit SET detail = 'x'", "DELETE FROM audit"])
def test_the_audit_only_grows(shelf: Shelf, statement: str) -> None:
    shelf.catalog.audit(Act.VERIFIED, tier_id=shelf.id, detail="all well")
    before = list(shelf.catalog.audit_rows())
    with pytest.raises(IntegrityError, match="append-only"):
        raw(shelf.catalog, statement)
    assert list(shelf.catalog.audit_rows()) == before


@pytest.mark.postgresql
def test_the_audit_cannot_be_emptied_at_once(postgresql_url: str) -> None:
    with Catalog.open(postgresql_url) as catalog:
        Shelf(catalog)
        catalog.audit(Act.VERIFIED)
        with pytest.raises(IntegrityError, match="append-only"):
            raw(catalog, "TRUNCATE audit")
        assert len(list(catalog.audit_rows())) == 1


def test_a_record_is_never_rewritten(shelf: Shelf) -> None:
    row = shelf.bring("a.jpg", State.RECORDED)
    with pytest.raises(IntegrityError, match="never rewritten"):
        raw(shelf.catalog, "UPDATE record SET payload = sha256")
    assert row.record_id is not None
    assert shelf.catalog.record(row.record_id).payload == new_record(row).payload


@pytest.mark.parametrize("state", [State.RECORDED, State.RELEASED, State.RECALLED, State.SUPERSEDED])
def test_a_record_that_a_file_stands_on_is_not_deleted(shelf: Shelf, state: State) -> None:
    shelf.bring("a.jpg", state)
    with pytest.raises(IntegrityError, match="as long as its file stands on it"):
        raw(shelf.catalog, "DELETE FROM record")


def test_a_file_does_not_stand_on_the_record_of_another(shelf: Shelf) -> None:
    one, other = shelf.bring("a.jpg", State.RECORDED), shelf.bring("b.jpg", State.RECORDED)
    with pytest.raises(IntegrityError, match="one of its own"):
        raw(shelf.catalog, f"UPDATE file SET record_id = {other.record_id} WHERE id = {one.id}")


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_only_a_gone_file_is_deleted(shelf: Shelf, state: State) -> None:
    row = shelf.bring("a.jpg", state)
    with pytest.raises(IntegrityError, match="only a gone file"):
        raw(shelf.catalog, f"DELETE FROM file WHERE id = {row.id}")


def test_a_released_file_has_a_record(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RELEASED)
    with pytest.raises(IntegrityError):
        raw(shelf.catalog, "UPDATE file SET record_id = NULL")


def test_a_counter_does_not_fall_below_nothing(shelf: Shelf) -> None:
    with pytest.raises(IntegrityError):
        raw(shelf.catalog, "UPDATE counter SET files = files - 1")


def test_every_change_of_state_that_the_methods_make_is_checked_by_the_schema(shelf: Shelf) -> None:
    """The methods themselves go through the triggers: a gone file cannot turn resident with a record."""
    shelf.bring("a.jpg", State.RELEASED)
    shelf.lose("a.jpg")
    with pytest.raises(IntegrityError):
        raw(shelf.catalog, "UPDATE file SET state = 1")
    change = DirectoryChange(b"", changed=[(shelf["a.jpg"].id, found("a.jpg", size=5))])
    shelf.catalog.apply_changes(shelf.id, [change])
    assert shelf["a.jpg"].state is State.SUPERSEDED
