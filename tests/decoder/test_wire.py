"""What goes over HTTP comes out as it went in, and what is no such thing is refused within bounds."""

from __future__ import annotations

import struct

import numpy as np
import pytest
import zstandard
from hypothesis import assume, given
from hypothesis import strategies as st

from archiver.decoder import wire
from archiver.decoder.engine import Generated
from archiver.errors import (
    ArchiverError,
    DecoderAnswerInvalid,
    DecoderBusy,
    DecoderFailed,
    DiskFull,
    ProfileUnknown,
    RecordCorrupt,
    RecordVersionUnknown,
)
from tests.decoder.conftest import Small


def picture(seed: int, height: int, width: int) -> Generated:
    return Generated(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8), f"device {seed}")


def test_records_come_out_as_they_went_in(small: Small) -> None:
    assert wire.unpack_records(wire.pack_records(small.records)) == small.records


def test_a_request_holds_no_more_records_than_agreed(small: Small) -> None:
    body = wire.pack_records(small.records[:1] * (wire.MOST_RECORDS + 1))
    with pytest.raises(RecordCorrupt, match="more than"):
        wire.unpack_records(body)
    assert len(wire.unpack_records(body[: -len(small.records[0].to_bytes())])) == wire.MOST_RECORDS


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser_of_requests(body: bytes) -> None:
    with pytest.raises((RecordCorrupt, RecordVersionUnknown)):
        wire.unpack_records(body)


def test_pictures_come_out_bit_for_bit_with_their_devices() -> None:
    pictures = [picture(0, 48, 64), picture(1, 1, 1), picture(2, 64, 16)]
    found = wire.unpack_pictures(b"".join(map(wire.pack_picture, pictures)), 3, "there")
    for one, other in zip(pictures, found, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.device == other.device


@given(st.data())
def test_a_damaged_answer_is_refused(data: st.DataObject) -> None:
    body = wire.pack_picture(picture(0, 8, 8)) + wire.pack_picture(picture(1, 4, 8))
    cut = data.draw(st.integers(0, len(body) - 1))
    with pytest.raises(DecoderAnswerInvalid, match="there"):
        wire.unpack_pictures(body[:cut], 2, "there")
    damaged = data.draw(st.binary(max_size=100)) + body[1:]
    assume(damaged != body)
    with pytest.raises(DecoderAnswerInvalid):
        wire.unpack_pictures(damaged, 2, "there")


@pytest.mark.parametrize("claimed", [(4096, 4096), (8, 9), (0, 8), (65535, 65535)])
def test_an_answer_cannot_make_a_caller_reserve_what_it_does_not_hold(claimed: tuple[int, int]) -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(8 * 8 * 3))
    head = struct.pack(">4sBHHII", b"ARP1", 0, *claimed, len(bomb), __import__("zlib").crc32(bomb))
    with pytest.raises(DecoderAnswerInvalid):
        wire.unpack_pictures(head + bomb, 1, "there")


@pytest.mark.parametrize(
    "error", [ProfileUnknown(profile="00ff"), DecoderBusy(where="there", waiting=7), RecordCorrupt(problem="{braces}")]
)
def test_a_failure_is_raised_here_as_it_was_there(error: ArchiverError) -> None:
    found = wire.unpack_error(wire.pack_error(error), "https://gpu.example")
    assert type(found) is type(error)
    assert found.message == error.message.replace("there", "https://gpu.example")


def test_a_decoder_tells_nothing_that_is_no_caller_s_business() -> None:
    found = wire.unpack_error(wire.pack_error(DiskFull(path="/secret/place")), "there")
    assert isinstance(found, DecoderFailed)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"{}",
        b"[" * 100_000,
        b'{"error": "ArchiverError", "facts": {}}',
        b'{"error": "DiskFull", "facts": {"path": "x"}}',
        b'{"error": "DecoderBusy", "facts": {}}',
        b'{"error": "open", "facts": {}}',
        b'{"error": ["x"], "facts": {}}',
        b'{"error": "RecordCorrupt", "facts": 3}',
    ],
)
def test_no_answer_raises_what_it_likes(body: bytes) -> None:
    assert isinstance(wire.unpack_error(body, "there"), DecoderAnswerInvalid)
