"""Hub profiles of small random weights in a vault."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from made_pictures import photograph

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from archiver.codec.picture import Picture
from archiver.decoder.hub import HubBackend, open_hub
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault
from tests.models.hub import tiny

NAMES = ("sd15", "sd15-tcd", "unclip-l")


@dataclass(frozen=True)
class Shelf:
    """A vault with the small profiles, and pictures at their working size."""

    vault: Vault
    profiles: dict[str, ProfileInfo]
    pictures: list[Picture]

    def backend(self, name: str) -> HubBackend:
        """A profile's networks, none of them loaded."""
        return open_hub(self.vault.directory(self.profiles[name].key), torch.device("cpu"))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shelf]:
    folder = tmp_path_factory.mktemp("hub")
    vault = Vault(folder / "vault")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    profiles = {name: vault.import_directory(tiny.save_profile(folder / name, name)) for name in NAMES}
    pictures = [Picture(photograph(seed, tiny.LONG_SIDE, tiny.LONG_SIDE // 2), 1280, 640) for seed in range(3)]
    yield Shelf(vault, profiles, pictures)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def backends(shelf: Shelf) -> dict[str, HubBackend]:
    """One for each profile, kept loaded for tests that only look."""
    return {name: shelf.backend(name) for name in NAMES}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A folder of a profile's own, to be damaged."""
    return tiny.save_profile(tmp_path / "own", "unclip-l", seed=3)
