"""The recall desk: one decode a file, the right image, and a verdict for everybody, whatever happens."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from archiver import formats
from archiver.catalog.rows import Act, State
from archiver.config import VaultSettings
from archiver.desk.asker import Asker
from archiver.desk.budget import READ_BY
from archiver.desk.desk import RecallDesk
from archiver.desk.history import Ending
from archiver.desk.jobs import Job
from archiver.errors import DeadlineMissed
from archiver.lifecycle.archive import archive
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import hold
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from archiver.tiers.scan import scan
from tests.access.watching import until
from tests.desk.conftest import PATIENCE, Gate, Waiting, ask, at_rest, desk_of
from tests.lifecycle.conftest import decoded, photograph, row_of


def kind_of(path: Path) -> formats.Kind | None:
    with path.open("rb") as file:
        envelope = formats.read_envelope(file)
    return None if envelope is None else envelope.kind


def under_way(site: Site) -> list[str]:
    """The journal's entries."""
    return os.listdir(site.tiers["photos"].root / ".archiver" / "journal")


def generated_by_command(site: Site, path: Path) -> bytes:
    """What `archiver recall` makes of a released file; it is a placeholder again afterwards."""
    recall(site, [path])
    image = path.read_bytes()
    archive(site, paths=[path])
    assert row_of(site, path).state is State.RELEASED
    return image


def test_a_reader_gets_the_image_that_the_command_would_make(site: Site, released: list[Path]) -> None:
    images = {path: generated_by_command(site, path) for path in released}
    with desk_of(site) as desk:
        for path in released:
            before = path.stat()
            assert ask(desk, path).verdict().errno == 0
            after = path.stat()
            assert path.read_bytes() == images[path]
            assert (after.st_ino, after.st_size, after.st_mtime_ns) == (
                before.st_ino,
                before.st_size,
                before.st_mtime_ns,
            )
            decoded(path)
            at_rest(desk)
            assert row_of(site, path).state is State.RECALLED


def test_a_generated_image_says_that_it_is_one(site: Site, released: list[Path]) -> None:
    with desk_of(site) as desk:
        for path in released:
            ask(desk, path).verdict()
            assert b"trainedAlgorithmicMedia" in path.read_bytes()


def test_the_audit_says_who_asked(site: Site, released: list[Path]) -> None:
    path = released[0]
    with desk_of(site) as desk:
        asker = Asker(4711, "gthumb", "/usr/bin/gthumb", "/user.slice", 12345, 12345)
        ask(desk, path, asker).verdict()
    row = row_of(site, path)
    told = next(row for row in site.catalog.audit_rows(tier_id=row.tier_id, path=row.path) if row.act is Act.RECALLED)
    assert told.detail == f"{READ_BY}gthumb (pid 4711, user 12345)"


def test_a_hundred_readers_of_one_file_cause_one_decode(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site) as desk:
        waiting = [ask(desk, released[0]) for _ in range(100)]
        gate.reached.acquire()
        assert not any(one.answered for one in waiting)
        assert desk.report().readers == 100
        gate.open()
        assert {one.verdict().ending for one in waiting} == {Ending.RECALLED}
    assert gate.decodes == 1
    assert kind_of(released[0]) is formats.Kind.GENERATED


def test_a_recalled_file_was_used_and_is_not_released_at_once(site: Site, released: list[Path]) -> None:
    path = released[0]
    before = row_of(site, path).accessed_at
    with desk_of(site) as desk:
        ask(desk, path).verdict()
    assert row_of(site, path).accessed_at > before
    rule = site.settings.rule[0].model_copy(update={"unused_for": timedelta(days=1)})
    site.settings = site.settings.model_copy(update={"rule": (rule,)})
    archive(site)
    assert row_of(site, path).state is State.RECALLED


def test_a_placeholder_that_was_moved_is_adopted_and_recalled(
    site: Site, released: list[Path], tier_root: Path
) -> None:
    image = generated_by_command(site, released[0])
    moved = tier_root / "elsewhere" / "renamed.jpg"
    moved.parent.mkdir()
    released[0].rename(moved)
    with desk_of(site) as desk:
        assert ask(desk, moved).verdict().ending is Ending.RECALLED
    assert moved.read_bytes() == image
    assert row_of(site, moved).state is State.RECALLED


