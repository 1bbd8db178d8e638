"""Steering of a diffusion model that was never trained for it, as pure functions of predicted clean latents.

Notation: z_t = sqrt(a) z_0 + sqrt(1 - a) noise, a the cumulative alpha at time t. Latents are (B, C, h, w), pictures
(B, 3, H, W) in [-1, 1]. Every backend's prediction is turned into x0, the estimate of z_0, and steered there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from archiver.codec.colour import box
from archiver.codec.dct import basis

_TINY = 1e-12  # of a gradient's length, which is only divided by


def x0_from_v(z_t: Tensor, v: Tensor, alpha: float) -> Tensor:
    """The clean latent that a v-prediction implies: sqrt(a) z_t - sqrt(1 - a) v (Salimans & Ho, arXiv 2202.00512)."""
    return math.sqrt(alpha) * z_t - math.sqrt(1 - alpha) * v


def x0_from_noise(z_t: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """The clean latent that a predicted noise implies: (z_t - sqrt(1 - a) noise) / sqrt(a) (DDIM, arXiv 2010.02502)."""
    return (z_t - math.sqrt(1 - alpha) * noise) / math.sqrt(alpha)


def classifier_free(with_condition: Tensor, without: Tensor, scale: float) -> Tensor:
    """Away from the unconditional estimate by `scale`; 1 leaves the conditional one (Ho & Salimans, arXiv
    2207.12598).
    """
    return without + scale * (with_condition - without)


def sdedit_start(latent: Tensor, noise: Tensor, alpha: float) -> Tensor:
    """A known coarse latent at the noise level of its time: sqrt(a) z + sqrt(1 - a) noise (SDEdit, arXiv
    2108.01073).
    """
    return math.sqrt(alpha) * latent + math.sqrt(1 - alpha) * noise


def low_frequency_mask(height: int, width: int, cutoff: float) -> Tensor:
    """(h, w), 1 for the DCT frequencies within `cutoff` of the highest along each axis together (an ellipse), else 0.

    The mean is always among them.
    """
    down = torch.arange(height, dtype=torch.float64)[:, None] / height
    across = torch.arange(width, dtype=torch.float64)[None, :] / width
    return (down.square() + across.square() <= cutoff**2).to(torch.float32)


def known_frequencies(latent: Tensor, mask: Tensor) -> Tensor:
    """A^T A x: what the kept DCT coefficients (mask (h, w) of 0 and 1) say of a latent."""
    down, across = _bases(latent)
    return down.T @ (mask * (down @ latent @ across.T)) @ across


def linear_guidance(x0: Tensor, known: Tensor, mask: Tensor, strength: float) -> Tensor:
    """x0 + gamma A^T (c - A x0), A the truncated orthonormal DCT of each channel, c = A `known`.

    With gamma = 1 the known frequencies become exactly those of `known`; the null space of A is never touched. This is
    the range/null-space step of DDNM (Wang et al., arXiv 2212.00490); G-COCLICO (arXiv 2404.06865) rewrites it in terms
    of the predicted noise, where its weight sqrt(a / (1 - a)) rises along the trajectory.
    """
    return x0 + strength * known_frequencies(known - x0, mask)


def region_guidance(x0: Tensor, known: Tensor, mask: Tensor, strengths: Tensor) -> Tensor:
    """`linear_guidance` with a strength per latent cell: x0 + M * A^T (c - A x0), M of (B, 1, h, w) in 0..1."""
    return x0 + strengths * known_frequencies(known - x0, mask)


def attention_guidance(
    z_t: Tensor, wanted: Tensor, attend: Callable[[Tensor], Tensor], strength: float
) -> tuple[Tensor, Tensor]:
    """z_t - eta grad || attention(z_t) - wanted ||^2 (SEACOM), and the mean squared distance (B,) before the step.

    `attend` maps latents to attention maps in octaves (see `archiver.codec.attention_map`), differentiably, each sample
    by itself; `wanted` (B, heads, rows, columns) may be coarser, and is compared with the area means. The step's length
    is `strength` times that of z_t, less where the maps are nearer than an octave [ours: the gradient's own length says
    nothing about how far the maps follow].
    """
    with torch.enable_grad():
        variable = z_t.detach().requires_grad_(True)
        found = _area_means(attend(variable), wanted.shape[-2], wanted.shape[-1])
        distance = (found - wanted).square().mean((1, 2, 3))
        (gradient,) = torch.autograd.grad(distance.sum(), variable)
    distance = distance.detach()
    length = strength * distance.sqrt().clamp(max=1) * z_t.flatten(1).norm(dim=1)
    scale = length / gradient.flatten(1).norm(dim=1).clamp(min=_TINY)
    return z_t - scale.view(-1, 1, 1, 1) * gradient, distance


def embedding_guidance(x0: Tensor, likeness: Callable[[Tensor, int], Tensor], strength: float, steps: int) -> Tensor:
    """Clean latents whose pictures show more of what their stored embeddings say, in steps of steepest ascent:

        x0 <- x0 + eta_i |x0| grad likeness(x0, i) / |grad|,   eta_i = strength (1 - i / steps)

    `likeness` says of latents how near (B,) their pictures' embeddings are to the stored ones, differentiably, of each
    sample by itself, and may look at the pictures in another way at every step. It is universal guidance (Bansal et
    al., arXiv 2302.07121), which walks backwards through the decoder and a network that sees; that it is taken on the
    finished estimate alone, by steps of a set length, is ours.
    """
    for step in range(steps):
        with torch.enable_grad():
            variable = x0.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(likeness(variable, step).sum(), variable)
        length = strength * (1 - step / steps) * x0.flatten(1).norm(dim=1)
        scale = length / gradient.flatten(1).norm(dim=1).clamp(min=_TINY)
        x0 = x0 + scale.view(-1, 1, 1, 1) * gradient
    return x0


def colour_correction(
    x0: Tensor,
    colours: Tensor,
    strengths: Tensor | float,
    encode: Callable[[Tensor], Tensor],
    decode: Callable[[Tensor], Tensor],
) -> Tensor:
    """Move a latent so that its picture has the mean colours `colours` (B, 3, rows, columns) in its cells.

    The picture gains the enlarged difference of its means, and the latent gains what that changes in the encoder's
    answer, so that the autoencoder's own losses cancel. `strengths` (B, 1, rows, columns) or one number, 0..1.
    """
    picture = decode(x0)
    rows, columns = colours.shape[2:]
    missing = strengths * (colours - F.adaptive_avg_pool2d(picture, (rows, columns)))
    wanted = picture + F.interpolate(missing, picture.shape[2:], mode="bilinear", align_corners=False)
    return x0 + encode(wanted.clamp(-1, 1)) - encode(picture.clamp(-1, 1))


def _area_means(maps: Tensor, rows: int, columns: int) -> Tensor:
    """As `archiver.codec.colour.area_means`, differentiably; products of matrices, whose gradient CUDA computes in one
    order only.
    """
    down, across = (
        torch.tensor(box(size, cells), dtype=maps.dtype, device=maps.device)
        for size, cells in zip(maps.shape[2:], (rows, columns), strict=True)
    )
    return down @ maps @ across.T


def _bases(latent: Tensor) -> tuple[Tensor, Tensor]:
    down, across = (torch.tensor(basis(size), dtype=latent.dtype, device=latent.device) for size in latent.shape[2:])
    return down, across
