"""The weights that ship: whole, small, and able to do what they are for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import archiver.models
from archiver.models.embedded import Conditions, EmbeddedModels, colour_map, load_embedded
from archiver.training.autoencoder import psnr
from archiver.training.data import to_tensor

DIRECTORY = Path(archiver.models.__file__).parent / "weights" / "embedded-1"


@pytest.fixture(scope="module")
def models() -> EmbeddedModels:
    return load_embedded(DIRECTORY)


def _scene(width: int, height: int) -> torch.Tensor:
    """A sky over a dark field with a bright disc: smooth, layered, like a photograph in its statistics."""
    y, x = np.mgrid[0:height, 0:width] / 256
    sky, field = np.array([120, 160, 220]), np.array([50, 80, 40])
    pixels = np.where((y > 0.6)[..., None], field + 40 * np.sin(9 * x)[..., None], sky + 60 * y[..., None])
    pixels = np.where((np.hypot(x - 0.4, y - 0.25) < 0.1)[..., None], [250, 220, 120], pixels)
    return to_tensor(pixels.clip(0, 255).astype(np.uint8)[None])


def test_the_shipped_profile_is_whole_and_small(models: EmbeddedModels) -> None:
    assert models.meta.name == "embedded-1" and models.meta.long_side == 512
    assert sum(path.stat().st_size for path in DIRECTORY.iterdir()) <= 32_000_000
    assert (DIRECTORY / "MODEL_CARD.md").is_file()


@pytest.mark.parametrize(("width", "height"), [(512, 512), (512, 352), (384, 512)])
def test_the_autoencoder_keeps_a_scene(models: EmbeddedModels, width: int, height: int) -> None:
    scene = _scene(width, height)
    latents = models.autoencoder.encode(scene)
    assert 0.3 < latents.std() < 3
    assert psnr(models.autoencoder.decode(latents), scene) > 24


def test_semantics_tell_scenes_apart_and_survive_mirroring(models: EmbeddedModels) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    other = to_tensor(np.asarray(Image.fromarray(noise).resize((256, 256)))[None])
    scene, mirrored, unlike = (models.semantics(x) for x in (_scene(256, 256), _scene(256, 256).flip(3), other))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(scene.embedding, mirrored.embedding) > cosine(scene.embedding, unlike.embedding) + 0.3
    assert scene.labels.unique().numel() > 1


def test_the_denoiser_uses_its_conditions(models: EmbeddedModels) -> None:
    scene = _scene(512, 352)
    semantics, latents = models.semantics(scene), models.autoencoder.encode(scene)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([700])
    level = models.alphas_cumprod[t]
    noisy, wanted = (
        level.sqrt() * latents + (1 - level).sqrt() * noise,
        level.sqrt() * noise - (1 - level).sqrt() * latents,
    )
    labels = semantics.labels.repeat_interleave(2, 1).repeat_interleave(2, 2)  # half as many as the denoiser takes
    told = Conditions(semantics.embedding, labels, colour_map(scene))
    error = (models.denoiser(noisy, t, told) - wanted).square().mean()
    assert error < 0.8 * (models.denoiser(noisy, t, Conditions()) - wanted).square().mean()
    assert error < 0.5 * wanted.square().mean()
