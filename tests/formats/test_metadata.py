"""Metadata: lossless but for thumbnails, small, and readable for ever."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from importlib.resources import files

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import tests.formats.image_samples as made
from archiver.errors import EnvelopeDamaged, ImageRefused
from archiver.formats import Block, Format, Metadata, Refusal, build_placeholder, ifd, packing, read_metadata

blocks = st.builds(Block, st.binary(min_size=1, max_size=8), st.binary(max_size=300))


@given(st.sampled_from(Format), st.lists(blocks, max_size=12))
def test_packing_loses_nothing(fmt: Format, parts: list[Block]) -> None:
    metadata = Metadata(fmt, tuple(parts))
    assert Metadata.from_bytes(metadata.to_bytes()) == metadata


def test_the_shipped_dictionary_never_changes() -> None:
    """Records in the field were packed with these bytes. A better dictionary gets a new number beside it."""
    data = files("archiver.formats").joinpath("metadata-1.zdict").read_bytes()
    assert hashlib.sha256(data).hexdigest() == "d6336ba8e6c4d1e3f2e55cc90fa7b4c87055efa38f49f244da1eec5a4d229b92"


def test_bytes_packed_by_the_first_release_can_be_read() -> None:
    packed = bytes.fromhex(
        "414d01405380f628b52ffd60a400c50900740f00017a054a0b50065c2588564d616b657200434f6e657a7c92078e30313930"
        "342031323a30300405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e"
        "2f303132333435363738393a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f60"
        "6162636465666768696a6b6c6d6e6f707172737475767778797a7b7c7d7e7f808182838485868788898a8b8c8d8e8f909192"
        "939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9babbbcbdbebfc0c1c2c3c4"
        "c5c6c7024efe096120636f6d6d656e741afc003abfca8a3c0c3cfcd4a92553598c5c41cd12502a1a0b39b6a58413adb85c13"
        "e374dacbb03aaa155435aaf67883b4aee46a0d3af6cc0e99b35c9bad05"
    )
    assert Metadata.from_bytes(packed) == golden()


def golden() -> Metadata:
    return Metadata(
        Format.JPEG,
        (
            Block(b"\xe0", b"JFIF\0\1\1\1\0H\0H\0\0"),
            Block(b"\xe1", b"Exif\0\0" + made.exif(6)),
            Block(b"\xfe", b"a comment"),
        ),
    )


def test_the_usual_camera_metadata_packs_into_a_fraction() -> None:
    metadata = made.inspected(made.samples()["jpeg-full"]).metadata
    assert len(metadata.to_bytes()) < metadata.size() / 3


def test_a_bomb_is_refused_before_it_is_unpacked() -> None:
    dictionary = zstandard.ZstdCompressionDict(files("archiver.formats").joinpath("metadata-1.zdict").read_bytes())
    frame = zstandard.ZstdCompressor(dict_data=dictionary, write_dict_id=False).compress(bytes(50_000_000))
    bomb = struct.pack(">2sBI", packing.MAGIC, packing.DICTIONARY, zlib.crc32(frame)) + frame
    with pytest.raises(EnvelopeDamaged, match="impossible size"):
        Metadata.from_bytes(bomb)


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_thumbnail_is_dropped_and_nothing_else_moves(order: str) -> None:
    with_it = made.exif(3, thumbnail=True, order=order)
    without = ifd.without_thumbnail(with_it)
    plain = made.exif(3, order=order)
    assert without == plain, "what lay before the thumbnail must stay where it was"
    assert ifd.without_thumbnail(without) == without


def test_a_thumbnail_in_the_middle_leaves_zeros_so_that_offsets_stay_right() -> None:
    note = b"maker note far behind"
    data = bytearray(made.exif(1, thumbnail=True))
    field_at = data.index(struct.pack("<HHI", 0x0110, 2, 11)) + 8
    struct.pack_into("<I", data, field_at - 4, len(note))
    struct.pack_into("<I", data, field_at, len(data))
    data += note
    stripped = ifd.without_thumbnail(bytes(data))
    assert len(stripped) == len(data)
    assert stripped.endswith(note)
    assert b"\xff\xd8\xff" not in stripped
    assert Image.Exif().load(stripped) is None


def test_a_thumbnail_that_claims_the_main_directory_takes_nothing_from_it() -> None:
    data = bytearray(made.exif(6, thumbnail=True))
    at = data.index(struct.pack("<HHII", 0x0201, 4, 1, struct.unpack_from("<I", data, data.index(b"\1\2\4\0") + 8)[0]))
    struct.pack_into("<I", data, at + 8, 0)
    assert ifd.orientation(ifd.without_thumbnail(bytes(data))) == 6


@given(st.binary(max_size=300))
def test_exif_that_cannot_be_read_is_kept_as_it_is(noise: bytes) -> None:
    assert ifd.without_thumbnail(b"XX" + noise) == b"XX" + noise


@given(st.binary(max_size=400))
def test_any_exif_block_can_be_asked_for_its_orientation(noise: bytes) -> None:
    assert 1 <= ifd.orientation(b"II*\0\x08\0\0\0" + noise) <= 8
    ifd.without_thumbnail(b"II*\0\x08\0\0\0" + noise)


def test_directories_that_point_at_each_other_do_not_hang() -> None:
    fields = tuple((0x8769, 4, b"\x08\0\0\0") for _ in range(2000))
    loop = ifd.header("<", 8) + ifd.serialise(ifd.Tree(fields), "<", 8)
    assert ifd.without_thumbnail(loop) == loop
    assert ifd.orientation(loop) == 1


def test_a_pointer_without_a_value_is_no_directory() -> None:
    """Of no values there is no first one: such a tag must not end the run that meets it."""
    empty = struct.pack("<HHII", ifd.EXIF_IFD, ifd.LONG, 0, 0)
    exif = ifd.header("<", 8) + struct.pack("<H", 1) + empty + struct.pack("<I", 26) + struct.pack("<HI", 0, 0)
    assert ifd.without_thumbnail(exif) == exif
    assert made.inspected(made.jpeg(made.photo(), exif=b"Exif\0\0" + exif)).orientation == 1

    tiff = made.full_tiff()
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, at)
    fields = [tiff[at + 2 + 12 * number :][:12] for number in range(count)]
    fields = sorted([*(one for one in fields if one[:2] != empty[:2]), empty], key=lambda one: one[1::-1])
    table = struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)
    with pytest.raises(ImageRefused) as caught:
        made.inspected(tiff[:4] + struct.pack("<I", len(tiff)) + tiff[8:] + table)
    assert caught.value.facts["reason"] is Refusal.CORRUPT


def test_thumbnails_are_in_no_kept_block() -> None:
    for name in ("jpeg-full", "png-full", "webp-full"):
        metadata = made.inspected(made.samples()[name]).metadata
        assert not any(b"\xff\xd8\xff" in block.data for block in metadata), name
    assert not any(b"8BIM\4\x0c" in block.data for block in made.inspected(made.samples()["jpeg-full"]).metadata)


def test_a_jpeg_keeps_every_block_in_order() -> None:
    blocks = made.inspected(made.samples()["jpeg-full"]).metadata.blocks
    starts = [block.data[:12] for block in blocks]
    assert [start.split(b"\0")[0][:10] for start in starts] == [
        b"JFIF",
        b"Exif",
        b"http://ns.",
        b"http://ns.",
        b"ICC_PROFIL",
        b"ICC_PROFIL",
        b"Photoshop ",
        b"Ducky",
        b"a comment",
        b"and anothe",
    ]
    assert b"Alice" in blocks[6].data


def test_a_tiff_keeps_its_descriptive_tags_and_byte_order() -> None:
    metadata = made.inspected(made.samples()["tiff-big-endian"]).metadata
    assert metadata.blocks[0] == Block(b"MM", b"")
    tags = {struct.unpack(">HH", block.kind)[0] for block in metadata.blocks[1:]}
    assert tags == {270, 274, 282, 34665}


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_reading_metadata_agrees_with_inspection(name: str) -> None:
    data = made.samples()[name]
    assert read_metadata(io.BytesIO(data)) == made.inspected(data).metadata


def test_metadata_that_vanished_behind_a_cut_placeholder_is_reported_as_damage() -> None:
    data = made.with_segments(made.samples()["jpeg"], (0xED, made.np.random.default_rng(2).bytes(9000)))
    head = build_placeholder(made.envelope_for(data), made.inspected(data).metadata, made.PREVIEW)
    assert len(head) > 4096
    with pytest.raises(EnvelopeDamaged, match="behind the first block"):
        read_metadata(io.BytesIO(head[:4096]))
