"""What CLIP and a segmentation model see in a picture, through transformers or open_clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from archiver.errors import HubNotInstalled, ProfileInvalid
from archiver.models.hub.loading import load

_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_OPEN_CLIP_CONFIG = "open_clip_config.json"
_NO_TEXT = {"context_length": 1, "vocab_size": 2, "width": 8, "heads": 1, "layers": 1}


class ImageEncoder(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to CLIP's image embeddings (B, D), projected and not normalised.

    The short side is shrunk to the network's size and the middle is cut out, as CLIP was trained.
    """

    def __init__(self, tower: nn.Module, size: int) -> None:
        super().__init__()
        self.tower = tower
        self.size = size

    def forward(self, pictures: Tensor) -> Tensor:
        """Embeddings (B, D)."""
        scale = self.size / min(pictures.shape[2:])
        sides = tuple(max(self.size, round(side * scale)) for side in pictures.shape[2:])
        small = F.interpolate(pictures, sides, mode="bicubic", antialias=True, align_corners=False).clamp(-1, 1)
        top, left = ((side - self.size) // 2 for side in sides)
        cut = small[:, :, top : top + self.size, left : left + self.size]
        found: Any = self.tower(_normalised(cut, _CLIP_MEAN, _CLIP_STD).to(_dtype(self.tower)))
        embeddings: Tensor = found if isinstance(found, Tensor) else found.image_embeds
        return embeddings.float()


class Segmenter(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] to probabilities of the label words (B, K, rows, columns)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor, rows: int, columns: int) -> Tensor:
        """Means of the probabilities in each cell, so that a cell's label is that of most of it."""
        logits = self.network(_normalised(pictures, _IMAGENET_MEAN, _IMAGENET_STD).to(_dtype(self.network))).logits
        return F.adaptive_avg_pool2d(torch.softmax(logits.float(), 1), (rows, columns))


def load_image_encoder(folder: Path) -> ImageEncoder:
    """The image tower in a folder of transformers' layout, or of open_clip's (`open_clip_config.json`).

    Raises HubNotInstalled (there is no open_clip that can be imported), ProfileInvalid.
    """
    if (folder / _OPEN_CLIP_CONFIG).is_file():
        return _load_open_clip(folder)
    from transformers import CLIPVisionModelWithProjection

    tower = load(CLIPVisionModelWithProjection, folder)
    return ImageEncoder(tower, int(tower.config.image_size))  # an integer in every CLIP


def _load_open_clip(folder: Path) -> ImageEncoder:
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that was built for another torch
        raise HubNotInstalled(missing=f"open_clip: {error}") from error
    config = json.loads((folder / _OPEN_CLIP_CONFIG).read_text(encoding="utf-8"))["model_cfg"]
    # The text tower is as small as can be: nothing asks it.
    model = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], _NO_TEXT, config.get("quick_gelu", False))
    weights = load_file(folder / "open_clip_model.safetensors")
    visual = {key.removeprefix("visual."): value for key, value in weights.items() if key.startswith("visual.")}
    try:
        model.visual.load_state_dict(visual)
    except RuntimeError as problem:
        raise ProfileInvalid(path=folder, problem=str(problem).splitlines()[0]) from problem
    size = model.visual.image_size
    return ImageEncoder(model.visual, int(size[0] if isinstance(size, tuple) else size))


def load_segmenter(folder: Path) -> Segmenter:
    """The segmentation model in a folder of transformers' layout."""
    from transformers import AutoModelForSemanticSegmentation

    return Segmenter(load(AutoModelForSemanticSegmentation, folder))


def _normalised(pictures: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """From [-1, 1] to what a network was trained on."""
    middle, spread = (torch.tensor(values, device=pictures.device).view(1, 3, 1, 1) for values in (mean, std))
    return ((pictures + 1) / 2 - middle) / spread


def _dtype(network: nn.Module) -> torch.dtype:
    return next(network.parameters()).dtype
