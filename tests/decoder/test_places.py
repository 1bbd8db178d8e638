"""`[decoder] where` chooses the place, and nothing else about an engine changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archiver.config import Settings, parse
from archiver.config_text import advice
from archiver.decoder.engine import Priority
from archiver.decoder.networks import LocalRunner
from archiver.decoder.opening import open_engine
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.remote import RemoteEngine
from archiver.decoder.status import examine
from archiver.decoder.worker import WorkerRunner
from archiver.errors import ConfigInvalid
from tests.decoder.conftest import Small

HERE = Path("/etc/archiver/config.toml")


def settings(small: Small, **decoder: object) -> Settings:
    model = {"profile": "random-5", "preset": "quick", "threads": 1}
    return Settings.model_validate({"vault": {"path": small.vault.path}, "model": model, "decoder": decoder})


def test_the_place_is_that_of_the_configuration(small: Small) -> None:
    for where, runner in (("process", LocalRunner), ("worker", WorkerRunner)):
        engine = open_engine(settings(small, where=where, device="cpu"))
        assert isinstance(engine, QueuedEngine)
        assert isinstance(engine.service._runner, runner)
        engine.close()
    remote = open_engine(settings(small, where="http://[::1]:8465"))
    assert isinstance(remote, RemoteEngine)
    remote.close()


def test_the_engine_of_a_configuration_decodes_for_readers(small: Small) -> None:
    engine = open_engine(settings(small, batch=1, device="cpu"))
    (pixels,) = engine.decode(small.records[:1], priority=Priority.INTERACTIVE)
    assert np.array_equal(pixels, small.pictures[0])
    engine.close()


@pytest.mark.parametrize(
    "line",
    [
        'where = "here"',
        'where = "http://gpu.example:99999"',
        'where = "ftp://host"',
        'where = "https://user:secret@host"',
        'where = "https://host/path"',
        'where = ""',
        'listen = "8465"',
        'key_file = "/key"',
        "batch = 300",
        "waiting = 0",
        'idle = "0s"',
        'device = "tpu"',
        'token = "x"',
    ],
)
def test_a_decoder_that_makes_no_sense_is_refused_and_no_secret_repeated(line: str) -> None:
    with pytest.raises(ConfigInvalid) as failure:
        parse(f"[decoder]\n{line}\n", HERE)
    assert "decoder" in failure.value.message
    assert "secret" not in failure.value.message


def test_a_token_comes_from_the_environment_or_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "token").write_text("of-the-file-0123456789\n")
    given = Settings.model_validate({"decoder": {"token_file": tmp_path / "token"}})
    assert given.decoder.token == "of-the-file-0123456789"
    monkeypatch.setenv("ARCHIVER_DECODER_TOKEN", "of-the-environment")
    assert given.decoder.token == "of-the-environment"
    assert "of-the" not in repr(given)
    monkeypatch.delenv("ARCHIVER_DECODER_TOKEN")
    assert Settings().decoder.token is None


def test_a_token_that_others_can_read_and_a_way_in_the_clear_are_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("of-the-file-0123456789\n")
    decoder = {"token_file": tmp_path / "token", "where": "http://gpu.example:8465"}
    lines = list(advice(Settings.model_validate({"decoder": decoder}), HERE))
    assert any("chmod 600" in line for line in lines)
    assert any("in the clear" in line for line in lines)
    (tmp_path / "token").chmod(0o600)
    assert not any("chmod" in line for line in advice(Settings.model_validate({"decoder": decoder}), HERE))


def test_the_status_says_in_words_where_records_are_decoded() -> None:
    assert "worker process" in examine(Settings.model_validate({"decoder": {"where": "worker"}})).where
    assert list(examine(Settings()).lines()) == [("records are decoded", "in the process that needs them")]
