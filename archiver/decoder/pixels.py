"""Bytes of pictures to tensors and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(h, w, 3) bytes to (1, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """(1, 3, h, w) in [-1, 1] to (h, w, 3) bytes."""
    levels = ((picture[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return pixels
