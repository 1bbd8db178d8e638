"""One record to one picture: the scheme's material steers the sampler."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec import schemes
from archiver.codec.record import Record
from archiver.decoder import guidance
from archiver.decoder.sampler import sample, trajectory
from archiver.models.embedded import Conditions, EmbeddedModels
from archiver.models.embedded.denoiser import Keep


def decode_record(models: EmbeddedModels, record: Record) -> NDArray[np.uint8]:
    """The picture (h, w, 3) of a record, at working size.

    Raises RecordCorrupt.
    """
    with torch.inference_mode():
        steering = record.steering
        steered = _Steered(models, record)
        run = trajectory(steering.sampler, models.alphas_cumprod, steering.steps, steering.start)
        columns, rows = record.grid
        shape = (1, models.meta.latent_channels, rows, columns)
        z = torch.randn(shape, generator=torch.Generator().manual_seed(record.seed))
        if steering.start is not None and steered.known is not None:
            z = guidance.sdedit_start(steered.known, z, run.alpha)
        return to_pixels(models.autoencoder.decode(sample(run, z, steered.predict)))


class _Steered:
    """The denoiser under the conditions and the guidance of one record."""

    def __init__(self, models: EmbeddedModels, record: Record) -> None:
        material = schemes.material(record)
        columns, rows = record.grid
        self._models, self._steering = models, record.steering
        self._colours = None if material.colours is None else to_tensor(material.colours)
        self.known: Tensor | None = None  # the latent of the enlarged colour map
        if self._colours is not None:
            side = models.meta.downscale
            enlarged = F.interpolate(self._colours, (rows * side, columns * side), mode="bicubic", align_corners=False)
            self.known = models.autoencoder.encode(enlarged.clamp(-1, 1))
        detail = None if material.detail is None else torch.from_numpy(material.detail)[None, None]
        self._detail = detail
        self._latent_detail = None if detail is None else F.adaptive_avg_pool2d(detail, (rows, columns))
        linear = self._steering.linear
        self._mask = None if linear is None else guidance.low_frequency_mask(rows, columns, linear.cutoff)
        self._conditions = self._pair(
            None if material.embedding is None else torch.from_numpy(material.embedding)[None],
            None if material.labels is None else torch.from_numpy(material.labels.astype(np.int64))[None],
            F.adaptive_avg_pool2d(self._colours, (rows, columns))
            if self._colours is not None and self._steering.colours_condition
            else None,
        )

    def _pair(self, embedding: Tensor | None, labels: Tensor | None, colours: Tensor | None) -> Conditions:
        """The conditions twice, for the estimate with and that without the semantic ones."""
        twice = (None if part is None else part.repeat_interleave(2, 0) for part in (embedding, labels, colours))
        return Conditions(*twice)

    def predict(self, z: Tensor, time: int, left: int) -> Tensor:
        """The steered estimate of the clean latent at `time`, with `left` steps still to come."""
        x0 = self._estimate(z, time)
        linear = self._steering.linear
        if linear is None or self.known is None or self._mask is None or self._colours is None:
            return x0
        if self._latent_detail is None:
            x0 = guidance.linear_guidance(x0, self.known, self._mask, linear.strength)
        else:
            x0 = guidance.region_guidance(x0, self.known, self._mask, linear.strength * self._latent_detail)
        if left < linear.pixel_steps:
            strength = linear.strength if self._detail is None else linear.strength * self._detail
            autoencoder = self._models.autoencoder
            x0 = guidance.colour_correction(x0, self._colours, strength, autoencoder.encode, autoencoder.decode)
        return x0

    def _estimate(self, z: Tensor, time: int) -> Tensor:
        """Classifier-free guidance on the semantic conditions; a colour condition stays on both sides [ours].

        Both estimates come from one call, whatever the scale, so that a picture never depends on how calls are grouped.
        """
        alpha = float(self._models.alphas_cumprod[time])
        pair = z.repeat_interleave(2, 0)
        semantic, always = torch.tensor([True, False]), torch.tensor([True, True])
        times = torch.full((2,), time)
        v = self._models.denoiser(pair, times, self._conditions, Keep(semantic, semantic, always))
        with_condition, without = guidance.x0_from_v(pair, v, alpha).chunk(2)
        return guidance.classifier_free(with_condition, without, self._steering.guidance)


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(h, w, 3) bytes to (1, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """(1, 3, h, w) in [-1, 1] to (h, w, 3) bytes."""
    levels = ((picture[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return pixels
