"""`archiver-recall` under a real systemd: whatever is killed or restarted, readers wait for their image or go on."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.access.watching import (
    READ,
    REPOSITORY,
    Talker,
    children,
    generated,
    outcome,
    placeholder,
    put_placeholder,
    until,
    waits,
)
from tests.system.machine import PACKAGE, RECALL_DROPINS, TIER, Machine

pytestmark = pytest.mark.root

UNIT = "archiver-recall.service"
SOCKET = "/run/archiver/recall.sock"
DROPIN = f"{RECALL_DROPINS}/test.conf"
# nsenter, which starts a program in the machine, takes it along when it is killed.
TOGETHER = ("setpriv", "--pdeathsig", "SIGKILL")
EXPOSURE_BAR = 40  # systemd-analyze counts tenths: 4.0


class Watched:
    """The machine with the unit running."""

    def __init__(self, machine: Machine, cleanup: ExitStack) -> None:
        self.machine, self._cleanup = machine, cleanup
        self.tier = machine.root / TIER.lstrip("/")

    def desk(self, behaviour: str = "fill") -> Talker:
        """The test's desk, as a process in the machine."""
        script = REPOSITORY / "tests" / "access" / "answering_desk.py"
        paths = f"PYTHONPATH={PACKAGE}:{REPOSITORY}:{REPOSITORY / 'tests'}"
        start = ["env", paths, sys.executable, "-u", script, SOCKET, TIER, behaviour]
        desk = Talker(command=self.machine.command(*TOGETHER, *start))
        self._cleanup.callback(desk.kill)
        desk.expect("watched tier READ")
        return desk

    def reader(self, path: Path) -> subprocess.Popen[bytes]:
        """A process of this machine that reads a file of that one."""
        command = self.machine.command(*TOGETHER, sys.executable, "-S", "-E", "-c", READ, f"{TIER}/{path.name}")
        reader = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._cleanup.callback(reader.kill)
        return reader

    def read(self, path: Path) -> bytes:
        return outcome(self.reader(path))

    def kill(self, signal: str = "SIGKILL", whom: str = "main") -> None:
        self.machine.run("systemctl", "kill", f"--kill-whom={whom}", f"--signal={signal}", UNIT)


@pytest.fixture
def watched(machine: Machine) -> Iterator[Watched]:
    machine.write("/etc/archiver/config.toml", "")
    with ExitStack() as cleanup:
        cleanup.callback(machine.run, "systemctl", "daemon-reload")
        cleanup.callback(machine.run, "find", TIER, "-mindepth", "1", "-delete")
        cleanup.callback(machine.run, "rm", "-rf", "/etc/archiver/config.toml", DROPIN)
        cleanup.callback(machine.run, "systemctl", "reset-failed", UNIT, check=False)
        cleanup.callback(machine.run, "systemctl", "stop", UNIT)
        machine.run("systemctl", "start", UNIT)
        yield Watched(machine, cleanup)


@pytest.fixture
def late(watched: Watched) -> Watched:
    """The same, but systemd takes its time to start it again."""
    watched.machine.write(DROPIN, "[Service]\nRestartSec=4s\n")
    watched.machine.run("systemctl", "daemon-reload")
    return watched


@pytest.fixture
def released(watched: Watched) -> Callable[[str], Path]:
    return lambda name: put_placeholder(watched.tier / name)


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", UNIT)
    assert done.stdout + done.stderr == ""


def test_the_exposure_of_the_loaded_unit_is_below_the_bar(machine: Machine) -> None:
    machine.run("systemd-analyze", "security", f"--threshold={EXPOSURE_BAR}", "--no-pager", UNIT)


def test_in_its_sandbox_it_watches_and_its_memory_is_locked(watched: Watched, released: Callable[[str], Path]) -> None:
    path = released("a.jpg")
    watched.desk()
    assert watched.read(path) == generated()
    process = watched.machine.main_pid(UNIT)
    status = watched.machine.run("cat", f"/proc/{process}/status").stdout
    assert "VmLck:\t       0 kB" not in status
    assert watched.machine.show(UNIT, "User") == "archiver"


