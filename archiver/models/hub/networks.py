"""The networks of a hub profile: diffusers' and transformers' own classes, loaded from the vault one by one."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from archiver.codec.codebook import Codebook
from archiver.errors import ProfileInvalid, WeightsDamaged
from archiver.models.hub.codebooks import COMPONENT, load_codebook
from archiver.models.hub.encoders import ImageEncoder, Segmenter, load_image_encoder, load_segmenter
from archiver.models.hub.loading import load
from archiver.models.hub.memory import Needs, Plan, group_of, plan
from archiver.models.hub.settings import HubSettings, read_settings
from archiver.models.hub.watching import WatchedAttention
from archiver.models.profiles import ProfileInfo, WeightFile, read_profile, sha256_of

_PRECISIONS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_LATENT_CELL = 8  # pixels along the side of a latent cell of Stable Diffusion's autoencoders


class HubNetworks:
    """The networks of one profile, verified and loaded when they are first needed, in evaluation mode.

    batch: pictures at a time. memory: total and free bytes of the device, from which follows how they share it.
    Raises ProfileUnknown or ProfileInvalid.
    """

    def __init__(self, directory: Path, device: torch.device, batch: int, memory: tuple[int, int]) -> None:
        self.device = device
        self.info: ProfileInfo = read_profile(directory)
        self.settings: HubSettings = read_settings(directory)
        self.dtype = _PRECISIONS[self.settings.precision] if device.type == "cuda" else torch.float32
        self._directory = directory
        self._loaded: dict[str, nn.Module] = {}
        self._verified: set[str] = set()
        self._lock = threading.RLock()
        self._prompt: Tensor | None = None
        self._codebook: Codebook | None = None
        self.plan: Plan = plan(*memory, self._needs(batch))

    # -- what there is -------------------------------------------------------------------------------------------------

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory, the device's or, of those set aside, the machine's."""
        with self._lock:
            return tuple(self._loaded)

    def has(self, component: str) -> bool:
        """Whether the profile has a component: "controlnet", "segmenter", "ip_adapter", "lora" ..."""
        return any(file.name.startswith(f"{component}/") for file in self.info.files)

    @property
    def unet(self) -> Any:
        """UNet2DConditionModel, with IP-Adapter and LoRA where the profile has them."""
        return self._network("unet", self._load_unet)

    @property
    def vae(self) -> Any:
        """AutoencoderKL."""
        return self._network("vae", self._load_vae)

    @property
    def controlnet(self) -> Any:
        """ControlNetModel."""
        return self._network("controlnet", self._load_controlnet)

    @property
    def codebook(self) -> Codebook | None:
        """What embeddings are coded by; None where none was learnt."""
        if not self.has(COMPONENT):
            return None
        with self._lock:
            if self._codebook is None:
                self._verify(COMPONENT)
                self._codebook = load_codebook(self._only(COMPONENT))
            return self._codebook

    @property
    def image_encoder(self) -> ImageEncoder:
        """What a picture shows, as one vector."""
        network = self._network(
            "image_encoder", lambda: load_image_encoder(self._folder("image_encoder")).to(self.dtype)
        )
        assert isinstance(network, ImageEncoder)
        return network

    @property
    def segmenter(self) -> Segmenter:
        """What is where."""
        network = self._network("segmenter", lambda: load_segmenter(self._folder("segmenter")).to(self.dtype))
        assert isinstance(network, Segmenter)
        return network

    @property
    def prompt(self) -> Tensor:
        """What the text encoder makes of no text (1, length, D); it is needed once, and does not stay."""
        with self._lock:
            if self._prompt is None:
                from transformers import CLIPTextModel

                encoder = self._from(CLIPTextModel, "text_encoder").float()
                with torch.inference_mode(False), torch.no_grad():
                    found = encoder(torch.tensor([self.settings.prompt.tokens])).last_hidden_state
                self._prompt = found.to(self.device, self.dtype)
            return self._prompt

    @property
    def latent_channels(self) -> int:
        """Of the autoencoder."""
        return int(self.config("vae")["latent_channels"])

    def config(self, component: str) -> dict[str, Any]:
        """A component's configuration, as diffusers reads it."""
        self._verify(component)
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        config: dict[str, Any] = json.loads((self._folder(component) / name).read_text(encoding="utf-8"))
        return config

    def unload(self) -> None:
        """Forget every network."""
        with self._lock:
            self._loaded.clear()

    # -- loading -------------------------------------------------------------------------------------------------------

    def _network(self, name: str, make: Callable[[], Any]) -> Any:
        # Whoever needs it first may be in inference mode; weights made there could never be steered through.
        with self._lock, torch.inference_mode(False):
            if self.plan.one_by_one:
                self._set_aside(group_of(name))
            if name not in self._loaded:
                self._verify(name)
                self._loaded[name] = make().eval().requires_grad_(False)
            return self._loaded[name].to(self.device)

    def _set_aside(self, working: tuple[str, ...]) -> None:
        """Make room for the networks that work together: the others leave a GPU for the machine's memory, and the
        machine's memory altogether.
        """
        for name in [name for name in self._loaded if name not in working]:
            if self.device.type == "cpu":
                del self._loaded[name]
            else:
                self._loaded[name].to("cpu")

    def _load_unet(self) -> Any:
        from diffusers import StableDiffusionPipeline, UNet2DConditionModel

        unet = self._from(UNet2DConditionModel, "unet")
        if self.has("lora") or self.has("ip_adapter"):
            # Only for its ways of reading both; nothing is run by it.
            parts = dict.fromkeys(
                ("vae", "text_encoder", "tokenizer", "scheduler", "safety_checker", "feature_extractor")
            )
            kind: Any = StableDiffusionPipeline
            pipeline = kind(unet=unet, **parts, requires_safety_checker=False)
            if self.has("lora"):
                self._verify("lora")
                pipeline.load_lora_weights(load_file(self._only("lora")))
                pipeline.fuse_lora(lora_scale=self.settings.lora_scale)
                pipeline.unload_lora_weights()
            if self.has("ip_adapter"):
                self._verify("ip_adapter")
                pipeline.load_ip_adapter(_ip_adapter(self._only("ip_adapter")), "", "", image_encoder_folder=None)
                pipeline.set_ip_adapter_scale(self.settings.embedding_scale)
        if self.plan.sliced and not self.has("ip_adapter"):  # IP-Adapter's attention has no sliced form in diffusers
            unet.set_attention_slice("auto")
        self._watch(unet)
        return unet

    def _watch(self, unet: Any) -> None:
        layer = self.settings.attention.layer
        try:
            attention = unet.get_submodule(layer)
        except AttributeError as problem:
            raise ProfileInvalid(path=self._directory, problem=f"its denoiser has no {layer}") from problem
        attention.set_processor(WatchedAttention(attention.processor))

    def _load_vae(self) -> Any:
        from diffusers import AutoencoderKL

        vae = self._from(AutoencoderKL, "vae")
        vae.enable_slicing()  # pictures of a batch one by one
        if self.plan.tiled:
            vae.enable_tiling()
        return vae

    def _load_controlnet(self) -> Any:
        from diffusers import ControlNetModel

        controlnet = self._from(ControlNetModel, "controlnet")
        if self.plan.sliced:
            controlnet.set_attention_slice("auto")
        return controlnet

    def _from(self, kind: Any, component: str) -> Any:
        """A network of a library's class, on the CPU."""
        self._verify(component)
        return load(kind, self._folder(component), torch_dtype=self.dtype)

    def _folder(self, component: str) -> Path:
        return self._directory / component

    def _only(self, component: str) -> Path:
        """The one weight file of a component."""
        (file,) = self._weights(component)
        return self._directory / file.name

    def _weights(self, component: str) -> list[WeightFile]:
        return [
            file
            for file in self.info.files
            if file.name.startswith(f"{component}/") and file.name.endswith(".safetensors")
        ]

    def _verify(self, component: str) -> None:
        """Compare a component's files with their pins, once in the life of this object."""
        files = [file for file in self.info.files if file.name.startswith(f"{component}/")]
        if not files:
            raise ProfileInvalid(path=self._directory, problem=f"it has no {component}")
        for file in files:
            path = self._directory / file.name
            if file.name not in self._verified and (not path.is_file() or sha256_of(path) != file.sha256):
                raise WeightsDamaged(path=path)
            self._verified.add(file.name)

    def _needs(self, batch: int) -> Needs:
        width = torch.finfo(self.dtype).bits // 8
        weights = {
            name: width
            * sum(_parameters(self._directory / file.name) for part in parts for file in self._weights(part))
            for name, parts in _PARTS.items()
        }
        return Needs(weights, (self.info.long_side // _LATENT_CELL) ** 2, batch, width)


_PARTS = {
    "unet": ("unet", "ip_adapter"),
    "controlnet": ("controlnet",),
    "vae": ("vae",),
    "image_encoder": ("image_encoder",),
    "segmenter": ("segmenter",),
}


def _ip_adapter(path: Path) -> dict[str, dict[str, Tensor]]:
    """IP-Adapter's weights as diffusers takes them."""
    parts: dict[str, dict[str, Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in load_file(path).items():
        part, _, rest = key.partition(".")
        if part not in parts:
            raise ProfileInvalid(path=path, problem=f"{key} is no part of an IP-Adapter")
        parts[part][rest] = value
    return parts


def _parameters(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header. Raises WeightsDamaged."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(min(length, 100 << 20)))
        return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as problem:
        raise WeightsDamaged(path=path) from problem
