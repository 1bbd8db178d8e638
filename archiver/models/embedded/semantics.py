"""What a picture shows: a whitened embedding and a map of visual words, both from one EfficientNet-Lite0 pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archiver.models.embedded.autoencoder import DOWNSCALE
from archiver.models.embedded.backbone import HEAD_CHANNELS, STRIDE, EfficientNetLite0
from archiver.models.embedded.denoiser import EMBEDDING_DIM, WORDS

_TINY = 1e-12  # of a row of the whitening, which is only divided by


@dataclass(frozen=True, slots=True)
class Semantics:
    """embedding: (B, 256), about unit variance per dimension; labels: (B, rows, columns) int64 visual words 0..31, two
    along the side of a cell of features.
    """

    embedding: Tensor
    labels: Tensor


class SemanticEncoder(nn.Module):
    """Embedding (PCA-whitened pooled features) and label map (nearest of 32 visual words) of a picture.

    The network is shown pictures of about 512 pixels. `enlarge`: how many times larger than they come, 2 or 1; there
    are as many label cells along the side of a latent cell.
    """

    def __init__(self, enlarge: int = 2) -> None:
        super().__init__()
        self.enlarge = enlarge
        self.backbone = EfficientNetLite0()
        self.pooled_mean: Tensor
        self.whitening: Tensor
        self.map_mean: Tensor
        self.word_vectors: Tensor
        self.register_buffer("pooled_mean", torch.zeros(HEAD_CHANNELS))
        self.register_buffer("whitening", torch.zeros(EMBEDDING_DIM, HEAD_CHANNELS))
        self.register_buffer("map_mean", torch.zeros(HEAD_CHANNELS))
        self.register_buffer("word_vectors", torch.zeros(WORDS, HEAD_CHANNELS))

    def features(self, x: Tensor) -> Tensor:
        """Picture (B, 3, H, W) in [-1, 1], sides multiples of 32 / enlarge, to features (B, 1280, H enlarge/32, ...).

        Raises ValueError for other sides.
        """
        multiple = STRIDE // self.enlarge
        if x.shape[2] % multiple or x.shape[3] % multiple:
            raise ValueError(f"sides {tuple(x.shape[2:])} are not multiples of {multiple}")
        if self.enlarge > 1:
            x = F.interpolate(x, scale_factor=self.enlarge, mode="bilinear", align_corners=False)
        features: Tensor = self.backbone(x)
        return features

    def embedding(self, features: Tensor) -> Tensor:
        """Whitened embedding (B, 256) of features (B, 1280, h, w)."""
        return (features.float().mean((2, 3)) - self.pooled_mean) @ self.whitening.T

    def spreads(self) -> Tensor:
        """Standard deviation (256,) of each dimension of embeddings before it was whitened."""
        lengths: Tensor = torch.linalg.vector_norm(self.whitening, dim=1)
        return 1 / lengths.clamp(min=_TINY)

    def labels(self, features: Tensor) -> Tensor:
        """Visual words (B, 2h, 2w) of features (B, 1280, h, w), int64.

        Similarities are smoothed and enlarged before the maximum is taken: labels themselves cannot be interpolated.
        """
        directions = F.normalize(features.float() - self.map_mean.view(1, -1, 1, 1), dim=1)
        similarity = torch.einsum("bchw,kc->bkhw", directions, self.word_vectors)
        similarity = F.avg_pool2d(similarity, 3, 1, 1, count_include_pad=False)
        return F.interpolate(similarity, scale_factor=2, mode="bilinear", align_corners=False).argmax(1)

    def forward(self, x: Tensor) -> Semantics:
        """Embedding and label map of pictures (B, 3, H, W) in [-1, 1], sides multiples of 32 / enlarge."""
        features = self.features(x)
        return Semantics(self.embedding(features), self.labels(features))


def colour_map(x: Tensor) -> Tensor:
    """Mean colour (B, 3, H/16, W/16) of each latent cell of pictures (B, 3, H, W) in [-1, 1]."""
    return F.avg_pool2d(x, DOWNSCALE)
