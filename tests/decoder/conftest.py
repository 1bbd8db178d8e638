"""A vault with a profile of random weights and records of small pictures, shared by the tests of the decode service."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from made_pictures import photograph
from numpy.typing import NDArray

from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.decoder.local import LocalEngine
from archiver.models.embedded import init_random, save_profile
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault

QUICK = """
[presets.quick]
sgc = { sampler = "dpm-solver", steps = 2, guidance = 2.0, start = 0.7, colours_condition = true }
"""


@dataclass(frozen=True)
class Small:
    """records: eight of one company. pictures: what each decodes to, alone."""

    vault: Vault
    profile: ProfileInfo
    originals: list[Picture]
    records: list[Record]
    pictures: list[NDArray[np.uint8]]


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Small]:
    folder = tmp_path_factory.mktemp("small")
    save_profile(folder / "profile", init_random(5, 64), "random-5", "CC0-1.0")
    with (folder / "profile" / "profile.toml").open("a") as file:
        file.write(QUICK)
    vault = Vault(folder / "vault")
    profile = vault.import_directory(folder / "profile")
    originals = [Picture(photograph(seed, 64, 48), 640, 480) for seed in range(8)]
    threads = torch.get_num_threads()
    engine = LocalEngine(vault, profile, "quick", 2)
    records = engine.encode(originals, Scheme.SGC)
    yield Small(vault, profile, originals, records, [engine.decode([record])[0] for record in records])
    engine.close()
    torch.set_num_threads(threads)
