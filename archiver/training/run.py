"""The training command: stages that can be stopped, resumed and repeated."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from functools import partial
from pathlib import Path
from threading import Event

import torch

from archiver.errors import GpuMissing, TrainingStageMissing
from archiver.models.embedded.profile import EmbeddedModels, ProfileMeta, init_random, save_profile
from archiver.training import autoencoder, denoiser, finish, polish
from archiver.training.autoencoder import train_autoencoder
from archiver.training.data import load_photos
from archiver.training.denoiser import train_denoiser
from archiver.training.features import (
    cache_latents,
    learn_semantics,
    load_features,
    trained_autoencoder,
    trained_semantics,
)
from archiver.training.finish import finished_weights, train_finish
from archiver.training.loop import CPU, Budget, Course, Stopped, Tell, averaged_weights
from archiver.training.polish import polished_weights, train_polish
from archiver.training.start import began_from, begin

log = logging.getLogger(__name__)
_PRESETS = Path(__file__).parent / "presets.toml"  # of a finished network
_LONG_SIDE = 256
_CROP = 128  # pixels a side, of what the autoencoder is trained on
_WORKING_SIDES = 2  # how many times larger pictures are coded than they were trained on, once the finish has been run


class Stage(StrEnum):
    """One step of training, in the order of `all`."""

    AUTOENCODER = "autoencoder"
    FEATURES = "features"
    DENOISER = "denoiser"
    FINISH = "finish"
    POLISH = "polish"
    EXPORT = "export"


_COURSES = {
    Stage.AUTOENCODER: (autoencoder.RHYTHM, 16, 128),
    Stage.DENOISER: (denoiser.RHYTHM, 32, 256),
    Stage.FINISH: (finish.RHYTHM, 16, 64),
    Stage.POLISH: (polish.RHYTHM, 8, 32),
}
"""Rhythm, and samples of a step on a CPU and on a GPU of 16 GB or more."""

_SHARES = {Stage.AUTOENCODER: 0.2, Stage.DENOISER: 0.3, Stage.FINISH: 0.3, Stage.POLISH: 0.2}
"""Of the minutes, when all stages are run."""


def _nobody(_stage: str, _share: float, _measured: dict[str, float]) -> None:
    """Who is told, where nobody asked."""


def train(
    data: Path,
    out: Path,
    stage: str = "all",
    minutes: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    long_side: int = _LONG_SIDE,
    weights: Path | None = None,
    name: str = "embedded-1",
    licence: str = "Apache-2.0",
    device: str = "auto",
    batch: int | None = None,
    start: Path | None = None,
    tell: Callable[[str, float, dict[str, float]], None] = _nobody,
    stop: Event | None = None,
) -> None:
    """Run one stage, or all of them, on the tar shards in `data`; everything is kept under `out`.

    `minutes` and `steps` limit each network's training, over all resumptions (for `all`, the minutes are shared out);
    one of them must be given for a stage that trains. A stage that was cut off goes on from its last checkpoint; a
    finished one is not repeated. `finish` and `polish` may be left out: `export` writes what there is to `weights`
    (default `out/profile`), for pictures twice as large with the finish. `device` is "cpu", "cuda" or "auto", the GPU
    where there is one; `batch` samples make a step (default: by stage and device). `start` is a profile's folder, from
    whose weights an empty `out` begins. `tell` hears by name how far a stage has come; when `stop` is set, the step in
    hand is the last one, and is saved; features that are half done are dropped.
    Raises TrainingDataMissing, TrainingDataDamaged, TrainingStageMissing, TrainingStale, TrainingBegun, GpuMissing,
    TrainingNotInstalled, what reading a profile raises, and ValueError (no limit, unknown stage).
    """
    stages = list(Stage) if stage == "all" else [Stage(stage)]
    trains = _SHARES.keys() & set(stages)
    if trains and minutes is None and steps is None:
        raise ValueError("give minutes or steps: training has no natural end")
    if threads is not None:
        torch.set_num_threads(threads)
    where = _device(device)
    out.mkdir(parents=True, exist_ok=True)
    if start is not None:
        begin(start, out, seed)
    shares = _SHARES if len(stages) > 1 else {}
    stop = stop or Event()
    with suppress(Stopped):
        photos = load_photos(data, out, long_side, _ending(partial(tell, "photographs"), stop))
        for part in stages:
            if stop.is_set():
                return
            log.info("stage %s on %s", part, where)
            _require_earlier_stage(part, out)
            told = partial(tell, str(part))
            budget = Budget(steps, None if minutes is None else minutes * shares.get(part, 1.0), told, stop)
            match part:
                case Stage.AUTOENCODER:
                    side, settled = min(_CROP, photos.pixels.shape[1]), began_from(out) is not None
                    train_autoencoder(photos, out, budget, _course(part, batch, seed, where), side, settled=settled)
                case Stage.FEATURES:
                    learn_semantics(photos, out, seed, where, _ending(told, stop))
                    cache_latents(photos, out, where, _ending(told, stop))
                case Stage.DENOISER:
                    train_denoiser(load_features(out), photos, out, budget, _course(part, batch, seed, where))
                case Stage.FINISH:
                    train_finish(load_features(out), photos, out, budget, _course(part, batch, seed, where))
                case Stage.POLISH:
                    train_polish(load_features(out), photos, out, budget, _course(part, batch, seed, where))
                case Stage.EXPORT:
                    export(out, weights or out / "profile", name, licence, long_side)


def _ending(tell: Tell, stop: Event) -> Tell:
    """`tell`, which raises Stopped in the middle of what keeps nothing before its end."""

    def told(share: float, measured: dict[str, float]) -> None:
        tell(share, measured)
        if stop.is_set() and share < 1:
            raise Stopped

    return told


def _course(stage: Stage, batch: int | None, seed: int, device: torch.device) -> Course:
    rhythm, *batches = _COURSES[stage]
    return Course(batch or batches[device != CPU], seed, rhythm, device)


def _device(wanted: str) -> torch.device:
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise GpuMissing
    torch.backends.cudnn.benchmark = True  # sizes are few
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return torch.device("cuda")


def _require_earlier_stage(stage: Stage, out: Path) -> None:
    needed = {
        Stage.FEATURES: (Stage.AUTOENCODER, "autoencoder.safetensors"),
        Stage.DENOISER: (Stage.FEATURES, "latent_scale.safetensors"),
        Stage.FINISH: (Stage.DENOISER, "denoiser.safetensors"),
        Stage.POLISH: (Stage.FINISH, "finish.safetensors"),
        Stage.EXPORT: (Stage.DENOISER, "denoiser.safetensors"),
    }
    if stage in needed:
        earlier, name = needed[stage]
        if not (out / name).exists():
            raise TrainingStageMissing(path=out / name, stage=earlier)


def export(out: Path, weights: Path, name: str, licence: str, long_side: int = _LONG_SIDE) -> ProfileMeta:
    """Write the averaged weights of the run in `out` as a profile in the folder `weights`.

    `long_side`: of the pictures it was trained on. Raises TrainingStale.
    """
    finished = (out / "finish.safetensors").exists()
    presets = ""
    blank = init_random(0, _WORKING_SIDES * long_side if finished else long_side)
    network = trained_autoencoder(out)
    if finished:
        denoiser_weights, decoder_weights = finished_weights(out)
        blank.denoiser.load_state_dict(denoiser_weights)
        network.decoder.load_state_dict(decoder_weights)
        if (out / "polish.safetensors").exists():
            network.load_state_dict(network.state_dict() | polished_weights(out))
        presets = _PRESETS.read_text(encoding="utf-8")
    else:
        blank.denoiser.load_state_dict(averaged_weights(out / "denoiser.safetensors"))
    models = EmbeddedModels(network, blank.denoiser, trained_semantics(out), blank.alphas_cumprod, blank.meta)
    return save_profile(weights, models, name, licence, presets)
