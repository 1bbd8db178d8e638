"""Generated images: the source's shape, metadata and exact length, and honest about what they are."""

from __future__ import annotations

import io
import struct
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

import tests.formats.image_samples as made
from archiver.errors import ImageRefused
from archiver.formats import (
    Format,
    Kind,
    Label,
    Metadata,
    Refusal,
    encode_exact,
    ifd,
    read_envelope,
    read_metadata,
    xmp,
)
from archiver.formats.containers import container_of
from archiver.formats.facts import Encoded, Step
from archiver.formats.pixels import from_srgb, to_srgb

PIXELS = np.asarray(made.photo(160, 120, noise=6))
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
OURS = f"{{{xmp.NAMESPACE}}}"


def generate(data: bytes, length: int | None = None, label: Label = made.LABEL) -> bytes:
    envelope = made.envelope_for(data, length=length)
    return encode_exact(PIXELS, envelope, made.inspected(data).metadata, label)


def packets(data: bytes) -> list[bytes]:
    """The XMP packets as any tool finds them."""
    container = container_of(Format(Image.open(io.BytesIO(data)).format.lower()))
    return container.xmp_of(container.blocks(io.BytesIO(data)))


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_a_generated_image_has_the_length_shape_and_metadata_of_its_source(name: str) -> None:
    data = made.samples()[name]
    result = generate(data)
    assert len(result) == len(data)
    assert read_metadata(io.BytesIO(result)) == made.inspected(data).metadata
    found = read_envelope(io.BytesIO(result))
    assert found is not None
    assert found == replace(made.envelope_for(data), kind=Kind.GENERATED, stamp=found.stamp)
    with Image.open(io.BytesIO(data)) as before, Image.open(io.BytesIO(result)) as after:
        assert (after.format, after.size, after.mode) == (before.format, before.size, before.mode)
        assert after.info.get("icc_profile") == before.info.get("icc_profile")
        assert after.info.get("dpi") == before.info.get("dpi")
        assert dict(after.getexif().get_ifd(0x8769)) == dict(before.getexif().get_ifd(0x8769))
        shown = ImageOps.exif_transpose(after).convert("RGB")
        wanted = ImageOps.exif_transpose(before).convert("RGB")
    if name not in ("tiff-big-endian",):
        upright = made.photo(noise=0).resize(wanted.size)
        if made.inspected(data).mode == "L":
            upright = upright.convert("L").convert("RGB")
        if name != "png-icc":
            assert np.abs(np.asarray(shown, dtype=float) - np.asarray(upright, dtype=float)).mean() < 8


@pytest.mark.parametrize(
    "name", ["jpeg-full", "jpeg-grey", "png", "png-grey", "webp-full", "tiff-raw", "tiff-grey", "tiff-big-endian"]
)
@settings(max_examples=12, deadline=None)
@given(share=st.floats(0, 1), odd=st.integers(0, 40))
def test_every_length_is_met_to_the_byte(name: str, share: float, odd: int) -> None:
    data = made.samples()[name]
    length = 9000 + int(share * (1.3 * len(data) - 9000)) + odd
    result = generate(data, length)
    assert len(result) == length
    with Image.open(io.BytesIO(result)) as image:
        image.load()
    assert read_metadata(io.BytesIO(result)) == made.inspected(data).metadata


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "tiff-raw"])
def test_every_small_amount_of_padding_is_possible(name: str) -> None:
    from archiver.formats.envelope import seal

    data = made.samples()[name]
    container = container_of(made.inspected(data).format)
    picture = container.encode(made.photo(33, 21), container.PREVIEW)
    sealed = seal(made.envelope_for(data))
    shortest = len(container.write(picture, (), sealed))
    for more in range(80):
        whole = container.write(picture, (), sealed, shortest + more)
        assert len(whole) == shortest + more
        with Image.open(io.BytesIO(whole)) as image:
            image.load()
    if name != "tiff-raw":
        assert container.write(picture, (), sealed, shortest + 300_000)[-300:].strip(b"\0")
    with pytest.raises(ValueError, match="too long"):
        container.write(picture, (), sealed, shortest - 2)


@pytest.mark.parametrize("name", ["jpeg", "webp", "tiff-jpeg"])
def test_more_room_gives_a_better_picture(name: str) -> None:
    data = made.samples()[name]
    errors = []
    for length in (6000, 12_000, 60_000):
        with Image.open(io.BytesIO(generate(data, length))) as image:
            shown = np.asarray(ImageOps.exif_transpose(image), dtype=float)
        wanted = np.asarray(Image.fromarray(PIXELS).resize((320, 240), Image.Resampling.LANCZOS), dtype=float)
        errors.append(np.abs(shown - wanted).mean())
    assert errors[0] > errors[1] >= errors[2]  # beyond a quality that shows all of it there is no better one


