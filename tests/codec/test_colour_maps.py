"""Colour maps, plain, as low frequencies and by region, come back as near as their steps say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from made_pictures import label_map as made_map
from made_pictures import photograph

from archiver.codec import colour_map, dct, region_colours
from archiver.codec.colour import from_ycocg, shrink, to_ycocg
from archiver.codec.fields import varint
from archiver.errors import RecordCorrupt

maps = array_shapes(min_dims=2, max_dims=2, max_side=12).flatmap(lambda shape: arrays(np.uint8, (*shape, 3)))
step = st.integers(1, 255)


@given(maps)
def test_the_colour_space_loses_nothing(colours: np.ndarray) -> None:
    assert np.array_equal(from_ycocg(to_ycocg(colours)), colours)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 8), st.integers(1, 8))
def test_a_plain_picture_has_plain_means(height: int, width: int, columns: int, rows: int) -> None:
    assert np.array_equal(
        shrink(np.full((height, width, 3), 77, np.uint8), columns, rows), np.full((rows, columns, 3), 77)
    )


def test_means_are_those_of_the_cells() -> None:
    picture = photograph(1, 64, 48)
    cells = picture.reshape(4, 12, 4, 16, 3).mean((1, 3))
    assert np.abs(shrink(picture, 4, 4) - cells).max() <= 0.5


@settings(deadline=None)
@given(maps)
def test_steps_of_one_lose_nothing(colours: np.ndarray) -> None:
    assert np.array_equal(colour_map.decode(colour_map.encode(colours, 1, 1)), colours)


@settings(deadline=None)
@given(maps, step, step)
def test_a_map_is_within_its_steps(colours: np.ndarray, luma: int, chroma: int) -> None:
    payload = colour_map.encode(colours, luma, chroma)
    decoded = colour_map.decode(payload)
    assert decoded.shape == colours.shape
    assert colour_map.steps(payload) == (luma, chroma)
    # A channel is luma plus or minus at most 3/4 of the chromas; each is off by half a step, plus what is rounded.
    assert np.abs(decoded.astype(int) - colours).max() <= luma / 2 + chroma * 0.75 + 2


def test_a_photograph_s_map_costs_a_fraction_of_its_bytes() -> None:
    colours = shrink(photograph(3), 16, 16)
    assert len(colour_map.encode(colours, 8, 12)) < 0.4 * colours.size


@pytest.mark.parametrize("payload", [b"", b"\x04", b"\x00\x04\x08\x08", b"\x41\x04\x08\x08", b"\x04\x04\x00\x08abc"])
def test_impossible_maps_are_refused(payload: bytes) -> None:
    with pytest.raises(RecordCorrupt):
        colour_map.decode(payload)


@settings(deadline=None)
@given(st.integers(1, 16), st.integers(1, 16), step, step, st.binary(max_size=200))
def test_hostile_maps_give_colours_or_an_error(rows: int, columns: int, luma: int, chroma: int, data: bytes) -> None:
    try:
        decoded = colour_map.decode(varint(rows) + varint(columns) + bytes((luma, chroma)) + data)
    except RecordCorrupt:
        return
    assert decoded.shape == (rows, columns, 3)


# -- low frequencies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 16, 256])
def test_the_dct_is_orthonormal(size: int) -> None:
    assert np.allclose(dct.basis(size) @ dct.basis(size).T, np.eye(size), atol=1e-12)


def test_frequencies_rise_and_none_is_left_out() -> None:
    order = dct.frequency_order(4, 6)
    assert order[0] == (0, 0)
    assert sorted(order) == [(row, column) for row in range(4) for column in range(6)]
    radii = [(row * 6) ** 2 + (column * 4) ** 2 for row, column in order]
    assert radii == sorted(radii)


@settings(deadline=None, max_examples=40)
@given(maps, st.integers(1, 60))
def test_every_coefficient_is_within_half_its_step(colours: np.ndarray, step: int) -> None:
    rows, columns, _ = colours.shape
    decoded = dct.decode(dct.encode(colours, dct.Truncation(4096, 4096, step, step)))
    exact = dct.basis(rows) @ to_ycocg(colours).transpose(2, 0, 1) @ dct.basis(columns).T
    unit = np.sqrt(rows * columns) * step / 4
    within = np.abs(exact) < 100 * unit  # larger ones may be clipped
    assert decoded.mask.all()
    assert np.abs(decoded.coefficients - exact)[within].max(initial=0) <= unit / 2 + 1e-9


def test_few_frequencies_give_a_blurred_map() -> None:
    colours = shrink(photograph(5), 16, 16)
    errors = []
    for kept in (1, 10, 60, 256):
        decoded = dct.decode(dct.encode(colours, dct.Truncation(kept, kept, 2, 2)))
        assert decoded.mask.sum() == 3 * kept
        errors.append(np.abs(decoded.picture().astype(int) - colours).mean())
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 3


def test_low_frequencies_cost_less_than_the_plain_map_at_the_same_error() -> None:
    sizes, errors = np.zeros(2), np.zeros(2)
    for seed in range(4):
        colours = shrink(photograph(seed), 16, 16)
        payloads = colour_map.encode(colours, 16, 32), dct.encode(colours, dct.Truncation(256, 100, 4, 8))
        pictures = colour_map.decode(payloads[0]), dct.decode(payloads[1]).picture()
        sizes += [len(payload) for payload in payloads]
        errors += [np.abs(picture.astype(int) - colours).mean() for picture in pictures]
    assert sizes[1] < sizes[0]
    assert errors[1] < errors[0] * 1.1


@settings(deadline=None)
@given(st.lists(st.integers(0, 300), min_size=4, max_size=4), step, step, st.binary(max_size=100))
def test_hostile_frequencies_give_a_map_or_an_error(head: list[int], luma: int, chroma: int, data: bytes) -> None:
    try:
        decoded = dct.decode(b"".join(map(varint, head)) + bytes((luma, chroma)) + data)
    except RecordCorrupt:
        return
    assert decoded.picture().shape == (head[0], head[1], 3)


# -- by region ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(16, 16), (16, 11), (1, 1), (5, 16)])
def test_refined_regions_are_within_their_steps(size: tuple[int, int]) -> None:
    columns, rows = size
    colours = shrink(photograph(9), columns, rows)
    labels = made_map(4, rows * 2, columns * 2, regions=3)
    decoded, detail = region_colours.decode(region_colours.encode(colours, labels, 8, 12), labels)
    assert decoded.shape == colours.shape
    assert set(np.unique(detail)) <= {0.5, 1.0}
    fine = detail == 1
    assert np.abs(decoded.astype(int) - colours)[fine].max(initial=0) <= 4 + 9 + 2


def test_only_regions_with_detail_are_refined() -> None:
    colours = np.full((16, 16, 3), 100, np.uint8)
    colours[:, 8:] = photograph(2)[::16, 128::16]
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 1
    _, detail = region_colours.decode(region_colours.encode(colours, labels, 8, 12), labels)
    assert (detail[:, :8] == 0.5).all()
    assert (detail[:, 8:] == 1).all()


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_hostile_region_colours_give_a_map_or_an_error(data: bytes) -> None:
    labels = made_map(1, 8, 8, regions=3)
    coarse = colour_map.encode(np.zeros((2, 2, 3), np.uint8), 8, 8)
    for payload in (data, b"\x04\x04" + varint(len(coarse)) + coarse + data):
        try:
            decoded, detail = region_colours.decode(payload, labels)
        except RecordCorrupt:
            continue
        assert decoded.shape[:2] == detail.shape
