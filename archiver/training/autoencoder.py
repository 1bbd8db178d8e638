"""Train the autoencoder: L1 and a perceptual distance first, then by what critics say as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from archiver.models.embedded.autoencoder import Autoencoder
from archiver.training.backbone import published_backbone
from archiver.training.data import Photos
from archiver.training.loop import PARTS, Budget, Rhythm, Trainer
from archiver.training.sight import Sight, critics_for

LATENT_NOISE = 0.05  # of unit-variance latents: makes the decoder forgive the denoiser's small errors
_ENLARGED_SHARE = 0.5  # of crops are looked at twice as large: what a picture of 512 pixels shows in as many cells
RHYTHM = Rhythm(rate=5e-4, ema=0.998)


class Judged(Autoencoder):
    """An autoencoder, and the critics that are trained with it."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = critics_for(published_backbone())


def _weights(progress: float) -> dict[str, float]:
    """Of the losses: colours and layout settle first, then texture is asked for, then that it looks real."""
    texture, real = (min(1.0, max(0.0, (progress - begin) / 0.4)) for begin in (0.1, 0.4))
    return {
        "colour": 2.0,
        "perceptual": 0.1 + 0.9 * texture,
        "meaning": real,
        "adversarial": 0.06 * real,
        "critic": 1.0,
    }


def psnr(made: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over pictures in [-1, 1]; 100 for equal ones."""
    error = ((made.float().clamp(-1, 1) - wanted).square().flatten(1).mean(1) / 4).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def train_autoencoder(
    photos: Photos, out: Path, budget: Budget, seed: int, batch: int = 16, side: int = 128, rhythm: Rhythm = RHYTHM
) -> None:
    """Train, or go on training, `out/autoencoder.safetensors`."""
    torch.manual_seed(seed)
    network = Judged().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sight = Sight(network.critics)
    trainer = Trainer(network, out / "autoencoder.safetensors", rhythm, seed)
    offset = (photos.pixels.shape[1] - side) // 2
    probe = photos.pictures(photos.validation[:64])[:, :, offset : offset + side, offset : offset + side]

    def loss(progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        wanted = photos.crops(rng, batch // PARTS, side)
        enlarge = 2 if rng.random() < _ENLARGED_SHARE else 1
        with torch.autocast("cpu", torch.bfloat16):
            latent = network.encode(wanted).float()
            latent = latent + LATENT_NOISE * torch.randn(latent.shape, generator=noise)
            losses = sight.losses(network.decode(latent), wanted, enlarge)
        weighted = (weight * losses[name] for name, weight in _weights(progress).items())
        return {"total": sum(weighted, start=torch.zeros(())), **losses}

    def check() -> dict[str, float]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latent = network.encode(probe)
            made = network.decode(latent)
            held_out = sight.losses(made, probe, 1)
        measured = {f"held_out_{name}": float(held_out[name]) for name in ("perceptual", "meaning", "colour")}
        return {"psnr": psnr(made, probe), "latent_std": float(latent.float().std()), **measured}

    trainer.run(budget, loss, check)
