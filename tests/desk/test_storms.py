"""Many readers at once: nobody is forgotten, nobody starves, and the limits hold."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import shutil
import threading
import weakref
from pathlib import Path

import pytest

from archiver import formats
from archiver.catalog.rows import State
from archiver.decoder.engine import Generated, Priority
from archiver.desk.asker import Asker
from archiver.desk.budget import Budget
from archiver.desk.history import Ending
from archiver.desk.waiting import FairQueue
from archiver.errors import DecoderFailed
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from tests.access.watching import until
from tests.desk.conftest import Gate, Waiting, ask, at_rest, desk_of
from tests.lifecycle.conftest import row_of

READERS = 500


def test_interactive_goes_before_bulk_and_owners_take_turns() -> None:
    queue: FairQueue[str] = FairQueue()
    for number in range(3):
        queue.push(f"backup {number}", Priority.BULK, "backup")
    for number in range(3):
        queue.push(f"anna {number}", Priority.INTERACTIVE, "anna")
    queue.push("ben 0", Priority.INTERACTIVE, "ben")
    queue.hasten("backup 2", Priority.INTERACTIVE, "carla")
    assert queue.remove("anna 1")
    assert not queue.remove("anna 1")
    assert len(queue) == len(list(queue)) == 6
    order = [queue.pop() for _ in range(6)]
    assert order == ["anna 0", "ben 0", "backup 2", "anna 2", "backup 0", "backup 1"]
    with pytest.raises(IndexError):
        queue.pop()


def test_a_reader_at_a_screen_goes_before_a_backup(site: Site, released: list[Path], tmp_path: Path) -> None:
    rules = [{"name": "backups", "process": ["rsync"], "priority": "bulk"}]
    gate = Gate(site, is_open=False)
    ended: list[str] = []
    with desk_of(site, rule=rules, concurrent=1) as desk:
        desk.history.follow(lambda event: ended.append(event.path))
        first = ask(desk, released[0], Asker(1, "rsync"))
        gate.reached.acquire()
        waiting = [ask(desk, released[1], Asker(1, "rsync")), ask(desk, released[2], Asker(2, "gthumb"))]
        gate.open()
        for one in [first, *waiting]:
            assert one.verdict().ending is Ending.RECALLED
    assert ended == [str(released[0]), str(released[2]), str(released[1])]


def test_five_hundred_readers_of_five_hundred_files_are_each_served(
    site: Site, released: list[Path], tmp_path: Path
) -> None:
    source = released[1]
    copies = [tmp_path / "copies" / f"{number}.png" for number in range(READERS)]
    copies[0].parent.mkdir()
    for copy in copies:
        shutil.copy2(source, copy)
    recall(site, [source])
    image = source.read_bytes()
    decoded_once = site.engine.generate([_record_of(copies[0])])[0]
    gate = Gate(site)
    gate.generate = lambda records, **_: [decoded_once]  # type: ignore[method-assign] # the model's own work is not what is tested
    threads = threading.active_count()
    with desk_of(site, concurrent=4, waiting=READERS) as desk:
        waiting = [ask(desk, copy) for copy in copies]
        assert threading.active_count() <= threads + 9  # 4 that work, 4 that decode, and the vigil: not one a reader
        assert {one.verdict().ending for one in waiting} == {Ending.RECALLED}
        assert at_rest(desk).report().last_hour == READERS
    assert all(copy.read_bytes() == image for copy in copies)


def test_many_placeholders_restored_at_once_are_all_adopted(site: Site, released: list[Path], tier_root: Path) -> None:
    copies = [tier_root / "restored" / f"{number}.png" for number in range(20)]
    copies[0].parent.mkdir()
    for copy in copies:
        shutil.copy2(released[1], copy)
    with desk_of(site, concurrent=8) as desk:
        for one in [ask(desk, copy) for copy in copies]:
            assert one.verdict().ending is Ending.RECALLED
    assert {row_of(site, copy).state for copy in copies} == {State.RECALLED}


def _record_of(path: Path):
    from archiver.codec.record import Record

    with path.open("rb") as file:
        envelope = formats.read_envelope(file)
    assert envelope is not None
    return Record.from_bytes(envelope.record)


def test_every_reader_that_may_wait_has_room_for_its_descriptors(site: Site) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        with desk_of(site, waiting=4096):
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 2 * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_comes_when_all_places_are_taken_is_told_at_once(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site, waiting=2, on_failure="error") as desk:
        inside = [ask(desk, released[0]), ask(desk, released[1])]
        outside = ask(desk, released[2])
        assert outside.answered
        assert (outside.verdict().errno, outside.verdict().ending) == (errno.EIO, Ending.FULL)
        gate.open()
        assert {one.verdict().ending for one in inside} == {Ending.RECALLED}


def test_no_more_files_are_recalled_in_an_hour_than_the_budget_says(site: Site, released: list[Path]) -> None:
    with desk_of(site, per_hour=2) as desk:
        first = [ask(desk, released[0]), ask(desk, released[0]), ask(desk, released[1])]
        third = ask(desk, released[2])
        assert {one.verdict().ending for one in first} == {Ending.RECALLED}
        assert (third.verdict().errno, third.verdict().ending) == (0, Ending.FULL)
        assert at_rest(desk).report().last_hour == 2
        assert desk.report().full == 1
    # The next process knows of them; what the command recalls is no reader's.
    with desk_of(site, per_hour=2) as desk:
        assert ask(desk, released[2]).verdict().ending is Ending.FULL
        recall(site, [released[2]])
        assert at_rest(desk).report().last_hour == 2
    budget = Budget(3)
    budget.load(site.catalog)
    assert budget.count() == 2
    assert budget.allows(0)
    assert not budget.allows(1)


def test_the_report_says_who_recalls_what(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site, concurrent=1) as desk:
        waiting = [ask(desk, path, Asker(1, "smbd", uid=os.getuid())) for path in released]
        waiting.append(ask(desk, released[0], Asker(2, "cat", uid=os.getuid())))
        gate.reached.acquire()
        report = desk.report()
        assert [(one.path, one.stage, one.readers) for one in report.under_way] == [(str(released[0]), "decoding", 2)]
        assert sorted(one.path for one in report.queued) == sorted(map(str, released[1:]))
        assert (report.readers, report.files_queued, report.files_under_way) == (4, 2, 1)
        assert {share.process: share.waiting for share in report.shares} == {"smbd": 3, "cat": 1}
        gate.open()
        for one in waiting:
            one.verdict()
        shares = {share.process: share for share in desk.report().shares}
        assert (shares["smbd"].recalled, shares["smbd"].waiting) == (3, 0)


def test_a_verdict_that_does_not_reach_its_reader_holds_nobody_up(site: Site, released: list[Path]) -> None:
    def broken(_verdict: object) -> None:
        raise OSError("the mount is gone")

    with desk_of(site) as desk:
        desk.ask(os.open(released[0], os.O_RDWR), Asker(1, "cat"), broken)
        other: Waiting = ask(desk, released[0])
        assert other.verdict().errno == 0
        assert ask(desk, released[1]).verdict().ending is Ending.RECALLED


def test_the_picture_of_a_recall_is_kept_no_longer_than_the_recall(
    site: Site, released: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures: list[weakref.ref[object]] = []
    generate = site.engine.generate

    def watched(*args: object, **how: object) -> list[Generated]:
        made = generate(*args, **how)
        pictures.extend(weakref.ref(one.pixels) for one in made)
        return made

    monkeypatch.setattr(site.engine, "generate", watched)
    with desk_of(site, deadline="1h") as desk:
        for path in released[:3]:
            assert ask(desk, path).verdict().ending is Ending.RECALLED
        until(lambda: len(pictures) == 3 and all(picture() is None for picture in pictures))


def test_a_reader_is_kept_no_longer_than_until_its_verdict(site: Site, released: list[Path]) -> None:
    """Not until its deadline, which is minutes away."""
    with desk_of(site, deadline="15m") as desk:
        waiting = ask(desk, released[0])
        assert waiting.verdict().ending is Ending.RECALLED
        at_rest(desk)
        kept = weakref.ref(waiting)
        del waiting
        gc.collect()
        assert kept() is None


def test_a_reader_without_its_image_is_a_warning_in_the_log(
    site: Site, released: list[Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object, **how: object) -> list[Generated]:
        raise DecoderFailed(where="in this process", reason="it is on fire")

    caplog.set_level(logging.INFO, "archiver.desk")
    with desk_of(site) as desk:
        assert ask(desk, released[0]).verdict().ending is Ending.RECALLED
        monkeypatch.setattr(site.engine, "generate", fail)
        assert ask(desk, released[1]).verdict().ending is Ending.FAILED
    told = {record.message.split()[2]: record.levelname for record in caplog.records if "read of" in record.message}
    assert told == {str(released[0]): "INFO", str(released[1]): "WARNING"}
