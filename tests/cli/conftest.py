"""A whole installation in a folder: real tiers, catalog and vault; the weights have the right shapes and no meaning."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archiver.models import vault
from tests.cli.installation import Installation, install

_LONG_SIDE = 64  # small enough that a test encodes in a blink


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A profile with random weights."""
    torch = pytest.importorskip("torch")
    from archiver.models.embedded.profile import init_random, save_profile

    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("weights") / "embedded-1"
    save_profile(folder, init_random(0, _LONG_SIDE), "embedded-1", "CC0-1.0")
    return folder


@pytest.fixture
def packaged(weights: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The random weights in the place of those that ship with the package."""
    monkeypatch.setattr(vault, "PACKAGED", weights.parent)
    return weights


@pytest.fixture
def place(tmp_path: Path, packaged: Path) -> Installation:
    """An installation that was not scanned yet."""
    return install(tmp_path)


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Iterator[Installation]:
    """One with everything released, for tests that only look."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vault, "PACKAGED", weights.parent)
        installation = install(tmp_path_factory.mktemp("standing"))
        installation.run("scan").ok()
        installation.run("archive", installation.photos).ok()
        yield installation
