"""Means over all pictures, and how far a method's pictures are from the originals as a set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from archiver.quality.bench import Result, Row


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and standard deviation over those pictures that have the measure, and how many these are."""

    mean: float
    deviation: float
    pictures: int


@dataclass(frozen=True, slots=True)
class Summary:
    """One method over `pictures` pictures; the measures are those of `Row`.

    fitting: on how many of them the codec kept to its target; None where there is none. frechet: Fréchet distance
    (Heusel et al., arXiv 1706.08500) between the regions of these pictures and those of the originals.
    """

    method: str
    target: str
    pictures: int
    fitting: int | None
    size: Spread | None
    bpp: Spread | None
    semantics: Spread
    own_semantics: Spread
    label_bce: Spread | None
    colour: Spread
    brisque: Spread | None
    niqe: Spread
    frechet: float


@dataclass(slots=True)
class Moments:
    """Count, sum and sum of outer products of vectors, as they come."""

    count: int = 0
    total: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    outer: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, vectors: NDArray[np.float32]) -> None:
        """Vectors (n, d)."""
        exact = vectors.astype(np.float64)
        if not self.count:
            self.total, self.outer = np.zeros(exact.shape[1]), np.zeros((exact.shape[1],) * 2)
        self.count += len(exact)
        self.total += exact.sum(0)
        self.outer += exact.T @ exact

    @property
    def mean(self) -> NDArray[np.float64]:
        return self.total / self.count

    @property
    def covariance(self) -> NDArray[np.float64]:
        covariance: NDArray[np.float64] = self.outer / self.count - np.outer(self.mean, self.mean)
        return covariance


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of Gaussians with these moments."""
    shift = one.mean - other.mean
    # The trace of a root is the sum of the roots of the eigenvalues, real and not negative but for rounding.
    shared = np.sqrt(np.linalg.eigvals(one.covariance @ other.covariance).real.clip(min=0)).sum()
    squared = shift @ shift + np.trace(one.covariance) + np.trace(other.covariance) - 2 * shared
    return max(0.0, float(squared))  # rounding takes that of a set from itself below


class Summaries:
    """Gathers results as they come; what it keeps of a picture is its figures."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], list[tuple[Row, bool | None]]] = {}
        self._moments: dict[tuple[str, str], Moments] = {}

    def add(self, result: Result) -> None:
        """Take in one picture."""
        sizes = {row.method: row.size for row in result.rows if not row.target}
        for row, regions in zip(result.rows, result.regions, strict=True):
            key = (row.method, row.target)
            limit = int(row.target) if row.target.isdigit() else sizes.get(row.target)
            fits = None if limit is None or row.size is None or not row.target else row.size <= limit
            self._rows.setdefault(key, []).append((row, fits))
            self._moments.setdefault(key, Moments()).add(regions)

    def all(self) -> list[Summary]:
        """One for each method and target, in the order in which they were met."""
        originals = self._moments.get(("original", ""))
        if originals is None:
            return []
        return [
            _summary(key, rows, frechet_distance(self._moments[key], originals)) for key, rows in self._rows.items()
        ]


def _summary(key: tuple[str, str], rows: list[tuple[Row, bool | None]], frechet: float) -> Summary:
    plain = [row for row, _ in rows]
    fits = [fit for _, fit in rows if fit is not None]

    def spread(values: Iterable[float | None]) -> Spread | None:
        # A picture without texture has a BRISQUE of NaN, which would make the mean of all one.
        known = [value for value in values if value is not None and np.isfinite(value)]
        return always(known) if known else None

    def always(values: Iterable[float]) -> Spread:
        known = list(values)
        return Spread(float(np.mean(known)), float(np.std(known)), len(known))

    return Summary(
        method=key[0],
        target=key[1],
        pictures=len(plain),
        fitting=sum(fits) if fits else None,
        size=spread(row.size for row in plain),
        bpp=spread(row.bpp for row in plain),
        semantics=always(row.semantics for row in plain),
        own_semantics=always(row.own_semantics for row in plain),
        label_bce=spread(row.label_bce for row in plain),
        colour=always(row.colour for row in plain),
        brisque=spread(row.brisque for row in plain),
        niqe=always(row.niqe for row in plain),
        frechet=frechet,
    )