@pytest.mark.parametrize(("fmt", "quality"), [("JPEG", 95), ("WEBP", 98)])
def test_a_much_enlarged_picture_is_encoded_once_at_a_quality_that_shows_all_of_it(
    fmt: str, quality: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made.saved(made.photo(1000, 750, noise=20), fmt, quality=quality)
    container = container_of(Format(fmt.lower()))
    encoded: list[tuple[int, ...]] = []
    encode = container.encode_array

    def counted(picture: NDArray[np.uint8], step: Step) -> Encoded:
        encoded.append(picture.shape)
        return encode(picture, step)

    monkeypatch.setattr(container, "encode_array", counted)
    with Image.open(io.BytesIO(generate(data))) as image:
        shown = np.asarray(image.convert("RGB"), dtype=float)
    assert encoded == [(192, 192, 3), (750, 1000, 3)], "its reader waits"
    wanted = np.asarray(Image.fromarray(PIXELS).resize((1000, 750), Image.Resampling.BICUBIC), dtype=float)
    assert 10 * np.log10(255**2 / ((shown - wanted) ** 2).mean()) > 40


@pytest.mark.parametrize("length", [20_000, 25_000, 30_000])
def test_a_much_enlarged_picture_that_does_not_fit_at_once_nearly_fills_its_file(length: int) -> None:
    data = made.jpeg(made.photo(1000, 750, noise=20), quality=95)
    result = generate(data, length)
    assert len(result) == length
    assert len(result) - result.count(0) > 0.8 * length, "the rest is padding, of zeros"


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_enlarged_picture_is_the_same_picture(mode: str) -> None:
    from archiver.formats.pixels import enlarged

    small, size = Image.fromarray(PIXELS).convert(mode), (1001, 777)
    bicubic = np.asarray(small.resize(size, Image.Resampling.BICUBIC), dtype=int)
    large = enlarged(np.asarray(small), size)
    assert large.shape == bicubic.shape
    apart = np.abs(large.astype(int) - bicubic)
    assert apart.max() <= 16, "another bicubic kernel, a little sharper"
    assert apart.mean() < 0.5


def test_a_lossless_source_with_room_enough_gets_the_very_pixels() -> None:
    data = made.saved(made.photo(160, 120, noise=60), "PNG")
    with Image.open(io.BytesIO(generate(data))) as image:
        assert (np.asarray(image) == PIXELS).all()


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ImageRefused) as caught:
        generate(made.samples()["jpeg-full"], 4200)
    assert caught.value.facts["reason"] is Refusal.DOES_NOT_FIT


@pytest.mark.parametrize("name", ["jpeg-full", "png-full", "webp-full", "tiff-raw", "tiff-jpeg", "jpeg-grey"])
def test_the_same_arguments_give_the_same_bytes(name: str) -> None:
    assert generate(made.samples()[name]) == generate(made.samples()[name])


def labels(packet: bytes) -> list[dict[str, str]]:
    """The rdf:Descriptions of a packet that state where the picture comes from."""
    root = ET.fromstring(packet.rstrip(b"\0").decode())
    found = [dict(node.attrib) for node in root.iter(f"{RDF}Description") if f"{IPTC}DigitalSourceType" in node.attrib]
    assert not list(root.iter(f"{IPTC}DigitalSourceType")), "a rival statement is left"
    return found


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_every_generated_image_says_that_it_is_one(name: str) -> None:
    (packet,) = packets(generate(made.samples()[name]))
    (label,) = labels(packet)
    assert label[f"{IPTC}DigitalSourceType"] == "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    assert label[f"{OURS}Scheme"] == "sgc"
    assert label[f"{OURS}Profile"] == "embedded-1"
    assert label[f"{OURS}SourceSHA256"] == bytes(range(32)).hex()
    assert label[f"{OURS}Device"] == "cpu"
    assert label[f"{OURS}Version"] == "0.1.0"


def test_the_label_leaves_the_rest_of_the_packet_alone() -> None:
    packet = xmp.with_label(made.XMP, made.LABEL)
    before, after = made.XMP.partition(b"</rdf:RDF>")[0], packet.partition(b"<rdf:Description xmlns:rdf")[0]
    assert before == after
    assert labels(packet)[0][f"{RDF}about"] == "uuid:7", "XMP allows one subject only"
    assert b"sea &amp; sky" in packet


def test_the_label_eats_into_the_padding_of_a_packet() -> None:
    roomy = made.XMP.replace(b" " * 300, b" " * 3000)
    assert len(xmp.with_label(roomy, made.LABEL)) == len(roomy)


