"""Records to pictures: the scheme's material steers the sampler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec import schemes
from archiver.codec.record import Record
from archiver.decoder import attention, guidance
from archiver.decoder.sampler import SteerZ, sample, trajectory
from archiver.models.embedded import Conditions, Networks
from archiver.models.embedded.denoiser import Keep


def decode_records(models: Networks, records: Sequence[Record]) -> list[NDArray[np.uint8]]:
    """The pictures (h, w, 3) of records, at working size, from one run of the networks.

    The records must agree in scheme, grid, steering and the shapes of what they hold (`archiver.decoder.jobs.company`).
    Raises RecordCorrupt, ValueError where they do not agree.
    """
    with torch.no_grad():
        pictures = models.autoencoder.decode(decode_latents(models, records)).cpu()
    return [to_pixels(picture[None]) for picture in pictures]


def decode_latents(models: Networks, records: Sequence[Record]) -> Tensor:
    """The clean latents (B, C, h, w) of records, for whom the same holds as in `decode_records`."""
    with torch.no_grad():  # attention guidance takes gradients within, which inference mode would not allow
        steering = records[0].steering
        steered = Steered(models, records)
        run = trajectory(steering.sampler, models.alphas_cumprod, steering.steps, steering.start)
        z = torch.cat([_noise(models, record) for record in records]).to(models.device)
        if steering.start is not None and steered.known is not None:
            z = guidance.sdedit_start(steered.known, z, run.alpha)
        return sample(run, z, steered.predict, steered.steer(len(run.times)))


def _noise(models: Networks, record: Record) -> Tensor:
    """The noise (1, C, h, w) that a record's seed stands for; made on the CPU, so that it is the same everywhere."""
    columns, rows = record.grid
    shape = (1, models.meta.latent_channels, rows, columns)
    return torch.randn(shape, generator=torch.Generator().manual_seed(record.seed))


class Steered:
    """The denoiser under the conditions and the guidance of some records that agree."""

    def __init__(self, models: Networks, records: Sequence[Record]) -> None:
        first, device = records[0], models.device
        if any(
            (other.scheme, other.grid, other.steering) != (first.scheme, first.grid, first.steering)
            for other in records
        ):
            raise ValueError("records of one run must agree in scheme, grid and steering")
        materials = [schemes.material(record) for record in records]
        columns, rows = first.grid
        self._models, self._steering, self._count = models, first.steering, len(records)
        colours = _stacked([one.colours for one in materials], device)
        self._colours = None if colours is None else colours.permute(0, 3, 1, 2).float() / 127.5 - 1
        self.known: Tensor | None = None  # the latents of the enlarged colour maps
        if self._colours is not None:
            side = models.meta.downscale
            enlarged = F.interpolate(self._colours, (rows * side, columns * side), mode="bicubic", align_corners=False)
            self.known = models.autoencoder.encode(enlarged.clamp(-1, 1))
        detail = _stacked([one.detail for one in materials], device)
        self._detail = None if detail is None else detail[:, None]
        self._latent_detail = None if self._detail is None else F.adaptive_avg_pool2d(self._detail, (rows, columns))
        linear = self._steering.linear
        self._mask = None if linear is None else guidance.low_frequency_mask(rows, columns, linear.cutoff).to(device)
        labels = _stacked([one.labels for one in materials], device)
        self._attention = _stacked([one.attention for one in materials], device)
        self._embedding = _stacked([one.embedding for one in materials], device)
        self._conditions = self._pairs(
            self._embedding,
            None if labels is None else _at_half_cells(labels.long(), rows),
            _per_cell(self._colours, rows, columns)
            if self._colours is not None and self._steering.colours_condition
            else None,
        )

    def _pairs(self, embedding: Tensor | None, labels: Tensor | None, colours: Tensor | None) -> Conditions:
        """The conditions twice, for the estimate with and that without the semantic ones."""
        twice = (None if part is None else part.repeat_interleave(2, 0) for part in (embedding, labels, colours))
        return Conditions(*twice)

    def steer(self, steps: int) -> SteerZ | None:
        """What moves z_t before each of the first of `steps` steps; None where there is nothing to steer by."""
        guide, wanted = self._steering.attention, self._attention
        if guide is None or wanted is None:
            return None
        conditions = Conditions(self._embedding)
        first_unsteered = max(1, round(guide.until * steps))

        def step(z: Tensor, time: int, left: int) -> Tensor:
            if steps - 1 - left >= first_unsteered:
                return z

            def attend(moved: Tensor) -> Tensor:
                return attention.octaves(attention.received(self._models, moved, time, conditions))

            return guidance.attention_guidance(z, wanted, attend, guide.strength)[0]

        return step

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
        pairs = z.repeat_interleave(2, 0)
        semantic = torch.tensor([True, False] * self._count, device=z.device)
        times = torch.full_like(semantic, time, dtype=torch.long)
        v = self._models.denoiser(pairs, times, self._conditions, Keep(semantic, semantic, torch.ones_like(semantic)))
        x0 = guidance.x0_from_v(pairs, v, alpha)
        return guidance.classifier_free(x0[0::2], x0[1::2], self._steering.guidance)


def _at_half_cells(labels: Tensor, rows: int) -> Tensor:
    """Labels (B, 2 rows, 2 columns), two along the side of a latent cell, as the denoiser takes them."""
    times = 2 * rows // labels.shape[1]
    return labels.repeat_interleave(times, 1).repeat_interleave(times, 2)


def _per_cell(colours: Tensor, rows: int, columns: int) -> Tensor:
    """Colours (B, 3, rows, columns), one for each latent cell."""
    if colours.shape[2] < rows or colours.shape[3] < columns:
        return F.interpolate(colours, (rows, columns), mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(colours, (rows, columns))


def _stacked(parts: Sequence[NDArray[Any] | None], device: torch.device) -> Tensor | None:
    """What every record holds of one kind, (B, ...); None where there is none of it."""
    there = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(there)).to(device) if there else None


def to_tensor(pixels: NDArray[np.uint8]) -> Tensor:
    """(h, w, 3) bytes to (1, 3, h, w) in [-1, 1]."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1


def to_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """(1, 3, h, w) in [-1, 1] to (h, w, 3) bytes."""
    levels = ((picture[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    pixels: NDArray[np.uint8] = levels.permute(1, 2, 0).contiguous().numpy()
    return pixels
