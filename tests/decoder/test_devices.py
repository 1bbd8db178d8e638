"""Decoding elsewhere than on the CPU, on torch's meta device: it computes nothing, and refuses tensors of any other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from made_pictures import photograph

import archiver.models
from archiver.codec import schemes
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.decoder.decoding import decode_latents
from archiver.decoder.embedded import EmbeddedBackend
from archiver.decoder.networks import StoredNetworks
from archiver.models.embedded import load_embedded
from archiver.models.profiles import read_profile

DIRECTORY = Path(archiver.models.__file__).parent / "weights" / "embedded-1"
META = torch.device("meta")
GRID = (12, 8)


@pytest.fixture(scope="module")
def records() -> dict[Scheme, Record]:
    """A record of every scheme, as the profile's default preset has it."""
    coder = EmbeddedBackend(load_embedded(DIRECTORY))
    picture = Picture(photograph(3, 16 * GRID[0], 16 * GRID[1]), 1200, 800)
    return {
        preset.scheme: schemes.compose(
            picture, coder.observe(picture.pixels, preset.scheme), preset.scheme, bytes(8), GRID, preset.steering
        )
        for preset in read_profile(DIRECTORY).presets
        if preset.name == "default"
    }


@pytest.mark.parametrize("scheme", schemes.SUPPORTED, ids=lambda scheme: scheme.label)
def test_a_record_is_decoded_where_the_networks_are(scheme: Scheme, records: dict[Scheme, Record]) -> None:
    backend = EmbeddedBackend(StoredNetworks(DIRECTORY, META))
    latents = decode_latents(backend, [records[scheme], records[scheme]])
    assert latents.device == META and latents.shape == (2, 16, GRID[1], GRID[0])
    assert backend.decode(latents).device == META
