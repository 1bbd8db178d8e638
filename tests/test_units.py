"""Durations and sizes as people write them, and back."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.units import about_duration, about_size, format_duration, format_size, parse_duration, parse_size


@given(st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=36500)))
def test_durations_read_back_exactly(value: timedelta) -> None:
    assert parse_duration(format_duration(value)) == value


@given(st.integers(0, 10**18))
def test_sizes_read_back_exactly(value: int) -> None:
    assert parse_size(format_size(value)) == value


@given(st.one_of(st.text(), st.floats(), st.booleans(), st.none(), st.dates()))
def test_anything_else_is_refused_as_a_value_error(value: object) -> None:
    for parser in (parse_duration, parse_size):
        try:
            result = parser(value)
        except ValueError:
            continue
        assert isinstance(result, timedelta | int)
        assert isinstance(value, str)


@pytest.mark.parametrize(
    ("text", "seconds"), [("180d", 180 * 86400), ("1.5h", 5400), (" 2 w ", 14 * 86400), ("0s", 0), ("1y", 365 * 86400)]
)
def test_durations_as_people_write_them(text: str, seconds: int) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "size"), [("64 KiB", 65536), ("64kB", 64000), ("1.5 MiB", 3 << 19), ("7", 7), ("2 TB", 2 * 10**12)]
)
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "d", "1", "-1d", "1 month", "1e3s", "٣d", "9" * 12 + "y", "999999999999 y"])
def test_doubtful_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|clock"):
        parse_duration(text)


def test_sentences_round_down_and_count() -> None:
    assert about_duration(timedelta(days=1, hours=23)) == "1 day"
    assert about_duration(timedelta(0)) == "0 seconds"
    assert about_size(4096) == "4.1 kB"
    assert about_size(999) == "999 bytes"
    assert about_size(12_000_000) == "12.0 MB"
    assert [about_size(size) for size in (999_949, 999_999, 999_950_000)] == ["999.9 kB", "1.0 MB", "1.0 GB"]
