"""What is accepted, and why anything else stays resident."""

from __future__ import annotations

import io
import random
import re
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

import tests.formats.image_samples as made
from archiver.codec.record import MAX_SIDE
from archiver.errors import ImageRefused
from archiver.formats import (
    Format,
    Label,
    Limits,
    Refusal,
    build_placeholder,
    encode_exact,
    load_picture,
    sniff,
    survey,
)
from archiver.formats.pixels import decode

DOCS = Path(__file__).parents[2] / "docs" / "formats.md"


def refusal(data: bytes, limits: Limits = made.LIMITS) -> tuple[Refusal, str]:
    with pytest.raises(ImageRefused) as caught:
        made.inspect(io.BytesIO(data), limits)
    return caught.value.facts["reason"], str(caught.value.facts["detail"])


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_a_photograph_is_accepted_with_its_shape_orientation_and_mode(name: str) -> None:
    data = made.samples()[name]
    found = made.inspected(data)
    assert found.format == name.partition("-")[0] == sniff(data[:12])
    with Image.open(io.BytesIO(data)) as image:
        stored = (image.size[1], image.size[0]) if found.format is Format.TIFF and found.orientation > 4 else image.size
        assert (found.width, found.height) == stored
        assert found.mode == image.mode
    numbered = re.search(r"turned-(\d)", name)
    assert found.orientation == (int(numbered[1]) if numbered else found.orientation)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "tiff"])
def test_the_picture_is_loaded_upright_whatever_its_stored_orientation(kind: str, orientation: int) -> None:
    from archiver.formats.pixels import to_stored

    data = made.turned(orientation)
    if kind == "tiff":
        info = {274: orientation}
        data = made.saved(to_stored(made.photo(noise=4), orientation), "TIFF", tiffinfo=info)
    found = made.inspected(data)
    assert found.orientation == orientation
    picture = load_picture(io.BytesIO(data), found, 160, 16)
    assert (picture.width, picture.height) == (320, 240)
    assert picture.pixels.shape == (128, 160, 3)
    wanted = np.asarray(made.photo(noise=0).resize((160, 128)), dtype=float)
    assert np.abs(picture.pixels - wanted).mean() < 4


def test_a_colour_profile_is_applied_when_the_picture_is_loaded() -> None:
    data = made.samples()["png-icc"]
    picture = load_picture(io.BytesIO(data), made.inspected(data), 160, 16)
    values = np.asarray(made.photo(noise=0).resize((160, 128)), dtype=float)
    assert np.abs(picture.pixels - values).mean() > 8, "the profile was ignored"


def test_a_greyscale_picture_is_loaded_as_three_equal_channels() -> None:
    data = made.samples()["jpeg-grey"]
    pixels = load_picture(io.BytesIO(data), made.inspected(data), 128, 16).pixels
    assert (pixels[..., 0] == pixels[..., 1]).all()
    assert (pixels[..., 0] == pixels[..., 2]).all()


def test_a_profile_for_another_colour_model_is_kept_but_not_applied() -> None:
    data = made.jpeg(made.photo(mode="L"), quality=90, icc_profile=made.srgb_profile())
    found = made.inspected(data)
    with_profile = load_picture(io.BytesIO(data), found, 64, 16).pixels
    plain = made.samples()["jpeg-grey"]
    assert (with_profile == load_picture(io.BytesIO(plain), made.inspected(plain), 64, 16).pixels).all()
    generated = encode_exact(with_profile, made.envelope_for(data), found.metadata, made.LABEL)
    with Image.open(io.BytesIO(generated)) as image:
        assert image.mode == "L"
        assert image.info["icc_profile"] == made.srgb_profile()


def apng() -> bytes:
    frames = [made.photo(), made.photo(noise=3)]
    return made.saved(frames[0], "PNG", save_all=True, append_images=frames[1:])


def animated_webp() -> bytes:
    frames = [made.photo(), made.photo(noise=3)]
    return made.saved(frames[0], "WEBP", save_all=True, append_images=frames[1:])


def multi_page_tiff() -> bytes:
    return made.saved(made.photo(), "TIFF", save_all=True, append_images=[made.photo(noise=3)])


def jpeg_of_12_bits() -> bytes:
    data = bytearray(made.samples()["jpeg"])
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def dng() -> bytes:
    return made.saved(made.photo(), "TIFF", tiffinfo={50706: b"\1\4\0\0"})


