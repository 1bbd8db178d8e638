"""How near a decoded picture is to its original, as the coder's own semantic network sees it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec.colour import shrink
from archiver.codec.fidelity import FidelityReport
from archiver.decoder.backend import Backend

_THUMBNAIL = 16
_SMALLEST = 1e-6  # probability


def judge(backend: Backend, original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> FidelityReport:
    """Compare two pictures (h, w, 3) of the same size."""
    with torch.inference_mode():
        one, other = backend.see(original), backend.see(decoded)
        semantic = F.cosine_similarity(one.features, other.features)
        bce = None
        if one.words is not None and other.words is not None:
            bce = float(binary_cross_entropy(one.words, other.words))
    return FidelityReport(float(semantic), bce, colour_error(original, decoded))


def binary_cross_entropy(wanted: Tensor, found: Tensor) -> Tensor:
    """Mean over cells and words of -(p log q + (1 - p) log(1 - q)), in nats; a scalar."""
    return F.binary_cross_entropy(found.clamp(_SMALLEST, 1 - _SMALLEST), wanted.clamp(0, 1))


def colour_error(original: NDArray[np.uint8], decoded: NDArray[np.uint8]) -> float:
    """Mean absolute difference of the 16x16 thumbnails, 0..255."""
    one, other = (shrink(pixels, _THUMBNAIL, _THUMBNAIL).astype(np.int32) for pixels in (original, decoded))
    return float(np.abs(one - other).mean())
