"""Samplers end at the clean latent, start where they are told, and take the steps that they are told."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler

from archiver.codec.record import Sampler
from archiver.decoder.guidance import sdedit_start
from archiver.decoder.sampler import sample, trajectory
from archiver.models.embedded.denoiser import cosine_alphas_cumprod

ALPHAS = cosine_alphas_cumprod()


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("sampler", Sampler)
@pytest.mark.parametrize("start", [None, 0.7, 0.3, 0.001])
@pytest.mark.parametrize("steps", [1, 2, 3, 20, 200, 255])
def test_a_perfect_prediction_is_reached(sampler: Sampler, start: float | None, steps: int) -> None:
    clean, noise = gaussian(1, 4, 8, 8), gaussian(1, 4, 8, 8, seed=1)
    run = trajectory(sampler, ALPHAS, steps, start)
    lefts = []

    def perfect(z: torch.Tensor, time: int, left: int) -> torch.Tensor:
        lefts.append(left)
        return clean

    reached = sample(run, sdedit_start(clean, noise, run.alpha), perfect)
    assert torch.allclose(reached, clean, atol=1e-5)
    assert lefts == list(reversed(range(len(run.times))))


@pytest.mark.parametrize("sampler", Sampler)
def test_only_the_remaining_steps_are_run(sampler: Sampler) -> None:
    assert len(trajectory(sampler, ALPHAS, 20, None).times) == 20
    late = trajectory(sampler, ALPHAS, 20, 0.7)
    assert len(late.times) == 14
    assert late.times[0] < 700
    assert late.alpha == pytest.approx(float(ALPHAS[late.times[0]]))
    assert len(trajectory(sampler, ALPHAS, 200, 0.7).times) == 140


@pytest.mark.parametrize("sampler", Sampler)
def test_samples_of_a_gaussian_are_gaussian(sampler: Sampler) -> None:
    """For data N(m, s^2) the best prediction is known in closed form; the samples must have that mean and spread."""
    mean, spread = 1.5, 0.5

    def best(z: torch.Tensor, time: int, left: int) -> torch.Tensor:
        alpha = float(ALPHAS[time])
        gain = alpha**0.5 * spread**2 / (alpha * spread**2 + 1 - alpha)
        return mean + gain * (z - alpha**0.5 * mean)

    run = trajectory(sampler, ALPHAS, 50, None)
    reached = sample(run, gaussian(1, 4, 64, 64), best)
    assert float(reached.mean()) == pytest.approx(mean, abs=0.03)
    assert float(reached.std()) == pytest.approx(spread, abs=0.05)


def test_ddim_is_that_of_diffusers_where_the_steps_divide_the_times() -> None:
    betas = 1 - ALPHAS.double() / torch.cat([torch.ones(1, dtype=torch.float64), ALPHAS[:-1].double()])
    reference = DDIMScheduler(
        1000, trained_betas=betas.tolist(), prediction_type="sample", timestep_spacing="trailing", clip_sample=False
    )
    reference.set_timesteps(20)
    z = gaussian(1, 4, 8, 8)
    ours = sample(trajectory(Sampler.DDIM, ALPHAS, 20, None), z, lambda z, time, left: torch.tanh(z))
    for time in reference.timesteps:
        z = reference.step(torch.tanh(z), int(time), z).prev_sample
    assert torch.allclose(ours, z, atol=1e-5)


@pytest.mark.parametrize("sampler", Sampler)
def test_a_trajectory_gives_the_same_result_each_time(sampler: Sampler) -> None:
    runs = [
        sample(trajectory(sampler, ALPHAS, 10, 0.7), gaussian(1, 4, 8, 8), lambda z, time, left: torch.tanh(z))
        for _ in range(2)
    ]
    assert torch.equal(*runs)
