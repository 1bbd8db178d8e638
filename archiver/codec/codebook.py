"""Embeddings by a codebook learnt on a collection: optimised product quantisation, its parametric form (Ge, He, Ke &
Sun, TPAMI 2014, section 3.3; product quantisation: Jegou, Douze & Schmid, TPAMI 2011).

The collection's mean is taken off, the principal components are dealt out to groups of equal worth, and of each group
the number of the nearest learnt vector is coded. So the rate is chosen by the number of groups, a byte each, whatever
the dimensions are. What is decoded is the coded direction at the stored norm, as in `archiver.codec.embedding`, which
needs nothing learnt. A payload is worth nothing without its codebook: that is part of the profile that a record names.

    norm 1 | number of the nearest vector of each group, 1 each
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archiver.codec.embedding import norm_byte, norm_of
from archiver.codec.fields import FieldReader
from archiver.errors import RecordCorrupt

MAX_VECTORS = 256
MAX_GROUPS = 256
# Components: with fewer some are left out that tell more than others' last bits, more gain nothing.
_GROUP_SIZE = 6
_ROUNDS = 25
_FAINT = 1e-9  # share of the largest variance below which a component counts as this much


@dataclass(frozen=True)
class Codebook:
    """All float16: exact on every machine, and half as large to keep.

    mean (D,) of the collection's directions, scaled to length sqrt(D). axes (groups, size, D): the orthonormal
    components of each group. vectors (groups, count, size), `count` of 2..256. Raises ValueError where these do not go
    together.
    """

    mean: NDArray[np.float16]
    axes: NDArray[np.float16]
    vectors: NDArray[np.float16]

    def __post_init__(self) -> None:
        if self.mean.ndim != 1 or self.axes.ndim != 3 or self.vectors.ndim != 3:
            raise ValueError("a codebook has a mean, axes and vectors")
        groups, count, size = self.vectors.shape
        if self.axes.shape != (groups, size, self.dimensions) or not size:
            raise ValueError(f"axes {self.axes.shape} do not go with vectors {self.vectors.shape}")
        if not 1 <= groups <= MAX_GROUPS or not 2 <= count <= MAX_VECTORS:
            raise ValueError(f"a codebook of {groups} groups with {count} vectors")
        if not all(part.dtype == np.float16 and np.isfinite(part).all() for part in self.parts.values()):
            raise ValueError("a codebook is of finite float16 numbers")

    @property
    def dimensions(self) -> int:
        """Of the embeddings that it codes."""
        return int(self.mean.size)

    @property
    def groups(self) -> int:
        """Bytes that a direction takes."""
        return int(self.vectors.shape[0])

    @property
    def parts(self) -> dict[str, NDArray[np.float16]]:
        """What it is made of, by name."""
        return {"mean": self.mean, "axes": self.axes, "vectors": self.vectors}


def learn(embeddings: NDArray[np.float32], groups: int, count: int = MAX_VECTORS, seed: int = 0) -> Codebook:
    """The codebook of a collection's embeddings (N, D), N at least `count`, at most as many groups as dimensions.

    Components by an eigenvalue decomposition, vectors by k-means (Lloyd 1982); the same for the same arguments on one
    machine. Raises ValueError where these numbers do not fit.
    """
    number, dimensions = embeddings.shape
    if not 1 <= groups <= min(MAX_GROUPS, dimensions) or not 2 <= count <= min(MAX_VECTORS, number):
        raise ValueError(
            f"no codebook of {groups} x {count} vectors for {number} embeddings of {dimensions} dimensions"
        )
    if not np.isfinite(embeddings).all():
        raise ValueError("the embeddings are not finite")
    directions = _scaled(embeddings)
    mean = directions.mean(0, dtype=np.float64).astype(np.float16)
    centred = directions - mean
    variances, components = np.linalg.eigh(centred.T.astype(np.float64) @ centred / number)
    members = _dealt(variances[::-1], groups, min(_GROUP_SIZE, dimensions // groups))
    axes = components.T[::-1][members].astype(np.float16)
    rng = np.random.default_rng(seed)
    points = _components(centred, axes)
    return Codebook(mean, axes, np.stack([_means(group, count, rng) for group in points]).astype(np.float16))


def encode(vector: NDArray[np.float32], codebook: Codebook) -> bytes:
    """The payload of an embedding (D,).

    Raises ValueError for one of another length, or one that is not finite.
    """
    if vector.shape != (codebook.dimensions,) or not np.isfinite(vector).all():
        raise ValueError(f"an embedding of {codebook.dimensions} finite numbers is wanted")
    points = _components(_scaled(vector[None]) - codebook.mean, codebook.axes)
    vectors = codebook.vectors.astype(np.float32)
    numbers = [int(_nearest(point, own)[0]) for point, own in zip(points, vectors, strict=True)]
    return bytes((norm_byte(float(np.linalg.norm(vector.astype(np.float64)))), *numbers))


def decode(payload: bytes, codebook: Codebook) -> NDArray[np.float32]:
    """The embedding (D,) of a payload.

    Raises RecordCorrupt where the codebook cannot have made it.
    """
    reader = FieldReader(payload)
    norm = norm_of(reader.byte("the embedding's norm"))
    numbers = np.frombuffer(reader.take(codebook.groups, "the embedding"), np.uint8)
    reader.finish("the embedding")
    if int(numbers.max()) >= codebook.vectors.shape[1]:
        raise RecordCorrupt(problem="the embedding names a vector that the codebook does not have")
    chosen = codebook.vectors[np.arange(codebook.groups), numbers].astype(np.float64)
    direction = codebook.mean + np.einsum("gs,gsd->d", chosen, codebook.axes.astype(np.float64))
    length = float(np.linalg.norm(direction)) or 1.0
    vector: NDArray[np.float32] = (direction * (norm / length)).astype(np.float32)
    return vector


def groups_of(payload: bytes) -> int:
    """How many groups a payload is of, which needs no codebook. Raises RecordCorrupt where it can be of none."""
    if not 1 <= len(payload) - 1 <= MAX_GROUPS:
        raise RecordCorrupt(problem=f"a learnt embedding of {len(payload)} bytes")
    return len(payload) - 1


def _scaled(embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Directions of length sqrt(D), so that a number is about 1."""
    lengths = np.linalg.norm(embeddings, axis=1, keepdims=True)
    scaled: NDArray[np.float32] = embeddings * (np.sqrt(embeddings.shape[1]) / np.where(lengths > 0, lengths, 1))
    return scaled.astype(np.float32)


def _dealt(variances: NDArray[np.float64], groups: int, size: int) -> NDArray[np.intp]:
    """Which components (groups, size) each group gets, of variances in falling order: the next goes to the group whose
    variances have the smallest product so far, which makes all products about equal.
    """
    worth = np.log(np.maximum(variances / (variances[0] or 1.0), _FAINT))
    members: list[list[int]] = [[] for _ in range(groups)]
    open_groups = [(0.0, group) for group in range(groups)]
    for component in range(groups * size):
        total, group = heapq.heappop(open_groups)
        members[group].append(component)
        if len(members[group]) < size:
            # Above zero, so that a group with fewer components has the smaller product.
            heapq.heappush(open_groups, (total + float(worth[component]) - np.log(_FAINT), group))
    return np.array(members)


def _components(centred: NDArray[np.float32], axes: NDArray[np.float16]) -> NDArray[np.float32]:
    """(N, D) to (groups, N, size)."""
    found: NDArray[np.float32] = np.matmul(centred, axes.astype(np.float32).transpose(0, 2, 1))
    return found


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
