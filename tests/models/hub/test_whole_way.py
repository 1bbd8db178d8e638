"""From a hub over HTTP to a picture: a repository of small random weights is pulled, accepted and decoded with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from archiver.codec.record import Scheme
from archiver.decoder.local import LocalEngine
from archiver.errors import ProfileUnknown
from archiver.models.hub.pulling import Hub, pin, pull
from archiver.models.hub.recipes import read_recipe
from archiver.models.vault import Vault
from tests.models.hub import tiny
from tests.models.hub.conftest import Shelf
from tests.models.hub.hub_server import serving


def test_what_was_pulled_and_accepted_codes_and_decodes_here_and_elsewhere(shelf: Shelf, tmp_path: Path) -> None:
    recipe = read_recipe(tiny.save_repository(tmp_path / "tiny" / "unclip-l", "unclip-l", seed=7))
    vault, elsewhere = Vault(tmp_path / "vault"), Vault(tmp_path / "elsewhere")
    with serving(tmp_path) as hub:
        pull(recipe, vault, Hub(hub.endpoint), lambda _: None)
    with pytest.raises(ProfileUnknown):
        vault.named("unclip-l")
    profile = pin(vault, "unclip-l")
    vault.export_tar(profile, tmp_path / "unclip-l.tar")
    elsewhere.import_tar(tmp_path / "unclip-l.tar")
    pictures, records = [], []
    for place in (vault, elsewhere):
        engine = LocalEngine(place, profile, "default", 1)
        records.append(engine.encode(shelf.pictures[:1], Scheme.COCLICO)[0])
        pictures.append(engine.decode(records[:1])[0])
        engine.close()
    assert records[0] == records[1] and records[0].profile == profile.key
    assert np.array_equal(*pictures)