def test_a_reader_waits_through_a_restart_for_the_desk_that_has_its_question(
    watched: Watched, released: Callable[[str], Path]
) -> None:
    path = released("a.jpg")
    desk = watched.desk("hold")
    reader = watched.reader(path)
    desk.expect("asked")
    before = watched.machine.main_pid(UNIT)
    restart = subprocess.Popen(watched.machine.command("systemctl", "restart", UNIT))
    until(lambda: watched.machine.show(UNIT, "ActiveState") == "deactivating")
    desk.say("go")
    assert outcome(reader) == generated()
    assert restart.wait(60) == 0
    assert watched.machine.main_pid(UNIT) not in (0, before)


def test_a_reader_that_comes_while_nobody_is_there_waits_for_the_next_process(
    late: Watched, released: Callable[[str], Path]
) -> None:
    path = released("a.jpg")
    late.desk()
    late.kill(whom="all")
    until(lambda: late.machine.show(UNIT, "SubState") == "auto-restart")
    reader = late.reader(path)
    until(lambda: any(map(waits, children(reader.pid))))
    assert late.machine.show(UNIT, "SubState") == "auto-restart"
    assert outcome(reader) == generated()


def test_nobody_waits_for_nobody_on_a_filesystem_that_the_service_needs_itself(
    late: Watched, released: Callable[[str], Path]
) -> None:
    """Or it could not start again."""
    paths = [released("a.jpg"), released("b.jpg")]
    late.machine.write(f"{TIER}/config.toml", "")
    late.machine.write(DROPIN, f"[Service]\nRestartSec=4s\nEnvironment=ARCHIVER_CONFIG={TIER}/config.toml\n")
    late.machine.run("systemctl", "daemon-reload")
    late.machine.run("systemctl", "restart", UNIT)
    late.desk()
    assert late.read(paths[0]) == generated()
    late.kill(whom="all")
    until(lambda: late.machine.show(UNIT, "SubState") == "auto-restart")
    assert late.read(paths[1]) == placeholder()
    assert late.machine.show(UNIT, "SubState") == "auto-restart"


def test_readers_who_waited_when_it_was_killed_go_on_when_it_is_back(
    late: Watched, released: Callable[[str], Path]
) -> None:
    paths = [released(f"{number}.jpg") for number in range(10)]
    desk = late.desk("hold")
    readers = [late.reader(path) for path in paths]
    for _ in readers:
        desk.expect("asked")
    late.kill()
    assert {outcome(reader) for reader in readers} == {placeholder()}
    desk.expect("watched")
    reader = late.reader(released("another.jpg"))
    desk.expect("asked")
    desk.say("go")
    assert outcome(reader) == generated()


def test_after_a_stop_nobody_waits(watched: Watched, released: Callable[[str], Path]) -> None:
    path = released("a.jpg")
    watched.desk()
    watched.machine.run("systemctl", "stop", UNIT)
    assert watched.read(path) == placeholder()
    assert watched.machine.show(UNIT, "Result") == "success"


def test_the_watchdog_replaces_a_supervisor_that_hangs_and_no_reader_does(
    watched: Watched, released: Callable[[str], Path]
) -> None:
    paths = [released("a.jpg"), released("b.jpg")]
    watched.machine.write(DROPIN, "[Service]\nWatchdogSec=2s\n")
    watched.machine.run("systemctl", "daemon-reload")
    watched.machine.run("systemctl", "restart", UNIT)
    desk = watched.desk()
    with watched.machine.expect(UNIT, "Watchdog timeout", "started, with the watches of before"):
        watched.kill("SIGSTOP")
        assert watched.read(paths[0]) == generated()
    desk.expect("watched")
    assert watched.read(paths[1]) == generated()


def test_a_configuration_that_nobody_can_read_leaves_nobody_waiting(
    watched: Watched, released: Callable[[str], Path]
) -> None:
    path = released("a.jpg")
    watched.desk().kill()
    watched.machine.write("/etc/archiver/config.toml", "unheard_of = 1\n")
    with watched.machine.expect(UNIT, "unheard_of", "Failed with result 'exit-code'"):
        watched.kill()
    assert watched.read(path) == placeholder()
