"""How near a decoded picture is to its original, as the coder's own semantic network sees it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec.colour import shrink
from archiver.codec.fidelity import FidelityReport
from archiver.decoder.decoding import to_tensor
from archiver.models.embedded import Networks

_THUMBNAIL = 16
_SHARPNESS = 10.0  # cosines to the words, times this, are the logits of the word probabilities [ours]
_SMALLEST = 1e-6  # probability


def judge(models: Networks, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> FidelityReport:
    """Compare two pictures (h, w, 3) of the same size."""
    with torch.inference_mode():
        features, others = (
            models.semantics.features(to_tensor(pixels).to(models.device)) for pixels in (original, decoded)
        )
        semantic = F.cosine_similarity(features.mean((2, 3)), others.mean((2, 3)))
        bce = binary_cross_entropy(word_probabilities(models, features), word_probabilities(models, others))
    return FidelityReport(float(semantic), float(bce), colour_error(original, decoded))


def word_probabilities(models: Networks, features: Tensor) -> Tensor:
    """(B, words, h, w): how probable each label word is in each cell of features (B, C, h, w)."""
    semantics = models.semantics
    directions = F.normalize(features - semantics.map_mean.view(1, -1, 1, 1), dim=1)
    return torch.softmax(_SHARPNESS * torch.einsum("bchw,kc->bkhw", directions, semantics.word_vectors), 1)


def binary_cross_entropy(wanted: Tensor, found: Tensor) -> Tensor:
    """Mean over cells and words of -(p log q + (1 - p) log(1 - q)), in nats; a scalar."""
    return F.binary_cross_entropy(found.clamp(_SMALLEST, 1 - _SMALLEST), wanted.clamp(0, 1))


def colour_error(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Mean absolute difference of the 16x16 thumbnails, 0..255."""
    one, other = (shrink(pixels, _THUMBNAIL, _THUMBNAIL).astype(np.int32) for pixels in (original, decoded))
    return float(np.abs(one - other).mean())
