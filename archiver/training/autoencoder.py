"""Train the autoencoder: L1 and a perceptual distance first, then by what critics say as well."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from archiver.models.embedded.autoencoder import Autoencoder
from archiver.training.backbone import backbone_of
from archiver.training.data import Photos
from archiver.training.loop import Budget, Course, Rhythm, Trainer, autocast, placed
from archiver.training.sight import Sight, new_critics

LATENT_NOISE = 0.05  # of unit-variance latents: makes the decoder forgive the denoiser's small errors
_ENLARGED_SHARE = 0.5  # of crops are looked at twice as large: what a picture of 512 pixels shows in as many cells
RHYTHM = Rhythm(rate=5e-4, ema=0.998)


class Judged(Autoencoder):
    """An autoencoder, and the critics that are trained with it."""

    def __init__(self) -> None:
        super().__init__()
        self.critics = new_critics()


def _weights(progress: float) -> dict[str, float]:
    """Of the losses: colours and layout settle first, then texture is asked for, then that it looks real.

    At 1 for all of a training that begins from weights that have settled.
    """
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
    photos: Photos, out: Path, budget: Budget, course: Course, side: int = 128, *, settled: bool = False
) -> None:
    """Train, or go on training, `out/autoencoder.safetensors`, which is of `settled` weights or of random ones."""
    torch.manual_seed(course.seed)
    network = placed(Judged(), course.device)
    sight = Sight(backbone_of(out / "semantics.safetensors"), network.critics)
    trainer = Trainer(network, out / "autoencoder.safetensors", course)
    offset = (photos.pixels.shape[1] - side) // 2
    probe = photos.pictures(photos.validation[:64], course.device)[:, :, offset : offset + side, offset : offset + side]

    def loss(count: int, progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        wanted = photos.crops(rng, count, side, course.device)
        enlarge = 2 if rng.random() < _ENLARGED_SHARE else 1
        with autocast(course.device):
            latent = network.encode(wanted).float()
            latent = latent + LATENT_NOISE * torch.randn(latent.shape, generator=noise, device=course.device)
            losses = sight.losses(network.decode(latent), wanted, enlarge)
        weights = _weights(1.0 if settled else progress)
        weighted = (weight * losses[name] for name, weight in weights.items())
        return {"total": sum(weighted, start=torch.zeros(())), **losses}

    def check() -> dict[str, float]:
        with torch.no_grad(), autocast(course.device):
            latent = network.encode(probe)
            made = network.decode(latent)
            held_out = sight.losses(made, probe, 1)
        measured = {f"held_out_{name}": float(held_out[name]) for name in ("perceptual", "meaning", "colour")}
        return {"psnr": psnr(made, probe), "latent_std": float(latent.float().std()), **measured}

    trainer.run(budget, loss, check)