@pytest.mark.parametrize(
    "statement",
    [
        made.CAMERA_SAYS_CAPTURED,
        made.XMP.replace(
            b"<dc:subject>",
            b'<e:DigitalSourceType xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/">http://cv.iptc.org/newscodes/'
            b"digitalsourcetype/digitalCapture</e:DigitalSourceType><dc:subject>",
        ),
        made.XMP.replace(
            b"<dc:subject>",
            b'<e:DigitalSourceType xmlns:e="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" rdf:resource="x"/>'
            b"<dc:subject>",
        ),
        xmp.with_label(made.XMP, made.LABEL),
    ],
)
def test_what_the_camera_said_of_the_original_gives_way_to_the_label(statement: bytes) -> None:
    (label,) = labels(xmp.with_label(statement, made.LABEL))
    assert label[f"{IPTC}DigitalSourceType"].endswith("trainedAlgorithmicMedia")
    data = made.with_segments(made.samples()["jpeg"], (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + statement))
    result = generate(data)
    assert labels(packets(result)[0])
    assert read_metadata(io.BytesIO(result)) == made.inspected(data).metadata, "the original's words must survive"


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"no xml",
        b"<a/>",
        b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"/></x:xmpmeta>',
        made.XMP.replace(b"\xef\xbb\xbf", b"").decode().encode("utf-16"),
        made.XMP.replace(b"adobe:ns:meta/", b"adobe:ns:meta}"),
    ],
)
def test_a_packet_that_cannot_be_labelled_is_refused(packet: bytes) -> None:
    with pytest.raises(ImageRefused) as caught:
        xmp.with_label(packet, made.LABEL)
    assert caught.value.facts["reason"] is Refusal.METADATA_UNREADABLE


def test_a_label_cannot_break_out_of_its_markup() -> None:
    evil = replace(made.LABEL, device='"/><evil a="', scheme="<&>\0\ud800")
    (label,) = labels(xmp.with_label(made.XMP, evil))
    assert label[f"{OURS}Device"] == "_/__evil a__"


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 600))
def test_a_mangled_packet_is_labelled_or_refused(noise: bytes, at: int) -> None:
    packet = made.CAMERA_SAYS_CAPTURED[:at] + noise + made.CAMERA_SAYS_CAPTURED[at + len(noise) // 2 :]
    try:
        labels(xmp.with_label(packet, made.LABEL))
    except ImageRefused as refused:
        assert refused.facts["reason"] is Refusal.METADATA_UNREADABLE


def test_a_packet_of_white_space_does_not_hang() -> None:
    packet = made.XMP.replace(b" " * 300, (b" " * 100 + b"\n") * 9000)
    assert labels(xmp.with_label(packet, made.LABEL))


def test_colours_come_back_through_the_sources_profile() -> None:
    data = made.samples()["png-icc"]
    with Image.open(io.BytesIO(generate(data))) as image:
        shown = np.asarray(to_srgb(image, image.info["icc_profile"]), dtype=float)
    wanted = np.asarray(Image.fromarray(PIXELS).resize((320, 240), Image.Resampling.LANCZOS), dtype=float)
    assert np.median(np.abs(shown - wanted)) < 3


def test_a_large_envelope_spans_several_jpeg_segments() -> None:
    noise = np.random.default_rng(6).bytes(60_000)
    data = made.with_segments(
        made.jpeg(made.photo(1200, 900), quality=95), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + made.XMP)
    )
    envelope = replace(made.envelope_for(data), record=noise + bytes(5000))
    result = encode_exact(PIXELS, envelope, made.inspected(data).metadata, made.LABEL)
    found = read_envelope(io.BytesIO(result))
    assert found is not None
    assert found == replace(envelope, kind=Kind.GENERATED, stamp=found.stamp)
    assert read_metadata(io.BytesIO(result)) == made.inspected(data).metadata


def test_the_byte_order_of_a_tiff_and_its_maker_note_are_kept() -> None:
    result = generate(made.samples()["tiff-big-endian"])
    assert result[:4] == b"MM\0*"
    reader = ifd.IfdReader.of(result)
    tree = reader.tree(reader.first)
    below = next(value for tag, _, value in tree.fields if tag == 34665)
    assert isinstance(below, ifd.Tree)
    assert (37500, 7, bytes(range(99))) in below.fields


def test_metadata_without_xmp_is_not_kept_twice() -> None:
    data = made.samples()["jpeg-turned-6"]
    result = generate(data)
    assert result.count(b"Camera One") == 1
    assert read_metadata(io.BytesIO(result)) == made.inspected(data).metadata != Metadata(Format.JPEG)


def test_a_generated_jpeg_starts_like_its_source() -> None:
    result = generate(made.samples()["jpeg"])
    assert result[:20] == made.samples()["jpeg"][:20]
    assert struct.unpack(">H", result[4:6]) == (16,)


def test_colours_are_converted_for_profiles_other_than_srgb_s_own() -> None:
    image = Image.fromarray(PIXELS)
    assert to_srgb(image, made.srgb_profile()).tobytes() == image.tobytes()
    assert from_srgb(image, made.srgb_profile(), "RGB").tobytes() == image.tobytes()
    assert to_srgb(image, made.wide_profile()).tobytes() != image.tobytes()
    assert from_srgb(image, made.wide_profile(), "RGB").tobytes() != image.tobytes()
