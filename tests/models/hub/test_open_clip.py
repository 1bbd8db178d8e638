"""The encoder of sd15 is open_clip's: a picture's whole way with it, where it is installed and can be imported."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from made_pictures import photograph
from safetensors.torch import save_file

from archiver.codec.picture import Picture
from archiver.codec.record import Scheme
from archiver.decoder.local import LocalEngine
from archiver.models.hub.encoders import load_image_encoder
from archiver.models.vault import Vault
from tests.models.hub import tiny

pytestmark = pytest.mark.open_clip
VISION = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": 32, "width": 32, "heads": 4, "layers": 1}


@pytest.fixture(scope="module")
def open_clip() -> ModuleType:
    try:
        return importlib.import_module("open_clip")
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        pytest.skip(f"open_clip cannot be imported: {error}")


def save_encoder(open_clip: ModuleType, folder: Path) -> torch.nn.Module:
    """As open_clip's repositories on a hub are: both towers in one file, and the architecture beside it."""
    torch.manual_seed(5)
    model: torch.nn.Module = open_clip.CLIP(tiny.EMBEDDING, VISION, TEXT).eval()
    folder.mkdir(parents=True)
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, folder / "open_clip_model.safetensors"
    )
    config = {"model_cfg": {"embed_dim": tiny.EMBEDDING, "vision_cfg": VISION, "text_cfg": TEXT}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return model


def test_the_image_tower_is_the_whole_model_s(open_clip: ModuleType, tmp_path: Path) -> None:
    model = save_encoder(open_clip, tmp_path / "image_encoder")
    encoder = load_image_encoder(tmp_path / "image_encoder").eval()
    pictures = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (
        torch.tensor(values).view(1, 3, 1, 1)
        for values in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    with torch.no_grad():
        wanted = model.encode_image(((pictures + 1) / 2 - mean) / std)
        assert torch.allclose(encoder(pictures), wanted, atol=1e-5)


def test_a_picture_s_whole_way_with_open_clip(open_clip: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "sd15"
    save_encoder(open_clip, folder / "image_encoder")
    vault = Vault(tmp_path / "vault")
    profile = vault.import_directory(tiny.save_profile(folder, "sd15", with_encoder=False))
    assert any("open_clip" in file.name for file in profile.files)
    pictures = [Picture(photograph(seed, tiny.LONG_SIDE, tiny.LONG_SIDE // 2), 1280, 640) for seed in range(2)]
    engine = LocalEngine(vault, profile, "default", 1)
    for scheme in (Scheme.COCLI, Scheme.SEACOM, Scheme.SGC):
        records = engine.encode(pictures, scheme)
        decoded = engine.decode(records)
        assert decoded[0].shape == (64, 128, 3)
        assert np.array_equal(decoded[0], engine.decode(records[:1])[0])
        assert all(-1 <= report.semantic <= 1 for report in engine.measure(pictures, decoded))
    engine.close()
