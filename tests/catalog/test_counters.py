"""Whatever happens to a catalog, its counters are what its rows give, its files where a model has them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fixtures_catalog import Shelf, found
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from archiver.catalog import Catalog
from archiver.catalog.rows import Act, Correction, DirectoryChange, FileRow, Refused, State
from archiver.errors import StateConflict

PATHS = ["a.jpg", "a/b.jpg", "a/c.jpg", "a/d/e.jpg"]
HELD_BRIEFLY = 10


@dataclass
class Expected:
    """One file in a model that knows nothing of databases. Each act says whether it is legal, and does it if so."""

    state: State = State.RESIDENT
    size: int = 1000
    was: State = State.RESIDENT
    held: int = 0  # originals
    behind: int = 0  # bytes of its placeholder beyond a block

    def _step(self, before: State, after: State) -> bool:
        legal = self.state is before
        self.state = after if legal else self.state
        return legal

    def see(self, size: int) -> bool:
        self.state = self.was if self.state is State.GONE else self.state
        return True

    def lose(self, size: int) -> bool:
        if self.state is not State.GONE:
            self.was, self.state = self.state, State.GONE
        return True

    def change(self, size: int) -> bool:
        before = self.was if self.state is State.GONE else self.state
        self.state = before if before is State.RESIDENT else State.SUPERSEDED
        self.size = size
        return True

    def record(self, size: int) -> bool:
        return self._step(State.RESIDENT, State.RECORDED) or self._step(State.SUPERSEDED, State.RECORDED) or True

    def refuse(self, size: int) -> bool:
        return True

    def release(self, size: int) -> bool:
        self.behind = size if self.state is State.RECORDED else self.behind
        return self._step(State.RECORDED, State.RELEASED)

    def recall(self, size: int) -> bool:
        return self._step(State.RELEASED, State.RECALLED)

    def rerelease(self, size: int) -> bool:
        return self._step(State.RECALLED, State.RELEASED)

    def undo(self, size: int) -> bool:
        if self.state is State.GONE and self.was is not State.RESIDENT:
            return self._step(State.GONE, State.RECORDED)
        legal = (State.RELEASED, State.RECALLED, State.SUPERSEDED)  # whose version is said to be the original's
        return any(self._step(state, State.RECORDED) for state in legal)

    def expire(self, size: int) -> bool:
        self.held = 0
        return True

    def drop(self, size: int) -> bool:
        return self._step(State.RECORDED, State.RESIDENT)

    def forget(self, size: int) -> bool:
        return self.state is State.GONE and not self.held


def _release(shelf: Shelf, row: FileRow, size: int) -> None:
    holding = None if row.record_id is None else shelf.held(row.path, size)
    shelf.catalog.mark_released(row.id, row.record_id or 0, version=row.version, holding=holding, behind=size)


def _expire(shelf: Shelf, row: FileRow, size: int) -> None:
    for held in list(shelf.catalog.holding_due(HELD_BRIEFLY)):
        if held.file_id == row.id:
            shelf.catalog.mark_expired(held)


ACTS: dict[str, Callable[[Shelf, FileRow, int], object]] = {
    "see": lambda shelf, row, size: shelf.see(row.path),
    "lose": lambda shelf, row, size: shelf.lose(row.path),
    "change": lambda shelf, row, size: shelf.see(row.path, size=size, mtime_ns=row.mtime_ns + 1),
    "record": lambda shelf, row, size: shelf.record(row.path, metadata=b"m" if size % 2 else None),
    "refuse": lambda shelf, row, size: shelf.catalog.refuse([Refused(row.id, row.version, "too small")]),
    "release": _release,
    "recall": lambda shelf, row, size: shelf.catalog.mark_recalled(row.id, b"g" * 32, version=row.version),
    "rerelease": lambda shelf, row, size: shelf.catalog.mark_rereleased(row.id, version=row.version),
    "undo": lambda shelf, row, size: shelf.catalog.mark_undone(row.id, version=row.version),
    "expire": _expire,
    "drop": lambda shelf, row, size: shelf.catalog.drop_record(row.id),
    "forget": lambda shelf, row, size: shelf.catalog.forget(row.id),
}
STEPS = st.lists(st.tuples(st.sampled_from(sorted(ACTS)), st.sampled_from(PATHS), st.integers(1, 9)), max_size=40)


def run(catalog: Catalog, steps: list[tuple[str, str, int]], name: str) -> None:
    shelf = Shelf(catalog, name)
    model: dict[str, Expected] = {}
    for act, path, size in steps:
        if path not in model:
            shelf.add(path)
            model[path] = Expected()
        elif getattr(model[path], act)(size):
            ACTS[act](shelf, shelf[path], size)
            if act == "forget":
                del model[path]
        else:
            with pytest.raises(StateConflict):
                ACTS[act](shelf, shelf[path], size)
        held = Counter(held.file_id for held in catalog.holding_due(HELD_BRIEFLY))
        for known, file in model.items():
            # Which original an act gives up depends on the records; the model only takes note of how many there are.
            file.held = held[shelf[known].id]
    assert {path: (shelf[path].state, shelf[path].size) for path in model} == {
        path: (file.state, file.size) for path, file in model.items()
    }
    assert catalog.recount(correct=False) == []
    (summary,) = [summary for summary in catalog.summary() if summary.tier.name == name]
    for state in State:
        sizes = [file.size for file in model.values() if file.state is state]
        assert (summary.of(state).files, summary.of(state).bytes) == (len(sizes), sum(sizes))
    assert summary.held_files == sum(file.held for file in model.values())
    assert summary.behind_bytes == sum(file.behind for file in model.values() if file.state is State.RELEASED)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_counters_are_right_after_any_acts(catalog: Catalog, steps: list[tuple[str, str, int]]) -> None:
    run(catalog, steps, f"tier-{len(catalog.tiers())}")


def test_a_wrong_counter_is_found_and_put_right(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5)
    with shelf.catalog._write() as connection:
        connection.execute(text("UPDATE counter SET files = 7, bytes = 8 WHERE state = 3"))
        connection.execute(text("UPDATE tier SET held_files = 0, held_bytes = 0, behind_bytes = 9"))
    wrong = [
        Correction("nas", "released", 7, 8, 1, 1000),
        Correction("nas", "held", 0, 0, 1, 1000),
        Correction("nas", "behind", 0, 9, 0, 0),
    ]
    assert shelf.catalog.recount(correct=False) == wrong
    assert shelf.catalog.recount() == wrong
    assert shelf.catalog.recount() == []
    told = [row.detail for row in shelf.catalog.audit_rows() if row.act is Act.CORRECTED]
    assert told == [
        "behind: 0 files, 9 bytes were 0, 0",
        "held: 0 files, 0 bytes were 1, 1000",
        "released: 7 files, 8 bytes were 1, 1000",
    ]


def test_every_tier_has_its_own_counters(shelf: Shelf) -> None:
    other = Shelf(shelf.catalog, "other")
    shelf.add("a.jpg", size=5)
    other.catalog.apply_changes(other.id, [DirectoryChange(b"", new=[found("a.jpg", size=7), found("b.jpg", size=8)])])
    counted = {summary.tier.name: summary.of(State.RESIDENT).bytes for summary in shelf.catalog.summary()}
    assert counted == {"nas": 5, "other": 15}
