"""The embedded networks: shapes, determinism, conditions that matter, schedule."""

from __future__ import annotations

import pytest
import torch

from archiver.models.embedded import Conditions, EmbeddedModels, colour_map, init_random
from archiver.models.embedded.denoiser import Keep

GRIDS = [(16, 16), (12, 16), (16, 11), (5, 4)]


@pytest.fixture(scope="module")
def models() -> EmbeddedModels:
    return init_random(7)


def _pictures(height: int, width: int, count: int = 2) -> torch.Tensor:
    return torch.rand((count, 3, height, width), generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("rows", "columns"), GRIDS)
def test_every_network_works_on_any_grid(models: EmbeddedModels, rows: int, columns: int) -> None:
    pictures = _pictures(16 * rows, 16 * columns)
    latents = models.autoencoder.encode(pictures)
    semantics = models.semantics(pictures)
    conditions = Conditions(semantics.embedding, semantics.labels, colour_map(pictures))
    v = models.denoiser(latents, torch.tensor([3, 990]), conditions)
    assert latents.shape == v.shape == (2, 16, rows, columns)
    assert models.autoencoder.decode(latents).shape == pictures.shape
    assert semantics.embedding.shape == (2, 256)
    assert semantics.labels.shape == (2, 2 * rows, 2 * columns)
    assert semantics.labels.dtype == torch.int64 and semantics.labels.min() >= 0 and semantics.labels.max() < 32


def test_sides_that_are_not_multiples_of_16_are_refused(models: EmbeddedModels) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        models.semantics(_pictures(100, 96))


def test_same_input_gives_the_same_bytes(models: EmbeddedModels) -> None:
    pictures = _pictures(96, 64)
    again = init_random(7)
    assert torch.equal(models.autoencoder.encode(pictures), again.autoencoder.encode(pictures))
    latents, t = models.autoencoder.encode(pictures), torch.tensor([10, 500])
    assert torch.equal(models.denoiser(latents, t, Conditions()), again.denoiser(latents, t, Conditions()))
    assert not torch.equal(latents, init_random(8).autoencoder.encode(pictures))


@pytest.mark.parametrize("part", ["embedding", "labels", "colours"])
def test_each_condition_changes_the_prediction_and_its_absence_equals_its_null(
    models: EmbeddedModels, part: str
) -> None:
    pictures = _pictures(64, 64)
    semantics = models.semantics(pictures)
    given = {"embedding": semantics.embedding, "labels": semantics.labels, "colours": colour_map(pictures)}
    latents, t = models.autoencoder.encode(pictures), torch.tensor([400, 400])
    without = models.denoiser(latents, t, Conditions())
    conditions = Conditions(**{part: given[part]})
    assert not torch.allclose(models.denoiser(latents, t, conditions), without)
    nothing = torch.zeros(2, dtype=torch.bool)
    dropped = models.denoiser(latents, t, conditions, Keep(nothing, nothing, nothing))
    torch.testing.assert_close(dropped, without)


def test_a_sample_does_not_depend_on_its_batch(models: EmbeddedModels) -> None:
    latents = models.autoencoder.encode(_pictures(64, 64, 3))
    t = torch.tensor([100, 500, 900])
    batch = models.denoiser(latents, t, Conditions())
    alone = models.denoiser(latents[1:2], t[1:2], Conditions())
    torch.testing.assert_close(batch[1:2], alone, rtol=1e-4, atol=1e-5)


def test_attention_weights_are_rows_that_sum_to_one(models: EmbeddedModels) -> None:
    latents = models.autoencoder.encode(_pictures(16 * 11, 64))
    v, weights = models.denoiser.with_attention(latents, torch.tensor([1, 2]), Conditions())
    assert torch.equal(v, models.denoiser(latents, torch.tensor([1, 2]), Conditions()))
    assert weights.shape == (2, 4, 6 * 2, 6 * 2)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 12))


def test_the_schedule_is_one_that_diffusers_schedulers_take(models: EmbeddedModels) -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(
        trained_betas=models.betas.tolist(), prediction_type="v_prediction", clip_sample=False, set_alpha_to_one=True
    )
    torch.testing.assert_close(scheduler.alphas_cumprod, models.alphas_cumprod, rtol=1e-3, atol=1e-6)
    assert (models.alphas_cumprod.diff() < 0).all() and models.alphas_cumprod[-1] < 1e-4
