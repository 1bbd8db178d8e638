"""What a profile can do, on photographs it was not trained on: a sheet of pictures and a table of figures."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from archiver.models.embedded import Conditions, EmbeddedModels, colour_map
from archiver.quality.judge import SemanticJudge
from archiver.training.autoencoder import psnr
from archiver.training.data import Photos, to_pixels

_GUIDANCE = 2.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the table: semantics is a cosine, colour the mean error (0..255) of the colour maps, PSNR in dB."""

    name: str
    pictures: int
    semantics: float
    colour: float
    psnr: float


def sample(models: EmbeddedModels, conditions: Conditions, noise: Tensor, steps: int = 20) -> Tensor:
    """Latents (B, 16, h, w) by DDIM (arXiv 2010.02502) with classifier-free guidance 2, starting from `noise`."""
    from diffusers import DDIMScheduler

    scheduler: Any = DDIMScheduler(  # type: ignore[no-untyped-call]
        trained_betas=models.betas.tolist(),
        prediction_type="v_prediction",
        clip_sample=False,
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(steps)
    latents = noise
    for step in scheduler.timesteps:
        t = torch.full((len(latents),), int(step))
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            told = models.denoiser(latents, t, conditions).float()
            blind = models.denoiser(latents, t, Conditions()).float()
        latents = scheduler.step(blind + _GUIDANCE * (told - blind), step, latents, eta=0.0).prev_sample
    return latents


def decoded_ways(models: EmbeddedModels, pictures: Tensor, seed: int) -> dict[str, Tensor]:
    """Pictures decoded from their own latents and from each set of conditions that a scheme may store."""
    with torch.no_grad():
        semantics = models.semantics(pictures)
        latents = models.autoencoder.encode(pictures)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed))
    colours = colour_map(pictures)
    told = {
        "labels and colours": Conditions(labels=semantics.labels, colours=colours),
        "embedding and colours": Conditions(embedding=semantics.embedding, colours=colours),
        "embedding": Conditions(embedding=semantics.embedding),
        "all": Conditions(semantics.embedding, semantics.labels, colours),
    }
    made = {"autoencoder": latents} | {name: sample(models, told[name], noise) for name in told}
    with torch.no_grad():
        return {name: models.autoencoder.decode(made[name]).clamp(-1, 1) for name in made}


def write_report(models: EmbeddedModels, photos: Photos, out: Path, pictures: int = 32, seed: int = 0) -> list[Figures]:
    """Write `report.png` (originals, then one row for each way of decoding) and `report.json`; return the figures.

    Measured on the first held-out photographs. The first row compares each with another photograph.
    """
    originals = photos.pictures(photos.validation[:pictures])
    judge = SemanticJudge()
    wanted = judge.directions(originals)
    ways = {"another photograph": originals.roll(1, 0)} | decoded_ways(models, originals, seed)
    rows = []
    for name, made in ways.items():
        colour = float((colour_map(made) - colour_map(originals)).abs().mean() * 127.5)
        cosine = float((judge.directions(made) * wanted).sum(1).mean())
        rows.append(Figures(name, len(originals), round(cosine, 3), round(colour, 2), round(psnr(made, originals), 2)))
    shown = [originals, *(made for name, made in ways.items() if name != "another photograph")]
    sheet = np.concatenate([np.concatenate(list(to_pixels(row[:8])), 1) for row in shown], 0)
    Image.fromarray(sheet).save(out / "report.png")
    (out / "report.json").write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")
    return rows
