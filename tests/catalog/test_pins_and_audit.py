"""Pins hold for what lies below them; the audit tells newest first and forgets nobody."""

from __future__ import annotations

import pytest
from fixtures_catalog import Shelf

from archiver.catalog import Catalog, audit
from archiver.catalog.rows import Act, Pin, State


def test_a_pin_holds_for_the_file_or_for_all_below(shelf: Shelf) -> None:
    catalog = shelf.catalog
    catalog.pin(shelf.id, "a/one.jpg")
    catalog.pin(shelf.id, "b", subtree=True)
    pinned = {
        path: catalog.is_pinned(shelf.id, path)
        for path in ("a/one.jpg", "a/two.jpg", "b/x.jpg", "b/c/x.jpg", "bb/x", "a")
    }
    assert pinned == {
        "a/one.jpg": True,
        "a/two.jpg": False,
        "b/x.jpg": True,
        "b/c/x.jpg": True,
        "bb/x": False,
        "a": False,
    }
    assert catalog.pins(shelf.id) == [Pin(shelf.id, "a/one.jpg", False), Pin(shelf.id, "b", True)]


def test_a_pin_without_its_subtree_is_that_of_one_path(shelf: Shelf) -> None:
    shelf.catalog.pin(shelf.id, "b")
    assert not shelf.catalog.is_pinned(shelf.id, "b/x.jpg")


def test_a_whole_tier_can_be_pinned_and_no_other_with_it(shelf: Shelf) -> None:
    other = Shelf(shelf.catalog, "other")
    shelf.catalog.pin(shelf.id, "", subtree=True)
    assert shelf.catalog.is_pinned(shelf.id, "any/where.jpg")
    assert not shelf.catalog.is_pinned(other.id, "any/where.jpg")


def test_a_pin_can_be_changed_and_taken_away(shelf: Shelf) -> None:
    catalog = shelf.catalog
    catalog.pin(shelf.id, "\udcff", subtree=False)
    catalog.pin(shelf.id, "\udcff", subtree=True)
    assert catalog.pins() == [Pin(shelf.id, "\udcff", True)]
    assert catalog.unpin(shelf.id, "\udcff")
    assert not catalog.unpin(shelf.id, "\udcff")
    assert catalog.pins() == []
    assert [(row.act, row.path, row.detail) for row in catalog.audit_rows()] == [
        (Act.UNPINNED, "\udcff", ""),
        (Act.PINNED, "\udcff", "subtree"),
        (Act.PINNED, "\udcff", ""),
    ]


def test_the_audit_comes_newest_first_and_in_pages(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 3)
    for number in range(8):
        shelf.catalog.audit(Act.VERIFIED, tier_id=shelf.id, detail=str(number))
    assert [row.detail for row in shelf.catalog.audit_rows()] == list("76543210")
    assert [row.detail for row in shelf.catalog.audit_rows(limit=4)] == list("7654")
    assert list(shelf.catalog.audit_rows(limit=0)) == []


def test_the_audit_can_be_asked_for_a_time_a_tier_or_a_path(sqlite_url: str) -> None:
    now = 1000.0
    with Catalog.open(sqlite_url, clock=lambda: now) as catalog:
        shelf, other = Shelf(catalog), Shelf(catalog, "other")
        shelf.bring("a/b.jpg", State.RECORDED)
        other.bring("a/b.jpg", State.GONE)
        now = 2000.0
        shelf.release("a/b.jpg")
        catalog.audit(Act.FAILED, tier_id=shelf.id, file_id=shelf["a/b.jpg"].id, detail="disk full")
        assert [(row.at, row.act.label) for row in shelf.told("a/b.jpg")] == [
            (2000, "failed"),
            (2000, "released"),
            (1000, "recorded"),
        ]
        assert [row.act.label for row in catalog.audit_rows(since=2000)] == ["failed", "released"]
        assert [row.act.label for row in catalog.audit_rows(tier_id=other.id)] == ["gone"]
        with pytest.raises(ValueError, match="tier"):
            list(catalog.audit_rows(path="a/b.jpg"))


def test_a_message_may_quote_any_name(shelf: Shelf) -> None:
    shelf.catalog.audit(Act.FAILED, tier_id=shelf.id, detail="cannot read \udcff\0ä")
    assert [row.detail for row in shelf.catalog.audit_rows()] == ["cannot read \\udcff\\x00ä"]


def test_a_failure_on_a_file_that_is_not_tracked_is_told_by_its_path(shelf: Shelf) -> None:
    shelf.catalog.audit(Act.FAILED, tier_id=shelf.id, path="new\udcff.jpg", detail="permission denied", rule="cold")
    (row,) = shelf.told("new\udcff.jpg")
    assert (row.path, row.rule, row.detail, row.file_id) == ("new\udcff.jpg", "cold", "permission denied", None)
