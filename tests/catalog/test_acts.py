"""Each act is compare-and-swap, and all or nothing: file, record, holding area, counters and audit together."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import astuple
from multiprocessing.synchronize import Barrier

import pytest
from fixtures_catalog import Shelf, new_record

from archiver.catalog import Catalog
from archiver.catalog.rows import Act, Adopted, Holding, HoldingRow, Refused, State, Version, held_name
from archiver.errors import NotTracked, StateConflict

# -- recording ---------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_committed(shelf: Shelf) -> None:
    (row,) = shelf.add("2019/a.jpg")
    new = new_record(row, metadata=b"exif", rule="cold", semantic=0.612, label_bce=None, colour=7.25)
    (record_id,) = shelf.catalog.commit_records([new])
    assert record_id is not None
    record = shelf.catalog.record(record_id)
    assert (record.file_id, record.payload, record.sha256) == (row.id, new.payload, new.sha256)
    assert (record.profile, record.scheme, record.rule) == (b"profile1", 1, "cold")
    assert (record.format, record.width, record.height) == ("jpeg", 4000, 3000)
    assert (record.semantic, record.label_bce, record.colour) == (0.612, None, 7.25)
    assert shelf.catalog.metadata(record_id) == b"exif"
    assert shelf["2019/a.jpg"].record_id == record_id
    assert shelf.counted() == {"recorded": 1}
    assert shelf.told("2019/a.jpg")[0].rule == "cold"


def test_a_batch_is_not_held_up_by_a_file_that_changed_meanwhile(shelf: Shelf) -> None:
    stale, fresh = shelf.add("stale.jpg", "fresh.jpg")
    shelf.see("stale.jpg", size=77)
    assert [number is None for number in shelf.catalog.commit_records([new_record(stale), new_record(fresh)])] == [
        True,
        False,
    ]
    assert shelf["stale.jpg"].state is State.RESIDENT
    assert shelf["fresh.jpg"].state is State.RECORDED
    assert shelf.counted() == {"resident": 1, "recorded": 1}


def test_a_batch_records_a_file_once(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg")
    first, second = shelf.catalog.commit_records([new_record(row), new_record(row)])
    assert first is not None
    assert second is None


def test_a_file_that_is_not_there_is_left_out_of_a_batch(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg")
    assert shelf.catalog.commit_records([new_record(row, file_id=999)]) == [None]


def test_a_superseded_file_is_recorded_anew_and_keeps_its_first_record(shelf: Shelf) -> None:
    first = shelf.bring("a.jpg", State.SUPERSEDED).record_id
    second = shelf.record("a.jpg").record_id
    assert {shelf.catalog.record(number).file_id for number in (second, first)} == {shelf["a.jpg"].id}
    assert shelf.counted() == {"recorded": 1}


def test_a_record_can_be_dropped_and_the_audit_keeps_its_hash(shelf: Shelf) -> None:
    row = shelf.bring("a.jpg", State.RECORDED)
    assert row.record_id is not None
    sha256 = shelf.catalog.record(row.record_id).sha256
    shelf.catalog.drop_record(row.id, reason="profile retired")
    assert shelf["a.jpg"].state is State.RESIDENT
    with pytest.raises(NotTracked):
        shelf.catalog.record(row.record_id)
    assert shelf.told("a.jpg")[0].detail == f"{sha256.hex()} profile retired"
    assert shelf.counted() == {"resident": 1}


# -- refusing ----------------------------------------------------------------------------------------------------------


def test_a_refused_file_is_no_candidate_until_it_changes(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg")
    assert shelf.catalog.refuse([Refused(row.id, row.version, "animated", "12 frames", "cold")]) == 1
    assert shelf["a.jpg"].refusal == "animated"
    assert list(shelf.catalog.candidates(shelf.id)) == []
    assert [file.refusal for file in shelf.catalog.candidates(shelf.id, refused=True)] == ["animated"]
    (told,) = shelf.told("a.jpg")
    assert (told.act, told.rule, told.detail) == (Act.REFUSED, "cold", "animated: 12 frames")
    shelf.see("a.jpg", mtime_ns=1)
    assert shelf["a.jpg"].refusal is None
    assert len(list(shelf.catalog.candidates(shelf.id))) == 1


def test_a_verdict_on_an_older_version_is_not_noted(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg")
    shelf.see("a.jpg", size=5)
    assert shelf.catalog.refuse([Refused(row.id, row.version, "corrupt")]) == 0
    assert shelf["a.jpg"].refusal is None


# -- releasing, recalling, undoing -------------------------------------------------------------------------------------


def test_from_recorded_to_released_and_back_every_step_is_written_down(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5000)
    assert shelf.counted() == {"released": 1, "held": 1}
    shelf.recall("a.jpg")
    assert shelf.catalog.recalled_hash(shelf["a.jpg"].id) == b"g" * 32
    assert shelf.counted() == {"recalled": 1, "held": 1}
    shelf.catalog.mark_rereleased(shelf["a.jpg"].id, version=shelf["a.jpg"].version, rule="cold")
    assert shelf.catalog.recalled_hash(shelf["a.jpg"].id) is None
    shelf.recall("a.jpg")
    shelf.catalog.mark_undone(shelf["a.jpg"].id, version=Version(1000, 5, 7))
    assert shelf["a.jpg"].version == (1000, 5, 7)
    assert shelf.catalog.holding_for(shelf["a.jpg"].id) is None
    assert shelf.counted() == {"recorded": 1}
    steps = [Act.RECORDED, Act.RELEASED, Act.RECALLED, Act.RERELEASED, Act.RECALLED, Act.UNDONE]
    assert shelf.acts("a.jpg") == steps


def test_a_recall_and_an_undo_are_a_use(sqlite_url: str) -> None:
    now = 1_600_000_000.0
    with Catalog.open(sqlite_url, clock=lambda: now) as catalog:
        shelf = Shelf(catalog)
        assert shelf.bring("a.jpg", State.RELEASED).accessed_at == 1_500_000_000
        assert shelf.recall("a.jpg").accessed_at == 1_600_000_000
        now = 1_700_000_000.0
        catalog.mark_undone(shelf["a.jpg"].id, version=shelf["a.jpg"].version)
        assert shelf["a.jpg"].accessed_at == 1_700_000_000


def test_an_undo_also_brings_back_a_file_whose_placeholder_was_deleted(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5000)
    shelf.lose("a.jpg")
    shelf.catalog.mark_undone(shelf["a.jpg"].id, version=Version(1000, 5, 7))
    assert shelf.counted() == {"recorded": 1}


def test_a_gone_file_that_was_never_recorded_cannot_be_undone(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.GONE)
    with pytest.raises(StateConflict):
        shelf.catalog.mark_undone(shelf["a.jpg"].id, version=Version(1, 1, 1))


def test_a_written_placeholder_is_superseded_and_its_original_stays_held(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5000)
    shelf.catalog.mark_superseded(shelf["a.jpg"].id, version=Version(5, 5, 5))
    row = shelf["a.jpg"]
    assert (row.state, row.version) == (State.SUPERSEDED, (5, 5, 5))
    held = shelf.catalog.holding_for(row.id)
    assert held is not None
    assert held.record_id == row.record_id
    assert held.name == held_name(7, shelf.catalog.record(held.record_id).sha256)


def test_a_file_written_to_and_released_again_has_two_held_originals(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5000)
    shelf.see("a.jpg", size=50)
    shelf.record("a.jpg")
    shelf.release("a.jpg", expires_at=9000)
    assert shelf.counted() == {"released": 1, "held": 2}
    first, second = shelf.catalog.holding_due(9000)
    assert (first.size, second.size) == (1000, 50)
    assert first.name != second.name
    shelf.catalog.mark_expired(first)
    assert shelf.catalog.holding_for(shelf["a.jpg"].id) == second


def test_a_grace_period_ends_once(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    shelf.release("a.jpg", expires_at=5000)
    assert list(shelf.catalog.holding_due(4999)) == []
    (held,) = shelf.catalog.holding_due(5000)
    shelf.catalog.mark_expired(held)
    shelf.catalog.mark_expired(held)
    assert list(shelf.catalog.holding_due(5000)) == []
    assert shelf.counted() == {"released": 1}
    assert shelf.acts("a.jpg")[-1:] == [Act.EXPIRED]
    assert shelf.acts("a.jpg").count(Act.EXPIRED) == 1


@pytest.mark.parametrize("state", list(State))
def test_an_act_on_a_file_in_another_state_changes_nothing(shelf: Shelf, state: State) -> None:
    row = shelf.bring("a.jpg", state)
    version, catalog = Version(1, 2, 3), shelf.catalog
    wrong = {
        "release": (lambda: catalog.mark_released(row.id, row.record_id or 0, version=version), {State.RECORDED}),
        "recall": (lambda: catalog.mark_recalled(row.id, b"g" * 32, version=version), {State.RELEASED}),
        "rerelease": (lambda: catalog.mark_rereleased(row.id, version=version), {State.RECALLED}),
        "undo": (lambda: catalog.mark_undone(row.id, version=version), {State.RELEASED, State.RECALLED}),
        "drop": (lambda: catalog.drop_record(row.id), {State.RECORDED}),
        "forget": (lambda: catalog.forget(row.id), {State.GONE}),
        "supersede": (
            lambda: catalog.mark_superseded(row.id, version=version),
            {State.RECORDED, State.RELEASED, State.RECALLED},
        ),
    }
    before = shelf.acts("a.jpg")
    for act, legal in wrong.values():
        if state not in legal:
            with pytest.raises(StateConflict) as raised:
                act()
            assert raised.value.message.startswith(f"a.jpg is {state.label}")
    assert shelf["a.jpg"] == row
    assert shelf.acts("a.jpg") == before
    assert shelf.counted() == {state.label: 1}


def test_a_release_by_a_record_that_is_no_longer_the_files_is_refused(shelf: Shelf) -> None:
    old = shelf.bring("a.jpg", State.SUPERSEDED).record_id
    row = shelf.record("a.jpg")
    assert old is not None
    with pytest.raises(StateConflict):
        shelf.catalog.mark_released(row.id, old, version=row.version)


def test_an_act_on_a_file_that_is_not_there_says_so(shelf: Shelf) -> None:
    with pytest.raises(NotTracked):
        shelf.catalog.mark_recalled(999, b"g" * 32, version=Version(1, 1, 1))


# -- adopting ----------------------------------------------------------------------------------------------------------


def test_a_placeholder_without_a_row_of_its_own_is_adopted(shelf: Shelf) -> None:
    (row,) = shelf.add("copy.jpg")
    new = new_record(row, metadata=b"exif")
    held = Holding(held_name(2**64 - 1, new.sha256), 1000, 5000)
    record_id = shelf.catalog.adopt(Adopted(new, State.RELEASED, holding=held))
    assert shelf.catalog.holding_for(row.id) == HoldingRow(row.id, record_id, *astuple(held))
    assert shelf["copy.jpg"].state is State.RELEASED
    assert shelf["copy.jpg"].record_id == record_id
    assert shelf.counted() == {"released": 1, "held": 1}
    assert shelf.acts("copy.jpg") == [Act.ADOPTED]


def test_a_generated_image_is_adopted_as_recalled(shelf: Shelf) -> None:
    (row,) = shelf.add("copy.jpg")
    shelf.catalog.adopt(Adopted(new_record(row), State.RECALLED, recalled_sha256=b"g" * 32))
    assert shelf["copy.jpg"].state is State.RECALLED
    assert shelf.catalog.recalled_hash(row.id) == b"g" * 32
    assert shelf.counted() == {"recalled": 1}


def test_a_placeholder_whose_times_were_touched_keeps_its_record(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    held = shelf.held("a.jpg", 5000)
    released = shelf.release("a.jpg", expires_at=5000)
    assert released.record_id is not None
    record = shelf.catalog.record(released.record_id)
    touched = shelf.see("a.jpg", mtime_ns=1)
    assert touched.state is State.SUPERSEDED
    same = new_record(touched, payload=record.payload, sha256=record.sha256)
    assert shelf.catalog.adopt(Adopted(same, State.RELEASED, holding=held)) == record.id
    assert shelf.counted() == {"released": 1, "held": 1}


def test_a_moved_placeholder_takes_its_held_original_along(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    held = shelf.held("a.jpg", 5000)
    record = shelf.catalog.record(shelf["a.jpg"].record_id or 0)
    shelf.release("a.jpg", expires_at=5000)
    shelf.lose("a.jpg")
    (moved,) = shelf.add("b.jpg")
    carried = new_record(moved, payload=record.payload, sha256=record.sha256)
    shelf.catalog.adopt(Adopted(carried, State.RELEASED, holding=held))
    assert shelf.catalog.holding_for(shelf["a.jpg"].id) is None
    assert shelf.catalog.holding_for(moved.id) is not None
    assert shelf.counted() == {"gone": 1, "released": 1, "held": 1}


def test_a_copied_placeholder_leaves_the_held_original_with_the_first(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    held = shelf.held("a.jpg", 5000)
    record = shelf.catalog.record(shelf["a.jpg"].record_id or 0)
    shelf.release("a.jpg", expires_at=5000)
    (copy,) = shelf.add("b.jpg")
    carried = new_record(copy, payload=record.payload, sha256=record.sha256)
    shelf.catalog.adopt(Adopted(carried, State.RELEASED, holding=held))
    assert shelf.catalog.holding_for(copy.id) is None
    assert shelf.catalog.holding_for(shelf["a.jpg"].id) is not None
    assert shelf.counted() == {"released": 2, "held": 1}


def test_a_placeholder_that_changed_since_it_was_read_is_not_adopted(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg")
    shelf.see("a.jpg", size=5)
    with pytest.raises(StateConflict):
        shelf.catalog.adopt(Adopted(new_record(row), State.RELEASED))
    assert shelf.counted() == {"resident": 1}


def test_an_original_is_only_listed_under_its_own_name(shelf: Shelf) -> None:
    row = shelf.bring("a.jpg", State.RECORDED)
    assert row.record_id is not None
    for name in (held_name(7, b"\0" * 32), held_name(7, shelf.catalog.record(row.record_id).sha256).upper(), "x"):
        with pytest.raises(ValueError):
            shelf.catalog.mark_released(row.id, row.record_id, version=row.version, holding=Holding(name, 1000, 5000))
    assert shelf.counted() == {"recorded": 1}


# -- forgetting --------------------------------------------------------------------------------------------------------


def test_a_forgotten_file_lives_on_in_the_audit_alone(shelf: Shelf) -> None:
    row = shelf.bring("old/a.jpg", State.RECORDED)
    shelf.lose("old/a.jpg")
    shelf.catalog.forget(row.id)
    assert shelf.catalog.find(shelf.id, "old/a.jpg") is None
    assert shelf.counted() == {}
    assert shelf.acts("old/a.jpg") == [Act.RECORDED, Act.GONE, Act.FORGOTTEN]
    last = shelf.told("old/a.jpg")[0]
    assert last.detail == new_record(row).sha256.hex()
    assert {told.path for told in shelf.told("old/a.jpg")} == {"old/a.jpg"}


def test_the_number_of_a_forgotten_file_is_never_given_to_another(shelf: Shelf) -> None:
    row = shelf.bring("a.jpg", State.GONE)
    shelf.catalog.forget(row.id)
    (next_,) = shelf.add("b.jpg")
    assert next_.id != row.id
    assert shelf.acts("b.jpg") == []


def test_a_file_whose_original_is_still_held_is_not_forgotten(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RECORDED)
    row = shelf.release("a.jpg", expires_at=5000)
    shelf.lose("a.jpg")
    with pytest.raises(StateConflict):
        shelf.catalog.forget(row.id)
    assert shelf.catalog.holding_for(row.id) is not None


# -- other processes, and the end of this one --------------------------------------------------------------------------


def _recall_all(url: str, barrier: Barrier, file_ids: list[int], won: multiprocessing.SimpleQueue[int]) -> None:
    with Catalog.open(url) as catalog:
        barrier.wait()
        for file_id in file_ids:
            try:
                catalog.mark_recalled(file_id, b"g" * 32, version=Version(1000, 5, 7))
            except StateConflict:
                continue
            won.put(file_id)


def test_of_two_processes_that_act_on_a_file_one_wins(shelf: Shelf, catalog_url: str) -> None:
    file_ids = [shelf.bring(f"{number}.jpg", State.RELEASED).id for number in range(12)]
    context = multiprocessing.get_context("spawn")
    barrier, won = context.Barrier(2), context.SimpleQueue()
    processes = [
        context.Process(target=_recall_all, args=(catalog_url, barrier, order, won))
        for order in (file_ids, file_ids[::-1])
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    winners = []
    while not won.empty():
        winners.append(won.get())
    assert sorted(winners) == file_ids
    assert shelf.counted() == {"recalled": 12}
    assert len([row for row in shelf.catalog.audit_rows() if row.act is Act.RECALLED]) == 12


def _die_in_the_middle(url: str, file_id: int) -> None:
    with Catalog.open(url) as catalog, catalog._change() as ledger:
        (file,) = ledger.lock([file_id]).values()
        ledger.write([(file, file._replace(state=State.RECALLED))])
        ledger.tell(Act.RECALLED, file)
        ledger.settle()
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_dies_in_a_transaction_leaves_nothing_of_it(shelf: Shelf, catalog_url: str) -> None:
    row = shelf.bring("a.jpg", State.RELEASED)
    before = shelf.acts("a.jpg")
    process = multiprocessing.get_context("spawn").Process(target=_die_in_the_middle, args=(catalog_url, row.id))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert shelf["a.jpg"] == row
    assert shelf.acts("a.jpg") == before
    assert shelf.counted() == {"released": 1}
    shelf.recall("a.jpg")  # and nothing of it is in the way
    assert shelf.counted() == {"recalled": 1}
