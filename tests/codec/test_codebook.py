"""A learnt codebook codes what it was learnt from better than nothing learnt does, and refuses what is not its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archiver.codec import codebook, embedding
from archiver.errors import RecordCorrupt

DIMENSIONS = 64


def _book() -> codebook.Codebook:
    rng = np.random.default_rng(3)
    axes = np.linalg.qr(rng.normal(size=(DIMENSIONS, DIMENSIONS)))[0].reshape(8, 8, DIMENSIONS)
    parts = (rng.normal(size=DIMENSIONS), axes, rng.normal(size=(8, 16, 8)))
    return codebook.Codebook(*(part.astype(np.float16) for part in parts))


BOOK = _book()


def collection(seed: int, number: int = 3000) -> NDArray[np.float32]:
    """Embeddings around 24 subjects, as those of photographs are: not spread evenly."""
    subjects = np.random.default_rng(7).normal(size=(24, DIMENSIONS))
    rng = np.random.default_rng(seed)
    mixed = subjects[rng.integers(0, 24, number)] + 0.6 * rng.normal(size=(number, DIMENSIONS))
    return (mixed * rng.uniform(0.5, 2, (number, 1))).astype(np.float32)


@pytest.fixture(scope="module")
def books() -> dict[int, codebook.Codebook]:
    return {groups: codebook.learn(collection(0), groups) for groups in (4, 8, 16, 32)}


def cosines(vectors: NDArray[np.float32], decoded: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(decoded, axis=1)
    quotients: NDArray[np.float32] = (vectors * decoded).sum(1) / lengths
    return quotients


def test_more_groups_come_nearer_and_cost_a_byte_each(books: dict[int, codebook.Codebook]) -> None:
    unseen = collection(1, 200)
    means = []
    for groups, book in books.items():
        payloads = [codebook.encode(vector, book) for vector in unseen]
        assert {len(payload) for payload in payloads} == {1 + groups}
        decoded = np.stack([codebook.decode(payload, book) for payload in payloads])
        means.append(float(cosines(unseen, decoded).mean()))
        assert np.abs(np.linalg.norm(decoded, axis=1) / np.linalg.norm(unseen, axis=1) - 1).max() < 0.03
    assert means == sorted(means)
    assert means[0] > 0.7 and means[-1] > 0.97


def test_what_is_learnt_is_worth_more_than_as_many_bits_of_nothing_learnt(books: dict[int, codebook.Codebook]) -> None:
    unseen = collection(1, 200)
    learnt = np.stack([codebook.decode(codebook.encode(vector, books[8]), books[8]) for vector in unseen])
    plain = np.stack([embedding.quantise(vector, 2).vector() for vector in unseen])  # 64 bits, as 8 groups are
    assert cosines(unseen, learnt).mean() > cosines(unseen, plain).mean() + 0.05


def test_the_same_collection_gives_the_same_codebook(books: dict[int, codebook.Codebook]) -> None:
    again = codebook.learn(collection(0), 8)
    assert all(np.array_equal(part, books[8].parts[name]) for name, part in again.parts.items())
    assert not np.array_equal(codebook.learn(collection(0), 8, seed=1).vectors, books[8].vectors)


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(deadline=None, max_examples=50)
def test_what_was_decoded_is_finite_and_as_long(seed: int, scale: float) -> None:
    vector = (scale * np.random.default_rng(seed).normal(size=DIMENSIONS)).astype(np.float32)
    payload = codebook.encode(vector, BOOK)
    decoded = codebook.decode(payload, BOOK)
    assert np.isfinite(decoded).all()
    assert payload[0] == codebook.encode(decoded, BOOK)[0]  # the norm


@given(st.binary(max_size=40))
def test_hostile_payloads_are_refused_or_decoded(rest: bytes) -> None:
    with suppress(RecordCorrupt):
        assert codebook.groups_of(rest) == len(rest) - 1
        assert np.isfinite(codebook.decode(rest, BOOK)).all()
        assert len(rest) == 1 + BOOK.groups


@pytest.mark.parametrize("size", [0, 1, 258])
def test_a_payload_of_no_codebook_is_refused_without_one(size: int) -> None:
    with pytest.raises(RecordCorrupt, match="learnt embedding"):
        codebook.groups_of(bytes(size))


def test_a_vector_that_the_codebook_lacks_is_refused() -> None:
    with pytest.raises(RecordCorrupt, match="does not have"):
        codebook.decode(bytes((128, *[16] * BOOK.groups)), BOOK)


def test_what_all_pictures_share_costs_nothing() -> None:
    """Embeddings of real networks lie in a narrow cone: what is left beside its axis is what is to be coded."""
    shared = 4 * np.random.default_rng(5).normal(size=DIMENSIONS)
    book = codebook.learn((collection(0) + shared).astype(np.float32), 8)
    unseen = (collection(1, 200) + shared).astype(np.float32)
    decoded = np.stack([codebook.decode(codebook.encode(vector, book), book) for vector in unseen])
    centre = unseen.mean(0)
    assert cosines(unseen - centre, decoded - centre).mean() > 0.8
    assert np.abs(book.mean.astype(np.float64) @ shared / np.linalg.norm(book.mean) / np.linalg.norm(shared) - 1) < 0.01


def test_groups_are_of_equal_worth() -> None:
    """One dimension in two spreads ten times as far: dealt out in order, half of the groups would get all there is."""
    spread = np.where(np.arange(DIMENSIONS) % 2, 1.0, 10.0)
    rng = np.random.default_rng(2)
    points = (rng.normal(size=(4000, DIMENSIONS)) * spread + 100).astype(np.float32)  # far off: lengths are all alike
    book = codebook.learn(points, DIMENSIONS // 6)
    variances = book.axes.astype(np.float64) ** 2 @ spread**2  # of each axis: about 100 or 1
    wide = (variances > 50).sum(1)
    assert wide.max() - wide.min() <= 1


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(63, np.float16)},
        {"vectors": np.zeros((8, 16, 5), np.float16)},
        {"vectors": np.zeros((8, 1, 8), np.float16)},
        {"vectors": np.zeros((8, 257, 8), np.float16)},
        {"vectors": np.zeros((8, 16), np.float16)},
        {"mean": np.zeros(DIMENSIONS, np.float32)},
        {"mean": np.full(DIMENSIONS, np.nan, np.float16)},
    ],
)
def test_parts_that_do_not_go_together_are_no_codebook(change: dict[str, NDArray[Any]]) -> None:
    with pytest.raises(ValueError, match=r"codebook|axes"):
        codebook.Codebook(**(BOOK.parts | change))


def test_a_zero_embedding_stays_zero(books: dict[int, codebook.Codebook]) -> None:
    assert not codebook.decode(codebook.encode(np.zeros(DIMENSIONS, np.float32), books[8]), books[8]).any()


@pytest.mark.parametrize(("groups", "count"), [(0, 16), (65, 16), (8, 1), (8, 257), (8, 200)])
def test_a_codebook_that_cannot_be_is_refused(groups: int, count: int) -> None:
    with pytest.raises(ValueError, match="no codebook"):
        codebook.learn(collection(0, 100), groups, count)


@pytest.mark.parametrize("vector", [np.zeros(63, np.float32), np.full(DIMENSIONS, np.nan, np.float32)])
def test_what_cannot_be_coded_is_refused(books: dict[int, codebook.Codebook], vector: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="finite"):
        codebook.encode(vector, books[8])
