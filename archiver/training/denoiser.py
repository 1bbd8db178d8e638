"""Train the denoiser on cached latents, each condition dropped at random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archiver.models.embedded.denoiser import TIMESTEPS, Conditions, Denoiser, Keep, cosine_alphas_cumprod
from archiver.training.data import Photos
from archiver.training.features import Features
from archiver.training.loop import Budget, Course, Rhythm, Trainer, autocast, placed, sent

_KEEP_EACH = 0.7
_DROP_ALL = 0.08  # besides what independent dropping gives: the unconditional side of guidance
_CROP_SHARE = 0.4  # of batches see a grid that is not square
_EMBEDDING_NOISE = 0.35  # standard deviation: the error of 2 bits a dimension (Lloyd-Max: 0.34 of unit variance)
_COLOUR_NOISE = 1 / 32  # half a step of 5 bits a channel
RHYTHM = Rhythm(rate=8e-4, ema=0.998, check_every=500)


@dataclass(frozen=True, slots=True)
class Batch:
    """Clean latents (B, 16, h, w), their conditions, which of these are kept, and which photographs are mirrored."""

    latents: Tensor
    conditions: Conditions
    keep: Keep
    mirrored: NDArray[np.bool_]


def _grid(rng: np.random.Generator, side: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of the part of the latent grid that a batch sees."""
    if rng.random() >= _CROP_SHARE:
        return 0, 0, side, side
    short = int(rng.integers(side // 2 + 1, side))
    offset = int(rng.integers(0, side - short + 1))
    return (offset, 0, short, side) if rng.random() < 0.5 else (0, offset, side, short)


def draw(
    features: Features,
    rows: NDArray[np.int64],
    rng: np.random.Generator,
    noise: torch.Generator,
    whole: bool = False,
) -> Batch:
    """Photographs `rows` as a training batch: mirrored, cropped (unless `whole`), perturbed and stripped of
    conditions at random. It is where `noise` is.
    """
    count, device = len(rows), noise.device
    mirrored = rng.random(count) < 0.5
    side = features.latents.shape[-1]
    top, left, height, width = (0, 0, side, side) if whole else _grid(rng, side)
    y, x = slice(top, top + height), slice(left, left + width)
    yy, xx = slice(2 * top, 2 * (top + height)), slice(2 * left, 2 * (left + width))
    latents = sent(features.latents[rows, mirrored.astype(np.int64)], device).float()
    flip = sent(mirrored, device)
    labels = sent(features.labels[rows], device).long()
    labels = torch.where(flip.view(-1, 1, 1), labels.flip(2), labels)
    colours = sent(features.colours[rows], device).float()
    colours = torch.where(flip.view(-1, 1, 1, 1), colours.flip(3), colours)
    embedding = sent(features.embeddings[rows], device)
    chance = partial(torch.rand, generator=noise, device=device)
    strength = _EMBEDDING_NOISE * chance(count, 1)
    embedding = embedding + strength * torch.randn(embedding.shape, generator=noise, device=device)
    colours = colours + _COLOUR_NOISE * (2 * chance(colours.shape) - 1)
    kept = (chance(3, count) < _KEEP_EACH) & (chance(count) >= _DROP_ALL)
    conditions = Conditions(embedding, labels[:, yy, xx], colours[:, :, y, x])
    return Batch(latents[:, :, y, x].contiguous(), conditions, Keep(kept[0], kept[1], kept[2]), mirrored)


def estimate(
    network: Denoiser, batch: Batch, alphas: Tensor, t: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The network's estimate of the clean latents (B, 16, h, w) of a batch noised to timesteps t (B,), and the mean
    squared error of its v (Salimans & Ho, arXiv 2202.00512).
    """
    level = alphas[t].view(-1, 1, 1, 1)
    epsilon = torch.randn(batch.latents.shape, generator=noise, device=noise.device)
    noisy = level.sqrt() * batch.latents + (1 - level).sqrt() * epsilon
    wanted = level.sqrt() * epsilon - (1 - level).sqrt() * batch.latents
    with autocast(noise.device):
        made = network(noisy.contiguous(memory_format=torch.channels_last), t, batch.conditions, batch.keep)
    v = made.float()
    return level.sqrt() * noisy - (1 - level).sqrt() * v, (v - wanted).square().mean()


def train_denoiser(features: Features, photos: Photos, out: Path, budget: Budget, course: Course) -> None:
    """Train, or go on training, `out/denoiser.safetensors`."""
    torch.manual_seed(course.seed)
    network = placed(Denoiser(), course.device)
    trainer = Trainer(network, out / "denoiser.safetensors", course)
    alphas = cosine_alphas_cumprod().to(course.device)

    def loss(count: int, _progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        drawn = draw(features, rng.choice(photos.train, count), rng, noise)
        t = torch.randint(TIMESTEPS, (count,), generator=noise, device=course.device)
        return {"total": estimate(network, drawn, alphas, t, noise)[1]}

    def check() -> dict[str, float]:
        """The same held-out photographs, noise and timesteps every time."""
        rng, noise = np.random.default_rng(course.seed), torch.Generator(course.device).manual_seed(course.seed)
        t = torch.linspace(0, TIMESTEPS - 1, len(photos.validation), device=course.device).long()
        with torch.no_grad():
            drawn = draw(features, photos.validation, rng, noise)
            return {"held_out": float(estimate(network, drawn, alphas, t, noise)[1])}

    trainer.run(budget, loss, check)
