"""Everything the denoiser trains on, computed once: semantics learnt from the photographs, then cached arrays."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from archiver.errors import TrainingStale
from archiver.models.embedded.autoencoder import DOWNSCALE, LATENT_CHANNELS, Autoencoder
from archiver.models.embedded.denoiser import EMBEDDING_DIM, WORDS
from archiver.models.embedded.semantics import SemanticEncoder, colour_map
from archiver.training.backbone import published_backbone
from archiver.training.data import Photos
from archiver.training.loop import (
    CPU,
    Tell,
    autocast,
    averaged_weights,
    nobody,
    placed,
    position,
    workers,
    write_safetensors,
)

log = logging.getLogger(__name__)
_BATCH, _GPU_BATCH = 8, 64
_VOCABULARY_PHOTOS = 512
_VOCABULARY_CELLS = 40_000
_KMEANS_ROUNDS = 25


@dataclass(frozen=True, slots=True)
class Features:
    """Memory-mapped arrays with one row a photograph. S is the latent grid's side.

    latents: (N, 2, 16, S, S) float16, plain and mirrored, normalised. embeddings: (N, 256) float32.
    labels: (N, 2S, 2S) uint8. colours: (N, 3, S, S) float16 in [-1, 1].
    """

    latents: NDArray[np.float16]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.uint8]
    colours: NDArray[np.float16]


def visual_words(directions: Tensor, seed: int) -> Tensor:
    """Spherical k-means: (N, C) unit vectors to (32, C) unit centres."""
    generator = torch.Generator().manual_seed(seed)
    centres = directions[torch.randperm(len(directions), generator=generator)[:WORDS]]
    for _ in range(_KMEANS_ROUNDS):
        nearest = (directions @ centres.T).argmax(1)
        sums = torch.zeros_like(centres).index_add_(0, nearest, directions)
        empty = sums.square().sum(1) == 0
        sums[empty] = directions[torch.randint(len(directions), (int(empty.sum()),), generator=generator)]
        centres = F.normalize(sums, dim=1)
    return centres


def whitening(pooled: Tensor) -> Tensor:
    """PCA of centred features (N, 1280): the matrix (256, 1280) that maps them to unit variance per dimension."""
    covariance = pooled.T @ pooled / len(pooled)
    values, vectors = torch.linalg.eigh(covariance.double())
    top = values[-EMBEDDING_DIM:].clamp(min=values[-1] * 1e-6)
    rows: Tensor = (vectors[:, -EMBEDDING_DIM:] / top.sqrt()).T.flip(0)
    return rows.float()


def _batches(rows: NDArray[np.int64], device: torch.device) -> Iterator[NDArray[np.int64]]:
    size = _BATCH if device == CPU else _GPU_BATCH
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _for_all(photos: Photos, device: torch.device, tell: Tell, work: Callable[[NDArray[np.int64]], None]) -> None:
    """Do `work` on batches of rows of all photographs, in threads; it writes its results by row."""
    batches = list(_batches(np.arange(len(photos.pixels)), device))
    pool = workers()
    try:
        for number, _ in enumerate(pool.map(work, batches)):
            tell((number + 1) / len(batches), {})
            if number % 100 == 0:
                log.info("features: %d of %d", batches[number][0], len(photos.pixels))
    finally:
        pool.shutdown(cancel_futures=True)  # who is told may have had enough


def _save_array(path: Path, array: NDArray[np.generic]) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        np.save(file, array)
    partial.replace(path)


def _learn_words(encoder: SemanticEncoder, photos: Photos, seed: int) -> None:
    """Fit the encoder's visual words to a sample of the training photographs."""
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(photos.train)[:_VOCABULARY_PHOTOS]
    device = encoder.map_mean.device

    def in_batch(rows: NDArray[np.int64]) -> Tensor:
        return _features(encoder, photos.pictures(rows, device)).flatten(2).mT.flatten(0, 1).cpu()

    with workers() as pool:
        cells = torch.cat(list(pool.map(in_batch, _batches(chosen, device))))
    centre = cells.mean(0)
    sample = cells[torch.from_numpy(rng.permutation(len(cells))[:_VOCABULARY_CELLS])]
    encoder.map_mean.copy_(centre)
    encoder.word_vectors.copy_(visual_words(F.normalize(sample - centre, dim=1), seed))


def _features(encoder: SemanticEncoder, pictures: Tensor) -> Tensor:
    with torch.no_grad(), autocast(pictures.device):
        return encoder.features(pictures).float()


