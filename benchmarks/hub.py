"""Speed and memory of the hub profiles, with random weights of the real networks' sizes: neither depends on the values.

    python benchmarks/hub.py [--profile sd15] [--scheme sgc] [--batch B] [--count N] [--device D] [--steps S] [--json]
    python benchmarks/hub.py --count-parameters

Writes such a profile (2 to 4 GB) into a temporary folder, decodes made-up records with it through the same code as any
profile, and tells images/s and the peak of memory on the device that there is: after one batch that warms up, `--count`
pictures of the profile's working size. `--steps` takes fewer steps than the preset and says so; a device too slow for a
whole picture can be measured by the step. `--count-parameters` builds nothing: it adds up what the profiles' [memory]
says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import resource
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModelWithProjection

from archiver.codec import schemes
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.decoder.decoding import decode_records
from archiver.decoder.networks import open_backend
from archiver.models.hub.recipes import Pin, Recipe, find_recipe, packaged, read_recipe

CROSS = {"sd15": 768, "sd15-tcd": 768, "unclip-l": 1024, "unclip-h": 1024}
EMBEDDING = {"sd15": 1024, "sd15-tcd": 1024, "unclip-l": 768, "unclip-h": 1024}
SEGMENTER_PARAMETERS = 82_000_000  # of upernet-convnext-small, as published
VIT = {
    768: {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    1024: {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16},
}


def unet(name: str) -> Any:
    if name.startswith("sd15"):
        return UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return UNet2DConditionModel(
        sample_size=96,
        cross_attention_dim=1024,
        attention_head_dim=(5, 10, 20, 20),
        use_linear_projection=True,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=2 * EMBEDDING[name],
    )


def vae() -> Any:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
    )


def text_encoder(name: str) -> Any:
    layers = 12 if name.startswith("sd15") else 23
    width = CROSS[name]
    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            vocab_size=49408,
        )
    )


def image_encoder(name: str) -> Any:
    size = EMBEDDING[name]
    return CLIPVisionModelWithProjection(
        CLIPVisionConfig(image_size=224, patch_size=14, projection_dim=size, **VIT[size])
    )


def ip_adapter(denoiser: Any, embedding: int, cross: int) -> dict[str, torch.Tensor]:
    """IP-Adapter's weights for a denoiser, random."""
    tensors = {
        "image_proj.proj.weight": torch.randn(4 * cross, embedding) * 0.02,
        "image_proj.proj.bias": torch.zeros(4 * cross),
        "image_proj.norm.weight": torch.ones(cross),
        "image_proj.norm.bias": torch.zeros(cross),
    }
    for number, name in enumerate(name for name in denoiser.attn_processors if "attn2" in name):
        shape = denoiser.get_submodule(name.removesuffix(".processor")).to_k.weight.shape
        for which in ("to_k_ip", "to_v_ip"):
            tensors[f"ip_adapter.{2 * number + 1}.{which}.weight"] = torch.randn(shape) * 0.02
    return tensors


def write_profile(folder: Path, name: str) -> None:
    """A profile of random weights in half precision that decodes; what only encodes is left out."""

    def save(component: str, network: Any) -> None:
        network.half().save_pretrained(folder / component, safe_serialization=True, max_shard_size="100GB")

    denoiser = unet(name)
    if name.startswith("sd15"):
        save("controlnet", ControlNetModel.from_unet(denoiser))
        (folder / "ip_adapter").mkdir()
        weights = {key: value.half() for key, value in ip_adapter(denoiser, EMBEDDING[name], CROSS[name]).items()}
        save_file(weights, folder / "ip_adapter" / "ip-adapter.safetensors")
    save("unet", denoiser)
    del denoiser
    save("vae", vae())
    save("text_encoder", text_encoder(name))
    prediction = "epsilon" if name.startswith("sd15") else "v_prediction"
    scheduler: Any = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction
    )
    scheduler.save_pretrained(folder / "scheduler")
    text = find_recipe(name).text
    text = text[: text.index("[[files]]")]
    files = sorted(path for path in folder.glob("*/*") if path.suffix in (".json", ".safetensors"))
    for path in files:
        within = path.relative_to(folder).as_posix()
        text += f'\n[[files]]\nname = "{within}"\nrepository = "random/weights"\nrevision = "0"\npath = "{within}"\n'
    (folder / "profile.toml").write_text(text)
    recipe = read_recipe(folder / "profile.toml")
    (folder / "profile.toml").write_text(
        recipe.pinned({source.name: pin(folder / source.name) for source in recipe.sources})
    )


