"""The decoder as a program: TLS, who may be reached how, start and stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from time import monotonic

import numpy as np
import pytest
import trustme

from archiver.config import Settings
from archiver.decoder import serving, wire
from archiver.decoder.engine import Generated, Priority
from archiver.decoder.status import examine
from archiver.errors import (
    ArchiverError,
    CannotListen,
    ConfigInvalid,
    DeadlineMissed,
    DecoderAnswerInvalid,
    DecoderUnguarded,
    DecoderUnreachable,
)
from tests.decoder.conftest import Small
from tests.decoder.test_http import TOKEN, caller, served
from tests.decoder.test_service import SECONDS

IDLE_STOP_SECONDS = 15.0  # half of what asyncio would wait for


def test_tls_with_a_private_authority(small: Small, tmp_path: Path) -> None:
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    stranger.cert_pem.write_to_path(tmp_path / "stranger.pem")
    with served(small, ssl_certfile=tmp_path / "server.pem") as decoder:
        with caller(decoder.url, tmp_path, ca_file=tmp_path / "ca.pem") as engine:
            assert decoder.url.startswith("https://")
            assert np.array_equal(engine.decode(small.records[:1])[0], small.pictures[0])
        for trusted in ("none", tmp_path / "stranger.pem"):
            with (
                caller(decoder.url, tmp_path, ca_file=trusted) as engine,
                pytest.raises(DecoderUnreachable, match="certificate"),
            ):
                engine.decode(small.records[:1])
        with (
            caller(decoder.url.replace("https", "http"), tmp_path) as engine,
            pytest.raises(DecoderUnreachable, match="hung up without an answer; is its address an https:// one"),
        ):
            engine.decode(small.records[:1])
    with (
        served(small) as decoder,
        caller(decoder.url.replace("http", "https"), tmp_path) as engine,
        pytest.raises(DecoderUnreachable, match="does not speak TLS; is its address an http:// one"),
    ):
        engine.decode(small.records[:1])


@pytest.mark.parametrize("size", [(8, 8), (64, 48), (48, 65)])
def test_a_picture_of_another_size_is_not_taken_for_that_of_a_record(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]
) -> None:
    """It would be stretched to the length and size of the file, and nobody would see that it is none of it."""
    assert size != small.pictures[0].shape[:2]
    other = wire.pack_picture(Generated(np.zeros((*size, 3), np.uint8), "another"))
    monkeypatch.setattr(wire, "pack_picture", lambda _picture: other)
    with (
        served(small) as decoder,
        caller(decoder.url, tmp_path) as engine,
        pytest.raises(DecoderAnswerInvalid, match=f"a picture of {size[1]}x{size[0]} for a record of 4x3 cells"),
    ):
        engine.decode(small.records[:1])


def test_a_silent_host_takes_no_longer_than_it_may_from_a_reader_with_more_time(small: Small, tmp_path: Path) -> None:
    """As one that lost its power, or hangs: its connection stands, and nothing comes."""
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        caller(f"http://127.0.0.1:{silent.getsockname()[1]}", tmp_path, timeout="1s") as engine,
        pytest.raises(DeadlineMissed, match=r"within 1\.0 s"),
    ):
        engine.decode(small.records[:1], priority=Priority.INTERACTIVE, deadline=monotonic() + SECONDS / 4)


def test_a_decoder_that_others_can_reach_needs_a_token(small: Small) -> None:
    settings = Settings.model_validate({"vault": {"path": small.vault.path}, "decoder": {"listen": "0.0.0.0:0"}})
    with pytest.raises(DecoderUnguarded, match=r"0\.0\.0\.0"):
        serving.serve(settings, print)


@pytest.mark.parametrize(
    ("decoder", "error"),
    [
        ({"where": "http://127.0.0.1:1"}, ConfigInvalid),
        ({"listen": "127.0.0.1:99999"}, CannotListen),
        ({"listen": "127.0.0.1:0", "certificate_file": "/nonexistent.pem"}, ConfigInvalid),
        ({"listen": "127.0.0.1:0", "token_file": "/nonexistent"}, ConfigInvalid),
    ],
)
def test_what_cannot_be_served_is_named(small: Small, decoder: dict[str, str], error: type[ArchiverError]) -> None:
    settings = {"vault": {"path": small.vault.path}, "model": {"profile": "random-5"}, "decoder": decoder}
    with pytest.raises(error):
        serving.serve(Settings.model_validate(settings), print)


def test_a_token_too_short_to_keep_anybody_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="16"), caller("http://127.0.0.1:1", tmp_path, "hunter2"):
        pass


def test_the_program_serves_tells_how_it_does_and_stops(small: Small, tmp_path: Path) -> None:
    """`archiver decoder serve` as a process, with a worker of its own, asked by this one."""
    (tmp_path / "token").write_text(TOKEN)
    config = tmp_path / "config.toml"
    config.write_text(
        f'[vault]\npath = "{small.vault.path}"\n[model]\nprofile = "random-5"\nthreads = 1\n'
        f'[decoder]\nwhere = "worker"\ndevice = "cpu"\nlisten = "127.0.0.1:0"\ntoken_file = "{tmp_path}/token"\n'
    )
    command = [sys.executable, "-m", "archiver", "--config", str(config), "--json", "decoder", "serve"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.getcwd()}) as process:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["address"]
        with caller(url, tmp_path) as engine:
            assert np.array_equal(engine.decode(small.records[:1])[0], small.pictures[0])
            assert engine.device.startswith("cpu, torch")
            found = examine(engine._settings)
            assert (found.done, found.waiting) == (1, 0)
            assert found.profiles == (f"random-5 ({small.profile.fingerprint.hex()[:16]})",)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) in (0, -signal.SIGTERM)


def test_a_stop_does_not_wait_for_a_caller_that_keeps_an_idle_connection(small: Small, tmp_path: Path) -> None:
    """Over TLS: whoever reads meanwhile finds no decoder, and what keeps its connection does not look at it."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(tmp_path / "server.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ExitStack() as later:
        with served(small, ssl_certfile=tmp_path / "server.pem") as decoder:
            decoder.server.config.timeout_graceful_shutdown = int(SECONDS)
            engine = later.enter_context(caller(decoder.url, tmp_path, ca_file=tmp_path / "ca.pem"))
            engine.decode(small.records[:1])
            began = monotonic()
        assert monotonic() - began < IDLE_STOP_SECONDS
