"""Steering does what its equations say."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from archiver.codec.dct import basis
from archiver.decoder import guidance

SIZES = [(16, 16), (16, 11), (1, 1), (1, 16)]


def latent(size: tuple[int, int], seed: int) -> Tensor:
    return torch.randn((2, 4, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coefficients(x: Tensor) -> Tensor:
    down, across = (torch.from_numpy(np.array(basis(size))) for size in x.shape[2:])
    return down @ x @ across.T


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cutoff", [0.0, 0.25, 0.6])
def test_full_linear_guidance_reaches_the_known_part_and_leaves_the_rest(size: tuple[int, int], cutoff: float) -> None:
    x0, known = latent(size, 1), latent(size, 2)
    mask = guidance.low_frequency_mask(*size, cutoff)
    steered = coefficients(guidance.linear_guidance(x0, known, mask, 1.0))
    assert mask[0, 0] == 1
    assert (mask * (steered - coefficients(known))).abs().max() < 1e-5
    assert ((1 - mask) * (steered - coefficients(x0))).abs().max() < 1e-6


def test_weaker_guidance_goes_part_of_the_way() -> None:
    x0, known = latent((16, 16), 1), latent((16, 16), 2)
    mask = guidance.low_frequency_mask(16, 16, 0.4)
    half = guidance.linear_guidance(x0, known, mask, 0.5)
    full = guidance.linear_guidance(x0, known, mask, 1.0)
    assert torch.allclose(half, (x0 + full) / 2)
    assert torch.equal(guidance.linear_guidance(x0, known, mask, 0.0), x0)


def test_a_higher_cutoff_knows_more_and_1_5_knows_all() -> None:
    counts = [float(guidance.low_frequency_mask(16, 12, cutoff).sum()) for cutoff in (0, 0.1, 0.3, 0.7, 1.5)]
    assert counts == sorted(counts)
    assert counts[0] == 1
    assert counts[-1] == 16 * 12


def test_region_guidance_acts_only_where_its_mask_says() -> None:
    x0, known = latent((16, 16), 1), latent((16, 16), 2)
    mask = guidance.low_frequency_mask(16, 16, 0.4)
    where = torch.zeros(1, 1, 16, 16, dtype=torch.float64)
    where[..., :8] = 1
    steered = guidance.region_guidance(x0, known, mask, where)
    assert torch.equal(steered[..., 8:], x0[..., 8:])
    assert torch.allclose(steered[..., :8], guidance.linear_guidance(x0, known, mask, 1.0)[..., :8])


def test_the_start_of_sdedit_has_the_mean_and_the_noise_of_its_time() -> None:
    coarse = torch.full((1, 4, 64, 64), 2.0)
    noise = torch.randn(coarse.shape, generator=torch.Generator().manual_seed(0))
    start = guidance.sdedit_start(coarse, noise, 0.36)
    assert float(start.mean()) == pytest.approx(0.6 * 2, abs=0.02)
    assert float(start.std()) == pytest.approx(0.8, abs=0.02)
    assert torch.equal(guidance.sdedit_start(coarse, noise, 1.0), coarse)


@pytest.mark.parametrize("alpha", [0.001, 0.3, 0.999])
def test_a_v_prediction_gives_back_the_clean_latent(alpha: float) -> None:
    clean, noise = latent((8, 8), 1), latent((8, 8), 2)
    noisy = guidance.sdedit_start(clean, noise, alpha)
    v = alpha**0.5 * noise - (1 - alpha) ** 0.5 * clean
    assert torch.allclose(guidance.x0_from_v(noisy, v, alpha), clean)


def test_classifier_free_guidance_of_one_is_the_conditional_estimate() -> None:
    one, other = latent((8, 8), 1), latent((8, 8), 2)
    assert torch.allclose(guidance.classifier_free(one, other, 1.0), one)
    assert torch.allclose(guidance.classifier_free(one, other, 0.0), other)
    assert torch.allclose(guidance.classifier_free(one, other, 3.0), other + 3 * (one - other))


def test_colour_correction_moves_the_means_where_it_may() -> None:
    """With an autoencoder that loses nothing, the picture's mean colours become the wanted ones."""
    side, cells = 64, 4

    def decode(z: Tensor) -> Tensor:
        return torch.nn.functional.pixel_shuffle(z, 16)

    def encode(x: Tensor) -> Tensor:
        return torch.nn.functional.pixel_unshuffle(x, 16)

    picture = 0.3 * torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0)).clamp(-2, 2)
    wanted = torch.full((1, 3, cells, cells), 0.2)
    corrected = decode(guidance.colour_correction(encode(picture), wanted, 1.0, encode, decode))
    before = torch.nn.functional.adaptive_avg_pool2d(picture, cells) - wanted
    after = torch.nn.functional.adaptive_avg_pool2d(corrected, cells) - wanted
    assert after.abs().mean() < 0.3 * before.abs().mean()
    untouched = decode(guidance.colour_correction(encode(picture), wanted, 0.0, encode, decode))
    assert torch.allclose(untouched, picture, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (6, 8), (5, 7)])
