"""The networks of diffusers behind the decoder's seam: Stable Diffusion with IP-Adapter and ControlNet, Stable unCLIP.

The semantic embedding enters as IP-Adapter's image tokens or as unCLIP's class embedding at noise level 0, labels
through ControlNet as a picture in ADE20K's colours; there is no text. Latents and all steering are float32; the
networks compute in half precision on a GPU.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from numpy.typing import NDArray
from torch import Tensor

from archiver.codec.codebook import Codebook
from archiver.codec.record import Scheme, Steering
from archiver.codec.schemes import Facts
from archiver.decoder import guidance
from archiver.decoder.attention import REFERENCE, octaves
from archiver.decoder.backend import Attend, Predict, Seen, Takes, Told
from archiver.decoder.pixels import to_tensor
from archiver.errors import ProfileInvalid, RecordCorrupt, SchemeUnsupported
from archiver.models.hub.ade20k import colours as ade20k_colours
from archiver.models.hub.networks import HubNetworks
from archiver.models.hub.watching import watching

_LATENTS_PER_CELL = 2  # along the side of a cell of a record's grid
_SEEN_CELLS = 16  # pixels along the side of a cell in which a judge compares labels


def open_hub(directory: Path, device: torch.device, batch: int = 0) -> HubBackend:
    """The backend of the hub profile in a folder; nothing is loaded yet. batch: 0 decodes each record alone.

    Raises ProfileUnknown or ProfileInvalid.
    """
    together = batch or 1
    return HubBackend(HubNetworks(directory, device, together, _memory(device)), together)


def _memory(device: torch.device) -> tuple[int, int]:
    """(total, free) bytes of a device."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total, free
    page = os.sysconf("SC_PAGE_SIZE")
    with Path("/proc/meminfo").open() as lines:
        free = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
    return page * os.sysconf("SC_PHYS_PAGES"), free


