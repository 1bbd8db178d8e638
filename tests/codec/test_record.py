"""A record is read as it was written, or refused with a name; whatever the bytes."""

from __future__ import annotations

import zlib
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archiver.codec.record import (
    MAGIC,
    MAX_BODY,
    AttentionGuidance,
    EmbeddingGuidance,
    LinearGuidance,
    Record,
    Sampler,
    Scheme,
    Section,
    SectionKind,
    Steering,
)
from archiver.errors import RecordCorrupt, RecordVersionUnknown

byte = st.integers(0, 255)
nibbles = st.integers(1, 15)
shares = st.integers(1, 255).map(lambda level: level / 255)
steerings = st.builds(
    Steering,
    st.sampled_from(Sampler),
    st.integers(1, 255),
    byte.map(lambda level: level / 16),
    st.none() | shares,
    st.none() | st.builds(LinearGuidance, shares, shares, byte),
    st.booleans(),
    st.none() | st.builds(AttentionGuidance, shares, shares),
    st.none() | st.builds(EmbeddingGuidance, nibbles.map(lambda level: level / 32), nibbles),
)
sections = st.lists(
    st.builds(Section, st.sampled_from(SectionKind), st.binary(max_size=300)), unique_by=lambda s: s.kind
)
records = st.builds(
    Record,
    st.sampled_from(Scheme),
    st.binary(min_size=8, max_size=8),
    st.integers(0, 2**32 - 1),
    st.integers(1, 1 << 20),
    st.integers(1, 1 << 20),
    st.tuples(st.integers(1, 64), st.integers(1, 64)),
    steerings,
    sections.map(tuple),
)
PLAIN = Record(
    Scheme.COCLI,
    b"profile!",
    7,
    4000,
    3000,
    (16, 12),
    Steering(Sampler.DDIM, 20, 2.0),
    (Section(SectionKind.EMBEDDING, b"e"),),
)


def resealed(data: bytes) -> bytes:
    """The bytes with a checksum that fits."""
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "big")


@given(records)
def test_a_record_comes_back_from_its_bytes(record: Record) -> None:
    assert Record.from_bytes(record.to_bytes()) == record


@given(records, st.binary(max_size=50))
def test_a_record_ends_by_itself(record: Record, rest: bytes) -> None:
    data = record.to_bytes()
    assert Record.read(data + rest) == (record, len(data))
    if rest:
        with pytest.raises(RecordCorrupt):
            Record.from_bytes(data + rest)


@given(records, st.data())
def test_every_flipped_bit_is_found(record: Record, data: st.DataObject) -> None:
    whole = bytearray(record.to_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    whole[place] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises((RecordCorrupt, RecordVersionUnknown)):
        Record.from_bytes(bytes(whole))


@given(records, st.data())
def test_every_cut_is_found(record: Record, data: st.DataObject) -> None:
    whole = record.to_bytes()
    with pytest.raises(RecordCorrupt):
        Record.from_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])


@settings(max_examples=500)
@given(st.binary(max_size=200))
def test_hostile_bodies_are_read_or_refused(body: bytes) -> None:
    head = MAGIC + b"\x11" + bytes((len(body) % 128 + 4,))
    try:
        record = Record.from_bytes(resealed(head + body[: len(body) % 128] + bytes(4)))
    except RecordCorrupt:
        return
    assert Record.from_bytes(record.to_bytes()) == record


def test_a_later_version_is_named() -> None:
    data = bytearray(PLAIN.to_bytes())
    data[2] = 5 << 4 | Scheme.COCLI
    with pytest.raises(RecordVersionUnknown, match=r"version 5.*up to 4"):
        Record.from_bytes(resealed(bytes(data)))


def test_a_record_is_written_in_the_lowest_version_that_holds_it() -> None:
    attended = replace(PLAIN, steering=replace(PLAIN.steering, attention=AttentionGuidance(0.1, 0.5)))
    finished = replace(PLAIN, steering=replace(PLAIN.steering, embedding=EmbeddingGuidance(6 / 32, 6)))
    both = replace(finished, steering=replace(finished.steering, attention=attended.steering.attention))
    assert PLAIN.to_bytes()[2] >> 4 == 1
    for newer, lowest in ((attended, 2), (replace(PLAIN, scheme=Scheme.LOSSLESS), 2), (finished, 3), (both, 3)):
        data = bytearray(newer.to_bytes())
        assert data[2] >> 4 == lowest
        for earlier in range(1, lowest):
            data[2] = earlier << 4 | newer.scheme
            with pytest.raises(RecordCorrupt):
                Record.from_bytes(resealed(bytes(data)))
    needless = bytearray(PLAIN.to_bytes())
    needless[2] = 2 << 4 | PLAIN.scheme
    with pytest.raises(RecordCorrupt, match="version 2"):
        Record.from_bytes(resealed(bytes(needless)))


@pytest.mark.parametrize("first", [0x10, 0x18, 0x01])
def test_a_version_or_scheme_that_never_was_is_corrupt(first: int) -> None:
    data = bytearray(PLAIN.to_bytes())
    data[2] = first
    with pytest.raises(RecordCorrupt):
        Record.from_bytes(resealed(bytes(data)))


def test_a_hostile_length_is_refused_before_anything_is_reserved() -> None:
    with pytest.raises(RecordCorrupt, match="length"):
        Record.from_bytes(MAGIC + b"\x11" + b"\xff\xff\xff\xff\x0f")
    with pytest.raises(RecordCorrupt):
        Record.read(MAGIC + b"\x11" + b"\x80\x80\x04" + bytes(4 * MAX_BODY))


def test_a_section_there_twice_is_corrupt() -> None:
    twice = replace(PLAIN, sections=PLAIN.sections * 2)
    with pytest.raises(RecordCorrupt, match="twice"):
        Record.from_bytes(twice.to_bytes())


def test_what_a_record_cannot_hold_is_refused_when_written() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Steering(Sampler.DDIM, 20, 16.0).to_bytes()
    for strength, steps in ((0.0, 6), (0.5, 6), (0.2, 0), (0.2, 16)):
        with pytest.raises(ValueError, match="does not fit"):
            replace(PLAIN.steering, embedding=EmbeddingGuidance(strength, steps)).to_bytes()
    with pytest.raises(ValueError, match="does not fit"):
        replace(PLAIN, width=-1).to_bytes()


def test_the_frame_of_a_record_costs_26_bytes() -> None:
    assert len(PLAIN.to_bytes()) - len(PLAIN.steering.to_bytes()) - len(PLAIN.sections[0].to_bytes()) == 26


def test_scheme_labels_are_those_of_the_configuration() -> None:
    labels = ["sgc", "cocli", "coclico", "g-coclico", "seacom", "seseco", "lossless"]
    assert [scheme.label for scheme in Scheme] == labels
    assert all(Scheme.parse(scheme.label) is scheme for scheme in Scheme)
    with pytest.raises(ValueError, match="no scheme"):
        Scheme.parse("jpeg")
