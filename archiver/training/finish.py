"""The finish: denoiser and picture decoder trained on together, judged by what the decoded picture looks like.

A denoiser that minimises the error of latents answers uncertainty with blur. Here its estimate of the clean latent is
decoded, and the picture is held against the photograph as sight.py does (for diffusion: adversarial diffusion
distillation, arXiv 2311.17042). The autoencoder's encoder stays as it is, so that cached latents stay valid.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from archiver.models.embedded.autoencoder import DOWNSCALE, Autoencoder
from archiver.models.embedded.denoiser import TIMESTEPS, Conditions, Denoiser, cosine_alphas_cumprod
from archiver.training.backbone import backbone_of
from archiver.training.data import Photos, to_tensor
from archiver.training.denoiser import Batch, draw, estimate
from archiver.training.features import Features, trained_autoencoder
from archiver.training.loop import (
    Budget,
    Course,
    Rhythm,
    Trainer,
    autocast,
    averaged_weights,
    placed,
    position,
    require_made_of,
)
from archiver.training.sight import Sight, new_critics

_ENLARGE = 2  # what is decoded is small, and looked at as what it is a part of would be
_WINDOW = 8  # latent cells along the side of the part that is decoded: as much as the autoencoder was trained on
_NOISY_SHARE = 0.6  # of samples are drawn from the noisy half, where the picture is decided
_CLEAN_SHARE = 4  # one in so many windows is decoded from its own latent, so that the autoencoder stays good
# Of batches are told labels, or colours, at half the resolution: what a record of 512 pixels holds.
_COARSE_LABELS, _COARSE_COLOURS = 0.7, 0.3
_WEIGHTS = {"v": 1.0, "perceptual": 1.0, "meaning": 1.0, "colour": 2.0, "adversarial": 0.08}
RHYTHM = Rhythm(rate=2.5e-4, warm_up=50, ema=0.995, log_every=20, save_every=60, check_every=240)


class Finished(nn.Module):
    """What is trained: the denoiser, the autoencoder's decoder, and the critics that go with them."""

    def __init__(self, denoiser: Denoiser, decoder: nn.Module) -> None:
        super().__init__()
        self.denoiser, self.decoder = denoiser, decoder
        self.critics = new_critics()


@dataclass(frozen=True, slots=True)
class Window:
    """The part of the latent grid that is decoded, in cells."""

    top: int
    left: int
    cells: int

    def latents(self, z: Tensor) -> Tensor:
        return z[:, :, self.top : self.top + self.cells, self.left : self.left + self.cells]

    def pixels(
        self, photos: Photos, rows: NDArray[np.int64], mirrored: NDArray[np.bool_], device: torch.device
    ) -> Tensor:
        top, left, side = (DOWNSCALE * at for at in (self.top, self.left, self.cells))
        pictures = [
            (photos.pixels[row][:, ::-1] if flip else photos.pixels[row])[top : top + side, left : left + side]
            for row, flip in zip(rows, mirrored, strict=True)
        ]
        return to_tensor(np.stack(pictures), device)


def with_coarse_labels(conditions: Conditions) -> Conditions:
    """The same conditions, labels known at half the resolution."""
    assert conditions.labels is not None
    return replace(conditions, labels=conditions.labels[:, ::2, ::2].repeat_interleave(2, 1).repeat_interleave(2, 2))


def with_coarse_colours(conditions: Conditions) -> Conditions:
    """The same conditions, colours known at half the resolution."""
    assert conditions.colours is not None
    colours = F.avg_pool2d(conditions.colours, 2)
    colours = F.interpolate(colours, conditions.colours.shape[2:], mode="bilinear", align_corners=False)
    return replace(conditions, colours=colours)


def draw_coarse(features: Features, rows: NDArray[np.int64], rng: np.random.Generator, noise: torch.Generator) -> Batch:
    """Whole photographs `rows` as a training batch, their labels and colours coarsened at random."""
    batch = draw(features, rows, rng, noise, whole=True)
    if rng.random() < _COARSE_LABELS:
        batch = replace(batch, conditions=with_coarse_labels(batch.conditions))
    if rng.random() < _COARSE_COLOURS:
        batch = replace(batch, conditions=with_coarse_colours(batch.conditions))
    return batch


