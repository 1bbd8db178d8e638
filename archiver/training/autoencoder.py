"""Train the autoencoder: L1 plus a perceptual distance in EfficientNet-Lite0 features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from archiver.models.embedded.autoencoder import Autoencoder
from archiver.models.embedded.backbone import EfficientNetLite0
from archiver.training.backbone import published_backbone
from archiver.training.data import Photos
from archiver.training.loop import PARTS, Budget, Rhythm, Trainer

_TAPS = (0, 2, 4, 7, 10, 14)
_LATENT_NOISE = 0.05  # of unit-variance latents: makes the decoder forgive the denoiser's small errors
RHYTHM = Rhythm(rate=5e-4, ema=0.998)


def perceptual_distance(backbone: EfficientNetLite0, made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of channel-normalised features over several depths (LPIPS without its learnt weights,
    arXiv 1801.03924); 0 for equal pictures, a scalar.
    """
    with torch.no_grad():
        wanted_maps = backbone.taps(wanted, _TAPS)
    total = made.new_zeros(())
    for a, b in zip(backbone.taps(made, _TAPS), wanted_maps, strict=True):
        total = total + (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean()
    return total / len(_TAPS)


def _perceptual_weight(progress: float) -> float:
    """Low while colours and layout settle, then high enough to ask for texture."""
    return 0.1 + 0.9 * min(1.0, max(0.0, (progress - 0.1) / 0.4))


def psnr(made: Tensor, wanted: Tensor) -> float:
    """Peak signal-to-noise ratio in dB, mean over pictures in [-1, 1]; 100 for equal ones."""
    error = ((made.float().clamp(-1, 1) - wanted).square().flatten(1).mean(1) / 4).clamp(min=1e-10)
    return float((-10 * error.log10()).mean())


def train_autoencoder(
    photos: Photos, out: Path, budget: Budget, seed: int, batch: int = 16, side: int = 128, rhythm: Rhythm = RHYTHM
) -> None:
    """Train, or go on training, `out/autoencoder.safetensors`."""
    torch.manual_seed(seed)
    network = Autoencoder().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    backbone = published_backbone().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    trainer = Trainer(network, out / "autoencoder.safetensors", rhythm, seed)
    offset = (photos.pixels.shape[1] - side) // 2
    probe = photos.pictures(photos.validation[:64])[:, :, offset : offset + side, offset : offset + side]

    def loss(progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        wanted = photos.crops(rng, batch // PARTS, side)
        with torch.autocast("cpu", torch.bfloat16):
            latent = network.encode(wanted).float()
            latent = latent + _LATENT_NOISE * torch.randn(latent.shape, generator=noise)
            made = network.decode(latent)
            perceptual = perceptual_distance(backbone, made, wanted)
        pixel = (made.float() - wanted).abs().mean()
        total = pixel + _perceptual_weight(progress) * perceptual
        return {"total": total, "pixel": pixel, "perceptual": perceptual}

    def check() -> dict[str, float]:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            latent = network.encode(probe)
            made = network.decode(latent)
            distance = float(perceptual_distance(backbone, made, probe))
        return {"psnr": psnr(made, probe), "held_out_perceptual": distance, "latent_std": float(latent.float().std())}

    trainer.run(budget, loss, check)
