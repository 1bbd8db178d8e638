"""What the daemon tells of recalls at its socket, and the recalls that mounts ask for there."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from archiver.cli.main import cli
from archiver.config_text import render
from archiver.desk import client
from archiver.desk.door import Door
from archiver.desk.history import Ending
from archiver.desk.report import Report
from archiver.desk.service import DeskService
from archiver.errors import DeskUnreachable
from archiver.lifecycle.site import Site
from tests.access.released import kind_of
from tests.access.watching import no_descriptor_free, until
from tests.desk.conftest import PATIENCE, Gate, ask, at_rest, with_recall


@pytest.fixture
def service(site: Site, released: list[Path], tmp_path: Path) -> Iterator[DeskService]:
    site.settings = with_recall(site.settings, socket=tmp_path / "run" / "recall.sock")
    service = DeskService(site)
    service.start()
    try:
        yield service
    finally:
        service.stop(for_good=True)


def at(site: Site) -> Path:
    return site.settings.recall.desk_socket


def test_the_report_of_a_running_desk_is_the_same_at_its_socket(
    site: Site, service: DeskService, released: list[Path]
) -> None:
    ask(service.desk, released[0]).verdict()
    at_rest(service.desk)
    report = client.report(at(site))
    assert isinstance(report, Report)
    here = service.report()
    assert 0.0 < report.counted <= here.counted, "it counts since it was started"
    assert report == replace(here, counted=report.counted)
    assert report.last_hour == 1
    assert report.responder is False
    assert [watch.how for watch in report.watches] == ["nothing"]


def test_followers_are_told_of_every_reader(site: Site, service: DeskService, released: list[Path]) -> None:
    with ExitStack() as open_:
        followers = [open_.enter_context(closing(client.events(at(site)))) for _ in range(3)]
        heard: list[list[str]] = [[] for _ in followers]

        def follow(number: int) -> None:
            for event in followers[number]:
                heard[number].append(f"{Path(event.path).name} {event.ending}")
                if len(heard[number]) == len(released):
                    return

        threads = [threading.Thread(target=follow, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        door: Door = service._door
        while len(door._followers) < 3:
            threading.Event().wait(0.01)
        for path in released:
            ask(service.desk, path).verdict()
        for thread in threads:
            thread.join(60)
    assert heard == [[f"{path.name} recalled" for path in released]] * 3


def test_a_mount_asks_for_the_image_of_a_file_it_has_open(
    site: Site, service: DeskService, released: list[Path]
) -> None:
    fd = os.open(released[0], os.O_RDWR)
    with closing(client.ask_recall(at(site), fd, os.getpid())) as peer:
        assert client.verdict(at(site), peer) == 0
    os.close(fd)
    assert str(kind_of(released[0])) == "generated"


def test_a_mount_that_hangs_up_withdraws_its_question(site: Site, service: DeskService, released: list[Path]) -> None:
    gate = Gate(site, is_open=False)
    ended: list[str] = []
    done = threading.Event()
    service.desk.history.follow(lambda event: (ended.append(event.ending), done.set()))
    fd = os.open(released[0], os.O_RDWR)
    peer = client.ask_recall(at(site), fd, os.getpid())
    gate.reached.acquire()
    peer.close()
    assert done.wait(60)
    assert ended == [Ending.LEFT]
    gate.open()
    os.close(fd)


@pytest.mark.parametrize("for_good", [True, False])
def test_a_mount_that_waits_when_the_daemon_ends_is_hung_up_on_without_a_verdict(
    site: Site, released: list[Path], tmp_path: Path, for_good: bool
) -> None:
    site.settings = with_recall(site.settings, socket=tmp_path / "recall.sock")
    service = DeskService(site)
    service.start()
    gate = Gate(site, is_open=False)
    with released[0].open("r+b") as file:
        peer = client.ask_recall(at(site), file.fileno(), os.getpid())
    gate.reached.acquire()
    stopping = threading.Thread(target=service.stop, kwargs={"for_good": for_good})
    stopping.start()
    with closing(peer), pytest.raises(DeskUnreachable):
        client.verdict(at(site), peer)
    gate.open()
    stopping.join()


@pytest.mark.parametrize(("for_good", "ending"), [(True, Ending.FAILED), (False, Ending.LEFT)])
def test_at_a_reload_no_recall_counts_as_failed(
    site: Site, released: list[Path], tmp_path: Path, for_good: bool, ending: Ending
) -> None:
    """Its reader asks the next desk and gets the image: a failure in the log and in `recalls tail` would be none."""
    site.settings = with_recall(site.settings, socket=tmp_path / "recall.sock")
    service = DeskService(site)
    service.start()
    gate = Gate(site, is_open=False)
    waiting = ask(service.desk, released[0])
    gate.reached.acquire()
    service.stop(for_good=for_good)
    gate.open()
    assert waiting.verdict().ending is ending


@pytest.mark.parametrize(
    "packet", [b"", b"{", b"[]", b"null", b'{"want": "all"}', b'{"want": "recall", "pid": 1}', b"x" * 10_000]
)
def test_what_is_none_of_ours_is_hung_up_on_and_the_next_is_served(
    site: Site, service: DeskService, packet: bytes
) -> None:
    with closing(client.connect(at(site))) as peer:
        peer.send(packet)
        if packet:
            assert peer.recv(100) == b""
    with closing(client.connect(at(site))) as peer:
        with open(os.devnull) as null:
            socket.send_fds(peer, [b'{"want": "report"}'], [null.fileno()])
        assert peer.recv(100) == b""
    assert client.report(at(site)).readers == 0


def test_who_cannot_be_let_in_for_want_of_descriptors_is_let_in_later(
    site: Site, service: DeskService, caplog: pytest.LogCaptureFixture
) -> None:
    def refusals() -> list[float]:
        return [record.created for record in caplog.records if "nobody is let in" in record.message]

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(PATIENCE)
        with no_descriptor_free():
            peer.connect(str(at(site)))
            until(lambda: len(refusals()) > 1)
        first, second, *_ = refusals()
        assert second - first >= 0.9, "it tries again at once"
        peer.send(b'{"want": "report"}')
        assert json.loads(peer.recv(client.MOST_BYTES))["readers"] == 0
    assert not [record for record in caplog.records if record.exc_info]


def test_the_door_is_closed_while_nobody_can_be_let_in(site: Site, released: list[Path], tmp_path: Path) -> None:
    site.settings = with_recall(site.settings, socket=tmp_path / "recall.sock")
    service = DeskService(site)
    service.start()
    door: Door = service._door
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.settimeout(PATIENCE)
        with no_descriptor_free():
            peer.connect(str(at(site)))
            until(lambda: door._listen_again is not None)
            service.stop(for_good=True)
        with pytest.raises(ConnectionResetError):
            peer.recv(100)


def test_only_root_and_the_daemon_may_ask(site: Site, service: DeskService) -> None:
    assert at(site).stat().st_mode & 0o777 == 0o600


def test_a_second_daemon_leaves_the_socket_to_the_first(site: Site, service: DeskService) -> None:
    second = Door(at(site), service.desk, service.report)
    with pytest.raises(OSError, match="another daemon"):
        second.open()
    second.close()
    assert client.report(at(site)).readers == 0


def test_a_socket_left_by_a_dead_daemon_is_replaced(site: Site, released: list[Path], tmp_path: Path) -> None:
    site.settings = with_recall(site.settings, socket=tmp_path / "recall.sock")
    left = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    left.bind(str(at(site)))
    left.close()
    with pytest.raises(DeskUnreachable):
        client.report(at(site))
    service = DeskService(site)
    service.start()
    try:
        assert client.report(at(site)).readers == 0
    finally:
        service.stop(for_good=True)
    assert not at(site).exists()


def test_the_command_shows_who_recalls_what(
    site: Site, service: DeskService, released: list[Path], tmp_path: Path
) -> None:
    config = tmp_path / "archiver.toml"
    config.write_text(render(site.settings))
    ask(service.desk, released[0]).verdict()
    at_rest(service.desk)
    shown = CliRunner().invoke(cli, ["--config", str(config), "status", "--recalls"])
    assert shown.exit_code == 0, shown.output
    assert "recalled in an hour" in shown.output
    told = CliRunner().invoke(cli, ["--config", str(config), "status", "--recalls", "--json"])
    assert json.loads(told.stdout)["last_hour"] == 1


def test_the_command_says_so_where_no_daemon_runs(site: Site, tmp_path: Path) -> None:
    config = tmp_path / "archiver.toml"
    config.write_text(render(with_recall(site.settings, socket=tmp_path / "nobody.sock")))
    for verb in (["status", "--recalls"], ["recalls", "tail"]):
        shown = CliRunner().invoke(cli, ["--config", str(config), *verb])
        assert shown.exit_code == 7
        assert "no daemon answers" in shown.stderr
        assert "archiver run" in shown.stderr
