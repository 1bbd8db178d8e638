"""The daemon in a process of its own: it archives, heeds signals, and never runs twice on one catalog."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures_catalog import CUT, sql

from archiver import daemon as the_daemon
from archiver import formats
from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.desk.service import DeskService
from archiver.errors import FileVanished
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.undo import undo
from archiver.notify import Notifier
from archiver.steady import Steadiness
from archiver.tiers.protocol import Tier
from archiver.tiers.report import ScanReport
from tests.lifecycle.conftest import fill_with_photographs, make_settings, random_vault, row_of
from tests.lifecycle.dying import tracked_files

__all__ = ["random_vault"]

PATIENCE = 120  # seconds until a line that must come is given up on

CONFIG = """
[catalog]
url = "sqlite:///{state}/catalog.db"
[vault]
path = "{vault}"
[model]
profile = "random-7"
preset = "draft"
batch = 4
[recall]
socket = "{state}/recall.sock"
[release]
min_free = 0
[[tier]]
name = "photos"
path = "{root}"
[[rule]]
name = "all"
action = "{action}"
min_size = 0
unused_for = "0s"
unchanged_for = "0s"
gate = {{ semantic = -1.0, colour = "none" }}
"""


class Daemon:
    """A running daemon whose log lines are read as they come."""

    def __init__(self, config: Path) -> None:
        command = [sys.executable, "-m", "archiver", "--config", str(config), "run"]
        # Its own process group: a Ctrl-C for the tests is not one for the daemon.
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self.lines: list[str] = []
        self._fresh: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self._fresh.put(line)
        self._fresh.put(None)

    def until(self, text: str) -> str:
        """Wait for a line with this text; earlier lines are skipped."""
        while True:
            try:
                line = self._fresh.get(timeout=PATIENCE)
            except queue.Empty:
                pytest.fail(f"no line with {text!r} in {PATIENCE} s after {self.lines}")
            if line is None:
                pytest.fail(f"it ended before a line with {text!r}: {self.lines}")
            self.lines.append(line)
            if text in line:
                return line

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture
def config(tmp_path: Path, random_vault: Path) -> Path:
    root = tmp_path / "photos"
    root.mkdir()
    fill_with_photographs(root)
    upgrade(f"sqlite:///{tmp_path}/catalog.db")
    return write(tmp_path, random_vault, "release")


def write(state: Path, vault: Path, action: str) -> Path:
    path = state / "config.toml"
    path.write_text(CONFIG.format(state=state, vault=vault, root=state / "photos", action=action))
    return path


@contextmanager
def running(config: Path) -> Iterator[Daemon]:
    daemon = Daemon(config)
    try:
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.wait()


def test_the_daemon_archives_what_is_cold_and_stops_when_told(config: Path, tmp_path: Path, random_vault: Path) -> None:
    paths = tracked_files(tmp_path / "photos")
    with running(config) as daemon:
        daemon.until(f"release done {len(paths)}")
        assert daemon.stop() == 0
    for path in paths:
        with path.open("rb") as file:
            envelope = formats.read_envelope(file)
        assert envelope is not None
        assert envelope.kind is formats.Kind.PLACEHOLDER
    with open_site(make_settings(tmp_path, tmp_path / "photos", random_vault)) as site:
        assert {row_of(site, path).state for path in paths} == {State.RELEASED}


def test_a_second_daemon_on_the_same_catalog_refuses_to_start(config: Path) -> None:
    with running(config) as first:
        first.until("started")
        second = subprocess.run(
            [sys.executable, "-m", "archiver", "--config", str(config), "run"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert second.returncode == 7
        assert "another archiver daemon" in second.stderr
        assert str(first.process.pid) in second.stderr
        assert first.stop() == 0


@pytest.mark.postgresql
def test_a_daemon_whose_lock_was_lost_takes_it_again_and_ends_where_another_has_it(
    config: Path, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", postgresql_url)
    monkeypatch.setenv("WATCHDOG_USEC", "200000")  # it looks twice as often
    with running(config) as daemon, Catalog.open(postgresql_url) as other:
        daemon.until("started")
        sql(postgresql_url, CUT)
        daemon.until("taken again")
        daemon.process.send_signal(signal.SIGSTOP)
        os.waitpid(daemon.process.pid, os.WUNTRACED)
        sql(postgresql_url, CUT)
        with other.instance_lock():
            daemon.process.send_signal(signal.SIGCONT)
            daemon.until("went to another daemon")
            assert daemon.process.wait(PATIENCE) == 7


def test_a_reload_takes_the_new_rules_and_a_wrong_file_leaves_the_old_ones(
    config: Path, tmp_path: Path, random_vault: Path
) -> None:
    write(tmp_path, random_vault, "keep")
    paths = tracked_files(tmp_path / "photos")
    with running(config) as daemon:
        daemon.until("started")
        config.write_text("[[rule]]\nnonsense = 1\n")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until("not reloaded")
        daemon.until("started")
        write(tmp_path, random_vault, "release")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.until(f"release done {len(paths)}")
        assert daemon.stop() == 0


def test_a_killed_daemon_settles_its_work_at_the_next_start(config: Path, tmp_path: Path, random_vault: Path) -> None:
    paths = tracked_files(tmp_path / "photos")
    originals = {path: path.read_bytes() for path in paths}
    os.environ["ARCHIVER_KILL_AT"] = "release.exchanged:3"
    try:
        with running(config) as daemon:
            assert daemon.process.wait(PATIENCE) == -signal.SIGKILL
    finally:
        del os.environ["ARCHIVER_KILL_AT"]
    with running(config) as daemon:
        daemon.until("reconcile done 1")
        daemon.until("archive photos: ")  # a stop would leave what has only been read for the next start
        assert daemon.stop() == 0
    with open_site(make_settings(tmp_path, tmp_path / "photos", random_vault)) as site:
        for path in paths:
            held = site.catalog.holding_for(row_of(site, path).id)
            assert held is not None
            assert (tmp_path / "photos/.archiver/holding" / held.name).read_bytes() == originals[path]


def test_a_released_file_that_is_moved_while_the_daemon_runs_is_known_at_its_new_place(
    config: Path, tmp_path: Path, random_vault: Path
) -> None:
    paths = tracked_files(tmp_path / "photos")
    original = paths[0].read_bytes()
    with running(config) as daemon:
        daemon.until(f"release done {len(paths)}")
        new = paths[0].rename(tmp_path / "photos" / f"moved{paths[0].suffix}")
        daemon.until(f"adopt done {new}")
        assert daemon.stop() == 0
    with open_site(make_settings(tmp_path, tmp_path / "photos", random_vault)) as site:
        assert row_of(site, new).state is State.RELEASED
        undo(site, [new])
    assert new.read_bytes() == original


def test_a_stop_answers_readers_before_it_waits_for_the_job_under_way(
    tmp_path: Path, random_vault: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "photos"
    root.mkdir()
    under_way, answered, waited_for = threading.Event(), threading.Event(), []

    def scan(_catalog: Catalog, _tier: Tier, *, stop: threading.Event) -> ScanReport:
        under_way.set()
        waited_for.append((stop.wait(PATIENCE), answered.wait(PATIENCE)))
        raise FileVanished(path=root)

    def answer(desk: DeskService, *, for_good: bool) -> None:
        end(desk, for_good=for_good)
        answered.set()

    end = DeskService.stop
    monkeypatch.setattr(the_daemon, "scan", scan)
    monkeypatch.setattr(DeskService, "stop", answer)
    upgrade(f"sqlite:///{tmp_path}/catalog.db")
    signals = the_daemon._Signals()

    def stop() -> None:
        under_way.wait(PATIENCE)
        signals._handle(signal.SIGTERM, None)

    with open_site(make_settings(tmp_path, root, random_vault)) as site:
        threading.Thread(target=stop, daemon=True).start()
        the_daemon._serve(the_daemon._Jobs(site, Steadiness()), signals, Notifier(), lambda: None)
    assert waited_for == [(True, True)]
