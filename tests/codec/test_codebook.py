"""A learnt codebook codes what it was learnt from better than nothing learnt does, and refuses what is not its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from archiver.codec import codebook, embedding
from archiver.errors import RecordCorrupt

DIMENSIONS = 64


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
        assert {len(payload) for payload in payloads} == {4 + 1 + groups}
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
    assert np.array_equal(again.vectors, books[8].vectors) and again.name == books[8].name
    assert codebook.learn(collection(0), 8, seed=1).name != books[8].name


@given(st.integers(0, 2**32 - 1), st.floats(0.01, 100))
@settings(deadline=None, max_examples=50)
def test_what_was_decoded_is_coded_the_same_again(seed: int, scale: float) -> None:
    book = codebook.Codebook(np.random.default_rng(3).normal(size=(8, 16, 8)).astype(np.float16))
    vector = (scale * np.random.default_rng(seed).normal(size=DIMENSIONS)).astype(np.float32)
    payload = codebook.encode(vector, book)
    decoded = codebook.decode(payload, book)
    assert np.isfinite(decoded).all()
    assert payload[4] == codebook.encode(decoded, book)[4]  # the norm


@given(st.binary(max_size=40))
def test_hostile_payloads_are_refused_or_decoded(rest: bytes) -> None:
    book = codebook.Codebook(np.random.default_rng(3).normal(size=(8, 16, 8)).astype(np.float16))
    for payload in (rest, book.name + rest):
        try:
            assert np.isfinite(codebook.decode(payload, book)).all()
        except RecordCorrupt:
            continue


def test_another_codebook_is_not_taken_for_the_own(books: dict[int, codebook.Codebook]) -> None:
    payload = codebook.encode(collection(1, 1)[0], books[8])
    with pytest.raises(RecordCorrupt, match="another codebook"):
        codebook.decode(payload, codebook.learn(collection(2), 8))


def test_a_zero_embedding_stays_zero(books: dict[int, codebook.Codebook]) -> None:
    assert not codebook.decode(codebook.encode(np.zeros(DIMENSIONS, np.float32), books[8]), books[8]).any()


@pytest.mark.parametrize(("groups", "count"), [(0, 16), (5, 16), (8, 1), (8, 257), (8, 200)])
def test_a_codebook_that_cannot_be_is_refused(groups: int, count: int) -> None:
    with pytest.raises(ValueError, match="no codebook"):
        codebook.learn(collection(0, 100), groups, count)


@pytest.mark.parametrize("vector", [np.zeros(63, np.float32), np.full(DIMENSIONS, np.nan, np.float32)])
def test_what_cannot_be_coded_is_refused(books: dict[int, codebook.Codebook], vector: NDArray[np.float32]) -> None:
    with pytest.raises(ValueError, match="finite"):
        codebook.encode(vector, books[8])
