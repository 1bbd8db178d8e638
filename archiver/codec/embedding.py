"""Embeddings as a rotated, scalar-quantised direction and a norm; needs no training corpus.

A random orthogonal rotation spreads every embedding evenly over all dimensions, after which a few levels a dimension
code its direction nearly as well as a vector quantiser would: RaBitQ (Gao & Long, arXiv 2405.12497) with one bit, its
extension (Gao et al., arXiv 2409.09913) with more, from which the search for the best scale is taken. What is decoded
is the coded direction at the stored norm. Ours: the rotation by sign flips and DCTs, three levels, the logarithmic
norm.

    levels and rotation 1 (4 bits each) | dimensions varint | norm 1 | direction, base `levels`, most significant first
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from archiver.codec.dct import matrix
from archiver.codec.fields import FieldReader, varint
from archiver.errors import RecordCorrupt

LEVELS = (2, 3, 4, 8, 16)
MAX_DIMENSIONS = 2048
_ROUNDS = 3
_NORM_BYTE_OF_ONE = 128
_NORM_STEPS = 12  # an octave: 5.9 % apart, 2.9 % wrong at most; 2^-10.6 .. 2^10.6
_SCALES = 24


@dataclass(frozen=True, slots=True)
class EmbeddingCode:
    """A quantised embedding: `codes` (D,) of 0..levels-1 in the rotated space, and the norm of the embedding."""

    levels: int
    rotation: int
    norm: float
    codes: NDArray[np.uint8]

    def vector(self) -> NDArray[np.float32]:
        """The decoded embedding (D,)."""
        direction = _grid(self.codes, self.levels)
        length = float(np.linalg.norm(direction)) or 1.0  # three levels can all be zero
        return unrotate(direction * (self.norm / length), self.rotation).astype(np.float32)


def quantise(vector: NDArray[np.float32], levels: int, rotation: int = 0) -> EmbeddingCode:
    """The code of an embedding (D,), with 2, 3, 4, 8 or 16 levels a dimension after rotation number 0..15.

    Raises ValueError for an embedding that cannot be coded (too long, not finite).
    """
    if levels not in LEVELS or not 0 <= rotation < 16 or not 1 <= vector.size <= MAX_DIMENSIONS:
        raise ValueError(f"no code of {vector.size} dimensions, {levels} levels, rotation {rotation}")
    if not np.isfinite(vector).all():
        raise ValueError("the embedding is not finite")
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    rotated = rotate(vector.astype(np.float64), rotation)
    deviation = float(np.sqrt(np.mean(rotated**2))) or 1.0
    # Gaussian samples are best cut within about +-3 deviations; the best cell size depends on the levels and the
    # vector.
    candidates = (_nearest(rotated / (deviation * cell), levels) for cell in np.geomspace(0.3, 2.0, _SCALES))
    best = max(candidates, key=lambda codes: _cosine(_grid(codes, levels), rotated))
    return EmbeddingCode(levels, rotation, norm_of(norm_byte(norm)), best)


def encode(code: EmbeddingCode) -> bytes:
    """The payload of a code."""
    number = 0
    for digit in code.codes.tolist():
        number = number * code.levels + digit
    head = bytes((LEVELS.index(code.levels) << 4 | code.rotation,)) + varint(code.codes.size)
    return head + bytes((norm_byte(code.norm),)) + number.to_bytes(_digit_bytes(code.codes.size, code.levels), "big")


def decode(payload: bytes) -> EmbeddingCode:
    """The code of a payload.

    Raises RecordCorrupt.
    """
    reader = FieldReader(payload)
    which, rotation = divmod(reader.byte("the embedding's levels"), 16)
    if which >= len(LEVELS):
        raise RecordCorrupt(problem=f"the embedding has {which} for its levels")
    levels = LEVELS[which]
    dimensions = reader.varint("the embedding's dimensions", 1, MAX_DIMENSIONS)
    norm = norm_of(reader.byte("the embedding's norm"))
    number = int.from_bytes(reader.take(_digit_bytes(dimensions, levels), "the embedding"), "big")
    reader.finish("the embedding")
    codes = np.empty(dimensions, np.uint8)
    for index in range(dimensions - 1, -1, -1):
        number, codes[index] = divmod(number, levels)
    if number:
        raise RecordCorrupt(problem="the embedding is larger than its dimensions allow")
    return EmbeddingCode(levels, rotation, norm, codes)


def rotate(vectors: NDArray[np.float64], rotation: int) -> NDArray[np.float64]:
    """Apply orthogonal rotation number `rotation` to vectors (..., D)."""
    for signs in _signs(vectors.shape[-1], rotation):
        vectors = np.matmul(vectors * signs, _basis(vectors.shape[-1]).T)
    return vectors


def unrotate(vectors: NDArray[np.float64], rotation: int) -> NDArray[np.float64]:
    """The inverse of `rotate`."""
    for signs in reversed(_signs(vectors.shape[-1], rotation)):
        vectors = (vectors @ _basis(vectors.shape[-1])) * signs
    return vectors


# A record says how many dimensions it has, so few are kept: a vault's profiles have one or two.
@lru_cache(maxsize=2)
def _basis(dimensions: int) -> NDArray[np.float64]:
    """The DCT (D, D)."""
    return matrix(dimensions)


@lru_cache(maxsize=4)
def _signs(dimensions: int, rotation: int) -> tuple[NDArray[np.float64], ...]:
    """Random signs (D,) per round, from a hash: a random generator's stream may change with its library."""
    stream = hashlib.shake_256(b"archiver rotation %d" % rotation).digest(_ROUNDS * MAX_DIMENSIONS // 8)
    bits = np.unpackbits(np.frombuffer(stream, np.uint8)).reshape(_ROUNDS, MAX_DIMENSIONS)[:, :dimensions]
    return tuple(1.0 - 2.0 * row for row in bits)


def _grid(codes: NDArray[np.uint8], levels: int) -> NDArray[np.float64]:
    """Evenly spaced values, symmetric about zero, one apart."""
    return codes.astype(np.float64) - (levels - 1) / 2


def _nearest(scaled: NDArray[np.float64], levels: int) -> NDArray[np.uint8]:
    return np.clip(np.rint(scaled + (levels - 1) / 2), 0, levels - 1).astype(np.uint8)


def _cosine(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    lengths = np.linalg.norm(one) * np.linalg.norm(other)
    return float(one @ other / lengths) if lengths else 0.0


def _digit_bytes(dimensions: int, levels: int) -> int:
    largest: int = levels**dimensions - 1
    return (largest.bit_length() + 7) // 8


def norm_byte(norm: float) -> int:
    """0 for a zero vector, else a step of the logarithmic scale."""
    return int(np.clip(round(np.log2(norm) * _NORM_STEPS) + _NORM_BYTE_OF_ONE, 1, 255)) if norm else 0


def norm_of(byte: int) -> float:
    return float(2 ** ((byte - _NORM_BYTE_OF_ONE) / _NORM_STEPS)) if byte else 0.0