def test_a_copy_outside_every_tier_is_recalled_from_what_it_carries(
    site: Site, released: list[Path], tmp_path: Path
) -> None:
    with desk_of(site) as desk:
        for path in released:
            image = generated_by_command(site, path)
            copy = tmp_path / f"copy-{path.name}"
            shutil.copy2(path, copy)
            before = copy.stat()
            assert ask(desk, copy).verdict().ending is Ending.RECALLED
            assert copy.read_bytes() == image
            assert copy.stat().st_mtime_ns == before.st_mtime_ns
            assert row_of(site, path).state is State.RELEASED


def test_a_placeholder_that_somebody_touched_is_recalled(site: Site, released: list[Path]) -> None:
    path = released[0]
    os.utime(path, ns=(1, 1_600_000_000_000_000_000))
    with desk_of(site) as desk:
        assert ask(desk, path).verdict().ending is Ending.RECALLED
    assert row_of(site, path).state is State.RECALLED
    assert path.stat().st_mtime_ns == 1_600_000_000_000_000_000


def test_a_file_that_is_no_placeholder_is_left_alone(site: Site, released: list[Path], tier_root: Path) -> None:
    plain = tier_root / "plain.jpg"
    photograph(99).save(plain)
    before = plain.read_bytes()
    with desk_of(site) as desk:
        verdict = ask(desk, plain).verdict()
        assert (verdict.errno, verdict.ending) == (0, Ending.THERE)
    assert plain.read_bytes() == before


def test_a_reader_that_is_killed_leaves_nothing_behind(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    descriptors = len(os.listdir("/proc/self/fd"))
    with desk_of(site, concurrent=1) as desk:
        before = {path: (path.read_bytes(), path.stat().st_ctime_ns) for path in released}
        readers = [subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) for _ in range(2)]
        waiting = [
            ask(desk, path, Asker.of(reader.pid), os.pidfd_open(reader.pid))
            for path, reader in zip(released, readers, strict=False)
        ]
        gate.reached.acquire()  # the first is being decoded, the second is queued
        until(lambda: under_way(site) == [f"{released[0].stat().st_ino:x}-recall"])
        for reader in readers:
            reader.kill()
            reader.communicate()
        assert {one.verdict().ending for one in waiting} == {Ending.LEFT}
        gate.open()
        assert ask(desk, released[2]).verdict().ending is Ending.RECALLED
        assert gate.decodes == 2  # of the first, and of the one just asked for
        assert desk.report().readers == desk.report().files_queued == 0
        at_rest(desk)
    assert {path: (path.read_bytes(), path.stat().st_ctime_ns) for path in released[:2]} == {
        path: before[path] for path in released[:2]
    }
    assert not under_way(site)
    assert {row_of(site, path).state for path in released[:2]} == {State.RELEASED}
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 1


def test_a_failure_gives_the_placeholder_or_an_error_as_configured(
    site: Site, released: list[Path], tmp_path: Path
) -> None:
    before, changed = released[0].read_bytes(), released[0].stat().st_ctime_ns
    site._engine = None
    vault = VaultSettings(path=tmp_path / "empty")
    site.settings = site.settings.model_copy(update={"vault": vault})
    for on_failure, code in (("placeholder", 0), ("error", errno.EIO)):
        with desk_of(site, on_failure=on_failure) as desk:
            verdict = ask(desk, released[0]).verdict()
            assert (verdict.errno, verdict.ending) == (code, Ending.FAILED)
    assert (released[0].read_bytes(), released[0].stat().st_ctime_ns) == (before, changed)
    assert not under_way(site)
    row = row_of(site, released[0])
    acts = [told.act for told in site.catalog.audit_rows(tier_id=row.tier_id, path=row.path)]
    assert acts[:2] == [Act.FAILED, Act.FAILED]


def test_the_kernels_nfs_server_is_told_to_try_again(site: Site, released: list[Path]) -> None:
    with desk_of(site, on_failure="error", per_hour=0) as desk:
        assert ask(desk, released[0], Asker(2, "nfsd", "")).verdict().errno == errno.EAGAIN
        assert ask(desk, released[0], Asker(3, "nfsd", "/tmp/nfsd")).verdict().errno == errno.EIO


def test_the_deadline_comes_before_a_decoder_that_does_not_answer(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site, deadline="1s", on_failure="error", concurrent=1) as desk:
        waiting = [ask(desk, released[0]), ask(desk, released[1])]
        for one in waiting:
            verdict = one.verdict()
            assert (verdict.errno, verdict.ending) == (errno.EIO, Ending.LATE)
        assert desk.report().late == 2
        gate.open()
    assert kind_of(released[1]) is formats.Kind.PLACEHOLDER


