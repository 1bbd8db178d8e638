"""Attention maps come back exactly as quantised, nearer with more bits, in few bytes, whatever they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import attention

from archiver.codec import attention_map
from archiver.errors import RecordCorrupt

shapes = st.tuples(st.integers(1, 5), st.integers(1, 12), st.integers(1, 12))


@given(shapes, st.sampled_from(attention_map.BITS), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_maps_come_back_exactly(shape: tuple[int, int, int], bits: int, seed: int) -> None:
    maps = attention_map.quantise(attention(seed, *shape), bits)
    found = attention_map.decode(attention_map.encode(maps))
    assert found.bits == bits
    assert np.array_equal(found.levels, maps.levels)


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_more_bits_come_nearer_and_cost_more(seed: int) -> None:
    received = attention(seed)
    errors, sizes = [], []
    for bits in attention_map.BITS:
        maps = attention_map.quantise(received, bits)
        errors.append(float(np.square(maps.octaves() - np.log2(received.clip(1 / 8, 8))).mean()))
        sizes.append(len(attention_map.encode(maps)))
    assert errors == sorted(errors, reverse=True) and sizes == sorted(sizes)
    assert errors[-1] < errors[0] / 4
    assert sizes[-1] <= 4 * 64 * 4 // 8 + 8  # not more than the levels in plain bits, and a head


@given(shapes, st.sampled_from(attention_map.BITS), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_share_within_the_scale_is_missed_by_half_a_level_at_most(
    shape: tuple[int, int, int], bits: int, seed: int
) -> None:
    received = np.random.default_rng(seed).uniform(1 / 8, 8, shape).astype(np.float32)
    missed = np.abs(attention_map.quantise(received, bits).octaves() - np.log2(received))
    assert missed.max() <= 3 / 2**bits + 1e-4


def test_even_attention_costs_next_to_nothing() -> None:
    even = attention_map.encode(attention_map.quantise(np.ones((4, 8, 8), np.float32), 3))
    assert len(even) < 30


@pytest.mark.parametrize("shape", [(0, 8, 8), (17, 8, 8), (4, 33, 8), (4, 8, 33), (64, 8)])
def test_maps_that_the_format_does_not_hold_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no attention maps"):
        attention_map.quantise(np.ones(shape, np.float32), 3)


@pytest.mark.parametrize("share", [np.nan, np.inf, -0.5])
def test_what_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        attention_map.quantise(np.full((1, 2, 2), share, np.float32), 3)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=300)
def test_hostile_payloads_give_maps_or_an_error(data: bytes) -> None:
    try:
        octaves = attention_map.decode(data).octaves()
    except RecordCorrupt:
        return
    assert np.abs(octaves).max() < 3


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x04\x08\x08", b"\x04\x08\x08\x05", b"\x00\x08\x08\x02", b"\x11\x08\x08\x02", b"\x04\x21\x08\x02"],
)
def test_impossible_payloads_are_refused(payload: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        attention_map.decode(payload)
