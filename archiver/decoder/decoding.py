"""Records to pictures: the scheme's material steers the sampler."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from archiver.codec import schemes
from archiver.codec.record import Record, SectionKind
from archiver.decoder import guidance
from archiver.decoder.backend import Backend, Told
from archiver.decoder.pixels import to_pixels
from archiver.decoder.sampler import SteerZ, sample, trajectory
from archiver.errors import RecordCorrupt

# Embedding guidance is most of a decode. Its last bits depend on how many threads it has, so it always has as many: on
# one core two cost nothing over one, on two cores a reader waits half as long. Each takes 0.7 GB at 512x512, so that no
# more are under way than there are cores for.
_STEERING_THREADS = 2
_steering = BoundedSemaphore(max(1, len(os.sched_getaffinity(0)) // _STEERING_THREADS))


def decode_records(backend: Backend, records: Sequence[Record]) -> list[NDArray[np.uint8]]:
    """The pictures (h, w, 3) of records, at working size, from one run of the networks.

    The records must agree in scheme, grid, steering and the shapes of what they hold (`archiver.decoder.work.company`).
    Raises RecordCorrupt, ValueError where they do not agree.
    """
    with torch.no_grad():
        pictures = backend.decode(decode_latents(backend, records)).cpu()
    return [to_pixels(picture[None]) for picture in pictures]


def decode_latents(backend: Backend, records: Sequence[Record]) -> Tensor:
    """The clean latents (B, C, h, w) of records, for whom the same holds as in `decode_records`."""
    with torch.no_grad():  # attention guidance takes gradients within, which inference mode would not allow
        steering = records[0].steering
        steered = Steered(backend, records)
        run = trajectory(steering.sampler, backend.alphas_cumprod, steering.steps, steering.start)
        z = torch.cat([_noise(backend, record) for record in records]).to(backend.device)
        if steering.start is not None and steered.known is not None:
            z = guidance.sdedit_start(steered.known, z, run.alpha)
        return steered.finish(sample(run, z, steered.predict, steered.steer(len(run.times))))


def _noise(backend: Backend, record: Record) -> Tensor:
    """The noise (1, C, h, w) that a record's seed stands for; made on the CPU, so that it is the same everywhere."""
    return torch.randn((1, *backend.latent_shape(record.grid)), generator=torch.Generator().manual_seed(record.seed))


class Steered:
    """The denoiser under the conditions and the guidance of some records that agree."""

    def __init__(self, backend: Backend, records: Sequence[Record]) -> None:
        first, device = records[0], backend.device
        if any(
            (other.scheme, other.grid, other.steering) != (first.scheme, first.grid, first.steering)
            for other in records
        ):
            raise ValueError("records of one run must agree in scheme, grid and steering")
        if backend.codebook is None and any(record.has(SectionKind.LEARNT_EMBEDDING) for record in records):
            raise RecordCorrupt(problem=f"its embedding was coded by a codebook, and {backend.name} has none")
        materials = [schemes.material(record, backend.codebook) for record in records]
        for one in materials:
            _refuse_misfit(backend, one)
        self._backend, self._steering = backend, first.steering
        _, rows, columns = backend.latent_shape(first.grid)
        colours = _stacked([one.colours for one in materials], device)
        self._colours = None if colours is None else colours.permute(0, 3, 1, 2).float() / 127.5 - 1
        self.known: Tensor | None = None  # the latents of the enlarged colour maps, where decoding leans on them
        if self._colours is not None and (first.steering.start is not None or first.steering.linear is not None):
            size = tuple(cells * backend.cell for cells in reversed(first.grid))
            enlarged = F.interpolate(self._colours, size, mode="bicubic", align_corners=False)
            self.known = backend.encode(enlarged.clamp(-1, 1))
        detail = _stacked([one.detail for one in materials], device)
        self._detail = None if detail is None else detail[:, None]
        self._latent_detail = None if self._detail is None else F.adaptive_avg_pool2d(self._detail, (rows, columns))
        linear = self._steering.linear
        self._mask = None if linear is None else guidance.low_frequency_mask(rows, columns, linear.cutoff).to(device)
        labels = _stacked([one.labels for one in materials], device)
        self._embedding = _stacked([one.embedding for one in materials], device)
        self._attention = _stacked([one.attention for one in materials], device)
        self._told = Told(
            len(records),
            first.grid,
            self._embedding if labels is None else None,  # beside labels it only steers, see docs/schemes.md
            None if labels is None else labels.long(),
            self._colours if self._steering.colours_condition else None,
        )
        self._predict = backend.predictor(self._told, self._steering)

    def steer(self, steps: int) -> SteerZ | None:
        """What moves z_t before each of the first of `steps` steps; None where there is nothing to steer by."""
        guide, wanted = self._steering.attention, self._attention
        if guide is None or wanted is None:
            return None
        attend = self._backend.attention(self._told)
        first_unsteered = max(1, round(guide.until * steps))

        def step(z: Tensor, time: int, left: int) -> Tensor:
            if steps - 1 - left >= first_unsteered:
                return z
            return guidance.attention_guidance(z, wanted, lambda moved: attend(moved, time), guide.strength)[0]

        return step

    def predict(self, z: Tensor, time: int, left: int) -> Tensor:
        """The steered estimate of the clean latent at `time`, with `left` steps still to come."""
        x0 = self._predict(z, time)
        linear = self._steering.linear
        if linear is None or self.known is None or self._mask is None or self._colours is None:
            return x0
        if self._latent_detail is None:
            x0 = guidance.linear_guidance(x0, self.known, self._mask, linear.strength)
        else:
            x0 = guidance.region_guidance(x0, self.known, self._mask, linear.strength * self._latent_detail)
        if left < linear.pixel_steps:
            strength = linear.strength if self._detail is None else linear.strength * self._detail
            x0 = guidance.colour_correction(x0, self._colours, strength, self._backend.encode, self._backend.decode)
        return x0

    def finish(self, x0: Tensor) -> Tensor:
        """The sampled clean latents, nearer to what the stored embeddings say where that is asked for."""
        guide, wanted = self._steering.embedding, self._embedding
        if guide is None or wanted is None:
            return x0
        with _steering, _threads(_STEERING_THREADS):
            return guidance.embedding_guidance(
                x0, lambda moved, step: self._backend.likeness(moved, wanted, step), guide.strength, guide.steps
            )


def _refuse_misfit(backend: Backend, material: schemes.Material) -> None:
    """A record can be well-formed and not be of the profile that it names; networks would fail on it in odd ways.

    Raises RecordCorrupt.
    """
    takes = backend.takes
    if material.labels is not None and takes.words and (label := int(material.labels.max())) >= takes.words:
        raise RecordCorrupt(problem=f"label {label} of {takes.words}")
    if material.embedding is not None and takes.embedding not in (None, material.embedding.size):
        size = material.embedding.size
        raise RecordCorrupt(problem=f"its embedding has {size} dimensions, {backend.name} takes {takes.embedding}")
    if material.attention is not None and (heads := len(material.attention)) != takes.heads:
        raise RecordCorrupt(problem=f"its attention has {heads} heads, {backend.name} has {takes.heads}")


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch use so many threads within, in the calling thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _stacked(parts: Sequence[NDArray[Any] | None], device: torch.device) -> Tensor | None:
    """What every record holds of one kind, (B, ...); None where there is none of it."""
    there = [part for part in parts if part is not None]
    return torch.from_numpy(np.stack(there)).to(device) if there else None
