"""Embeddings by a learnt codebook: product quantisation (Jegou, Douze & Schmid, TPAMI 2011).

The dimensions are split into groups, and of each group the number of the nearest learnt vector is coded, so that the
rate is chosen by the number of groups: 256 dimensions in 32 groups with 256 vectors each are 32 bytes, one bit a
dimension. What is decoded is the coded direction at the stored norm, as in `archiver.codec.embedding`, which needs
nothing learnt. A payload is worth nothing without its codebook, so it names it.

    codebook 4 (start of the SHA-256 of its vectors) | norm 1 | number of the nearest vector of each group, 1 each
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from archiver.codec.embedding import norm_byte, norm_of
from archiver.codec.fields import FieldReader
from archiver.errors import RecordCorrupt

MAX_VECTORS = 256
_NAME_BYTES = 4
_ROUNDS = 25


@dataclass(frozen=True)
class Codebook:
    """`vectors` (groups, count, size) float16, `count` of 2..256: exact on every machine, and half as large to keep."""

    vectors: NDArray[np.float16]

    @property
    def dimensions(self) -> int:
        return int(self.vectors.shape[0] * self.vectors.shape[2])

    @cached_property
    def name(self) -> bytes:
        """What payloads know it by."""
        shape = repr(self.vectors.shape).encode()
        return hashlib.sha256(shape + self.vectors.astype("<f2").tobytes()).digest()[:_NAME_BYTES]


def learn(embeddings: NDArray[np.float32], groups: int, count: int = MAX_VECTORS, seed: int = 0) -> Codebook:
    """The codebook of a collection's embeddings (N, D), N at least `count`, `groups` a divisor of D; k-means (Lloyd
    1982) of directions scaled to length sqrt(D). The same for the same arguments on one machine.

    Raises ValueError where these numbers do not fit.
    """
    number, dimensions = embeddings.shape
    if groups < 1 or dimensions % groups or not 2 <= count <= min(MAX_VECTORS, number):
        raise ValueError(
            f"no codebook of {groups} x {count} vectors for {number} embeddings of {dimensions} dimensions"
        )
    rng = np.random.default_rng(seed)
    parts = _split(_scaled(embeddings), groups)
    return Codebook(np.stack([_means(part, count, rng) for part in parts]).astype(np.float16))


def encode(vector: NDArray[np.float32], codebook: Codebook) -> bytes:
    """The payload of an embedding (D,).

    Raises ValueError for one of another length, or one that is not finite.
    """
    if vector.shape != (codebook.dimensions,) or not np.isfinite(vector).all():
        raise ValueError(f"an embedding of {codebook.dimensions} finite numbers is wanted")
    parts = _split(_scaled(vector[None]), codebook.vectors.shape[0])
    vectors = codebook.vectors.astype(np.float32)
    numbers = [int(_nearest(part, own)[0]) for part, own in zip(parts, vectors, strict=True)]
    return codebook.name + bytes((norm_byte(float(np.linalg.norm(vector.astype(np.float64)))), *numbers))


def decode(payload: bytes, codebook: Codebook) -> NDArray[np.float32]:
    """The embedding (D,) of a payload.

    Raises RecordCorrupt, also where it was coded with another codebook.
    """
    groups, count, _ = codebook.vectors.shape
    reader = FieldReader(payload)
    if reader.take(_NAME_BYTES, "the codebook") != codebook.name:
        raise RecordCorrupt(problem="the embedding was coded with another codebook")
    norm = norm_of(reader.byte("the embedding's norm"))
    numbers = np.frombuffer(reader.take(groups, "the embedding"), np.uint8)
    reader.finish("the embedding")
    if int(numbers.max()) >= count:
        raise RecordCorrupt(problem="the embedding names a vector that the codebook does not have")
    direction = codebook.vectors[np.arange(groups), numbers].astype(np.float64).ravel()
    length = float(np.linalg.norm(direction)) or 1.0
    return (direction * (norm / length)).astype(np.float32)


def _scaled(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions of length sqrt(D), so that a number is about 1."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = embeddings * (np.sqrt(embeddings.shape[1]) / np.where(lengths > 0, lengths, 1))
    return scaled.astype(np.float32)


def _split(embeddings: NDArray[np.float32], groups: int) -> NDArray[np.float32]:
    """(N, D) to (groups, N, D / groups)."""
    return np.ascontiguousarray(embeddings.reshape(len(embeddings), groups, -1).transpose(1, 0, 2))


def _nearest(points: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.intp]:
    """The number of the nearest of `vectors` (K, d) to each of `points` (N, d)."""
    nearest: NDArray[np.intp] = ((vectors**2).sum(1) - 2 * points @ vectors.T).argmin(1)
    return nearest


def _means(points: NDArray[np.float32], count: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """`count` means (count, d) of points (N, d); one that no point is nearest to starts again at a random point."""
    means = points[rng.choice(len(points), count, replace=False)]
    for _ in range(_ROUNDS):
        nearest = _nearest(points, means)
        sizes = np.bincount(nearest, minlength=count)
        sums = np.stack([np.bincount(nearest, column, minlength=count) for column in points.T.astype(np.float64)], 1)
        empty = sizes == 0
        means = (sums / np.maximum(sizes, 1)[:, None]).astype(np.float32)
        means[empty] = points[rng.choice(len(points), int(empty.sum()))]
    return means
