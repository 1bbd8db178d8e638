"""A decoder on another host: the same pictures as here, and nobody gets more from it than is theirs."""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Queue
from time import monotonic
from typing import Any

import numpy as np
import pytest
import urllib3
import uvicorn
from fixtures_catalog import Shelf
from starlette.applications import Starlette

from archiver import http_server
from archiver.catalog import Catalog
from archiver.codec import schemes
from archiver.codec.record import EmbeddingGuidance, LinearGuidance, Sampler, Scheme, Steering
from archiver.config import Settings
from archiver.decoder import server, wire
from archiver.decoder.engine import Priority
from archiver.decoder.opening import open_engine
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.remote import RemoteEngine
from archiver.decoder.server import create_app
from archiver.decoder.service import DecodeService
from archiver.doctor import examine as examine_all
from archiver.errors import (
    DeadlineMissed,
    DecoderBusy,
    DecoderFailed,
    DecoderProfileMissing,
    DecoderRefused,
    DecoderUnreachable,
    DecodeTooCostly,
    ProfileUnknown,
    RecordCorrupt,
)
from archiver.models.embedded import init_random, save_profile
from archiver.models.profiles import PROFILE_FILE, parse_profile
from archiver.models.vault import PACKAGED, Vault
from tests.decoder.conftest import Small
from tests.decoder.test_service import SECONDS, Gate

TOKEN = "correct horse battery staple".replace(" ", "-")


@dataclass(frozen=True)
class Served:
    """A decoder that listens, and the gate before its networks."""

    port: int
    gate: Gate
    engine: QueuedEngine
    server: uvicorn.Server
    scheme: str = "http"

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"


@contextmanager
def served(
    small: Small, *, token: str | None = TOKEN, most: int = 100, seconds: float = SECONDS, **config: Any
) -> Iterator[Served]:
    """The real application and server in this process, so that its networks can be held at a gate."""
    gate = Gate(small.vault, device="cpu", threads=2)
    gate.open.set()
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(gate, limit=most))
    app = create_app(engine, small.vault, token, most=most, seconds=seconds)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        settings = uvicorn.Config(
            app, http=http_server.PatientProtocol, log_config=None, timeout_graceful_shutdown=1, **config
        )
        listening = threading.Event()
        running = http_server.Server(settings, listening.set)
        thread = threading.Thread(target=running.run, args=([listener],))
        thread.start()
        assert listening.wait(SECONDS)
        try:
            scheme = "https" if settings.is_ssl else "http"
            yield Served(listener.getsockname()[1], gate, engine, running, scheme)
        finally:
            gate.open.set()
            running.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def decoder(small: Small) -> Iterator[Served]:
    with served(small) as one:
        yield one


@contextmanager
def caller(url: str, tmp_path: Path, token: str | None = TOKEN, **decoder: Any) -> Iterator[RemoteEngine]:
    """A host without a vault that asks `url`."""
    if token is not None:
        (tmp_path / "token").write_text(token + "\n")
        decoder["token_file"] = tmp_path / "token"
    engine = open_engine(
        Settings.model_validate(
            {
                "vault": {"path": tmp_path / "no-vault"},
                "model": {"profile": "random-5", "preset": "quick"},
                "decoder": {"where": url, **decoder},
            }
        )
    )
    assert isinstance(engine, RemoteEngine)
    try:
        yield engine
    finally:
        engine.close()


# -- the same as here --------------------------------------------------------------------------------------------------


def test_another_host_gives_the_same_pictures_and_names_its_device(
    small: Small, decoder: Served, tmp_path: Path
) -> None:
    with caller(decoder.url, tmp_path) as engine:
        assert engine.profile == small.profile
        generated = engine.generate(small.records, priority=Priority.INTERACTIVE, deadline=monotonic() + SECONDS)
        for one, picture in zip(generated, small.pictures, strict=True):
            assert np.array_equal(one.pixels, picture)
            assert one.device == decoder.engine.device == engine.device
        assert engine.profile_of(small.records[0]) == small.profile
        assert engine.decode([]) == []


