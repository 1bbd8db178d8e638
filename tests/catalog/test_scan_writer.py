"""What a scan saw becomes what the catalog says, whole directories at a time."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.synchronize import Barrier

import pytest
from fixtures_catalog import Shelf, found
from sqlalchemy.exc import IntegrityError

from archiver.catalog import Catalog
from archiver.catalog.rows import LONGEST_PATH, Act, Applied, DirectoryChange, FileRow, State

ODD_NAMES = [b"\xff\xfe.jpg", "ä.jpg".encode(), b"line\nbreak.jpg", b"quote'\".jpg", b"back\\slash %_.jpg", b" .jpg"]


def apply(shelf: Shelf, *changes: DirectoryChange) -> Applied:
    return shelf.catalog.apply_changes(shelf.id, changes)


def directory_id(shelf: Shelf, path: str) -> int:
    row = shelf.catalog.directory(shelf.id, path)
    assert row is not None
    return row.id


def test_new_files_are_resident_and_directories_get_their_parents(shelf: Shelf) -> None:
    changes = [
        DirectoryChange(b"2019/summer", fingerprint=b"1", new=[found("b.jpg", size=20), found("a.jpg", size=10)]),
        DirectoryChange(b"", fingerprint=b"0", new=[found("top.jpg", size=5)]),
    ]
    assert apply(shelf, *changes) == Applied(new=3)
    row = shelf["2019/summer/a.jpg"]
    assert (row.state, row.size, row.directory, row.name) == (State.RESIDENT, 10, "2019/summer", "a.jpg")
    assert [(row.path, row.fingerprint) for row in shelf.catalog.directories(shelf.id)] == [
        (b"", b"0"),
        (b"2019", None),
        (b"2019/summer", b"1"),
    ]
    (child,) = shelf.catalog.children(directory_id(shelf, ""))
    assert child.path == b"2019"
    (summary,) = shelf.catalog.summary()
    assert summary.of(State.RESIDENT).bytes == 35
    assert shelf.counted() == {"resident": 3}
    assert list(shelf.catalog.audit_rows()) == []


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_comes_back_as_it_went_in(shelf: Shelf, name: bytes) -> None:
    apply(shelf, DirectoryChange(b"d\xfc", new=[found(name)]))
    path = os.fsdecode(b"d\xfc/" + name)
    row = shelf.catalog.find(shelf.id, path)
    assert row is not None
    assert os.fsencode(row.path) == b"d\xfc/" + name
    (known,) = shelf.catalog.files_in(row_directory(shelf))
    assert known.name == name
    shelf.record(path)
    assert [told.path for told in shelf.catalog.audit_rows(tier_id=shelf.id, path=path)] == [path]
    assert [file.path for file in shelf.catalog.stream_files(shelf.id, under=os.fsdecode(b"d\xfc"))] == [path]


def row_directory(shelf: Shelf) -> int:
    return next(row.id for row in shelf.catalog.directories(shelf.id) if row.path == b"d\xfc")


def test_the_largest_inode_number_comes_back(shelf: Shelf) -> None:
    (row,) = shelf.add("a.jpg", inode=2**64 - 1)
    assert row.inode == 2**64 - 1
    assert shelf.catalog.files_in(directory_id(shelf, ""))[0].inode == 2**64 - 1
    assert shelf.see("a.jpg").inode == 2**64 - 1
    assert shelf.acts("a.jpg") == []


@pytest.mark.parametrize("change", [{"size": 9}, {"mtime_ns": 9}, {"inode": 9}])
@pytest.mark.parametrize("state", [State.RECORDED, State.RELEASED, State.RECALLED])
def test_a_file_that_changed_under_its_record_is_superseded(shelf: Shelf, state: State, change: dict[str, int]) -> None:
    before = shelf.bring("a.jpg", state)
    row = shelf.see("a.jpg", **change)
    assert row.state is State.SUPERSEDED
    assert row.record_id == before.record_id
    assert shelf.catalog.recalled_hash(row.id) is None
    assert shelf.acts("a.jpg")[-1] is Act.SUPERSEDED
    assert shelf.counted() == {"superseded": 1}


@pytest.mark.parametrize("state", [State.RESIDENT, State.SUPERSEDED])
def test_a_file_that_no_record_speaks_for_is_brought_up_to_date(shelf: Shelf, state: State) -> None:
    before = shelf.bring("a.jpg", state)
    told = shelf.acts("a.jpg")
    row = shelf.see("a.jpg", size=77, mtime_ns=78, inode=79, accessed_at=1_700_000_000)
    assert (row.state, row.record_id) == (state, before.record_id)
    assert (row.version, row.accessed_at) == ((77, 78, 79), 1_700_000_000)
    assert shelf.acts("a.jpg") == told
    assert shelf.counted() == {state.label: 1}


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_a_file_that_comes_back_unchanged_is_what_it_was(shelf: Shelf, state: State) -> None:
    before = shelf.bring("a.jpg", state)
    assert shelf.lose("a.jpg").state is State.GONE
    assert shelf.counted() == {"gone": 1}
    assert shelf.see("a.jpg") == before
    assert shelf.catalog.recalled_hash(before.id) == (b"g" * 32 if state is State.RECALLED else None)
    assert shelf.acts("a.jpg")[-2:] == [Act.GONE, Act.RETURNED]
    assert shelf.counted() == {state.label: 1}


@pytest.mark.parametrize("state", [state for state in State if state is not State.GONE])
def test_a_file_that_comes_back_changed_is_not_taken_for_what_it_was(shelf: Shelf, state: State) -> None:
    shelf.bring("a.jpg", state)
    shelf.lose("a.jpg")
    row = shelf.see("a.jpg", size=77)
    assert row.state is (State.RESIDENT if state is State.RESIDENT else State.SUPERSEDED)
    assert shelf.counted() == {row.state.label: 1}


def test_a_new_file_that_the_catalog_has_already_is_a_changed_one(shelf: Shelf) -> None:
    shelf.bring("a/known.jpg", State.RELEASED)
    shelf.bring("a/gone.jpg", State.GONE)
    seen = [found("known.jpg", size=5), found("gone.jpg"), found("new.jpg")]
    assert apply(shelf, DirectoryChange(b"a", new=seen)) == Applied(new=1, superseded=1, returned=1)
    assert shelf.counted() == {"resident": 2, "superseded": 1}


def test_a_vanished_directory_takes_all_below_it(shelf: Shelf) -> None:
    shelf.add("a/1.jpg", "a/b/2.jpg", "a/b/c/3.jpg", "keep/4.jpg")
    top = directory_id(shelf, "")
    gone = directory_id(shelf, "a")
    assert apply(shelf, DirectoryChange(b"", top, b"x", vanished=[gone])) == Applied(gone=3)
    assert shelf.counted() == {"gone": 3, "resident": 1}
    assert [row.path for row in shelf.catalog.children(top)] == [b"keep"]
    assert shelf.catalog.directory(shelf.id, "a/b") is None
    # It comes back as the same directory, its files as the same files.
    back = apply(shelf, DirectoryChange(b"a/b", new=[found("2.jpg")]))
    assert back == Applied(returned=1)
    assert directory_id(shelf, "a/b") in {row.id for row in shelf.catalog.children(directory_id(shelf, "a"))}


def test_a_batch_with_a_mistake_changes_nothing(shelf: Shelf) -> None:
    shelf.add("a.jpg")
    row = shelf["a.jpg"]
    good = DirectoryChange(b"", fingerprint=b"1", new=[found("b.jpg")], changed=[(row.id, found("a.jpg", size=5))])
    with pytest.raises(IntegrityError):
        apply(shelf, good, DirectoryChange(b"c", new=[found("")]))
    assert shelf["a.jpg"] == row
    assert shelf.catalog.find(shelf.id, "b.jpg") is None
    assert shelf.catalog.directory(shelf.id, "c") is None
    assert shelf.counted() == {"resident": 1}


def test_a_scan_is_summed_up_in_the_audit(shelf: Shelf) -> None:
    assert shelf.catalog.tier(shelf.id).first_scan_done_at is None
    shelf.catalog.finish_scan(shelf.id, 100, "3 new")
    shelf.catalog.finish_scan(shelf.id, 200)
    tier = shelf.catalog.tier(shelf.id)
    assert (tier.first_scan_done_at, tier.last_scan_at) == (100, 200)
    assert [(row.act, row.detail) for row in shelf.catalog.audit_rows()] == [(Act.SCANNED, ""), (Act.SCANNED, "3 new")]


def test_a_directory_too_deep_to_be_indexed_is_left_out_and_holds_nothing_up(shelf: Shelf) -> None:
    chance = random.Random(1)  # incompressible: what an index has to store at full length
    longest, longer = (bytes(chance.choices(range(65, 255), k=LONGEST_PATH + more)) for more in (0, 1))
    deep = [DirectoryChange(path, fingerprint=b"1", new=[found("a.jpg")]) for path in (longest, longer)]
    assert apply(shelf, *deep, DirectoryChange(b"", new=[found("b.jpg")])) == Applied(new=2, too_deep=1)
    assert shelf.counted() == {"resident": 2}
    assert shelf.catalog.find(shelf.id, os.fsdecode(longest + b"/a.jpg")) is not None


def _scan_too(url: str, barrier: Barrier) -> None:
    with Catalog.open(url) as catalog:
        barrier.wait()
        tier = catalog.ensure_tier("new", "local", "/srv/new")
        for number in range(10):
            seen = [found(f"{name}.jpg") for name in range(20)]
            catalog.apply_changes(tier.id, [DirectoryChange(b"a/%d/b" % number, new=seen)])
            catalog.set_setting("scan", str(number))
            catalog.pin(tier.id, "a", subtree=True)


def test_two_scanners_of_one_tier_find_every_file_once(catalog: Catalog, catalog_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=_scan_too, args=(catalog_url, barrier)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert Shelf(catalog, "new").counted() == {"resident": 200}


def _changed_and_missing(shelf: Shelf, low: FileRow, high: FileRow) -> None:
    apply(shelf, DirectoryChange(b"", changed=[(high.id, found(b"high.jpg", size=9))], missing=[low.id]))


def _changed_and_vanished(shelf: Shelf, _low: FileRow, high: FileRow) -> None:
    vanished = [directory_id(shelf, "a")]
    apply(shelf, DirectoryChange(b"", changed=[(high.id, found(b"high.jpg", size=9))], vanished=vanished))


def _used(shelf: Shelf, low: FileRow, high: FileRow) -> None:
    at = 1_700_000_000
    shelf.catalog.note_access([(shelf.id, high.path, at), (shelf.id, low.path, at)])


@pytest.mark.postgresql
@pytest.mark.parametrize("write", [_changed_and_missing, _changed_and_vanished, _used])
def test_who_writes_to_several_files_never_waits_for_each_other(
    postgresql_url: str, write: Callable[[Shelf, FileRow, FileRow], None]
) -> None:
    with Catalog.open(postgresql_url) as catalog, ThreadPoolExecutor(1) as thread:
        shelf = Shelf(catalog)
        (low, high) = shelf.add("a/low.jpg", "high.jpg")
        with catalog._change() as ledger, catalog._read() as looking:
            ledger.lock([low.id])  # as who records a batch of both, and comes to the second in a moment
            writing = thread.submit(write, shelf, low, high)
            while not looking.exec_driver_sql("SELECT count(*) FROM pg_locks WHERE NOT granted").scalar():
                assert not writing.done()
            assert ledger.lock([high.id])
        writing.result()


def test_many_files_in_one_batch(shelf: Shelf) -> None:
    names = [f"{number:05}.jpg" for number in range(2500)]
    apply(shelf, DirectoryChange(b"many", fingerprint=b"1", new=[found(name) for name in names]))
    number = directory_id(shelf, "many")
    known = shelf.catalog.files_in(number)
    changed = [(row.id, found(row.name, size=5)) for row in known[:1200]]
    missing = [row.id for row in known[1200:]]
    applied = apply(shelf, DirectoryChange(b"many", number, b"2", changed=changed, missing=missing))
    assert applied == Applied(changed=1200, gone=1300)
    assert shelf.counted() == {"resident": 1200, "gone": 1300}
