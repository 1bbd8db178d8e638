"""The entropy coder gives back what went in, in as few bytes as the model says."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archiver.codec.entropy import SymbolReader, SymbolWriter, two_sided_geometric
from archiver.errors import RecordCorrupt

weights = st.lists(st.integers(1, 1 << 20), min_size=1, max_size=40)
choices = st.lists(
    weights.flatmap(lambda model: st.tuples(st.just(model), st.integers(0, len(model) - 1))), max_size=80
)


@given(choices)
def test_symbols_come_back(symbols: list[tuple[list[int], int]]) -> None:
    writer = SymbolWriter()
    for model, symbol in symbols:
        assert writer.code(model, symbol) == symbol
    reader = SymbolReader(writer.to_bytes())
    assert [reader.code(model) for model, _ in symbols] == [symbol for _, symbol in symbols]
    reader.finish("all")


@given(choices, st.binary(min_size=1, max_size=8))
def test_bytes_left_over_are_refused(symbols: list[tuple[list[int], int]], rest: bytes) -> None:
    writer = SymbolWriter()
    for model, symbol in symbols:
        writer.code(model, symbol)
    reader = SymbolReader(writer.to_bytes() + rest)
    with pytest.raises(RecordCorrupt):
        for model, _ in symbols:
            reader.code(model)
        reader.finish("all")


@given(choices)
def test_the_bytes_are_as_few_as_the_model_promises(symbols: list[tuple[list[int], int]]) -> None:
    writer = SymbolWriter()
    bits = 0.0
    for model, symbol in symbols:
        writer.code(model, symbol)
        bits -= math.log2(model[symbol] / sum(model))
    # 24-bit probabilities cost a little where a weight is tiny; the cut to whole bytes costs one byte at most.
    assert len(writer.to_bytes()) <= bits * 1.01 / 8 + 2


def test_no_symbols_cost_nothing() -> None:
    assert SymbolWriter().to_bytes() == b""


@settings(max_examples=300)
@given(st.binary(max_size=64), st.lists(weights, max_size=200))
def test_hostile_bytes_give_symbols_of_the_model_or_an_error(data: bytes, models: list[list[int]]) -> None:
    reader = SymbolReader(data)
    try:
        for model in models:
            assert 0 <= reader.code(model) < len(model)
    except RecordCorrupt:
        pass


def test_bits_that_no_encoder_writes_are_named_corrupt() -> None:
    reader = SymbolReader(b"\xff" * 16)
    with pytest.raises(RecordCorrupt):
        for _ in range(100):
            reader.code((1, 5, 1000))


@given(st.integers(-300, 300), st.integers(0, 5000))
def test_every_value_in_range_has_a_weight_and_the_centre_the_highest(centre: int, spread: int) -> None:
    model = two_sided_geometric(centre, -255, 255, spread)
    assert len(model) == 511
    assert min(model) >= 1
    assert model[min(max(centre, -255), 255) + 255] == max(model)
