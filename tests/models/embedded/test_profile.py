"""The profile's files: safetensors only, every hash checked, nothing half-read."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from archiver.errors import ProfileInvalid, ProfileUnknown, WeightsDamaged
from archiver.models.embedded import Conditions, EmbeddedModels, init_random, load_embedded, read_profile, save_profile
from archiver.models.profiles import PROFILE_FILE, sha256_of


@pytest.fixture(scope="module")
def models() -> EmbeddedModels:
    return init_random(3)


@pytest.fixture
def saved(models: EmbeddedModels, tmp_path: Path) -> Path:
    save_profile(tmp_path / "profile", models, "test-1", "CC0-1.0")
    return tmp_path / "profile"


def test_a_saved_profile_loads_with_the_same_weights(models: EmbeddedModels, saved: Path) -> None:
    loaded = load_embedded(saved)
    assert loaded.meta.name == "test-1" and loaded.meta.long_side == 256 and loaded.meta.licence == "CC0-1.0"
    for part in ("autoencoder", "denoiser", "semantics"):
        wanted = getattr(models, part).state_dict()
        for key, tensor in getattr(loaded, part).state_dict().items():
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, wanted[key].half().float()), key
        assert not getattr(loaded, part).training
    z = torch.randn((1, 16, 4, 4), generator=torch.Generator().manual_seed(0))
    assert not loaded.denoiser(z, torch.tensor([5]), Conditions()).requires_grad


def test_the_digest_changes_with_any_weight(models: EmbeddedModels, saved: Path, tmp_path: Path) -> None:
    again = save_profile(tmp_path / "again", models, "another name", "CC0-1.0")
    assert read_profile(saved).digest == again.digest
    assert save_profile(tmp_path / "other", init_random(4), "test-1", "CC0-1.0").digest != again.digest


def test_the_shipped_size_stays_within_32_megabytes(saved: Path) -> None:
    assert sum(path.stat().st_size for path in saved.iterdir()) <= 32_000_000


@pytest.mark.parametrize("part", ["autoencoder", "denoiser", "semantics"])
def test_a_single_flipped_bit_is_refused(saved: Path, part: str) -> None:
    path = saved / f"{part}.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(WeightsDamaged, match=part):
        load_embedded(saved)


def test_a_missing_file_is_refused(saved: Path) -> None:
    (saved / "denoiser.safetensors").unlink()
    with pytest.raises(WeightsDamaged, match="denoiser"):
        load_embedded(saved)


class _Bomb:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.trace,)


def test_a_pickle_is_refused_and_not_run_even_when_its_hash_is_pinned(saved: Path, tmp_path: Path) -> None:
    weights, trace = saved / "denoiser.safetensors", tmp_path / "ran"
    old = sha256_of(weights)
    weights.write_bytes(pickle.dumps(_Bomb(trace)))
    _repin(saved, old, sha256_of(weights))
    with pytest.raises(ProfileInvalid, match="denoiser"):
        load_embedded(saved)
    assert not trace.exists()


def test_weights_of_another_shape_are_refused(saved: Path) -> None:
    weights = saved / "autoencoder.safetensors"
    old = sha256_of(weights)
    save_file({"encoder.1.weight": torch.zeros(3, 3)}, weights)
    _repin(saved, old, sha256_of(weights))
    with pytest.raises(ProfileInvalid, match="autoencoder"):
        load_embedded(saved)


def _repin(saved: Path, old: str, new: str) -> None:
    toml = saved / PROFILE_FILE
    toml.write_text(toml.read_text().replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("downscale = 16", "downscale = 8"),
        ("cosine", "linear"),
        ("denoiser.safetensors", "../denoiser.safetensors"),
        ("[[files]]", "[files"),
    ],
)
def test_a_profile_of_another_kind_is_refused_by_name(saved: Path, old: str, new: str) -> None:
    toml = saved / PROFILE_FILE
    toml.write_text(toml.read_text().replace(old, new))
    with pytest.raises(ProfileInvalid, match=r"profile\.toml"):
        load_embedded(saved)


def test_an_empty_folder_is_an_unknown_profile(tmp_path: Path) -> None:
    with pytest.raises(ProfileUnknown):
        load_embedded(tmp_path)
