"""A run that begins from a profile's weights instead of random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from archiver.errors import TrainingBegun
from archiver.models.embedded.profile import load_embedded
from archiver.training.autoencoder import Judged
from archiver.training.loop import position_at, write_safetensors


def begin(profile: Path, out: Path, seed: int) -> None:
    """Write to the folder `out` what the stages up to the denoiser would have left behind, had they made `profile`.

    Each network is a checkpoint at step 0, with new critics; words, whitening and the scale of latents are the
    profile's. Does nothing where that was done before. Raises TrainingBegun (`out` holds a run that began otherwise),
    ProfileUnknown, ProfileInvalid, WeightsDamaged.
    """
    models = load_embedded(profile)
    whence = {"profile": models.meta.name, "digest": models.meta.digest.hex()}
    if (out / "autoencoder.safetensors").exists():  # written last
        if began_from(out) != whence:
            raise TrainingBegun(path=out)
        return
    torch.manual_seed(seed)
    judged = Judged()
    judged.load_state_dict(judged.state_dict() | models.autoencoder.state_dict())
    at = {"position": position_at(0, 0.0, seed)}
    scale = {"latent_mean": models.autoencoder.latent_mean, "latent_std": models.autoencoder.latent_std}
    write_safetensors(out / "latent_scale.safetensors", scale, at)
    write_safetensors(out / "semantics.safetensors", models.semantics.state_dict(), whence)  # no stage writes it anew
    write_safetensors(out / "denoiser.safetensors", _checkpoint(models.denoiser), at)
    write_safetensors(out / "autoencoder.safetensors", _checkpoint(judged), at)


def began_from(out: Path) -> dict[str, str] | None:
    """Name and digest of the profile that the run in `out` began from, if it did."""
    semantics = out / "semantics.safetensors"
    if not semantics.exists():
        return None
    with safe_open(semantics, framework="pt") as file:
        whence: dict[str, str] | None = file.metadata()
    return whence


def _checkpoint(network: nn.Module) -> dict[str, Tensor]:
    weights = dict(network.named_parameters())
    parts = ("weights", "ema")
    return {f"{part}.{name}": value.detach().clone() for part in parts for name, value in weights.items()}
