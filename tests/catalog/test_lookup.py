"""Long answers come in pages and in order; short ones are exact."""

from __future__ import annotations

import pytest
from fixtures_catalog import Shelf, found
from sqlalchemy import event

from archiver.catalog import Catalog, lookup
from archiver.catalog.rows import DirectoryChange, ProfileUse, State
from archiver.errors import NotTracked


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so small that a few files need several."""
    monkeypatch.setattr(lookup, "PAGE", 3)


def used(shelf: Shelf, **at: int) -> None:
    for name, accessed_at in at.items():
        shelf.add(f"{name}.jpg", accessed_at=accessed_at)


def names(rows: object) -> list[str]:
    return [row.name.removesuffix(".jpg") for row in rows]  # type: ignore[attr-defined]


def test_candidates_come_longest_unused_first(shelf: Shelf, small_pages: None) -> None:
    used(shelf, c=30, a=10, e=50, b=20, d=40, f=60, g=20)
    assert names(shelf.catalog.candidates(shelf.id)) == ["a", "b", "g", "c", "d", "e", "f"]
    assert names(shelf.catalog.candidates(shelf.id, accessed_before=40)) == ["a", "b", "g", "c"]
    assert names(shelf.catalog.candidates(shelf.id, limit=5)) == ["a", "b", "g", "c", "d"]
    assert names(shelf.catalog.candidates(shelf.id, limit=0)) == []
    assert names(shelf.catalog.candidates(shelf.id, after=shelf["b.jpg"])) == ["g", "c", "d", "e", "f"]


def test_candidates_are_those_of_one_tier_and_of_the_states_asked_for(shelf: Shelf) -> None:
    for state in State:
        shelf.bring(f"{state.label}.jpg", state)
    other = Shelf(shelf.catalog, "other")
    other.add("elsewhere.jpg")
    assert set(names(shelf.catalog.candidates(shelf.id))) == {"resident", "recorded", "recalled", "superseded"}
    assert names(shelf.catalog.candidates(shelf.id, states=[State.RECORDED])) == ["recorded"]
    assert names(shelf.catalog.candidates(other.id)) == ["elsewhere"]
    with pytest.raises(ValueError, match="no candidates"):
        list(shelf.catalog.candidates(shelf.id, states=[State.RELEASED]))


def test_candidates_may_change_state_while_they_are_read(shelf: Shelf, small_pages: None) -> None:
    used(shelf, a=1, b=2, c=3, d=4, e=5, f=6, g=7)
    seen = []
    for row in shelf.catalog.candidates(shelf.id, states=[State.RESIDENT]):
        shelf.record(row.path)
        shelf.release(row.path)
        seen.append(row)
    assert names(seen) == list("abcdefg")
    assert shelf.counted() == {"released": 7}


def test_candidates_are_found_by_the_index_that_released_files_are_not_in(sqlite_catalog: Catalog) -> None:
    statements: list[tuple[str, tuple[object, ...]]] = []
    shelf = Shelf(sqlite_catalog)
    event.listen(
        sqlite_catalog._engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, values, *_: statements.append((statement, values)),
    )
    shelf.add("a.jpg")
    statements.clear()
    list(sqlite_catalog.candidates(shelf.id, accessed_before=5))
    ((statement, values),) = [(text, values) for text, values in statements if "FROM file" in text]
    with sqlite_catalog._read() as connection:
        plan = " ".join(row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values))
    assert "ix_file_candidate (tier_id=? AND accessed_at<?)" in plan
    assert "TEMP B-TREE" not in plan


def test_files_stream_in_the_order_of_their_numbers(shelf: Shelf, small_pages: None) -> None:
    shelf.add(*(f"{name}.jpg" for name in "hgfedcba"))
    other = Shelf(shelf.catalog, "other")
    other.add("z.jpg")
    assert names(shelf.catalog.stream_files(shelf.id)) == list("hgfedcba")
    assert names(shelf.catalog.stream_files(None)) == list("hgfedcbaz")
    assert names(shelf.catalog.stream_files(shelf.id, after=shelf["e.jpg"].id)) == list("dcba")
    shelf.record("c.jpg")
    assert names(shelf.catalog.stream_files(None, [State.RECORDED])) == ["c"]
    assert names(shelf.catalog.stream_files(None, [])) == []


def test_files_below_a_directory_are_not_those_of_its_neighbours(shelf: Shelf, small_pages: None) -> None:
    inside = ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/4.jpg", "a/b/5.jpg", "a/b c/6.jpg", "a/z/7.jpg", "a/\udcff/8.jpg"]
    shelf.add(*inside, "a.jpg", "a b/x.jpg", "a0/x.jpg", "a-/x.jpg", "aa/x.jpg", "b/x.jpg", "A/x.jpg")
    listed = [row.path for row in shelf.catalog.stream_files(shelf.id, under="a")]
    assert sorted(listed) == sorted(inside)
    assert len(list(shelf.catalog.stream_files(shelf.id, [State.GONE], under="a"))) == 0
    assert len(list(shelf.catalog.stream_files(shelf.id, under=""))) == 15
    with pytest.raises(ValueError, match="tier"):
        list(shelf.catalog.stream_files(None, under="a"))


def test_an_access_only_moves_forward(shelf: Shelf) -> None:
    shelf.add("a/1.jpg", "2.jpg", accessed_at=100)
    shelf.catalog.note_access([(shelf.id, "a/1.jpg", 50), (shelf.id, "2.jpg", 200), (shelf.id, "none.jpg", 300)])
    assert shelf["a/1.jpg"].accessed_at == 100
    assert shelf["2.jpg"].accessed_at == 200
    shelf.catalog.note_access([(shelf.id, "a/1.jpg", 300), (shelf.id, "a/1.jpg", 250)])
    assert shelf["a/1.jpg"].accessed_at == 300


def test_what_is_not_there_is_not_found(shelf: Shelf) -> None:
    shelf.add("a/b.jpg")
    for path in ("b.jpg", "a", "a/b.jpg/", "a//b.jpg", "a/B.jpg", ""):
        assert shelf.catalog.find(shelf.id, path) is None
    assert shelf.catalog.find(shelf.id + 1, "a/b.jpg") is None
    for ask in (shelf.catalog.file, shelf.catalog.record, shelf.catalog.tier):
        with pytest.raises(NotTracked):
            ask(999)
    assert shelf.catalog.metadata(999) is None
    assert shelf.catalog.recalled_hash(999) is None
    assert shelf.catalog.holding_for(999) is None


def test_the_profiles_that_live_records_need_are_known(shelf: Shelf) -> None:
    shelf.add("a.jpg", "b.jpg", "c.jpg")
    shelf.record("a.jpg", profile=b"one")
    shelf.record("b.jpg", profile=b"one")
    shelf.record("c.jpg", profile=b"one")
    shelf.see("b.jpg", size=5)
    shelf.see("c.jpg", size=5)
    shelf.record("c.jpg", profile=b"two")
    assert shelf.catalog.profiles() == [ProfileUse(b"one", live=1, total=3), ProfileUse(b"two", live=1, total=1)]
    shelf.lose("a.jpg")  # it may come back
    assert shelf.catalog.profiles()[0].live == 1


def test_a_tier_keeps_the_identity_it_was_first_seen_with(shelf: Shelf) -> None:
    again = shelf.catalog.ensure_tier("nas", "local", "/mnt/elsewhere", "fs-2")
    assert (again.id, again.root, again.identity) == (shelf.id, "/mnt/elsewhere", "fs-1")
    late = shelf.catalog.ensure_tier("late", "local", "/late")
    assert late.identity == ""
    assert shelf.catalog.ensure_tier("late", "local", "/late", "fs-3").identity == "fs-3"
    assert [tier.name for tier in shelf.catalog.tiers()] == ["late", "nas"]


def test_a_tier_that_cannot_be_reached_loses_nothing_and_it_is_told_once(shelf: Shelf) -> None:
    shelf.add("a.jpg")
    assert shelf.catalog.mark_reachable(shelf.id, False, "not mounted")
    assert not shelf.catalog.mark_reachable(shelf.id, False, "not mounted")
    assert not shelf.catalog.tier(shelf.id).reachable
    assert shelf.catalog.mark_reachable(shelf.id, True)
    assert [(row.act.label, row.detail) for row in shelf.catalog.audit_rows()] == [
        ("reachable", ""),
        ("unreachable", "not mounted"),
    ]
    assert shelf.counted() == {"resident": 1}


def test_settings_outlive_the_process(shelf: Shelf) -> None:
    catalog = shelf.catalog
    assert catalog.setting("scan.last") is None
    catalog.set_setting("scan.last", "1")
    catalog.set_setting("scan.last", "2")
    assert catalog.setting("scan.last") == "2"
    catalog.set_setting("scan.last", None)
    assert catalog.setting("scan.last") is None


def test_directories_come_in_the_order_of_the_bytes_of_their_paths(shelf: Shelf) -> None:
    paths = [b"", b"A", b"B", b"a", b"a b", b"a/b", b"b", "é".encode(), b"\xff"]
    shelf.catalog.apply_changes(shelf.id, [DirectoryChange(path, new=[found("x.jpg")]) for path in reversed(paths)])
    assert [row.path for row in shelf.catalog.directories(shelf.id)] == paths