def test_more_records_than_one_request_holds_are_asked_for_in_portions(
    small: Small, decoder: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "MOST_RECORDS", 3)
    with caller(decoder.url, tmp_path) as engine:
        for pixels, picture in zip(engine.decode(small.records), small.pictures, strict=True):
            assert np.array_equal(pixels, picture)


def test_what_is_wrong_with_a_record_is_told_as_it_is_here(small: Small, decoder: Served, tmp_path: Path) -> None:
    with caller(decoder.url, tmp_path) as engine:
        with pytest.raises(RecordCorrupt):
            engine.decode([replace(small.records[0], sections=())])
        stranger = replace(small.records[0], profile=bytes(8))
        with pytest.raises(DecoderProfileMissing, match=f"{decoder.url} has no profile 0000000000000000"):
            engine.decode([stranger])
        with pytest.raises(DecoderProfileMissing):
            engine.profile_of(stranger)


def test_pictures_are_encoded_here_and_never_leave(small: Small, decoder: Served, tmp_path: Path) -> None:
    with caller(decoder.url, tmp_path) as engine, pytest.raises(ProfileUnknown):
        engine.encode(small.originals[:1], Scheme.SGC)  # no vault here: it does not ask over there
    asked = len(decoder.gate.calls)
    settings = {
        "vault": {"path": small.vault.path},
        "model": {"profile": "random-5", "preset": "quick", "threads": 1},
        "decoder": {"where": decoder.url, "token_file": tmp_path / "token"},
    }
    engine = open_engine(Settings.model_validate(settings))
    records = engine.encode(small.originals[:1], Scheme.SGC)
    assert records == small.records[:1]
    assert engine.measure(small.originals[:1], engine.decode(records))[0].colour < 255
    assert len(decoder.gate.calls) == asked + 1  # the trial decode alone
    engine.close()


def test_fifty_callers_at_once_are_all_answered(small: Small, decoder: Served, tmp_path: Path) -> None:
    with caller(decoder.url, tmp_path) as engine, ThreadPoolExecutor(50) as callers:

        def ask(number: int) -> bool:
            priority = Priority.INTERACTIVE if number % 2 else Priority.BULK
            some = small.records[number % 8 :][:2]
            found = engine.decode(some, priority=priority, deadline=monotonic() + SECONDS)
            return all(map(np.array_equal, found, small.pictures[number % 8 :]))

        assert all(callers.map(ask, range(50)))


# -- who may, and how much ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", [None, "wrong-token-of-some-length"])
def test_without_the_token_nothing_is_told(small: Small, decoder: Served, tmp_path: Path, token: str | None) -> None:
    asked = len(decoder.gate.calls)
    with caller(decoder.url, tmp_path, token) as engine:
        for act in (lambda: engine.decode(small.records[:1]), lambda: engine.profile, lambda: engine.device):
            with pytest.raises(DecoderRefused, match="token"):
                act()
    assert len(decoder.gate.calls) == asked
    health = urllib3.request("GET", decoder.url + wire.HEALTH)  # which whoever watches over it may see
    assert health.status == 200 and json.loads(health.data)["status"] == "ok"


def ask(decoder: Served, body: bytes, **headers: str) -> urllib3.BaseHTTPResponse:
    return urllib3.request(
        "POST",
        decoder.url + wire.DECODE,
        body=body,
        headers={"Authorization": f"Bearer {TOKEN}", **headers},
        retries=False,
        timeout=SECONDS,
    )