def learn_semantics(photos: Photos, out: Path, seed: int, device: torch.device = CPU, tell: Tell = nobody) -> None:
    """Fit words and whitening; write `semantics.safetensors`, `labels.npy` and `embeddings.npy` unless they exist.

    Words and whitening that are there already stay as they are.
    """
    if (out / "embeddings.npy").exists():  # written last
        return
    learnt = (out / "semantics.safetensors").exists()
    encoder = placed(trained_semantics(out) if learnt else _new_encoder(), device)
    if not learnt:
        _learn_words(encoder, photos, seed)
    grid = 2 * photos.pixels.shape[1] // DOWNSCALE
    labels = np.empty((len(photos.pixels), grid, grid), np.uint8)
    pooled = torch.empty(len(photos.pixels), encoder.map_mean.numel())

    def describe(rows: NDArray[np.int64]) -> None:
        features = _features(encoder, photos.pictures(rows, device))
        labels[rows] = encoder.labels(features).cpu().numpy()
        pooled[rows] = features.mean((2, 3)).cpu()

    _for_all(photos, device, tell, describe)
    encoder = encoder.to(CPU)
    if not learnt:
        encoder.pooled_mean.copy_(pooled[photos.train].mean(0))
        encoder.whitening.copy_(whitening(pooled[photos.train] - encoder.pooled_mean))
        write_safetensors(out / "semantics.safetensors", encoder.state_dict())
    embeddings = (pooled - encoder.pooled_mean) @ encoder.whitening.T
    _save_array(out / "labels.npy", labels)
    _save_array(out / "embeddings.npy", embeddings.numpy())


def _new_encoder() -> SemanticEncoder:
    encoder = SemanticEncoder()
    encoder.backbone.load_state_dict(published_backbone().state_dict())
    return encoder.eval().requires_grad_(False)


def cache_latents(photos: Photos, out: Path, device: torch.device = CPU, tell: Tell = nobody) -> None:
    """Encode every photograph and its mirror image; write `latents.npy`, `colours.npy`, `latent_scale.safetensors`.

    Done again only when the autoencoder has been trained further since. The scale of the very same autoencoder stays.
    """
    made_by, scale_file = position(out / "autoencoder.safetensors"), out / "latent_scale.safetensors"
    scaled = scale_file.exists() and position(scale_file) == made_by
    if scaled and (out / "latents.npy").exists():
        return
    network = Autoencoder()
    network.load_state_dict(_averaged_autoencoder(out), strict=False)
    network = placed(network.eval().requires_grad_(False), device)
    count, grid = len(photos.pixels), photos.pixels.shape[1] // DOWNSCALE
    latents = torch.empty(count, 2, LATENT_CHANNELS, grid, grid)
    colours = torch.empty(count, 3, grid, grid, dtype=torch.float16)

    def encode(rows: NDArray[np.int64]) -> None:
        pictures = photos.pictures(rows, device)
        with torch.no_grad(), autocast(device):
            pair = [network.encode(view).float() for view in (pictures, pictures.flip(3))]
        latents[rows] = torch.stack(pair, 1).cpu()
        colours[rows] = colour_map(pictures).half().cpu()

    _for_all(photos, device, tell, encode)
    seen = latents[photos.train, 0]
    mean, std = seen.mean((0, 2, 3)).view(1, -1, 1, 1), seen.std((0, 2, 3)).view(1, -1, 1, 1)
    if scaled:
        mean, std = (load_file(scale_file)[name] for name in ("latent_mean", "latent_std"))
    _save_array(out / "colours.npy", colours.numpy())
    _save_array(out / "latents.npy", ((latents - mean) / std).half().numpy())
    write_safetensors(scale_file, {"latent_mean": mean, "latent_std": std}, {"position": made_by})


def _averaged_autoencoder(out: Path) -> dict[str, Tensor]:
    """Without the critics that were trained with it."""
    weights = averaged_weights(out / "autoencoder.safetensors")
    return {name: value for name, value in weights.items() if not name.startswith("critics.")}


def _require_of_autoencoder(out: Path) -> None:
    """Raise TrainingStale unless the cached latents are those of the autoencoder as it is by now."""
    if position(out / "latent_scale.safetensors") != position(out / "autoencoder.safetensors"):
        raise TrainingStale(path=out / "latents.npy")


def load_features(out: Path) -> Features:
    """Map the cached arrays that the `features` stage wrote. Raises TrainingStale."""
    _require_of_autoencoder(out)
    names = ("latents", "embeddings", "labels", "colours")
    return Features(*(np.load(out / f"{name}.npy", mmap_mode="r") for name in names))


def trained_autoencoder(out: Path) -> Autoencoder:
    """The autoencoder with its averaged weights and the scale of its latents. Raises TrainingStale."""
    _require_of_autoencoder(out)
    network = Autoencoder()
    state = _averaged_autoencoder(out) | load_file(out / "latent_scale.safetensors")
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def trained_semantics(out: Path) -> SemanticEncoder:
    """The semantic encoder with its learnt words and whitening."""
    encoder = SemanticEncoder()
    encoder.load_state_dict(load_file(out / "semantics.safetensors"))
    return encoder.eval().requires_grad_(False)
