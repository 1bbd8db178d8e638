"""The polish: the autoencoder trained on, encoder and decoder, once the denoiser is what it will be.

The finish turned the decoder toward latents that are estimated, and photographs through encoder and decoder lost by it.
Here they are judged again. What was reached before is held in place: the encoder near the latents that the denoiser was
trained on, and the decoder near the pictures that it made of latents which the denoiser estimates, as a record's are.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from archiver.models.embedded.autoencoder import DOWNSCALE, Autoencoder
from archiver.models.embedded.denoiser import Denoiser, cosine_alphas_cumprod
from archiver.training.autoencoder import LATENT_NOISE, psnr
from archiver.training.backbone import backbone_of
from archiver.training.data import Photos
from archiver.training.denoiser import estimate
from archiver.training.features import Features, trained_autoencoder
from archiver.training.finish import draw_coarse, draw_times, draw_window, finished_weights
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

_CELLS = 12  # along the side of what is looked at: more than in the other stages, for borders are not what counts
_VIEWS = (1.0, 1.0, 1.25, 1.5)  # how much larger pictures are looked at: other networks see what shows in all
_HELD_SHARE = 0.25  # of the windows of a batch are of estimated latents
_WEIGHTS = {
    "perceptual": 1.0,
    "meaning": 2.0,
    "colour": 4.0,
    "adversarial": 0.03,
    "critic": 1.0,
    "drift": 1.0,
    "held": 10.0,
}
RHYTHM = Rhythm(rate=3e-4, warm_up=100, ema=0.998, log_every=50, save_every=200, check_every=500)


class Polished(nn.Module):
    """What is trained: the autoencoder, and the critics that go with it."""

    def __init__(self, autoencoder: Autoencoder) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        self.critics = new_critics()


class _Lesson:
    """The losses of one part of a batch."""

    def __init__(self, network: Polished, denoiser: Denoiser, sight: Sight, features: Features, photos: Photos) -> None:
        self.network, self.denoiser, self.sight = network, denoiser, sight
        self.features, self.photos = features, photos
        self.alphas = cosine_alphas_cumprod().to(network.autoencoder.latent_mean.device)
        self.before = copy.deepcopy(network.autoencoder).requires_grad_(False)

    def losses(self, count: int, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        """Named losses of `count` windows; `total` is their weighted sum."""
        estimated = self._estimated(max(1, round(_HELD_SHARE * count)), rng, noise)
        wanted = self.photos.crops(rng, count - len(estimated), DOWNSCALE * estimated.shape[-1], noise.device)
        network = self.network.autoencoder
        with autocast(noise.device):
            with torch.no_grad():
                latents_before, held = self.before.encode(wanted).float(), self.before.decode(estimated).float()
            latents = network.encode(wanted).float()
            told = latents + LATENT_NOISE * torch.randn(latents.shape, generator=noise, device=noise.device)
            made = network.decode(torch.cat([told, estimated]))
            losses = self.sight.losses(made[: len(wanted)], wanted, float(rng.choice(_VIEWS)))
        losses["drift"] = (latents - latents_before).square().mean()
        losses["held"] = (made[len(wanted) :].float() - held).abs().mean()
        total = sum((weight * losses[name] for name, weight in _WEIGHTS.items()), start=torch.zeros(()))
        return {"total": total, **losses}

    def _estimated(self, count: int, rng: np.random.Generator, noise: torch.Generator) -> Tensor:
        """Windows (count, 16, h, w) of the latents that the denoiser makes of photographs."""
        batch = draw_coarse(self.features, rng.choice(self.photos.train, count), rng, noise)
        with torch.no_grad():
            x0, _ = estimate(self.denoiser, batch, self.alphas, draw_times(count, noise), noise)
        return draw_window(x0.shape[-1], rng, _CELLS).latents(x0)


def train_polish(features: Features, photos: Photos, out: Path, budget: Budget, course: Course) -> None:
    """Train, or go on training, `out/polish.safetensors` from what the finish in `out` came to.

    Raises TrainingStale.
    """
    torch.manual_seed(course.seed)
    autoencoder = trained_autoencoder(out).requires_grad_(True)
    denoiser_weights, decoder_weights = finished_weights(out)
    autoencoder.decoder.load_state_dict(decoder_weights)
    denoiser = Denoiser().eval().requires_grad_(False)
    denoiser.load_state_dict(denoiser_weights)
    network = placed(Polished(autoencoder), course.device)
    network.critics.load_state_dict(averaged_weights(out / "finish.safetensors", "critics"))
    sight = Sight(backbone_of(out / "semantics.safetensors"), network.critics)
    # It keeps the weights of before, so it comes first.
    lesson = _Lesson(network, placed(denoiser, course.device), sight, features, photos)
    trainer = Trainer(network, out / "polish.safetensors", course, position(out / "finish.safetensors"))
    probe = photos.pictures(photos.validation[:32], course.device)

    def loss(count: int, _progress: float, rng: np.random.Generator, noise: torch.Generator) -> dict[str, Tensor]:
        return lesson.losses(count, rng, noise)

    def check() -> dict[str, float]:
        with torch.no_grad(), autocast(course.device):
            made = network.autoencoder.decode(network.autoencoder.encode(probe))
            held_out = lesson.sight.losses(made, probe, 1)
        measured = {f"held_out_{name}": float(held_out[name]) for name in ("perceptual", "meaning", "colour")}
        return {"psnr": psnr(made, probe), **measured}

    trainer.run(budget, loss, check)


def polished_weights(out: Path) -> dict[str, Tensor]:
    """The averaged weights of the autoencoder. Raises TrainingStale."""
    path = out / "polish.safetensors"
    require_made_of(path, position(out / "finish.safetensors"))
    return averaged_weights(path, "autoencoder")
