"""The whole chain as processes: archiver-recall holds a reader, the daemon generates the image, the reader goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from fixtures_fs import MIB, Disk, enter_private_mounts, need_root, run

from archiver.access.client import RecallClient
from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.config import RecallSettings, Settings
from archiver.config_text import render
from archiver.desk import client
from archiver.errors import RecallUnreachable
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from tests.access.released import kind_in
from tests.access.watching import Talker, until, waits
from tests.lifecycle.conftest import make_settings, photograph, row_of, scan_all
from tests.lifecycle.dying import tracked_files

pytestmark = pytest.mark.root

PATIENCE = 120.0
RECALL = {
    "on_failure": "error",
    "rule": [
        {"name": "indexers", "process": ["head"], "action": "placeholder"},
        {"name": "thieves", "process": ["tac"], "action": "refuse"},
    ],
}


@dataclass
class Installation:
    """A tier on a disk of its own, with the two processes beside it."""

    config: Path
    settings: Settings
    paths: list[Path]
    cleanup: ExitStack

    def recall(self) -> Talker:
        """archiver-recall."""
        return self._start([sys.executable, "-m", "archiver.access.supervisor", "--config", str(self.config)])

    def daemon(self) -> Talker:
        """The daemon, once it is told of readers."""
        daemon = self._start([sys.executable, "-m", "archiver", "--config", str(self.config), "run"])
        desk = self.settings.recall.desk_socket
        until(lambda: [watch.how for watch in client.report(desk).watches] == ["read"])
        return daemon

    def both(self) -> tuple[Talker, Talker]:
        return self.recall(), self.daemon()

    def command(self, *words: str) -> str:
        return run(sys.executable, "-m", "archiver", "--config", self.config, *words)

    def following(self) -> Talker:
        """`archiver recalls tail`, once it listens."""
        command = [sys.executable, "-u", "-m", "archiver", "--config", str(self.config), "recalls", "tail", "--json"]
        talker = Talker(command=command)
        self.cleanup.callback(talker.kill)
        path = str(self.settings.recall.desk_socket)
        until(lambda: Path("/proc/net/unix").read_text().count(path) == 2)  # who listens, and whom it has let in
        return talker

    def at_rest(self) -> None:
        """Return once the catalog, too, knows of what the readers have long got."""
        until(lambda: not client.report(self.settings.recall.desk_socket).files_under_way)

    def reader(self, path: Path, *program: str) -> subprocess.Popen[bytes]:
        reader = subprocess.Popen([*(program or ["cat"]), str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.cleanup.callback(reader.kill)
        return reader

    def _start(self, command: list[str]) -> Talker:
        talker = Talker(command=command, stream="stderr")
        self.cleanup.callback(talker.kill)
        talker.expect("started")
        return talker


def read(reader: subprocess.Popen[bytes]) -> bytes:
    """What a reader got; fails where it failed."""
    data, complaint = reader.communicate(timeout=PATIENCE)
    assert reader.returncode == 0, complaint
    return data


@contextmanager
def installation(disk: Disk, state: Path, vault: Path) -> Iterator[Installation]:
    """Small photographs on a disk, released, and the configuration that the processes get."""
    settings = make_settings(state, disk.path / "photos", vault)
    # What was read lately is not cold: the daemon would else release what the test has just recalled.
    rule = settings.rule[0].model_copy(update={"unused_for": timedelta(days=1)})
    recall = RecallSettings.model_validate({**RECALL, "socket": state / "recall.sock"})
    settings = settings.model_copy(update={"rule": (rule,), "recall": recall})
    (disk.path / "photos").mkdir()
    for number in range(4):
        photograph(number, (320, 200)).save(disk.path / f"photos/{number}.jpg", quality=92)
    paths = tracked_files(disk.path / "photos")
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_all(site)
        archive(site, paths=paths)
        assert {row_of(site, path).state for path in paths} == {State.RELEASED}
    config = state / "archiver.toml"
    config.write_text(render(settings))
    with ExitStack() as cleanup:
        yield Installation(config, settings, paths, cleanup)


@pytest.fixture
def installed(make_disk: Callable[..., Disk], tmp_path: Path, random_vault: Path) -> Iterator[Installation]:
    with installation(make_disk(), tmp_path, random_vault) as made:
        yield made


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, random_vault: Path) -> Iterator[Installation]:
    """Both processes, for tests that leave them as they are and recall a file of their own each."""
    need_root()
    enter_private_mounts()
    folder = tmp_path_factory.mktemp("running")
    image, where = folder / "disk.img", folder / "disk"
    with image.open("xb") as file:
        file.truncate(64 * MIB)
    run("mkfs.ext4", "-q", "-F", image)
    where.mkdir()
    run("mount", "-o", "loop", image, where)
    try:
        with installation(Disk(where, image), folder, random_vault) as made:
            made.both()
            yield made
    finally:
        run("umount", "--lazy", where)


def test_cat_of_a_released_file_gives_the_generated_image(running: Installation) -> None:
    path = running.paths[0]
    before = path.stat()
    followed = running.following()
    readers = [running.reader(path) for _ in range(8)]
    for reader in readers:
        assert kind_in(read(reader)) is Kind.GENERATED
    after = path.stat()
    assert (after.st_ino, after.st_size, after.st_mtime_ns) == (before.st_ino, before.st_size, before.st_mtime_ns)
    running.at_rest()
    assert running.command("audit", "--json").count("read by cat") == 1
    event = json.loads(followed.expect("0.jpg"))
    assert (event["process"], event["user"], event["ending"]) == ("cat", "root", "recalled")
    report = json.loads(running.command("status", "--recalls", "--json"))
    assert report["responder"] is True
    assert report["last_hour"] == 1
    assert "cat" in [share["process"] for share in report["shares"]]
    shown = running.command("status", "--recalls")
    assert "noticed (read)" in shown
    assert "who, since the daemon started or was reloaded, " in shown, "who asked before it did is forgotten"


def test_rules_tell_programs_apart(running: Installation) -> None:
    path = running.paths[1]
    assert kind_in(read(running.reader(path, "head", "--bytes=-0"))) is Kind.PLACEHOLDER
    refused = running.reader(path, "tac")
    _, complaint = refused.communicate(timeout=PATIENCE)
    assert refused.returncode != 0
    assert b"not permitted" in complaint
    assert kind_in(read(running.reader(path))) is Kind.GENERATED


def test_our_own_commands_recall_nothing_by_reading(running: Installation) -> None:
    running.command("verify")
    with open_site(running.settings) as site:
        assert site.recall_client is not None
        assert site.recall_client.connected
        assert kind_in(running.paths[2].read_bytes()) is Kind.PLACEHOLDER


def test_a_file_that_was_released_again_is_recalled_again(running: Installation) -> None:
    path = running.paths[3]
    first = read(running.reader(path))
    running.at_rest()
    with open_site(running.settings) as site:
        assert archive(site, paths=[path]).count("release", Result.DONE) == 1
    assert read(running.reader(path)) == first
    assert kind_in(first) is Kind.GENERATED


def test_nothing_is_released_again_while_its_readers_would_not_be_noticed(installed: Installation) -> None:
    recall, daemon = installed.both()
    path = installed.paths[0]
    image = read(installed.reader(path))
    installed.at_rest()
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    recall.kill()
    socket = installed.settings.recall.socket
    assert socket.exists()  # it died: a successor may still know files as resident
    outcomes: list[Outcome] = []
    with open_site(installed.settings) as site, RecallClient(socket) as site.recall_client:
        archive(site, paths=[path], listener=outcomes.append)
    assert [(one.result, type(one.error)) for one in outcomes] == [(Result.REFUSED, RecallUnreachable)]
    assert path.read_bytes() == image


def test_a_stopped_daemon_leaves_no_reader_waiting(installed: Installation) -> None:
    _, daemon = installed.both()
    readers = [installed.reader(path) for path in installed.paths]
    for reader in readers:
        until(lambda reader=reader: reader.poll() is not None or waits(reader.pid))
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    for reader in readers:
        data, complaint = reader.communicate(timeout=PATIENCE)
        # The image, the error that the configuration asks for, or (come too late for the desk) the same: never zeros.
        assert (reader.returncode == 0 and kind_in(data) is Kind.GENERATED) or b"Input/output error" in complaint


@pytest.mark.parametrize("arrow", ["recall.tail_written"])
def test_a_daemon_that_dies_in_a_recall_is_put_right_by_the_next(
    installed: Installation, arrow: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed.recall()
    with monkeypatch.context() as during:
        during.setenv("ARCHIVER_KILL_AT", arrow)
        daemon = installed.daemon()
        path = installed.paths[0]
        reader = installed.reader(path)
        assert daemon.process.wait(PATIENCE) == -signal.SIGKILL
    until(lambda: reader.poll() is not None or waits(reader.pid))
    daemon = installed.daemon()
    data, complaint = reader.communicate(timeout=PATIENCE)
    assert kind_in(data) is Kind.GENERATED or b"Input/output error" in complaint
    assert kind_in(read(installed.reader(path))) is Kind.GENERATED
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    assert not os.listdir(installed.settings.tier[0].path / ".archiver" / "journal")
