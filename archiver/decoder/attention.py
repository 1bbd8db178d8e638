"""The attention that SEACOM stores and steers by: how much each cell of the denoiser's last attention receives.

That SEACOM's maps are those of a self-attention in the denoiser is ours: in networks whose embedding enters as a vector
there is no cross-attention to picture tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from archiver.models.embedded import Conditions, Networks

REFERENCE = (
    200  # the time, of 1000, at which an encoder looks: late enough that the picture, not noise, draws attention
)


def received(models: Networks, z_t: Tensor, time: int, conditions: Conditions) -> Tensor:
    """The attention (B, heads, rows, columns) that the cells of latents (B, C, h, w) receive; 1 is an even share."""
    times = torch.full((z_t.shape[0],), time, device=z_t.device)
    _, weights = models.denoiser.with_attention(z_t, times, conditions)
    rows, columns = (-(-side // 2) for side in z_t.shape[2:])
    batch, heads, cells, _ = weights.shape
    return (weights.mean(2) * cells).reshape(batch, heads, rows, columns)


def octaves(received: Tensor) -> Tensor:
    """Base-2 logarithms of attention received; next to none counts as 1/64 of an even share."""
    return received.clamp(min=1 / 64).log2()


def reference(models: Networks, latent: Tensor, embedding: Tensor) -> Tensor:
    """The attention (B, heads, rows, columns) of pictures' clean latents (B, C, h, w), as records keep it."""
    faded = float(models.alphas_cumprod[REFERENCE]) ** 0.5 * latent
    return received(models, faded, REFERENCE, Conditions(embedding))