def draw_window(side: int, rng: np.random.Generator, most: int = _WINDOW) -> Window:
    """Any part, of at most so many cells along its side, of a latent grid with `side` of them."""
    cells = min(most, side)
    top, left = (int(at) for at in rng.integers(0, side - cells + 1, 2))
    return Window(top, left, cells)


def draw_times(count: int, noise: torch.Generator) -> Tensor:
    """Timesteps (count,) 0..999, more of them from the noisy half."""
    anywhere = torch.randint(TIMESTEPS, (count,), generator=noise, device=noise.device)
    noisy = torch.randint(TIMESTEPS // 2, TIMESTEPS, (count,), generator=noise, device=noise.device)
    chance = torch.rand(count, generator=noise, device=noise.device)
    return torch.where(chance < _NOISY_SHARE, noisy, anywhere)


class _Lesson:
    """The losses of one part of a batch."""

    def __init__(
        self, network: Finished, autoencoder: Autoencoder, sight: Sight, features: Features, photos: Photos
    ) -> None:
        self.network, self.sight, self.features, self.photos = network, sight, features, photos
        self.mean, self.std = autoencoder.latent_mean, autoencoder.latent_std
        self.alphas = cosine_alphas_cumprod().to(self.mean.device)

    def losses(
        self, rows: NDArray[np.int64], t: Tensor, rng: np.random.Generator, noise: torch.Generator
    ) -> dict[str, Tensor]:
        """Named losses; `total` is their weighted sum with the critics' own."""
        batch = draw_coarse(self.features, rows, rng, noise)
        window = draw_window(batch.latents.shape[-1], rng)
        wanted = window.pixels(self.photos, rows, batch.mirrored, noise.device)
        with autocast(noise.device):
            x0, v_error = estimate(self.network.denoiser, batch, self.alphas, t, noise)
            clean = window.latents(batch.latents)
            guessed = window.latents(x0)
            latents = torch.cat([clean[::_CLEAN_SHARE], guessed])
            truth = torch.cat([wanted[::_CLEAN_SHARE], wanted])
            made = self.network.decoder(latents * self.std + self.mean)
            losses = self.sight.losses(made, truth, _ENLARGE)
        losses["v"] = v_error
        total = sum(
            (_WEIGHTS[name] * value for name, value in losses.items() if name in _WEIGHTS), start=torch.zeros(())
        )
        return {"total": total + losses["critic"], **losses}


def train_finish(features: Features, photos: Photos, out: Path, budget: Budget, course: Course) -> None:
    """Train, or go on training, `out/finish.safetensors` from the denoiser and the autoencoder in `out`.

    Raises TrainingStale.
    """
    torch.manual_seed(course.seed)
    autoencoder = placed(trained_autoencoder(out), course.device)
    denoiser = Denoiser()
    denoiser.load_state_dict(averaged_weights(out / "denoiser.safetensors"))
    network = placed(Finished(denoiser, autoencoder.decoder.requires_grad_(True)), course.device)
    network.critics.load_state_dict(averaged_weights(out / "autoencoder.safetensors", "critics"))
    trainer = Trainer(network, out / "finish.safetensors", course, _made_of(out))
    sight = Sight(backbone_of(out / "semantics.safetensors"), network.critics)
    lesson = _Lesson(network, autoencoder, sight, features, photos)

    def loss(count: int, _progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        rows = rng.choice(photos.train, count)
        return lesson.losses(rows, draw_times(len(rows), noise), rng, noise)

    def check() -> dict[str, float]:
        """The same held-out photographs, noise and timesteps every time."""
        rng, noise = np.random.default_rng(course.seed), torch.Generator(course.device).manual_seed(course.seed)
        rows = photos.validation[:32]
        t = torch.linspace(TIMESTEPS // 2, TIMESTEPS - 1, len(rows), device=course.device).long()
        with torch.no_grad():
            held_out = lesson.losses(rows, t, rng, noise)
        return {f"held_out_{name}": float(held_out[name]) for name in ("v", "perceptual", "meaning", "colour")}

    trainer.run(budget, loss, check)


def _made_of(out: Path) -> str:
    return " ".join(position(out / f"{stage}.safetensors") for stage in ("autoencoder", "denoiser"))


def finished_weights(out: Path) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The averaged weights of the denoiser, and those of the picture decoder. Raises TrainingStale."""
    path = out / "finish.safetensors"
    require_made_of(path, _made_of(out))
    return averaged_weights(path, "denoiser"), averaged_weights(path, "decoder")
