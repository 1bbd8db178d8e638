"""Hub profiles of small random weights: the classes and the layout of the real ones, and nothing else of them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from archiver.models.hub.recipes import Pin, Recipe, find_recipe, read_recipe

LONG_SIDE = 128
CROSS, EMBEDDING, WORDS = 32, 32, 150


def _random(network: Any, seed: int, spread: float = 0.05) -> Any:
    """Every layer says something: those that start at zero would hide what they are told."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point() and (tensor == tensor.flatten()[0]).all():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * spread)
    return network.eval()


def unet(*, by_class: bool) -> Any:
    from diffusers import UNet2DConditionModel

    keys: dict[str, Any] = {}
    if by_class:
        keys = {"class_embed_type": "projection", "projection_class_embeddings_input_dim": 2 * EMBEDDING}
    return UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=CROSS,
        attention_head_dim=8,
        **keys,
    )


def vae() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8, 16, 16),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=LONG_SIDE,
    )


def text_encoder() -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=64,
            hidden_size=CROSS,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=1,
            eos_token_id=2,
        )
    )


def image_encoder() -> Any:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
            projection_dim=EMBEDDING,
        )
    )


def segmenter() -> Any:
    from transformers import ConvNextConfig, UperNetConfig, UperNetForSemanticSegmentation

    backbone = ConvNextConfig(
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], out_features=["stage1", "stage2", "stage3", "stage4"]
    )
    return UperNetForSemanticSegmentation(
        UperNetConfig(backbone_config=backbone, hidden_size=16, num_labels=WORDS, use_auxiliary_head=False)
    )


def save_ip_adapter(path: Path, network: nn.Module) -> None:
    """As IP-Adapter is published: a projection to four tokens, and keys and values for each cross-attention."""
    generator = torch.Generator().manual_seed(9)

    def weights(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    tensors = {
        "image_proj.proj.weight": weights(4 * CROSS, EMBEDDING),
        "image_proj.proj.bias": weights(4 * CROSS),
        "image_proj.norm.weight": torch.ones(CROSS),
        "image_proj.norm.bias": torch.zeros(CROSS),
    }
    names: Any = network.attn_processors
    for number, name in enumerate(name for name in names if "attn2" in name):
        inner, cross = network.get_submodule(name.removesuffix(".processor")).get_submodule("to_k").weight.shape
        for which in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * number + 1}.{which}.weight"] = weights(inner, cross)
    path.parent.mkdir(parents=True)
    save_file(tensors, path)


def save_lora(path: Path, network: nn.Module) -> None:
    """A LoRA of rank 2 on the queries of all attentions, under diffusers' names."""
    generator = torch.Generator().manual_seed(11)
    tensors = {}
    for name, module in network.named_modules():
        if name.endswith("to_q") and isinstance(module, nn.Linear):
            tensors[f"unet.{name}.lora_A.weight"] = torch.randn(2, module.in_features, generator=generator) * 0.3
            tensors[f"unet.{name}.lora_B.weight"] = torch.randn(module.out_features, 2, generator=generator) * 0.3
    path.parent.mkdir(parents=True)
    save_file(tensors, path)


def save_repository(folder: Path, recipe_name: str, seed: int = 0, *, with_encoder: bool = True) -> Path:
    """The components of a packaged recipe, small and random, and their recipe, which names them in one repository."""
    from diffusers import ControlNetModel, DDIMScheduler

    by_class = recipe_name.startswith("unclip")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        denoiser = _random(unet(by_class=by_class), seed)
        networks = {"unet": denoiser, "vae": vae(), "text_encoder": text_encoder()}
        if with_encoder:
            networks["image_encoder"] = image_encoder()
        if not by_class:
            save_ip_adapter(folder / "ip_adapter" / "ip-adapter.safetensors", denoiser)
            networks |= {
                "controlnet": _random(ControlNetModel.from_unet(denoiser), seed + 2, 0.5),
                "segmenter": segmenter(),
            }
        for name, network in networks.items():
            _random(network, seed + 1).save_pretrained(folder / name, safe_serialization=True)
    if recipe_name.endswith("tcd"):
        save_lora(folder / "lora" / "pytorch_lora_weights.safetensors", denoiser)
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction" if by_class else "epsilon",
    )
    scheduler.save_pretrained(folder / "scheduler")
    return _save_recipe(folder, recipe_name)


def _save_recipe(folder: Path, recipe_name: str) -> Path:
    """The packaged recipe over the small networks: another size, another text encoder's tokens, other files."""
    text = find_recipe(recipe_name).text
    text = re.sub(r"long_side = \d+", f"long_side = {LONG_SIDE}", text[: text.index("[[files]]")])
    text = text.replace("steps = 20", "steps = 3")  # a test's time is in them
    text = re.sub(r"prompt = \{.*\}", "prompt = { begin = 1, end = 2, fill = 2, length = 77 }", text)
    names = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.glob("*/*")
        if path.suffix in (".json", ".safetensors") and "model_index" not in path.name
    )
    for name in names:
        text += f'\n[[files]]\nname = "{name}"\nrepository = "tiny/{recipe_name}"\nrevision = "main"\npath = "{name}"\n'
    recipe = folder / "recipe.toml"
    recipe.write_text(text)
    return recipe


def save_profile(folder: Path, recipe_name: str, seed: int = 0, *, with_encoder: bool = True) -> Path:
    """The same, pinned as if it had been pulled: what `archiver models import` takes."""
    recipe = read_recipe(save_repository(folder, recipe_name, seed, with_encoder=with_encoder))
    (folder / "profile.toml").write_text(recipe.pinned(pins(folder, recipe)))
    return folder


def pins(folder: Path, recipe: Recipe) -> dict[str, Pin]:
    """What lies in a folder, as a pull would write it down."""
    found = {}
    for source in recipe.sources:
        data = (folder / source.name).read_bytes()
        found[source.name] = Pin("0" * 40, hashlib.sha256(data).hexdigest(), len(data))
    return found
