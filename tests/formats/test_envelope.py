"""The envelope: strict, bounded, and found from the front."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.formats.image_samples as made
from archiver.errors import EnvelopeDamaged, ImageRefused, RecordVersionUnknown
from archiver.formats import Envelope, Format, Kind, Metadata, SourceFacts, read_envelope, read_metadata
from archiver.formats.envelope import Storage, seal, unseal

FACTS = SourceFacts(Format.PNG, 123_456, bytes(range(32)), 4000, 3000, 6, "L", -5, 2**63)
ENVELOPE = Envelope(Kind.GENERATED, b"record", FACTS, 0xFFFFFFFF)

facts = st.builds(
    SourceFacts,
    st.sampled_from(Format),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.integers(1, 2**32 - 1),
    st.integers(1, 2**32 - 1),
    st.integers(1, 8),
    st.sampled_from(["L", "RGB"]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 2**64 - 1),
)
envelopes = st.builds(Envelope, st.sampled_from(Kind), st.binary(max_size=2000), facts, st.integers(0, 2**32 - 1))


@given(envelopes, st.binary(max_size=500), st.binary(max_size=20))
def test_an_envelope_survives_with_padding_behind_it(envelope: Envelope, packed: bytes, padding: bytes) -> None:
    sealed = unseal(seal(envelope, Storage.INSIDE, packed) + padding)
    assert sealed.envelope == envelope
    assert sealed.packed == packed


@given(st.data())
def test_one_flipped_bit_is_noticed(data: st.DataObject) -> None:
    good = seal(ENVELOPE)
    at = data.draw(st.integers(4, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((EnvelopeDamaged, RecordVersionUnknown)):
        unseal(bytes(bad))


@given(st.integers(0, 200))
def test_a_cut_envelope_is_noticed(size: int) -> None:
    good = seal(ENVELOPE)
    with pytest.raises(EnvelopeDamaged):
        unseal(good[: min(size, len(good) - 1)])


@given(st.binary(max_size=300))
def test_inconsistent_fields_with_a_right_checksum_are_refused(noise: bytes) -> None:
    body = seal(ENVELOPE)[:16] + noise
    body = body[:12] + struct.pack(">I", len(body) + 4) + body[16:]
    data = body + struct.pack(">I", zlib.crc32(body))
    try:
        unseal(data)
    except EnvelopeDamaged:
        return
    raise AssertionError("noise was taken for an envelope")


def test_a_newer_version_is_named_as_such() -> None:
    data = bytearray(seal(ENVELOPE))
    data[4] = 9
    with pytest.raises(RecordVersionUnknown):
        unseal(bytes(data))


def test_a_record_that_is_too_long_is_refused_when_it_is_written() -> None:
    with pytest.raises(ValueError, match="record"):
        seal(replace(ENVELOPE, record=bytes(70_000)))


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_an_original_carries_no_envelope(name: str) -> None:
    assert read_envelope(io.BytesIO(made.samples()[name])) is None


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"II*\0\x08\0\0\0"])
def test_a_scrap_of_a_file_carries_no_envelope(data: bytes) -> None:
    assert read_envelope(io.BytesIO(data)) is None


def attacked(data: bytes, edits: list[tuple[int, int, int]], cut: int) -> bytes:
    """The file with single bytes set, runs repeated, and its end cut off; most edits hit the headers."""
    bad = bytearray(data)
    for where, value, run in edits:
        at = where % min(len(bad), 3000 if where % 3 else len(bad))
        bad[at : at + run] = bytes([value]) * min(run, len(bad) - at)
    return bytes(bad[: len(bad) - cut % len(bad)])


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(
        ["jpeg-full", "png-full", "webp-full", "tiff-raw", "tiff-big-endian", "tiff-tiff_lzw", "placeholder"]
    ),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 255), st.integers(1, 4)), max_size=8),
    st.one_of(st.just(0), st.integers(0, 10**7)),
)
def test_a_mangled_file_gets_a_named_error_or_none(name: str, edits: list[tuple[int, int, int]], cut: int) -> None:
    data = attacked(victims()[name], edits, cut)
    for reader, errors in (
        (lambda file: made.inspect(file, made.LIMITS), (ImageRefused,)),
        (read_envelope, (EnvelopeDamaged, RecordVersionUnknown)),
        (read_metadata, (ImageRefused, EnvelopeDamaged, RecordVersionUnknown)),
    ):
        try:
            reader(io.BytesIO(data))
        except errors:
            continue


def victims() -> dict[str, bytes]:
    from archiver.formats import build_placeholder

    data = made.samples()["jpeg"]
    found = made.inspected(data)
    placeholder = build_placeholder(made.envelope_for(data), found.metadata, made.PREVIEW)
    return {**made.samples(), "placeholder": placeholder.ljust(9000, b"\0")}


@given(st.binary(max_size=400))
def test_noise_is_not_unpacked_as_metadata(noise: bytes) -> None:
    with pytest.raises(EnvelopeDamaged):
        Metadata.from_bytes(noise)
