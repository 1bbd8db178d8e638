"""Running a diffusion backwards with the schedulers of diffusers, on predicted clean latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from torch import Tensor

from archiver.codec.record import Sampler

PredictX0 = Callable[[Tensor, int, int], Tensor]
"""(z_t, t, steps still to come after this one) -> the estimate of z_0, steered."""
SteerZ = Callable[[Tensor, int, int], Tensor]
"""(z_t, t, steps still to come after this one) -> z_t, moved before its z_0 is estimated."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A scheduler set to its times, those still to be run, and the cumulative alpha of the first of them."""

    scheduler: Any
    times: tuple[int, ...]
    alpha: float


def trajectory(sampler: Sampler, alphas_cumprod: Tensor, steps: int, start: float | None) -> Trajectory:
    """The last part of a run of `steps` steps over all times, from `start` (share of T; None: all of it) to 0.

    DPM-Solver++ of second order (Lu et al., arXiv 2211.01095), or of first order, which is the deterministic DDIM (Song
    et al., arXiv 2010.02502; diffusers' own DDIMScheduler misses the end where `steps` does not divide the number of
    times). At least one step is left however small `start` is.
    """
    total = len(alphas_cumprod)
    alphas = alphas_cumprod.double()
    betas = 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
    scheduler: Any = DPMSolverMultistepScheduler(  # type: ignore[no-untyped-call]
        num_train_timesteps=total,
        trained_betas=betas.tolist(),
        prediction_type="sample",
        timestep_spacing="trailing",
        algorithm_type="dpmsolver++",
        solver_order=1 if sampler is Sampler.DDIM else 2,
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(min(steps, total))
    times = [int(time) for time in scheduler.timesteps]
    first = 0
    if start is not None:
        first = next((index for index, time in enumerate(times) if time < start * total), len(times) - 1)
    scheduler.set_begin_index(first)
    return Trajectory(scheduler, tuple(times[first:]), float(alphas_cumprod[times[first]]))


def sample(run: Trajectory, z: Tensor, predict_x0: PredictX0, steer: SteerZ | None = None) -> Tensor:
    """Denoise z (B, C, h, w) from the trajectory's first time to a clean latent."""
    for left, time in zip(reversed(range(len(run.times))), run.times, strict=True):
        if steer is not None:
            z = steer(z, time, left)
        z = run.scheduler.step(predict_x0(z, time, left), time, z).prev_sample
    return z
