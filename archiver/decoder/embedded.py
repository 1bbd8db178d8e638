"""The embedded profile's networks behind the decoder's seam."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec.record import Scheme, Steering
from archiver.codec.schemes import Facts
from archiver.decoder import attention, guidance
from archiver.decoder.backend import Attend, Predict, Seen, Takes, Told
from archiver.decoder.observing import observe
from archiver.decoder.pixels import to_tensor
from archiver.models.embedded import Conditions, Networks
from archiver.models.embedded.backbone import STRIDE
from archiver.models.embedded.denoiser import Keep, SelfAttention

# Of the pictures by which an embedding guides. None is near a half, at which pictures are judged (`see`).
_VIEW_SIZES = (1.0, 0.875, 1.0625)
_SHARPNESS = 10.0  # cosines to the words, times this, are the logits of the word probabilities [ours]


class EmbeddedBackend:
    """`archiver.decoder.backend.Backend` over the embedded networks."""

    batch: int | None = None
    codebook: None = None  # its embeddings are of few dimensions, which the training has whitened

    def __init__(self, networks: Networks) -> None:
        self.networks = networks

    @property
    def name(self) -> str:
        """The profile's."""
        return self.networks.meta.name

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.networks.device

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory."""
        return tuple(getattr(self.networks, "loaded", ()))

    @property
    def cell(self) -> int:
        """Pixels along the side of a latent cell, which is one of the record's grid."""
        return self.networks.meta.downscale

    @property
    def long_side(self) -> int:
        """Pixels of the largest pictures that it makes."""
        return self.networks.meta.long_side

    @property
    def takes(self) -> Takes:
        """What records must be like that it decodes."""
        attention = self.networks.denoiser.attentions[-1]
        assert isinstance(attention, SelfAttention)
        return Takes(self.networks.meta.embedding_dim, self.networks.meta.words, attention.heads)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The noise schedule (1000,), on the CPU."""
        return self.networks.alphas_cumprod

    def latent_shape(self, grid: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, rows, columns) of latents."""
        columns, rows = grid
        return self.networks.meta.latent_channels, rows, columns

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures to latents."""
        return self.networks.autoencoder.encode(pictures)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures."""
        return self.networks.autoencoder.decode(latents)

    def predictor(self, told: Told, steering: Steering) -> Predict:
        """Classifier-free guidance on the semantic conditions; a colour condition stays on both sides [ours].

        Both estimates come from one call, whatever the scale, so that a picture never depends on how calls are grouped.
        """
        columns, rows = told.grid
        parts = (
            told.embedding,
            None if told.labels is None else _at_half_cells(told.labels, rows),
            None if told.colours is None else _per_cell(told.colours, rows, columns),
        )
        conditions = Conditions(*(None if part is None else part.repeat_interleave(2, 0) for part in parts))

        def predict(z: Tensor, time: int) -> Tensor:
            pairs = z.repeat_interleave(2, 0)
            semantic = torch.tensor([True, False] * told.count, device=z.device)
            times = torch.full_like(semantic, time, dtype=torch.long)
            keep = Keep(semantic, semantic, torch.ones_like(semantic))
            v = self.networks.denoiser(pairs, times, conditions, keep)
            x0 = guidance.x0_from_v(pairs, v, float(self.networks.alphas_cumprod[time]))
            return guidance.classifier_free(x0[0::2], x0[1::2], steering.guidance)

        return predict

    def attention(self, told: Told) -> Attend:
        """That of the denoiser's last self-attention."""
        conditions = Conditions(told.embedding)
        return lambda z, time: attention.octaves(attention.received(self.networks, z, time, conditions))

    def likeness(self, latents: Tensor, wanted: Tensor, view: int) -> Tensor:
        """Cosine of what the semantic encoder sees in the pictures of latents, its dimensions weighed by the square
        root of how far they spread [ours]: whitening makes the faintest count as much as those that tell most.

        Every other view is mirrored, and views have three sizes in turn [ours]: what shows in all of them is more often
        seen by other networks, too, than what pleases this one in a single place.
        """
        semantics = self.networks.semantics
        picture = _viewed(self.decode(latents).clamp(-1, 1), view, STRIDE // semantics.enlarge)
        seen = semantics.embedding(semantics.features(picture))
        weights = semantics.spreads().sqrt()
        return F.cosine_similarity(weights * seen, weights * wanted)

    def observe(self, pixels: NDArray[np.uint8], scheme: Scheme) -> Facts:
        """What the semantic encoder sees in a picture."""
        return observe(self.networks, pixels, scheme)

    def see(self, pixels: NDArray[np.uint8]) -> Seen:
        """Pooled features and the probabilities of the words, of the picture at half its size.

        A picture that is guided by its embedding is nearer to it at full size than anybody else would find, for it was
        moved toward what this very network sees there. At half the size it is about as near as other networks say
        (docs/schemes.md).
        """
        semantics, picture = self.networks.semantics, to_tensor(pixels).to(self.device)
        multiple = STRIDE // semantics.enlarge
        size = [max(1, round(side / 2 / multiple)) * multiple for side in picture.shape[2:]]
        features = semantics.features(F.interpolate(picture, size, mode="bilinear", antialias=True))
        return Seen(features.mean((2, 3)), word_probabilities(self.networks, features))


def _viewed(picture: Tensor, view: int, multiple: int) -> Tensor:
    """A picture (B, 3, H, W) in one of the ways to look at it, differentiably; sides are multiples of `multiple`."""
    if view % 2:
        picture = picture.flip(3)
    scale = _VIEW_SIZES[view % len(_VIEW_SIZES)]
    rows, columns = (max(1, round(side * scale / multiple)) * multiple for side in picture.shape[2:])
    if (rows, columns) == tuple(picture.shape[2:]):
        return picture
    down, across = (_resizing(*sides) for sides in zip(picture.shape[2:], (rows, columns), strict=True))
    return down.to(picture) @ picture @ across.to(picture).T


@lru_cache(maxsize=32)
def _resizing(side: int, wanted: int) -> Tensor:
    """(wanted, side): bilinear interpolation along one side. A product of matrices has a gradient that CUDA computes in
    one order only.
    """
    with torch.inference_mode(False), torch.no_grad():
        lines = torch.eye(side)[None, None]
        return F.interpolate(lines, (wanted, side), mode="bilinear", align_corners=False, antialias=wanted < side)[0, 0]


def word_probabilities(models: Networks, features: Tensor) -> Tensor:
    """(B, words, h, w): how probable each label word is in each cell of features (B, C, h, w)."""
    semantics = models.semantics
    directions = F.normalize(features - semantics.map_mean.view(1, -1, 1, 1), dim=1)
    return torch.softmax(_SHARPNESS * torch.einsum("bchw,kc->bkhw", directions, semantics.word_vectors), 1)


def _at_half_cells(labels: Tensor, rows: int) -> Tensor:
    """Labels (B, 2 rows, 2 columns), two along the side of a latent cell, as the denoiser takes them."""
    times = 2 * rows // labels.shape[1]
    return labels.repeat_interleave(times, 1).repeat_interleave(times, 2)


def _per_cell(colours: Tensor, rows: int, columns: int) -> Tensor:
    """Colours (B, 3, rows, columns), one for each latent cell."""
    if colours.shape[2] < rows or colours.shape[3] < columns:
        return F.interpolate(colours, (rows, columns), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(colours, (rows, columns))
