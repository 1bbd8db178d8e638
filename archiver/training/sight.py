"""What a made picture is held against: the photograph, in the features of a network that sees as people do, and small
critics over the same features.

Perceptual objective: Lin & Yang, arXiv 2401.00110. Projected discriminators: Sauer et al., arXiv 2111.01007.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from archiver.models.embedded.autoencoder import DOWNSCALE
from archiver.models.embedded.backbone import EfficientNetLite0
from archiver.training.loop import placed

_DEPTHS = (2, 4, 7, 10, 15)  # strides 4, 8, 16, 16, 32
_CRITICS = (1, 2, 3, 4)  # which of the depths a critic looks at
_CRITIC_WIDTH = 64


class Critic(nn.Module):
    """Says for each cell of a feature map how much it looks like a photograph's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, _CRITIC_WIDTH, 1),
            nn.GroupNorm(8, _CRITIC_WIDTH),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_CRITIC_WIDTH, _CRITIC_WIDTH, 3, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(_CRITIC_WIDTH, 1, 1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) to (B, 1, h, w), unbounded; more is more real."""
        said: Tensor = self.layers(features)
        return said


def new_critics() -> nn.ModuleList:
    """One for each depth that is criticised."""
    with torch.no_grad():
        maps = EfficientNetLite0().taps(torch.zeros(1, 3, 64, 64), _DEPTHS)
    return nn.ModuleList(Critic(maps[index].shape[1]) for index in _CRITICS)


class Sight:
    """The backbone that looks, and the critics that judge; these are trained with the network that makes pictures."""

    def __init__(self, backbone: EfficientNetLite0, critics: nn.ModuleList) -> None:
        self.critics = critics
        self.backbone = placed(backbone, next(critics.parameters()).device)

    def losses(self, made: Tensor, wanted: Tensor, enlarge: float) -> dict[str, Tensor]:
        """Named losses of pictures (B, 3, H, W) in [-1, 1], looked at `enlarge` times as large.

        `critic` is the critics' own, the others are those of who made the pictures.
        """
        with torch.no_grad():
            real_maps, real_meaning = self._look(wanted, enlarge)
        maps, meaning = self._look(made.clamp(-1.2, 1.2), enlarge)
        pairs = list(zip(maps, real_maps, strict=True))
        perceptual = sum((_distance(a, b) for a, b in pairs), start=torch.zeros(())) / len(pairs)
        pooled = _distance(meaning.mean((2, 3), keepdim=True), real_meaning.mean((2, 3), keepdim=True))
        colour = (F.avg_pool2d(made.float(), DOWNSCALE) - F.avg_pool2d(wanted, DOWNSCALE)).abs().mean()
        pixel = (made.float() - wanted).abs().mean()
        critic, adversarial = self._criticise(maps, real_maps)
        return {
            "perceptual": perceptual,
            "meaning": _distance(meaning, real_meaning) * 0.5 + pooled,
            "colour": colour + 0.5 * pixel,
            "adversarial": adversarial,
            "critic": critic,
        }

    def _look(self, pictures: Tensor, enlarge: float) -> tuple[list[Tensor], Tensor]:
        """Feature maps, and the semantic map (B, 1280, h, w)."""
        if enlarge != 1:
            pictures = F.interpolate(pictures, scale_factor=enlarge, mode="bilinear", align_corners=False)
        maps = self.backbone.taps(pictures, _DEPTHS)
        return maps, F.relu6(self.backbone.head(maps[-1]))

    def _criticise(self, maps: list[Tensor], real_maps: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Hinge loss of the critics, and what the generator loses by them."""
        critic, generator = torch.zeros(()), torch.zeros(())
        for judge, index in zip(self.critics, _CRITICS, strict=True):
            real, made = real_maps[index].float(), maps[index].float()
            # In one call: autocast may or may not share a weight's bfloat16 copy between two, and sums would differ.
            said_real, said_made = judge(torch.cat([real, made.detach()])).chunk(2)
            critic = critic + F.relu(1 - said_real).mean() + F.relu(1 + said_made).mean()
            # A copy that takes no gradient; not functional_call, which would swap the weights under the other thread.
            fixed = copy.deepcopy(judge).requires_grad_(False)
            generator = generator - fixed(made).float().mean()
        return critic / len(_CRITICS), generator / len(_CRITICS)


def _distance(made: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared distance of the directions of features (B, C, h, w)."""
    return (F.normalize(made.float(), dim=1) - F.normalize(wanted.float(), dim=1)).square().sum(1).mean()
