"""Label maps are kept without loss, in fewer bytes than a general compressor needs."""

from __future__ import annotations

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from made_pictures import label_map as made_map

from archiver.codec import label_map
from archiver.codec.fields import varint
from archiver.errors import RecordCorrupt


@settings(max_examples=60, deadline=None)
@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 31)))
def test_any_map_comes_back(labels: np.ndarray) -> None:
    assert np.array_equal(label_map.decode(label_map.encode(labels, 32)), labels)


@pytest.mark.parametrize("seed", range(5))
def test_a_map_of_regions_comes_back_in_far_fewer_bytes_than_zstd(seed: int) -> None:
    labels = made_map(seed)
    payload = label_map.encode(labels, 32)
    assert np.array_equal(label_map.decode(payload), labels)
    assert len(payload) < 0.7 * len(zstandard.ZstdCompressor(level=19).compress(labels.tobytes()))


@pytest.mark.parametrize("words", [1, 2, 256])
def test_extreme_vocabularies(words: int) -> None:
    labels = (np.arange(16 * 16).reshape(16, 16) % words).astype(np.uint8)
    assert np.array_equal(label_map.decode(label_map.encode(labels, words)), labels)
    plain = np.full((16, 16), words - 1, np.uint8)
    assert np.array_equal(label_map.decode(label_map.encode(plain, words)), plain)
    assert len(label_map.encode(plain, words)) <= 8


def test_a_label_outside_the_vocabulary_is_refused() -> None:
    with pytest.raises(ValueError, match="label 5 of 5"):
        label_map.encode(np.full((2, 2), 5, np.uint8), 5)
    with pytest.raises(ValueError, match="too large"):
        label_map.encode(np.zeros((200, 2), np.uint8), 5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 256), st.integers(1, 24), st.integers(1, 24), st.binary(max_size=100))
def test_hostile_payloads_give_a_map_or_an_error(words: int, rows: int, columns: int, data: bytes) -> None:
    try:
        labels = label_map.decode(varint(words) + varint(rows) + varint(columns) + data)
    except RecordCorrupt:
        return
    assert labels.shape == (rows, columns)
    assert labels.max() < words


@pytest.mark.parametrize("head", [(0, 1, 1), (257, 1, 1), (32, 129, 1), (32, 1, 2**30), (32, 0, 4)])
def test_impossible_sizes_are_refused(head: tuple[int, int, int]) -> None:
    with pytest.raises(RecordCorrupt):
        label_map.decode(b"".join(map(varint, head)) + b"abc")
