"""Embeddings come back in nearly their direction and nearly their length, from less than two bits a dimension."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archiver.codec import embedding
from archiver.errors import RecordCorrupt


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("levels", "floor", "size"), [(2, 0.77, 36), (3, 0.88, 55), (4, 0.93, 68), (8, 0.97, 100), (16, 0.99, 132)]
)
def test_more_levels_come_nearer(levels: int, floor: float, size: int) -> None:
    rng = np.random.default_rng(0)
    for scale in (0.01, 1.0, 50.0):
        vector = (scale * rng.normal(size=256)).astype(np.float32)
        payload = embedding.encode(embedding.quantise(vector, levels))
        decoded = embedding.decode(payload).vector()
        assert len(payload) == size
        assert cosine(vector, decoded) > floor
        assert abs(np.linalg.norm(decoded) / np.linalg.norm(vector) - 1) < 0.03


@given(st.integers(64, 1024), st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=40)
def test_one_two_and_four_bits_a_dimension_cost_that_and_come_nearer(dimensions: int, seed: int) -> None:
    vector = np.random.default_rng(seed).standard_t(4, size=dimensions).astype(np.float32)
    found = []
    for bits in (1, 2, 4):
        payload = embedding.encode(embedding.quantise(vector, 2**bits))
        head = 3 if dimensions < 128 else 4
        assert len(payload) == head + -(-bits * dimensions // 8)
        found.append(cosine(vector, embedding.decode(payload).vector()))
    assert found == sorted(found)
    assert found[0] > 0.7 and found[1] > 0.9 and found[2] > 0.985


def test_the_rotation_protects_embeddings_with_few_large_entries() -> None:
    vector = np.zeros(256, np.float32)
    vector[[3, 90]] = 5, -2
    assert cosine(vector, embedding.quantise(vector, 3).vector()) > 0.85


@given(st.integers(1, 300), st.sampled_from(embedding.LEVELS), st.integers(0, 15), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_codes_come_back_exactly(dimensions: int, levels: int, rotation: int, seed: int) -> None:
    vector = np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    code = embedding.quantise(vector, levels, rotation)
    decoded = embedding.decode(embedding.encode(code))
    assert np.array_equal(decoded.codes, code.codes)
    assert (decoded.levels, decoded.rotation, decoded.norm) == (levels, rotation, code.norm)


@pytest.mark.parametrize("dimensions", [1, 7, 256, 768, 1280])
def test_rotations_keep_lengths_and_can_be_undone(dimensions: int) -> None:
    vectors = np.random.default_rng(1).normal(size=(3, dimensions))
    rotated = embedding.rotate(vectors, 5)
    assert np.allclose(np.linalg.norm(rotated, axis=1), np.linalg.norm(vectors, axis=1))
    assert np.allclose(embedding.unrotate(rotated, 5), vectors)


def test_the_rotation_is_the_same_for_ever() -> None:
    expected = [0.04744, 0.16812, 0.28913, 0.83426, 0.37670, -0.18894, 0.09405, 0.05872]
    assert np.allclose(embedding.rotate(np.eye(8)[0], 0), expected, atol=1e-4)


def test_a_zero_embedding_stays_zero() -> None:
    code = embedding.quantise(np.zeros(256, np.float32), 3)
    assert not embedding.decode(embedding.encode(code)).vector().any()


def test_an_embedding_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        embedding.quantise(np.full(256, np.nan, np.float32), 3)


@given(st.binary(max_size=150))
def test_hostile_payloads_give_a_vector_or_an_error(data: bytes) -> None:
    try:
        vector = embedding.decode(data).vector()
    except RecordCorrupt:
        return
    assert np.isfinite(vector).all()


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x50\x01\x80\x00", b"\x10\x00\x80", b"\x10\x81\x10\x80", b"\x10\x02\x80\xff", b"\x10\x02\x80\x01\x00"],
)
def test_impossible_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        embedding.decode(payload)


def test_records_that_claim_many_dimensions_hold_no_memory() -> None:
    for dimensions in (1000, 1001):  # what is kept in any case
        embedding.unrotate(np.ones(dimensions), 0)
    tracemalloc.start()
    try:
        for dimensions in range(1000, 1020):
            payload = embedding.encode(embedding.EmbeddingCode(2, dimensions % 16, 1.0, np.zeros(dimensions, np.uint8)))
            embedding.decode(payload).vector()
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 5 * 8 * 1020**2


def test_what_one_size_needs_is_computed_once() -> None:
    vector = np.ones(256)
    embedding.rotate(vector, 0)
    before = embedding._basis.cache_info().misses
    for _ in range(3):
        embedding.unrotate(embedding.rotate(vector, 0), 0)
    assert embedding._basis.cache_info().misses == before
