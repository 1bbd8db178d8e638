"""The embedded profile's denoiser: a small U-Net over the latent grid with trained, optional conditions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archiver.models.embedded.autoencoder import LATENT_CHANNELS

EMBEDDING_DIM = 256
WORDS = 32
TIMESTEPS = 1000
_WORD_CHANNELS = 16
_TIME_CHANNELS = 128


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the denoiser is told about the picture; each part may be missing. (h, w) is the latent grid.

    embedding: (B, 256), whitened, about unit variance per dimension.
    labels: (B, 2h, 2w) int64, visual words 0..31.
    colours: (B, 3, h, w) in [-1, 1], mean sRGB colour of each latent cell.
    """

    embedding: Tensor | None = None
    labels: Tensor | None = None
    colours: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Keep:
    """Which samples of a batch keep each condition: (B,) of bool. Used in training, to drop conditions at random."""

    embedding: Tensor
    labels: Tensor
    colours: Tensor


def cosine_alphas_cumprod(steps: int = TIMESTEPS) -> Tensor:
    """Cumulative alphas (steps,) of the cosine schedule (Nichol & Dhariwal, arXiv 2102.09672), betas at most 0.999."""
    time = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    level = torch.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - level[1:] / level[:-1]).clamp(max=0.999)
    return torch.cumprod(1 - betas, 0).float()


def _time_features(t: Tensor) -> Tensor:
    """Sinusoids (B, 128) of the timesteps (B,) in 0..999."""
    half = _TIME_CHANNELS // 2
    frequencies = torch.exp(-math.log(10_000) * torch.arange(half, device=t.device) / half)
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], 1)


class ModulatedBlock(nn.Module):
    """A residual block whose inner norm is scaled and shifted by the condition vector (FiLM, arXiv 1709.07871)."""

    def __init__(self, channels: int, vector: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(16, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(16, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.modulation = nn.Linear(vector, 2 * channels)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.modulation.weight)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(vector)[:, :, None, None].chunk(2, 1)
        h = self.norm2(h) * (1 + scale) + shift
        change: Tensor = self.conv2(F.silu(h))
        return x + change


class SelfAttention(nn.Module):
    """Self-attention over the cells of a map; gives its weights too, so that a decoder can steer by them."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(16, channels)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, C, h, w) to the map and the weights (B, heads, hw, hw)."""
        b, c, h, w = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, 3, self.heads, c // self.heads, h * w).unbind(1)
        weights = torch.softmax(q.transpose(2, 3) @ k / math.sqrt(c // self.heads), -1)
        mixed = (v @ weights.transpose(2, 3)).reshape(b, c, h, w)
        return x + self.out(mixed), weights


class Denoiser(nn.Module):
    """v-prediction (arXiv 2202.00512) on latents (B, 16, h, w), any h and w of at least 2, with optional conditions."""

    def __init__(self, fine: int = 128, coarse: int = 256, vector: int = 256) -> None:
        super().__init__()
        self.null_embedding = nn.Parameter(torch.zeros(EMBEDDING_DIM))
        self.null_colours = nn.Parameter(torch.zeros(3))
        self.words = nn.Embedding(WORDS + 1, _WORD_CHANNELS)  # the last one stands for "no label map"
        self.time = nn.Sequential(nn.Linear(_TIME_CHANNELS, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.meaning = nn.Sequential(nn.Linear(EMBEDDING_DIM, vector), nn.SiLU(), nn.Linear(vector, vector))
        self.stem = nn.Conv2d(LATENT_CHANNELS + 4 + 4 * _WORD_CHANNELS, fine, 3, padding=1)
        self.down_blocks = nn.ModuleList(ModulatedBlock(fine, vector) for _ in range(2))
        self.down = nn.Conv2d(fine, coarse, 3, 2, 1)
        self.middle_blocks = nn.ModuleList(ModulatedBlock(coarse, vector) for _ in range(3))
        self.attentions = nn.ModuleList(SelfAttention(coarse) for _ in range(2))
        self.up = nn.Conv2d(coarse, 4 * fine, 1)
        self.merges = nn.ModuleList(nn.Conv2d(2 * fine, fine, 1) for _ in range(2))
        self.up_blocks = nn.ModuleList(ModulatedBlock(fine, vector) for _ in range(2))
        self.out = nn.Sequential(nn.GroupNorm(16, fine), nn.SiLU(), nn.Conv2d(fine, LATENT_CHANNELS, 3, padding=1))

    def forward(self, z_t: Tensor, t: Tensor, conditions: Conditions, keep: Keep | None = None) -> Tensor:
        """Predict v = sqrt(a_t) noise - sqrt(1 - a_t) z_0, (B, 16, h, w), of latents at timesteps t (B,) 0..999."""
        return self.with_attention(z_t, t, conditions, keep)[0]

    def with_attention(
        self, z_t: Tensor, t: Tensor, conditions: Conditions, keep: Keep | None = None
    ) -> tuple[Tensor, Tensor]:
        """As `forward`, with the last attention's weights (B, heads, n, n), n = ceil(h/2) ceil(w/2), rows of cells."""
        vector = F.silu(self.time(_time_features(t)) + self.meaning(self._embedding(z_t, conditions, keep)))
        layout = [z_t, self._colours(z_t, conditions, keep), self._labels(z_t, conditions, keep)]
        h = self.stem(torch.cat(layout, 1))
        skips = []
        for block in self.down_blocks:
            h = block(h, vector)
            skips.append(h)
        h = self.down(h)
        for block, attention in zip(self.middle_blocks, self.attentions, strict=False):
            h, weights = attention(block(h, vector))
        h = self.middle_blocks[-1](h, vector)
        h = F.pixel_shuffle(self.up(h), 2)[
            :, :, : z_t.shape[2], : z_t.shape[3]
        ]  # an odd side was rounded up on the way
        for merge, block in zip(self.merges, self.up_blocks, strict=True):
            h = block(merge(torch.cat([h, skips.pop()], 1)), vector)
        return self.out(h), weights

    def _embedding(self, z_t: Tensor, conditions: Conditions, keep: Keep | None) -> Tensor:
        null = self.null_embedding.expand(z_t.shape[0], -1)
        if conditions.embedding is None:
            return null
        if keep is None:
            return conditions.embedding
        return torch.where(keep.embedding[:, None], conditions.embedding, null)

    def _colours(self, z_t: Tensor, conditions: Conditions, keep: Keep | None) -> Tensor:
        """(B, 4, h, w): the colours, or the learnt null, and a plane that says which."""
        b, _, h, w = z_t.shape
        null = self.null_colours.view(1, 3, 1, 1).expand(b, 3, h, w)
        if conditions.colours is None:
            return torch.cat([null, z_t.new_zeros(b, 1, h, w)], 1)
        if keep is None:
            return torch.cat([conditions.colours, z_t.new_ones(b, 1, h, w)], 1)
        known = keep.colours.view(b, 1, 1, 1)
        colours = torch.where(known, conditions.colours, null)
        return torch.cat([colours, known.to(colours.dtype).expand(b, 1, h, w)], 1)

    def _labels(self, z_t: Tensor, conditions: Conditions, keep: Keep | None) -> Tensor:
        """(B, 64, h, w): the learnt vectors of the four words in each latent cell."""
        b, _, h, w = z_t.shape
        labels = conditions.labels
        if labels is None:
            labels = torch.full((b, 2 * h, 2 * w), WORDS, device=z_t.device)
        elif keep is not None:
            labels = torch.where(keep.labels.view(b, 1, 1), labels, WORDS)
        return F.pixel_unshuffle(self.words(labels).permute(0, 3, 1, 2), 2)