class HubBackend:
    """`archiver.decoder.backend.Backend` over networks of diffusers and transformers."""

    def __init__(self, networks: HubNetworks, batch: int) -> None:
        self.networks = networks
        self.batch: int | None = batch
        schedulers: Any = DDPMScheduler  # only for its noise schedule; sampling is `archiver.decoder.sampler`'s
        scheduler = schedulers.from_config(networks.config("scheduler"))
        self.alphas_cumprod: Tensor = scheduler.alphas_cumprod.float()
        self._prediction = str(scheduler.config.prediction_type)
        if self._prediction not in ("epsilon", "v_prediction"):
            raise ProfileInvalid(path=self.name, problem=f"prediction type {self._prediction!r}")

    @property
    def name(self) -> str:
        """The profile's."""
        return self.networks.info.name

    @property
    def device(self) -> torch.device:
        """Where latents and pictures are."""
        return self.networks.device

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory."""
        return self.networks.loaded

    @property
    def codebook(self) -> Codebook | None:
        """What embeddings are coded by where `archiver models learn` has made one."""
        return self.networks.codebook

    @property
    def takes(self) -> Takes:
        """What records must be like that it decodes; embeddings are compared in `_conditions`, where the denoiser is
        in memory anyway.
        """
        words = self.networks.info.words if self.networks.has("controlnet") else 0
        return Takes(None, words, self.networks.settings.attention.groups)

    @property
    def cell(self) -> int:
        """Pixels along the side of a cell of a record's grid."""
        return self.networks.settings.cell

    @property
    def long_side(self) -> int:
        """Pixels of the largest pictures that it makes."""
        return self.networks.info.long_side

    def latent_shape(self, grid: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, rows, columns) of latents."""
        columns, rows = (cells * _LATENTS_PER_CELL for cells in grid)
        return self.networks.latent_channels, rows, columns

    def encode(self, pictures: Tensor) -> Tensor:
        """The mode of the autoencoder's distribution: no chance is in a record."""
        vae = self.networks.vae
        latents: Tensor = vae.encode(pictures.to(vae.dtype)).latent_dist.mode().float() * vae.config.scaling_factor
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures."""
        vae = self.networks.vae
        pictures: Tensor = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype)).sample.float()
        return pictures

    def predictor(self, told: Told, steering: Steering) -> Predict:
        """Classifier-free guidance away from no embedding and no labels; with a scale of 1 that side is not computed.

        Nothing is IP-Adapter's tokens of a zero vector, a zero class embedding, and ControlNet left out [ours; it is
        what the networks were trained with, but for ControlNet, which was trained with the text left out].
        """
        if told.colours is not None:
            raise self._unsupported("its networks take no colours as a condition")
        sides = 1 if steering.guidance == 1 else 2
        conditions = self._conditions(told, sides)
        control = self._control(told)

        def predict(z: Tensor, time: int) -> Tensor:
            many = z.repeat_interleave(sides, 0)
            found = self._run(many, time, conditions, self._residuals(z, time, control, sides))
            x0 = self._x0(many, found, time)
            return x0 if sides == 1 else guidance.classifier_free(x0[0::2], x0[1::2], steering.guidance)

        return predict

    def attention(self, told: Told) -> Attend:
        """What each cell of the profile's watched self-attention receives, heads averaged in groups, in octaves."""
        conditions = self._conditions(told, 1)

        def attend(z: Tensor, time: int) -> Tensor:
            with watching() as seen:
                self._run(z, time, conditions, {})
            return octaves(_received(seen[-1], z.shape[2], z.shape[3], self.networks.settings.attention.groups))

        return attend

    def likeness(self, latents: Tensor, wanted: Tensor, view: int) -> Tensor:  # noqa: ARG002 - the seam's signature
        """Not offered: the way back through these networks takes more memory than a decode may."""
        raise self._unsupported("its networks steer by no embedding of what is decoded")

    def observe(self, pixels: NDArray[np.uint8], scheme: Scheme) -> Facts:
        """The embedding, or the labels, or what attention the picture draws: what `scheme` asks for and no more."""
        if scheme not in self.networks.info.schemes:
            raise self._unsupported(scheme.label, scheme)
        with torch.no_grad():
            picture = to_tensor(pixels).to(self.device)
            rows, columns = (side // self.cell for side in picture.shape[2:])
            words = self.networks.info.words
            if scheme in (Scheme.SGC, Scheme.SESECO):
                found = self.networks.segmenter(picture, rows, columns)[0].argmax(0)
                return Facts(np.zeros(1, np.float32), found.to(torch.uint8).cpu().numpy(), words)
            embedding = self.networks.image_encoder(picture)
            received = None
            if scheme is Scheme.SEACOM:
                received = self._reference(picture, embedding, (columns, rows))
            return Facts(embedding[0].cpu().numpy(), np.zeros((rows, columns), np.uint8), words, received)

    def see(self, pixels: NDArray[np.uint8]) -> Seen:
        """CLIP's embedding, and the label words where the profile has a segmentation model."""
        picture = to_tensor(pixels).to(self.device)
        features = self.networks.image_encoder(picture)
        if not self.networks.has("segmenter"):
            return Seen(features, None)
        rows, columns = (max(1, side // _SEEN_CELLS) for side in picture.shape[2:])
        return Seen(features, self.networks.segmenter(picture, rows, columns))

    # -- within --------------------------------------------------------------------------------------------------------

    def _reference(self, picture: Tensor, embedding: Tensor, grid: tuple[int, int]) -> NDArray[np.float32]:
        """As `archiver.decoder.attention.reference`."""
        latent = self.encode(picture)
        faded = float(self.alphas_cumprod[REFERENCE]) ** 0.5 * latent
        attend = self.attention(Told(1, grid, embedding))
        received: NDArray[np.float32] = attend(faded, REFERENCE)[0].exp2().cpu().numpy()
        return received

    def _conditions(self, told: Told, sides: int) -> dict[str, Any]:
        """The denoiser's arguments but for ControlNet's, with and, for two sides, without what is told."""
        unet, prompt = self.networks.unet, self.networks.prompt
        keys: dict[str, Any] = {"encoder_hidden_states": prompt.expand(told.count * sides, -1, -1)}
        size = self._embedding_size(unet)
        embedding = told.embedding
        if embedding is None:
            embedding = torch.zeros(told.count, size, device=self.device)
        elif embedding.shape[1] != size:
            raise RecordCorrupt(problem=f"its embedding has {embedding.shape[1]} dimensions, {self.name} takes {size}")
        if self.networks.settings.embedding == "ip-adapter":
            both = _beside_nothing(embedding, sides).to(unet.dtype)
            return keys | {"added_cond_kwargs": {"image_embeds": [both[:, None]]}}
        # Level 0 of the noise that unCLIP was trained to expect: what stands in a record is not made worse.
        level = get_timestep_embedding(torch.zeros(told.count), size, flip_sin_to_cos=True, downscale_freq_shift=0)
        both = _beside_nothing(torch.cat([embedding, level.to(embedding)], 1), sides)
        return keys | {"class_labels": both.to(unet.dtype)}

    def _embedding_size(self, unet: Any) -> int:
        """Dimensions of the embeddings that the denoiser takes."""
        if self.networks.settings.embedding == "ip-adapter":
            (projection,) = unet.encoder_hid_proj.image_projection_layers
            return int(projection.image_embeds.in_features)
        return int(unet.config.projection_class_embeddings_input_dim) // 2

    def _control(self, told: Told) -> Tensor | None:
        """The label maps as ControlNet's pictures (B, 3, H, W)."""
        if told.labels is None:
            return None
        if not self.networks.has("controlnet"):
            raise self._unsupported("it has no ControlNet for label maps")
        times = told.grid[1] * self.cell // told.labels.shape[1]
        return ade20k_colours(told.labels.repeat_interleave(times, 1).repeat_interleave(times, 2))

    def _residuals(self, z: Tensor, time: int, control: Tensor | None, sides: int) -> dict[str, Any]:
        """What ControlNet adds to the denoiser's skips; nothing on the side that is told nothing."""
        if control is None:
            return {}
        controlnet = self.networks.controlnet
        down, middle = controlnet(
            z.to(controlnet.dtype),
            time,
            self.networks.prompt.expand(len(z), -1, -1),
            control.to(controlnet.dtype),
            conditioning_scale=self.networks.settings.labels_scale,
            return_dict=False,
        )
        return {
            "down_block_additional_residuals": tuple(_beside_nothing(one, sides) for one in down),
            "mid_block_additional_residual": _beside_nothing(middle, sides),
        }

    def _run(self, z: Tensor, time: int, conditions: dict[str, Any], residuals: dict[str, Any]) -> Tensor:
        unet = self.networks.unet
        found: Tensor = unet(z.to(unet.dtype), time, **conditions, **residuals, return_dict=False)[0]
        return found.float()

    def _x0(self, z: Tensor, found: Tensor, time: int) -> Tensor:
        alpha = float(self.alphas_cumprod[time])
        return (guidance.x0_from_v if self._prediction == "v_prediction" else guidance.x0_from_noise)(z, found, alpha)

    def _unsupported(self, reason: str, scheme: Scheme | None = None) -> SchemeUnsupported:
        return SchemeUnsupported(profile=self.name, scheme=scheme.label if scheme else "", reason=reason)


def _beside_nothing(part: Tensor, sides: int) -> Tensor:
    """(B, ...) to (sides B, ...): each sample, and for two sides zeros behind it."""
    return part if sides == 1 else torch.stack([part, torch.zeros_like(part)], 1).flatten(0, 1)


def _received(weights: Tensor, rows: int, columns: int, groups: int) -> Tensor:
    """(B, heads, cells, cells) of the attention over latents of (rows, columns) that were halved a few times, to the
    (B, groups, h, w) that each cell receives; 1 is an even share.
    """
    batch, heads, _, cells = weights.shape
    while rows * columns > cells:
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != cells or heads % groups:
        raise ValueError(f"attention of {heads} heads over {cells} cells does not go into {groups} groups")
    shares = weights.mean(2) * cells
    return shares.reshape(batch, groups, heads // groups, rows, columns).mean(2)
