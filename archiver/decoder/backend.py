"""The seam between steering and networks: what a profile's networks must be able to do, whichever they are.

Steering (`archiver.decoder.decoding`), samplers and measures are written once against it. The embedded networks
(`archiver.decoder.embedded`) and those of diffusers (`archiver.decoder.hub`) are its two sides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from archiver.codec.codebook import Codebook
from archiver.codec.record import Scheme, Steering
from archiver.codec.schemes import Facts

Predict = Callable[[Tensor, int], Tensor]
"""(z_t, t) -> the estimate of z_0 under the conditions, after classifier-free guidance."""
Attend = Callable[[Tensor, int], Tensor]
"""(z_t, t) -> attention maps (B, heads, rows, columns) in octaves, differentiably, each sample by itself."""


@dataclass(frozen=True, slots=True)
class Told:
    """What the networks are told about some pictures; None where their records do not say.

    grid: (columns, rows) of the records. embedding: (B, D). labels: (B, ...) int64, one or two along a cell's side.
    colours: (B, 3, ...) in [-1, 1], where they are a condition.
    """

    count: int
    grid: tuple[int, int]
    embedding: Tensor | None = None
    labels: Tensor | None = None
    colours: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Takes:
    """What a profile's networks take of a record. embedding: its dimensions, None where only the denoiser knows them,
    which then compares them itself. words: how many labels there are, 0 where it takes none.
    heads: maps of attention that SEACOM keeps.
    """

    embedding: int | None
    words: int
    heads: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a judge compares. features: (1, D). words: (1, K, h, w), how probable each label word is in each cell; None
    where the profile has no labels.
    """

    features: Tensor
    words: Tensor | None


class Backend(Protocol):
    """The networks of one profile and how they are driven. Latents are (B, C, h, w), pictures (B, 3, H, W) in [-1, 1].

    Every method raises WeightsDamaged or ProfileInvalid where it has to load a network that is not what it should be.
    """

    @property
    def name(self) -> str:
        """The profile's."""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents and pictures are."""
        ...

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory."""
        ...

    @property
    def cell(self) -> int:
        """Pixels along the side of a cell of a record's grid."""
        ...

    @property
    def long_side(self) -> int:
        """Pixels of the largest pictures that it makes."""
        ...

    @property
    def batch(self) -> int | None:
        """How many records one call decodes together at most; None for as many as the runner likes."""
        ...

    @property
    def codebook(self) -> Codebook | None:
        """What the profile's embeddings are coded by; None where nothing was learnt for them."""
        ...

    @property
    def takes(self) -> Takes:
        """What records must be like that it decodes."""
        ...

    @property
    def alphas_cumprod(self) -> Tensor:
        """The noise schedule (T,), on the CPU."""
        ...

    def latent_shape(self, grid: tuple[int, int]) -> tuple[int, int, int]:
        """(channels, rows, columns) of the latents of a record's grid (columns, rows)."""
        ...

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures to latents near unit variance."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Latents to pictures; not clamped."""
        ...

    def predictor(self, told: Told, steering: Steering) -> Predict:
        """The denoiser under what it is told. Raises SchemeUnsupported where it takes no such condition."""
        ...

    def attention(self, told: Told) -> Attend:
        """The attention that SEACOM steers by. Raises SchemeUnsupported where there is none."""
        ...

    def likeness(self, latents: Tensor, wanted: Tensor, view: int) -> Tensor:
        """How near (B,), -1..1, the pictures of latents are to the embeddings `wanted` (B, D) that records hold;
        differentiable, each sample by itself. view: in which of several ways they are looked at; 0 is as they are.
        Raises SchemeUnsupported where that is not to be had.
        """
        ...

    def observe(self, pixels: NDArray[np.uint8], scheme: Scheme) -> Facts:
        """What `scheme` needs to know of a picture (h, w, 3) at working size."""
        ...

    def see(self, pixels: NDArray[np.uint8]) -> Seen:
        """What a judge compares of a picture (h, w, 3)."""
        ...
