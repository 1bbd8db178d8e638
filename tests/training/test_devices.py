"""Training elsewhere than on the CPU, on torch's meta device: it computes nothing, and refuses tensors of any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from archiver.training.autoencoder import train_autoencoder
from archiver.training.data import Photos, load_photos
from archiver.training.denoiser import train_denoiser
from archiver.training.features import Features, load_features
from archiver.training.finish import train_finish
from archiver.training.loop import Budget, Course, Rhythm, Trainer, workers
from archiver.training.polish import train_polish
from archiver.training.run import train

META = torch.device("meta")
ONE = Budget(steps=1)
COURSE = Course(4, 0, Rhythm(rate=1e-3), META)


class _Generator:
    """Where a generator would be; there is none for the meta device, and nothing is drawn there."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def manual_seed(self, _seed: int) -> _Generator:
        return self


def _anywhere(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def without_generator(*args: Any, generator: object, **named: Any) -> Tensor:
        return draw(*args, **named)

    return without_generator


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Tensor]]:
    """What the steps of a stage lose, one after the other; their checks need numbers, and are left out."""
    taken: list[dict[str, Tensor]] = []

    def run(trainer: Trainer, _budget: Budget, loss: Any, _check: Any) -> None:
        with workers() as pool:
            taken.extend(trainer._advance(loss, 0.5, pool) for _ in range(2))

    autocast = torch.autocast
    monkeypatch.setattr(Trainer, "run", run)
    monkeypatch.setattr(torch, "Generator", _Generator)
    monkeypatch.setattr(torch, "autocast", lambda _device, dtype: autocast("cpu", dtype))
    for draw in ("rand", "randn", "randint"):
        monkeypatch.setattr(torch, draw, _anywhere(getattr(torch, draw)))
    return taken


@pytest.fixture(scope="module")
def trained(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    for stage in ("autoencoder", "features", "denoiser", "finish"):
        train(shards, out, stage, steps=1, long_side=64, device="cpu")
    return out


Stage = Callable[[Features, Photos, Path], None]
STAGES: dict[str, Stage] = {
    "autoencoder": lambda _, photos, out: train_autoencoder(photos, out, ONE, COURSE, 48),
    "denoiser": lambda features, photos, out: train_denoiser(features, photos, out, ONE, COURSE),
    "finish": lambda features, photos, out: train_finish(features, photos, out, ONE, COURSE),
    "polish": lambda features, photos, out: train_polish(features, photos, out, ONE, COURSE),
}


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("stage", STAGES)
def test_a_step_is_computed_where_the_network_is(
    stage: str, shards: Path, trained: Path, steps: list[dict[str, Tensor]]
) -> None:
    STAGES[stage](load_features(trained), load_photos(shards, trained, 64), trained)
    assert len(steps) == 2 and "total" in steps[0]
    assert {value.device for losses in steps for value in losses.values()} == {META}


def test_the_meta_device_refuses_tensors_of_another() -> None:
    with pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, device=META) + torch.zeros(2)