def test_attention_guidance_follows_the_gradient_of_coarser_maps(size: tuple[int, int]) -> None:
    """On attention that is a plain function of the latent the step shortens the distance, each sample by itself."""
    z = latent(size, 1)
    rows, columns = (-(-side // 2) for side in size)
    wanted = torch.full((2, 4, rows, columns), 0.3, dtype=torch.float64)

    def attend(x: Tensor) -> Tensor:
        return x * x.abs()

    moved, before = guidance.attention_guidance(z, wanted, attend, 0.05)
    assert before.shape == (2,)
    _, after = guidance.attention_guidance(moved, wanted, attend, 0.0)
    assert (after < before).all()
    assert ((moved - z).flatten(1).norm(dim=1) <= 0.05 * z.flatten(1).norm(dim=1) + 1e-9).all()
    alone, _ = guidance.attention_guidance(z[1:], wanted[1:], attend, 0.05)
    assert torch.allclose(alone, moved[1:])


def test_attention_that_is_reached_is_left_alone() -> None:
    z = latent((8, 8), 1)
    moved, distance = guidance.attention_guidance(z, z.clone(), lambda x: x, 0.5)
    assert torch.equal(moved, z) and not distance.any()


def embed(x: Tensor) -> Tensor:
    """Two numbers a channel, neither of them linear in the latent."""
    return torch.cat([x.mean((2, 3)), x.abs().mean((2, 3))], 1)


def toward(wanted: Tensor) -> Callable[[Tensor, int], Tensor]:
    """How near latents are to these embeddings, in every view."""
    return lambda x, _view: F.cosine_similarity(embed(x), wanted)


@pytest.mark.parametrize("size", [(8, 8), (5, 7)])
def test_embedding_guidance_brings_every_sample_nearer_by_steps_of_the_stated_lengths(size: tuple[int, int]) -> None:
    z, wanted = latent(size, 1), embed(latent(size, 2))
    likeness = [toward(wanted)(z, 0)]
    for steps in (1, 3):
        moved = guidance.embedding_guidance(z, toward(wanted), 0.1, steps)
        likeness.append(toward(wanted)(moved, 0))
    assert (likeness[0] < likeness[1]).all() and (likeness[1] < likeness[2]).all()
    once = guidance.embedding_guidance(z, toward(wanted), 0.1, 1)
    assert torch.allclose((once - z).flatten(1).norm(dim=1), 0.1 * z.flatten(1).norm(dim=1))
    alone = guidance.embedding_guidance(z[1:], toward(wanted[1:]), 0.1, 3)
    assert torch.allclose(alone, moved[1:])


def test_where_there_is_no_way_up_embedding_guidance_stays() -> None:
    z = latent((8, 8), 1)
    assert torch.equal(guidance.embedding_guidance(z, lambda x, _view: 0 * x.sum((1, 2, 3)) + 1, 0.1, 2), z)


def test_embedding_guidance_looks_in_another_way_at_every_step() -> None:
    z, views = latent((8, 8), 1), []

    def likeness(x: Tensor, view: int) -> Tensor:
        views.append(view)
        return x.sum((1, 2, 3))

    guidance.embedding_guidance(z, likeness, 0.1, 4)
    assert views == [0, 1, 2, 3]