def signed_jpeg() -> bytes:
    return made.with_segments(
        made.samples()["jpeg"], (0xEB, b"JP\0\1\0\0\0\1\0\0\0\x30jumb\0\0\0\x1ejumdc2pa" + bytes(40))
    )


def signed_png() -> bytes:
    return made.with_chunks(made.samples()["png"], (b"caBX", bytes(50)))


def rgba(value: int) -> Image.Image:
    image = made.photo().convert("RGBA")
    image.putalpha(value)
    return image


def placeholder() -> bytes:
    data = made.samples()["jpeg"]
    return build_placeholder(made.envelope_for(data), made.inspected(data).metadata, made.PREVIEW).ljust(9000, b"\0")


def damaged_placeholder() -> bytes:
    data = bytearray(placeholder())
    data[data.index(b"ARCV") + 40] ^= 1
    return bytes(data)


def generated() -> bytes:
    data = made.samples()["jpeg"]
    pixels = np.asarray(made.photo())
    return encode_exact(pixels, made.envelope_for(data), made.inspected(data).metadata, made.LABEL)


def cut(name: str) -> bytes:
    data = made.samples()[name]
    return data[: len(data) * 2 // 3]


def zero_tailed(name: str) -> bytes:
    return cut(name).ljust(len(made.samples()[name]), b"\0")


def flipped_png() -> bytes:
    data = bytearray(made.samples()["png"])
    data[len(data) // 2] ^= 0x10
    return bytes(data)


def own_directory() -> bytes:
    data = made.big_endian_tiff()
    at = data.index(struct.pack(">HHI", 282, 5, 1))
    return data[: at + 2] + struct.pack(">HII", 13, 1, 8) + data[at + 12 :]


def narrow() -> bytes:
    """Much metadata and hardly a picture: the label would not fit."""
    return made.with_segments(made.jpeg(made.photo(64, 64), quality=5), (0xFE, bytes(range(256)) * 20))


def full_of_metadata() -> bytes:
    return made.with_segments(made.samples()["jpeg"], *[(0xFE, b"x" * 60_000)] * 18)


def xmp_with(packet: bytes) -> bytes:
    return made.with_segments(made.samples()["jpeg"], (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + packet))


GIF = made.saved(made.photo(), "GIF")
DEEP = np.random.default_rng(7).integers(0, 65536, (240, 320), dtype=np.uint16)
UNSUPPORTED = {
    "GIF": GIF,
    "BMP": made.saved(made.photo(), "BMP"),
    "JPEG 2000": made.saved(made.photo(), "JPEG2000")
    if features.check("jpg_2000")
    else b"\0\0\0\x0cjP  ".ljust(5000, b"\1"),
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic".ljust(5000, b"\1"),
    "AVIF": b"\0\0\0\x18ftypavif\0\0\0\0mif1avif".ljust(5000, b"\1"),
    "Canon CR3 raw": b"\0\0\0\x18ftypcrx \0\0\0\0".ljust(5000, b"\1"),
    "Photoshop PSD": b"8BPS\0\1".ljust(5000, b"\1"),
    "JPEG XL": b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a".ljust(5000, b"\1"),
    "BigTIFF": made.saved(made.photo(), "TIFF", big_tiff=True),
    "DNG": dng(),
    "Canon CR2": b"II*\0\x10\0\0\0CR\2\0\0\0\0\0"
    + made.ifd.serialise(made.ifd.Tree(((256, 3, b"\1\0"),)), "<", 16).ljust(5000, b"\1"),
    "Fujifilm RAF raw": b"FUJIFILMCCD-RAW".ljust(5000, b"\1"),
    "it starts with zeros": bytes(9000),
    "not an image we know": b"hello world, this is no picture" * 300,
    "lossless or hierarchical JPEG": made.samples()["jpeg"].replace(b"\xff\xc0", b"\xff\xc3", 1),
}

REFUSED: dict[str, tuple[Refusal, bytes]] = {
    "an empty file": (Refusal.NO_PIXELS, b""),
    "a picture without pixels": (
        Refusal.NO_PIXELS,
        made.samples()["jpeg"].replace(struct.pack(">HH", 240, 320), bytes(4), 1),
    ),
    "a file of one block": (Refusal.TOO_SMALL, made.jpeg(made.photo(40, 30))),
    "an animated PNG": (Refusal.SEVERAL_PICTURES, apng()),
    "an animated WebP": (Refusal.SEVERAL_PICTURES, animated_webp()),
    "a TIFF of two pages": (Refusal.SEVERAL_PICTURES, multi_page_tiff()),
    "a multi-picture JPEG": (
        Refusal.SEVERAL_PICTURES,
        made.saved(made.photo(), "MPO", save_all=True, append_images=[made.photo()]),
    ),
    "an HDR gain map": (
        Refusal.SEVERAL_PICTURES,
        made.with_segments(made.samples()["jpeg"], (0xE2, b"urn:iso:std:iso:ts:21496:-1\0\0\0\0\0")),
    ),
    "a motion photo": (Refusal.DATA_AFTER_END, made.samples()["jpeg"] + b"\0\0\0\x18ftypmp42" + bytes(900)),
    "a PNG with an archive behind it": (Refusal.DATA_AFTER_END, made.samples()["png"] + b"PK\3\4"),
    "a WebP with a note behind it": (Refusal.DATA_AFTER_END, made.samples()["webp"] + b"note"),
    "a TIFF with a note behind it": (Refusal.DATA_AFTER_END, made.samples()["tiff-raw"] + b"note"),
    "a CMYK JPEG": (Refusal.COLOUR_MODEL, made.jpeg(made.photo(mode="CMYK"))),
    "a palette PNG": (Refusal.COLOUR_MODEL, made.saved(made.photo(mode="P"), "PNG")),
    "a CMYK TIFF": (Refusal.COLOUR_MODEL, made.saved(made.photo(mode="CMYK"), "TIFF")),
    "a Lab TIFF": (Refusal.COLOUR_MODEL, made.saved(made.photo().convert("LAB"), "TIFF")),
    "a palette TIFF": (Refusal.COLOUR_MODEL, made.saved(made.photo(mode="P"), "TIFF")),
    "a 16-bit PNG": (
        Refusal.BIT_DEPTH,
        made.saved(Image.fromarray(DEEP), "PNG"),
    ),
    "a 16-bit TIFF": (
        Refusal.BIT_DEPTH,
        made.saved(Image.fromarray(DEEP), "TIFF"),
    ),
    "a floating-point TIFF": (Refusal.BIT_DEPTH, made.saved(made.photo(mode="F"), "TIFF")),
    "a bilevel TIFF": (Refusal.BIT_DEPTH, made.saved(made.photo(640, 480, mode="1"), "TIFF", compression="group4")),
    "a bilevel PNG": (Refusal.BIT_DEPTH, made.saved(made.photo(640, 480, mode="1"), "PNG")),
    "a 12-bit JPEG": (Refusal.BIT_DEPTH, jpeg_of_12_bits()),
    "a transparent PNG": (Refusal.TRANSPARENT, made.saved(rgba(128), "PNG")),
    "an opaque PNG with alpha": (Refusal.TRANSPARENT, made.saved(rgba(255), "PNG")),
    "a PNG with a transparent colour": (Refusal.TRANSPARENT, made.saved(made.photo(), "PNG", transparency=(1, 2, 3))),
    "a transparent WebP": (Refusal.TRANSPARENT, made.saved(rgba(128), "WEBP")),
    "a transparent lossless WebP": (Refusal.TRANSPARENT, made.saved(rgba(128), "WEBP", lossless=True)),
    "a TIFF with alpha": (Refusal.TRANSPARENT, made.saved(rgba(255), "TIFF")),
    "half a JPEG with a tail of zeros": (Refusal.CORRUPT, zero_tailed("jpeg")),
    "half a PNG with a tail of zeros": (Refusal.CORRUPT, zero_tailed("png")),
    "a PNG with a flipped bit": (Refusal.CORRUPT, flipped_png()),
    "half a WebP with a tail of zeros": (Refusal.CORRUPT, zero_tailed("webp-lossless")),
    "far too much metadata": (Refusal.METADATA_TOO_LARGE, full_of_metadata()),
    "metadata in far too many pieces": (
        Refusal.METADATA_TOO_LARGE,
        made.with_chunks(made.samples()["png"], *[(b"teXt", b"")] * 130_000),
    ),
    "a JPEG with far too many segments behind its scan": (
        Refusal.CORRUPT,
        made.samples()["jpeg"][:-2] + b"\xff\xdd\0\4\0\0" * 50_000 + b"\xff\xd9",
    ),
    "XMP that is no XML": (Refusal.METADATA_UNREADABLE, xmp_with(b"<x:xmpmeta")),
    "XMP that expands entities": (
        Refusal.METADATA_UNREADABLE,
        xmp_with(b'<!DOCTYPE a [<!ENTITY b "bbbb">]><a>&b;</a>'),
    ),
    "a TIFF with a directory of its own": (Refusal.METADATA_UNREADABLE, own_directory()),
    "a signed JPEG": (Refusal.SIGNED, signed_jpeg()),
    "a signed PNG": (Refusal.SIGNED, signed_png()),
    "a placeholder": (Refusal.PLACEHOLDER, placeholder()),
    "a damaged placeholder": (Refusal.PLACEHOLDER, damaged_placeholder()),
    "a generated image": (Refusal.GENERATED, generated()),
    "a file that is all metadata": (Refusal.DOES_NOT_FIT, narrow()),
    **{
        f"truncated {name}": (Refusal.CORRUPT, cut(name))
        for name in ("jpeg", "png", "webp", "tiff-raw", "tiff-tiff_lzw")
    },
    **{f"the format {name}": (Refusal.UNSUPPORTED_FORMAT, data) for name, data in UNSUPPORTED.items()},
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_come_back_as_it_was_is_refused(what: str) -> None:
    reason, data = REFUSED[what]
    assert refusal(data)[0] is reason, refusal(data)


@pytest.mark.parametrize("what", REFUSED)
def test_a_picture_is_loaded_only_if_inspection_would_let_it_pass(what: str) -> None:
    """Archiving decodes a file once: loading it must prove as much as inspecting it does."""
    reason, data = REFUSED[what]
    with pytest.raises(ImageRefused) as caught:
        load_picture(io.BytesIO(data), survey(io.BytesIO(data), made.LIMITS), 64, 16)
    assert (caught.value.facts["reason"], caught.value.facts["detail"]) == refusal(data)
    assert caught.value.facts["reason"] is reason


def jpegs() -> dict[str, bytes]:
    """One of every way that JPEG has of coding the same picture."""
    picture, grey = made.photo(), made.photo(mode="L")
    return {
        "baseline": made.jpeg(picture, quality=85),
        "full colour": made.jpeg(picture, quality=95, subsampling="4:4:4"),
        "half colour": made.jpeg(picture, quality=85, subsampling="4:2:2"),
        "progressive": made.jpeg(picture, quality=85, progressive=True),
        "grey": made.jpeg(grey, quality=85),
        "restart markers": made.jpeg(picture, quality=85, restart_marker_blocks=3),
        "progressive, restart markers": made.jpeg(picture, quality=85, progressive=True, restart_marker_rows=2),
    }


def damaged(data: bytes, chance: random.Random) -> bytes:
    """A JPEG with one of the damages that disks, cards and programs do, or that somebody thought of."""
    hurt = bytearray(data)
    scan = data.index(b"\xff\xda")
    at = chance.randrange(scan, len(data))
    match chance.randrange(7):
        case 0:
            hurt[at:] = b"\xff\xd9"
        case 1:
            hurt[at:] = bytes(len(data) - at - 2) + b"\xff\xd9"
        case 2:
            del hurt[at : at + chance.randrange(1, 400)]
        case 3:
            size = min(chance.randrange(1, 200), len(data) - at)
            hurt[at : at + size] = chance.randbytes(size)
        case 4:
            hurt[at:at] = chance.choice([b"\xff\xd0", b"\xff\xd5", b"\xff\xd9", b"\xff\xc4\0\3\0", b"\xff\xff"])
        case 5:
            for _ in range(chance.randrange(1, 4)):
                hurt[chance.randrange(2, scan + 14)] = chance.randrange(256)
        case 6:  # the sampling factors: what is enlarged by them is another size in a small decode
            frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
            hurt[frame + 11 + 3 * chance.randrange(data[frame + 9])] = chance.choice(
                [0x13, 0x31, 0x22, 0x41, 0x33, 0x00]
            )
    return bytes(hurt)


def verdict(data: bytes, at_least: tuple[int, int] | None) -> str:
    """What decoding says of a file; at full size without `at_least`."""
    try:
        found = survey(io.BytesIO(data), made.LIMITS)
        size = (found.width, found.height)
        decode(io.BytesIO(data), found.format, size, found.mode, at_least or size)
    except ImageRefused as error:
        return f"{error.facts['reason']}: {error.facts['detail']}"
    return "whole"


@pytest.mark.parametrize("name", jpegs())
def test_a_jpeg_decoded_small_is_refused_for_what_it_would_be_decoded_whole(name: str) -> None:
    chance = random.Random(name)
    data = jpegs()[name]
    wrong, said = [], Counter[str]()
    for _ in range(150):
        hurt = damaged(data, chance)
        whole = verdict(hurt, None)
        said[whole] += 1
        wrong += [hurt for at_least in ((160, 120), (80, 60), (1, 1)) if verdict(hurt, at_least) != whole]
    assert not wrong
    assert said["whole"] > 10, "whatever was done to it, it was refused: nothing was compared"
    assert said[f"{Refusal.CORRUPT}: broken data stream when reading image file"] > 3, "the decoder had no say"


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_an_unsupported_format_is_called_by_its_name(name: str) -> None:
    assert refusal(UNSUPPORTED[name]) == (Refusal.UNSUPPORTED_FORMAT, name)


def test_limits_on_pixels_and_bytes_hold_before_anything_is_decoded() -> None:
    data = made.samples()["jpeg"]
    assert refusal(data, Limits(pixels=320 * 240 - 1))[0] is Refusal.TOO_LARGE
    assert refusal(data, Limits(file_size=len(data) - 1))[0] is Refusal.TOO_LARGE
    bomb = bytearray(made.samples()["png"])
    for sides in ((60_000, 60_000), (MAX_SIDE + 1, 1)):  # the second has few pixels, and is more than a record tells of
        bomb[16:24] = struct.pack(">II", *sides)
        bomb[29:33] = struct.pack(">I", made.zlib.crc32(bytes(bomb[12:29])))
        assert refusal(bytes(bomb))[0] is Refusal.TOO_LARGE


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff-raw"])
def test_padding_zeros_behind_the_end_are_no_reason_to_refuse(name: str) -> None:
    assert made.inspected(made.samples()[name] + bytes(700)) == made.inspected(made.samples()[name])


def test_errors_of_the_disk_are_not_taken_for_a_corrupt_image() -> None:
    class Failing(io.BytesIO):
        left = 12

        def read(self, size: int | None = -1) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")
            return super().read(size)

    with pytest.raises(OSError, match="Input/output error"):
        made.inspect(Failing(made.samples()["jpeg"]), made.LIMITS)


def test_the_file_is_neither_closed_nor_needs_a_name() -> None:
    file = io.BytesIO(made.samples()["tiff-tiff_lzw"])
    load_picture(file, made.inspect(file, made.LIMITS), 64, 16)
    assert not file.closed


def test_whatever_is_accepted_can_be_generated_at_its_length_even_at_the_lowest_quality() -> None:
    """The promise behind DOES_NOT_FIT: a recall never fails for want of space."""
    longest = Label("x" * 99, "x" * 99, bytes(32), "x" * 99, "x" * 99)
    noise = np.random.default_rng(1).integers(0, 256, (97, 131, 3), dtype=np.uint8)
    for name in ("jpeg-full", "jpeg-grey", "png-full", "webp-full", "tiff-raw", "tiff-grey", "tiff-big-endian"):
        data = made.samples()[name]
        accepted = shortest_accepted(data)
        envelope = made.envelope_for(data, record=bytes(700), length=accepted)
        assert len(encode_exact(noise, envelope, made.inspected(data).metadata, longest)) == accepted


def shortest_accepted(data: bytes) -> int:
    """The smallest length at which this picture would be accepted, as inspection works it out."""
    from archiver.formats import inspection
    from archiver.formats.facts import Structure

    found = made.inspected(data)
    structure = Structure(found.width, found.height, found.mode, found.metadata.blocks)
    low, high = 0, len(data)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            inspection.refuse_unkeepable(structure, found.metadata, middle)
            high = middle
        except ImageRefused:
            low = middle
    return high


def test_the_documentation_has_a_row_for_every_refusal() -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [refusal.value for refusal in Refusal]