class Late(Gate):
    """Misses the deadline of its first decode, once it may."""

    def generate(self, records, **how):
        generated = super().generate(records, **how)
        if self.decodes == 1:
            raise DeadlineMissed(where="in this process", seconds="30")
        return generated


def test_who_can_wait_longer_than_the_first_reader_is_not_given_up_with_it(site: Site, released: list[Path]) -> None:
    gate = Late(site, is_open=False)
    with desk_of(site, on_failure="error", concurrent=1) as desk:
        first = ask(desk, released[0], patience=PATIENCE / 2)
        gate.reached.acquire()
        second = ask(desk, released[0], patience=PATIENCE)
        desk.withdraw(first.reader)
        gate.open()
        assert second.verdict().ending is Ending.RECALLED
    assert gate.decodes == 2


def test_a_missed_deadline_is_a_failure_for_those_who_had_it(site: Site, released: list[Path]) -> None:
    gate = Late(site)
    with desk_of(site, on_failure="error") as desk:
        verdict = ask(desk, released[0], patience=PATIENCE).verdict()
        assert (verdict.errno, verdict.ending) == (errno.EIO, Ending.FAILED)
    assert gate.decodes == 1


def test_the_end_of_the_desk_answers_everybody_at_once(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site, concurrent=1) as desk:
        waiting = [ask(desk, path) for path in released]
        gate.reached.acquire()
    gate.open()
    assert {one.verdict().ending for one in waiting} == {Ending.FAILED}
    assert {kind_of(path) for path in released} == {formats.Kind.PLACEHOLDER}
    assert ask(desk, released[0]).verdict().reason == "the daemon is stopping"


