"""EfficientNet-Lite0 with its batch norms folded into the convolutions: a frozen feature extractor."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# (expansion, kernel, stride, channels out, repeats): table 1 of EfficientNet (arXiv 1905.11946), Lite0 variant.
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
HEAD_CHANNELS = 1280
STRIDE = 32  # pixels along the side of a cell of the last map
_MEAN = (0.485, 0.456, 0.406)
_STD = (0.229, 0.224, 0.225)


def _same_pad(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad as TensorFlow's SAME does for sides that the stride divides, which is what the weights were trained with."""
    total = kernel - stride
    low = total // 2
    return F.pad(x, (low, total - low, low, total - low)) if stride > 1 else x


class InvertedResidual(nn.Module):
    """One MBConv block without squeeze-and-excitation (MobileNetV2, arXiv 1801.04381)."""

    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.kernel, self.stride, self.skip = kernel, stride, stride == 1 and inputs == outputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion != 1 else None
        padding = kernel // 2 if stride == 1 else 0
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, padding, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = F.relu6(self.depthwise(_same_pad(h, self.kernel, self.stride)))
        projected: Tensor = self.project(h)
        return x + projected if self.skip else projected


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 without its classifier, fully convolutional.

    Input (B, 3, H, W) in [-1, 1], sides multiples of 32 for the last map, of 16 for the maps up to block 10.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, 2)
        blocks: list[nn.Module] = []
        channels = 32
        for expansion, kernel, stride, outputs, repeats in _STAGES:
            for repeat in range(repeats):
                blocks.append(InvertedResidual(channels, outputs, expansion, kernel, stride if repeat == 0 else 1))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Conv2d(channels, HEAD_CHANNELS, 1)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1), persistent=False)

    def _stem(self, x: Tensor) -> Tensor:
        x = ((x + 1) / 2 - self.mean) / self.std
        return F.relu6(self.stem(_same_pad(x, 3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the last map, (B, 1280, H/32, W/32)."""
        h = self._stem(x)
        for block in self.blocks:
            h = block(h)
        return F.relu6(self.head(h))

    def taps(self, x: Tensor, depths: tuple[int, ...]) -> list[Tensor]:
        """Return the maps after the blocks numbered `depths` (ascending); later blocks are not computed."""
        h, maps = self._stem(x), []
        for index, block in enumerate(self.blocks[: depths[-1] + 1]):
            h = block(h)
            if index in depths:
                maps.append(h)
        return maps