def pin(path: Path) -> Pin:
    with path.open("rb") as file:
        return Pin("0", hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def made_up_record(recipe: Recipe, scheme: Scheme, seed: int, steps: int | None) -> Record:
    """A record of a square picture of nothing in particular."""
    rng = np.random.default_rng(seed)
    side = recipe.info.long_side
    cells = side // 16
    steering = next(preset.steering for preset in recipe.info.presets if preset.scheme is scheme)
    facts = schemes.Facts(
        rng.standard_normal(EMBEDDING[recipe.info.name]).astype(np.float32),
        rng.integers(0, recipe.info.words, (cells, cells)).astype(np.uint8) // 8,
        recipe.info.words,
        rng.random((4, side // 64, side // 64), np.float32) * 2,
    )
    picture = Picture(rng.integers(0, 256, (side, side, 3), np.uint8), side, side)
    record = schemes.compose(picture, facts, scheme, bytes(8), (cells, cells), steering)
    # Colour maps of one size, as only such records share a batch.
    return replace(record, steering=replace(record.steering, steps=steps or record.steering.steps), seed=seed)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(options.device)
    recipe, scheme = find_recipe(options.profile), Scheme.parse(options.scheme)
    with tempfile.TemporaryDirectory(prefix="archiver-hub-", dir=options.folder) as folder, torch.no_grad():
        write_profile(Path(folder), options.profile)
        backend = open_backend(Path(folder), device, options.batch)
        first = made_up_record(recipe, scheme, 0, options.steps)
        records = [replace(first, seed=seed) for seed in range(options.batch)]
        began = time.perf_counter()
        decode_records(backend, records)
        loading = time.perf_counter() - began
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        for _ in range(-(-options.count // options.batch)):
            decode_records(backend, records)
        took = (time.perf_counter() - began) / (-(-options.count // options.batch) * options.batch)
        name = torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads"
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else memory_high_water()
        return {
            "profile": options.profile,
            "scheme": scheme.label,
            "device": name,
            "side": recipe.info.long_side,
            "steps": first.steering.steps,
            "batch": options.batch,
            "first_batch_seconds": round(loading, 2),
            "images_per_second": round(1 / took, 4),
            "peak_mib": peak >> 20,
        }


def memory_high_water() -> int:
    """Of this process, bytes; what writing the weights took is in it."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def count_parameters() -> list[tuple[str, dict[str, int]]]:
    """Parameters in millions, and the MiB that [memory] should say beside what it does."""
    found = []
    with torch.device("meta"):
        for recipe in packaged():
            name = recipe.info.name
            size: Callable[[Any], int] = lambda network: sum(part.numel() for part in network.parameters())  # noqa: E731
            denoiser = unet(name)
            decode = size(denoiser) + size(vae())
            encode = size(image_encoder(name))
            if name.startswith("sd15"):
                decode += size(ControlNetModel.from_unet(denoiser, load_weights_from_unet=False))
                decode += sum(tensor.numel() for tensor in ip_adapter(denoiser, EMBEDDING[name], CROSS[name]).values())
                encode += SEGMENTER_PARAMETERS
            needs = {"decode_gpu": 2 * decode >> 20, "decode_cpu": 4 * decode >> 20, "encode_cpu": 4 * encode >> 20}
            said = {f"said_{key}": getattr(recipe.memory, key) for key in needs}
            found.append(
                (name, {"decode_millions": decode // 10**6, "encode_millions": encode // 10**6, **needs, **said})
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--profile", choices=sorted(CROSS), default="sd15")
    parser.add_argument("--scheme", default="cocli")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--folder", help="where the weights are written")
    parser.add_argument("--count-parameters", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    results = (
        [{"profile": name, **facts} for name, facts in count_parameters()]
        if options.count_parameters
        else [measure(options)]
    )
    for result in results:
        print(json.dumps(result) if options.json else re.sub(r'[{}"]', "", json.dumps(result)))


if __name__ == "__main__":
    main()
