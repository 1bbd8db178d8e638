"""The embedded profile's autoencoder: 16x down, 16 latent channels, cheap enough for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LATENT_CHANNELS = 16
DOWNSCALE = 16
_RANGE = 3.0  # latents are squashed to +-3 before they are normalised


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a skip, without normalisation, so that a crop and a whole picture code alike."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        change: Tensor = self.second(F.relu(self.first(F.relu(x))))
        return x + change


class Autoencoder(nn.Module):
    """Pictures to latents and back; all convolutions run at a quarter of the resolution or less."""

    def __init__(
        self,
        encoder_widths: tuple[int, int, int] = (64, 128, 192),
        decoder_widths: tuple[int, int, int] = (96, 160, 256),
    ) -> None:
        super().__init__()
        a, b, c = encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, a, 3, padding=1),
            ResidualBlock(a),
            nn.Conv2d(a, b, 3, 2, 1),
            ResidualBlock(b),
            nn.Conv2d(b, c, 3, 2, 1),
            ResidualBlock(c),
            nn.ReLU(),
            nn.Conv2d(c, LATENT_CHANNELS, 3, padding=1),
        )
        a, b, c = decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, c, 3, padding=1),
            ResidualBlock(c),
            ResidualBlock(c),
            nn.Conv2d(c, b * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(b),
            ResidualBlock(b),
            nn.Conv2d(b, a * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(a),
            ResidualBlock(a),
            ResidualBlock(a),
            nn.ReLU(),
            nn.Conv2d(a, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.latent_mean: Tensor
        self.latent_std: Tensor
        self.register_buffer("latent_mean", torch.zeros(1, LATENT_CHANNELS, 1, 1))
        self.register_buffer("latent_std", torch.ones(1, LATENT_CHANNELS, 1, 1))

    def encode(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [-1, 1], sides multiples of 16, to latent (B, 16, H/16, W/16), near unit variance."""
        raw = _RANGE * torch.tanh(self.encoder(x) / _RANGE)
        return (raw - self.latent_mean) / self.latent_std

    def decode(self, z: Tensor) -> Tensor:
        """Latent (B, 16, h, w) to picture (B, 3, 16h, 16w), about [-1, 1]; not clamped."""
        decoded: Tensor = self.decoder(z * self.latent_std + self.latent_mean)
        return decoded
