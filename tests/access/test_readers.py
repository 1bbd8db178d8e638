"""Who waits, in which order they are given up, and who is spared another question."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from archiver.access import readers
from archiver.access.board import Board, Who
from archiver.access.fanotify import PRE_ACCESS, Event
from archiver.access.readers import Readers, Spared
from archiver.access.terms import Groups, Terms, system_devices
from tests.access.watching import until

EVENT = Event(fd=5, pid=42, mask=PRE_ACCESS)


def test_the_late_are_taken_and_the_answered_are_not_among_them() -> None:
    waiting = Readers()
    late, answered, patient = (waiting.add(3, EVENT, patience) for patience in (0.0, 0.0, 60.0))
    assert waiting.take(answered.id) is answered
    assert list(waiting.late()) == [late]
    assert list(waiting) == [patient]
    assert 59.0 < waiting.pause() <= 60.0


def test_an_id_is_never_used_again_not_even_by_the_next_responder() -> None:
    first, second = Readers(), Readers()
    ids = [group.add(3, EVENT, 1.0).id for group in (first, first, second, second)]
    assert ids == sorted(set(ids))


@pytest.mark.parametrize(("pid", "gap"), [(42, 30.0), (0, 2.0)])
def test_who_comes_back_again_and_again_is_asked_about_in_the_end(
    monkeypatch: pytest.MonkeyPatch, pid: int, gap: float
) -> None:
    now = 1000.0
    monkeypatch.setattr(readers.time, "monotonic", lambda: now)
    spared, who = Spared(), Who(pid, 1, 2)
    spared.add(who)
    answers = []
    for _ in range(100):
        now += gap / 10
        answers.append(spared.goes_on(who))
    assert answers[:10] == [True] * 10
    assert answers[-10:] == [False] * 10


def test_who_reads_on_is_spared_until_the_file_is_forgotten() -> None:
    spared, who = Spared(), Who(42, 1, 2)
    assert not spared.goes_on(who)
    spared.add(who)
    assert spared.goes_on(who)
    assert not spared.goes_on(Who(43, 1, 2))
    spared.forget(1, 2)
    assert not spared.goes_on(who)


def test_the_spared_are_bounded_and_the_latest_stay() -> None:
    spared = Spared()
    crowd = [Who(pid, 1, 2) for pid in range(readers._MOST_SPARED + 10)]
    for who in crowd:
        spared.add(who)
    assert [spared.goes_on(who) for who in crowd].count(True) == readers._MOST_SPARED
    assert spared.goes_on(crowd[-1])


def test_the_board_tells_a_successor_who_waits_behind_which_number() -> None:
    board, who = Board.create(), Who(42, 2**40, 2**63)
    for number in (7, 9, 4000):
        board.seen(number)
    board.waits(9, who)
    board.waits(4000, who)
    board.goes_on(4000)
    found = dict(Board(board.fd).unanswered())
    assert {number for number, waits in found.items() if waits} == {9}
    assert found[9] == who
    assert max(found) >= 4000


def test_only_a_thread_of_the_kernel_is_its_nfs_server(tmp_path: Path) -> None:
    impostor = tmp_path / "nfsd"
    impostor.symlink_to("/bin/sleep")
    with subprocess.Popen([impostor, "100"]) as process:
        until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "nfsd\n")
        assert Terms(deadline=1, refuse=True).denial(process.pid) == errno.EIO
        process.kill()
    assert Terms(deadline=1, refuse=True).denial(0) == errno.EIO
    assert Terms(deadline=1).denial(0) == 0


def test_filesystems_of_the_system_are_watched_by_the_group_that_is_not_kept(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    groups = Groups(kept=1, own=2, system=system_devices([tmp_path, tmp_path / "absent"]))
    for folder, group in ((tmp_path, groups.own), (elsewhere, groups.kept)):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        assert groups.of(descriptor) == group
        os.close(descriptor)