def test_the_end_of_the_desk_does_not_wait_for_a_decode_that_nobody_wants(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    desk = RecallDesk(site)
    desk.start()
    waiting = ask(desk, released[0])
    gate.reached.acquire()
    stopping = threading.Thread(target=desk.stop)
    stopping.start()
    assert waiting.verdict().ending is Ending.FAILED
    stopping.join(20)
    assert not stopping.is_alive()
    assert not under_way(site)
    gate.open()  # what it gives now is for nobody
    with desk_of(site) as desk:
        assert ask(desk, released[0]).verdict().ending is Ending.RECALLED
    assert gate.decodes == 2


def test_a_file_that_another_process_recalls_is_waited_for(site: Site, released: list[Path]) -> None:
    path = released[0]
    row = row_of(site, path)
    with desk_of(site) as desk:
        with hold(site.tiers["photos"], row, os.O_RDWR):
            waiting = ask(desk, path)
            ask(desk, released[1]).verdict()
            assert not waiting.answered
        assert waiting.verdict().ending is Ending.RECALLED


def test_a_locked_catalog_keeps_no_reader(site: Site, released: list[Path]) -> None:
    with desk_of(site) as desk:
        database = site.settings.catalog_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            verdict = ask(desk, released[0]).verdict()
            assert (verdict.errno, verdict.ending) == (0, Ending.RECALLED)
            assert kind_of(released[0]) is formats.Kind.GENERATED
            other.execute("ROLLBACK")
    assert row_of(site, released[0]).state is State.RECALLED


@pytest.mark.parametrize("known", [True, False], ids=["in a tier", "elsewhere"])
def test_what_was_written_into_a_placeholder_that_nobody_watched_stays(
    site: Site, tier_root: Path, released: list[Path], known: bool
) -> None:
    path = released[0] if known else tier_root.with_name("elsewhere.jpg")
    released[0].rename(path)
    with path.open("r+b") as file:
        file.seek(5000)
        file.write(b"mine")
    written = path.read_bytes()
    scan(site.catalog, site.tiers["photos"])
    with desk_of(site) as desk:
        for _ in range(2):  # the first finds that the catalog does not know it so
            verdict = ask(desk, path).verdict()
            assert verdict.ending is Ending.FAILED
            assert "was changed" in verdict.reason
            assert path.read_bytes() == written
    if known:
        assert row_of(site, path).state is State.SUPERSEDED
        undo(site, [path])
    assert path.read_bytes() == written


def test_what_a_dead_fill_or_a_tool_left_behind_a_placeholder_is_filled(
    site: Site, tier_root: Path, released: list[Path]
) -> None:
    head = released[0].read_bytes()[: formats.BLOCK]
    with desk_of(site) as desk:
        assert ask(desk, released[0]).verdict().ending is Ending.RECALLED
        image = released[0].read_bytes()
        left = tier_root.with_name("elsewhere.jpg")
        left.write_bytes(head + image[formats.BLOCK : 3 * formats.BLOCK].ljust(len(image) - formats.BLOCK, b"\0"))
        assert ask(desk, left).verdict().ending is Ending.RECALLED
        assert left.read_bytes() == image


def test_what_a_reader_writes_before_the_catalog_knows_of_the_image_stays(site: Site, released: list[Path]) -> None:
    path = released[0]
    with desk_of(site) as desk:
        database = site.settings.catalog_url.removeprefix("sqlite:///")
        with closing(sqlite3.connect(database, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            ask(desk, path).verdict()
            with path.open("r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"!")
            edited = path.read_bytes()
            other.execute("ROLLBACK")
        at_rest(desk)
    scan(site.catalog, site.tiers["photos"])
    assert row_of(site, path).state is State.SUPERSEDED
    archive(site, paths=[path])
    assert path.read_bytes() == edited


def test_after_every_recall_catalog_and_files_agree(site: Site, released: list[Path]) -> None:
    with desk_of(site) as desk:
        for one in [ask(desk, path) for path in released]:
            one.verdict()
    scan(site.catalog, site.tiers["photos"])
    assert {row_of(site, path).state for path in released} == {State.RECALLED}
    assert site.catalog.recount(correct=False) == []
    assert not os.listdir(site.tiers["photos"].journal_fd)


def test_a_reader_of_a_second_name_recalls_the_file_that_was_released(site: Site, released: list[Path]) -> None:
    path = released[0]
    link = path.with_name("link.jpg")
    link.hardlink_to(path)
    with desk_of(site) as desk:
        assert ask(desk, link).verdict().errno == 0
    assert kind_of(link) is formats.Kind.GENERATED
    assert row_of(site, path).state is State.RECALLED
    assert verify(site, restart=True).exit_code == 0


def test_a_reader_of_a_file_that_was_moved_out_of_its_tier_has_an_image(
    site: Site, tier_root: Path, released: list[Path]
) -> None:
    elsewhere = tier_root.with_name("elsewhere.jpg")
    released[0].rename(elsewhere)
    with desk_of(site) as desk:
        assert ask(desk, elsewhere).verdict().ending is Ending.RECALLED
    assert kind_of(elsewhere) is formats.Kind.GENERATED


def test_who_is_withdrawn_at_the_deadline_was_late(site: Site, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    with desk_of(site) as desk:
        waiting = ask(desk, released[0], patience=0.2)
        assert waiting.reader is not None
        desk.withdraw(waiting.reader)
        assert waiting.verdict().ending is Ending.LATE
        gate.open()


def test_a_reader_that_ends_at_its_deadline_was_late(site: Site, released: list[Path]) -> None:
    """It was told to go on, by an asker that has the same clock, and has ended before we looked at ours."""
    gate = Gate(site, is_open=False)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as reader, desk_of(site) as desk:
        waiting = ask(desk, released[0], Asker.of(reader.pid), os.pidfd_open(reader.pid), patience=0.4)
        reader.kill()
        assert waiting.verdict().ending is Ending.LATE
        gate.open()


def test_who_comes_when_the_last_has_just_left_has_the_image(
    site: Site, released: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(site, is_open=False)
    late: list[Waiting] = []
    with desk_of(site) as desk:
        begin = desk.begin_to_write

        def begin_to_write(job: Job) -> bool:
            wanted = begin(job)
            if not late:
                assert not wanted
                late.append(ask(desk, released[0]))
            return wanted

        monkeypatch.setattr(desk, "begin_to_write", begin_to_write)
        first = ask(desk, released[0])
        assert gate.reached.acquire(timeout=PATIENCE) and first.reader is not None
        desk.withdraw(first.reader)
        gate.open()
        until(lambda: bool(late))
        assert late[0].verdict().ending is Ending.RECALLED
    assert kind_of(released[0]) is formats.Kind.GENERATED


def test_a_failure_that_cannot_be_written_down_ends_no_worker(
    site: Site, released: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    told = threading.Event()

    def fails(*_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def forbidden(*_: object, **__: object) -> None:
        told.set()
        raise RuntimeError("permission denied for table audit")

    with desk_of(site, concurrent=1) as desk:
        monkeypatch.setattr(site.catalog, "audit", forbidden)
        with monkeypatch.context() as broken:
            broken.setattr("archiver.desk.desk.recall_open_file", fails)
            assert ask(desk, released[0]).verdict().ending is Ending.FAILED
        assert told.wait(PATIENCE)
        assert ask(desk, released[1], patience=30).verdict().ending is Ending.RECALLED