def test_a_request_that_is_too_long_is_refused_unread(decoder: Served) -> None:
    assert ask(decoder, bytes(wire.MOST_REQUEST + 1)).status == 413
    with socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:
        head = f"POST {wire.DECODE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        line.sendall(f"{head}Content-Length: {1 << 50}\r\n\r\n".encode())
        assert b" 413 " in line.recv(4096)
    with socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:  # nor without a length
        line.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
        for _ in range(wire.MOST_REQUEST // (1 << 16) + 1):
            line.sendall(part)
        assert b" 413 " in line.recv(4096)


@pytest.mark.parametrize("name", [wire.PRIORITY, wire.DEADLINE])
@pytest.mark.parametrize("value", ["urgent", "nan", "-inf", ""])
def test_headers_that_make_no_sense_are_refused(small: Small, decoder: Served, name: str, value: str) -> None:
    assert ask(decoder, wire.pack_records(small.records[:1]), **{name: value}).status == 400


@pytest.mark.parametrize("body", [b"", b"nothing like a record", bytes(5000)])
def test_what_is_no_record_is_refused(decoder: Served, body: bytes) -> None:
    answer = ask(decoder, body)
    assert answer.status == 400
    assert isinstance(wire.unpack_error(answer.data, "there"), RecordCorrupt)


def test_a_record_that_asks_for_minutes_is_refused(small: Small, decoder: Served) -> None:
    linear = LinearGuidance(strength=1.0, cutoff=1.0, pixel_steps=255)
    costly = replace(Steering(Sampler.DDIM, 255, 2.0), linear=linear, embedding=EmbeddingGuidance(0.4, 15))
    answer = ask(decoder, wire.pack_records([small.records[0], replace(small.records[0], steering=costly)]))
    assert answer.status == 400
    refusal = wire.unpack_error(answer.data, "there")
    assert isinstance(refusal, DecodeTooCostly) and "1380 steps" in str(refusal)


def test_no_preset_is_anywhere_near_what_is_refused() -> None:
    packaged = [parse_profile(file.read_bytes(), file) for file in PACKAGED.glob(f"*/{PROFILE_FILE}")]
    own = [preset.steering for profile in packaged for preset in profile.presets]
    built_in = [steering for preset in schemes.PRESETS.values() for steering in preset.values()]
    assert own and built_in
    assert max(map(server._runs, own + built_in)) * 2 == server.MOST_RUNS  # the paper's dearest


def test_slow_clients_are_hung_up_on(decoder: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_HEAD_SECONDS", 0.1)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.1)
    with socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:
        line.sendall(b"POST /v1/dec")
        assert line.recv(4096) == b""
    with socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:
        head = f"POST {wire.DECODE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
        line.sendall(head.encode() + b"some")
        assert b" 408 " in line.recv(4096)


def test_more_than_it_takes_is_refused_for_now_and_asked_again(small: Small, tmp_path: Path) -> None:
    with served(small, most=2) as decoder, caller(decoder.url, tmp_path) as engine, ThreadPoolExecutor(2) as callers:
        decoder.gate.open.clear()
        first = callers.submit(engine.decode, small.records[:2])
        assert decoder.gate.reached.acquire(timeout=SECONDS)
        refused = ask(decoder, wire.pack_records(small.records[2:3]))
        assert refused.status == 503 and refused.headers["Retry-After"] == "1"
        patient = callers.submit(engine.decode, small.records[2:3])  # bulk work comes back
        decoder.gate.open.set()
        assert np.array_equal(first.result(SECONDS)[1], small.pictures[1])
        assert np.array_equal(patient.result(SECONDS)[0], small.pictures[2])


def test_bulk_work_takes_no_reader_s_place(small: Small, tmp_path: Path) -> None:
    with served(small, most=2) as decoder, caller(decoder.url, tmp_path) as engine, ThreadPoolExecutor(2) as callers:
        decoder.gate.open.clear()
        bulk = callers.submit(engine.decode, small.records[:2])
        for _ in range(2):  # both lanes have begun one
            assert decoder.gate.reached.acquire(timeout=SECONDS)
        readers = callers.submit(engine.decode, small.records[2:4], priority=Priority.INTERACTIVE)
        deadline = monotonic() + SECONDS
        while decoder.engine.stats().interactive_waiting < 2:
            assert monotonic() < deadline and not readers.done()
        with pytest.raises(DecoderBusy, match=decoder.url):  # readers have as many places, and no more
            engine.decode(small.records[4:5], priority=Priority.INTERACTIVE)
        decoder.gate.open.set()
        assert np.array_equal(readers.result(SECONDS)[1], small.pictures[3])
        assert np.array_equal(bulk.result(SECONDS)[1], small.pictures[1])


def test_a_request_that_failed_gives_its_place_back(small: Small) -> None:
    body = wire.pack_records(small.records[:1])
    with served(small, most=1) as decoder:
        corrupt = wire.pack_records([replace(small.records[0], sections=())])
        assert [ask(decoder, corrupt).status for _ in range(2)] == [400, 400]  # refused by the queue
        decoder.gate.open.clear()
        assert [ask(decoder, body, **{wire.DEADLINE: "0.1"}).status for _ in range(2)] == [504, 504]  # given up later
        decoder.gate.open.set()
        assert ask(decoder, body).status == 200


def test_a_deadline_travels_and_is_kept(small: Small, tmp_path: Path) -> None:
    with served(small) as decoder, caller(decoder.url, tmp_path) as engine:
        decoder.gate.open.clear()
        with pytest.raises(DeadlineMissed, match=decoder.url):
            engine.decode(small.records[:1], priority=Priority.INTERACTIVE, deadline=monotonic() + 0.3)
        with pytest.raises(DeadlineMissed):
            engine.decode(small.records[:1], deadline=monotonic() - 1)


def test_no_deadline_is_longer_than_the_server_s_own(small: Small) -> None:
    with served(small, seconds=0.2) as decoder:
        decoder.gate.open.clear()
        assert ask(decoder, wire.pack_records(small.records[:1]), **{wire.DEADLINE: "1000"}).status == 504


def test_a_client_that_does_not_take_its_answer_loses_its_place(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    body = wire.pack_records(small.records[:1])
    head = f"POST {wire.DECODE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(body)}"
    with served(small, most=1) as decoder, socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:
        monkeypatch.setattr(server, "SEND_SECONDS", 0.2)
        with monkeypatch.context() as large:
            large.setattr(wire, "pack_picture", lambda _picture: bytes(32 << 20))  # more than the network takes unread
            line.sendall(f"{head}\r\n\r\n".encode() + body)
            assert line.recv(12) == b"HTTP/1.1 200"
        deadline = monotonic() + 20
        while ask(decoder, body).status == 503:
            assert monotonic() < deadline


def test_what_is_given_up_or_refused_does_not_fill_the_log(small: Small, caplog: pytest.LogCaptureFixture) -> None:
    with served(small) as decoder:
        decoder.gate.open.clear()
        assert ask(decoder, wire.pack_records(small.records[:1]), **{wire.DEADLINE: "0.1"}).status == 504
    gc.collect()  # asyncio complains when what nobody looked at is collected
    assert "never retrieved" not in caplog.text
    seldom = http_server._Seldom()
    heard = [logging.makeLogRecord({"msg": msg}) for msg in 3 * ["Exceeded concurrency limit.", "another"]]
    assert [seldom.filter(record) for record in heard] == [True, True, False, True, False, True]


def test_more_connections_than_it_takes_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Kept(http_server.Server):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            servers.append(self)

    servers: list[Kept] = []
    monkeypatch.setattr(http_server, "_CONNECTIONS", 3)
    monkeypatch.setattr(http_server, "Server", Kept)
    ready: Queue[str] = Queue()
    at = http_server.Listening("127.0.0.1:0")
    with http_server.bind(at) as listener, ThreadPoolExecutor(1) as threads:
        serving = threads.submit(http_server.serve, Starlette(), at, listener, ready.put)
        url = ready.get(timeout=SECONDS)
        try:
            place = urllib3.util.parse_url(url)
            lines = [socket.create_connection((place.host, place.port), SECONDS) for _ in range(2)]
            assert urllib3.request("GET", url, retries=False, headers={"Connection": "close"}).status == 503
            for line in lines:
                line.close()
            deadline = monotonic() + SECONDS
            while urllib3.request("GET", url, retries=False, headers={"Connection": "close"}).status != 404:
                assert monotonic() < deadline
        finally:
            servers[0].should_exit = True
        serving.result(SECONDS)


def test_a_caller_who_hangs_up_takes_what_has_not_begun_along(small: Small, tmp_path: Path) -> None:
    with served(small) as decoder:
        decoder.gate.open.clear()
        body = wire.pack_records(small.records[:4])
        with socket.create_connection(("127.0.0.1", decoder.port), SECONDS) as line:
            head = f"POST {wire.DECODE} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            line.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            for _ in range(2):  # both lanes have begun one
                assert decoder.gate.reached.acquire(timeout=SECONDS)
        deadline = monotonic() + SECONDS
        while decoder.engine.stats().bulk_waiting:  # counts none that was cancelled
            assert monotonic() < deadline
        decoder.gate.open.set()
        with caller(decoder.url, tmp_path) as engine:
            assert np.array_equal(engine.decode(small.records[4:5])[0], small.pictures[4])
        assert sorted(seed for call in decoder.gate.calls for seed in call) == sorted(
            small.records[number].seed for number in (0, 1, 4)
        )


def test_the_doctor_asks_the_decoder(decoder: Served, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    for port, verdict, words in ((decoder.port, "ok", "random-5"), (1, "broken", "refused")):
        place = f'where = "http://127.0.0.1:{port}"\ntoken_file = "{tmp_path}/token"'
        (tmp_path / "config.toml").write_text(f"[decoder]\n{place}\n")
        (found,) = [check for check in examine_all(tmp_path / "config.toml").checks if check.subject == "decoder"]
        assert found.verdict == verdict
        assert words in found.finding


def test_the_doctor_finds_profiles_that_the_decoder_lacks(decoder: Served, tmp_path: Path, sqlite_url: str) -> None:
    """Records and new records of a profile that is whole in the vault here still give nobody an image."""
    save_profile(tmp_path / "profile", init_random(6, 64), "random-6", "CC0-1.0")
    profile = Vault(tmp_path / "vault").import_directory(tmp_path / "profile")
    (tmp_path / "token").write_text(TOKEN)
    places = f'[decoder]\nwhere = "{decoder.url}"\ntoken_file = "{tmp_path}/token"\n[catalog]\nurl = "{sqlite_url}"\n'
    config = tmp_path / "config.toml"
    config.write_text(f'{places}[vault]\npath = "{tmp_path}/vault"\n[model]\nprofile = "random-6"\n')

    def lacking() -> list[str]:
        checks = examine_all(config).checks
        return [
            check.finding for check in checks if check.subject == "decoder's profiles" and check.verdict == "broken"
        ]

    assert lacking() == [f"{profile.key.hex()} is not there: no image of each new record"]
    with Catalog.open(sqlite_url) as catalog:
        shelf = Shelf(catalog)
        shelf.add("a.jpg")
        shelf.record("a.jpg", profile=profile.key)
    assert lacking() == [f"{profile.key.hex()} is not there: no image of 1 live records"]


# -- the way there -----------------------------------------------------------------------------------------------------


def test_an_answer_that_drips_is_given_up_at_the_deadline(small: Small, tmp_path: Path) -> None:
    over = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1 << 16)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
            while not over.wait(0.1):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(2) as pool:
        pool.submit(drip)
        with caller(f"http://127.0.0.1:{listener.getsockname()[1]}", tmp_path) as engine:
            asked = pool.submit(engine.decode, small.records[:1], deadline=monotonic() + 0.5)
            try:
                with pytest.raises(DeadlineMissed):
                    asked.result(20)
            finally:
                over.set()


def test_a_decoder_that_stops_in_the_middle_is_named(small: Small, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as callers, served(small) as decoder, caller(decoder.url, tmp_path) as engine:
        decoder.gate.open.clear()
        asked = callers.submit(engine.decode, small.records[:1])
        assert decoder.gate.reached.acquire(timeout=SECONDS)
        decoder.server.should_exit = True  # it waits a second for answers under way, and goes
        with pytest.raises((DecoderFailed, DecoderUnreachable), match=decoder.url):
            asked.result(SECONDS)
        decoder.gate.open.set()
        with pytest.raises(DecoderUnreachable, match="refused"):
            engine.decode(small.records[:1])


def test_a_decoder_that_stops_waits_for_no_picture_that_nobody_awaits(small: Small) -> None:
    with served(small) as decoder:
        decoder.gate.open.clear()
        assert ask(decoder, wire.pack_records(small.records[:1]), **{wire.DEADLINE: "0.1"}).status == 504
        decoder.server.should_exit = True
        assert decoder.gate.unloaded.wait(15)  # though the lane still stands before the gate
