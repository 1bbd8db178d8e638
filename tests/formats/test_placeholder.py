"""Placeholders: one block, a whole image, the record within reach."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import tests.formats.image_samples as made
from archiver.errors import EnvelopeDamaged, ImageRefused
from archiver.formats import (
    BLOCK,
    Format,
    Kind,
    Refusal,
    build_placeholder,
    read_envelope,
    read_metadata,
    read_payload,
)

RECORD = np.random.default_rng(3).bytes(700)
EXTRA = {
    "camera": made.with_segments(made.samples()["jpeg"], (0xE1, b"Exif\0\0" + made.exif(6)), (0xED, made.photoshop())),
    "hundreds of keywords": made.with_segments(
        made.samples()["jpeg"], (0xFE, b"".join(b"keyword %d, " % n for n in range(800)))
    ),
    "a maker's secrets": made.with_segments(made.samples()["jpeg"], (0xE1, np.random.default_rng(4).bytes(9000))),
}


def placeholder_of(data: bytes) -> bytes:
    return build_placeholder(made.envelope_for(data, RECORD), made.inspected(data).metadata, made.PREVIEW)


def subjects() -> dict[str, bytes]:
    return {**made.samples(), **EXTRA}


@pytest.mark.parametrize("name", [*made.SAMPLE_NAMES, *EXTRA])
@pytest.mark.parametrize(
    "tail", ["cut to its head", "cut to one block", "zeros to its length", "one block, then zeros"]
)
def test_a_placeholder_shows_its_picture_and_tells_its_record(name: str, tail: str) -> None:
    data = subjects()[name]
    head = placeholder_of(data)
    copy = {
        "cut to its head": head,
        "cut to one block": head[:BLOCK],
        "zeros to its length": head.ljust(len(data), b"\0"),
        "one block, then zeros": head[:BLOCK].ljust(len(data), b"\0"),
    }[tail]
    wanted = replace(made.envelope_for(data, RECORD), kind=Kind.PLACEHOLDER)
    assert read_envelope(io.BytesIO(copy)) == wanted
    with Image.open(io.BytesIO(copy)) as image:
        assert image.format == wanted.source.format.upper()
        assert image.mode == wanted.source.mode
        shown = ImageOps.exif_transpose(image.convert("RGB") if image.mode == "L" else image)
    width, height = wanted.source.upright_size
    assert (shown.width > shown.height) == (width > height), "it is not upright"
    assert min(shown.size) >= 8
    corner = np.asarray(shown.convert("L").resize((2, 2), Image.Resampling.BOX), dtype=int)
    assert corner[0, 0] > corner[1, 1], "the bright corner of the preview is not at the top left"


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_a_placeholder_is_one_block_with_the_usual_metadata(name: str) -> None:
    assert len(placeholder_of(made.samples()[name])) <= BLOCK


@pytest.mark.parametrize("name", [*made.SAMPLE_NAMES, *EXTRA])
def test_a_placeholder_keeps_all_metadata(name: str) -> None:
    data = subjects()[name]
    head = placeholder_of(data)
    assert read_metadata(io.BytesIO(head.ljust(len(data), b"\0"))) == made.inspected(data).metadata


def test_metadata_is_native_where_it_fits_then_packed_then_behind_the_block() -> None:
    heads = {name: placeholder_of(data) for name, data in EXTRA.items()}
    assert len(heads["camera"]) <= BLOCK
    assert b"Camera One" in heads["camera"], "any tool should read it"
    assert len(heads["hundreds of keywords"]) <= BLOCK
    assert b"keyword 700" not in heads["hundreds of keywords"]
    assert len(heads["a maker's secrets"]) > BLOCK


def test_the_exif_of_a_placeholder_is_read_by_pillow_with_its_orientation() -> None:
    with Image.open(io.BytesIO(placeholder_of(EXTRA["camera"]))) as image:
        assert image.getexif()[0x0110] == "Camera One"
        assert image.getexif()[0x0112] == 6
        assert image.height > image.width * 0.7


def test_a_placeholder_that_saves_nothing_is_refused() -> None:
    data = EXTRA["a maker's secrets"]
    envelope = made.envelope_for(data, RECORD)
    metadata = made.inspected(data).metadata
    with pytest.raises(ImageRefused) as caught:
        build_placeholder(replace(envelope, source=replace(envelope.source, length=13_000)), metadata, made.PREVIEW)
    assert caught.value.facts["reason"] is Refusal.METADATA_TOO_LARGE


def test_a_record_that_leaves_no_room_is_refused() -> None:
    data = made.samples()["jpeg"]
    envelope = replace(made.envelope_for(data), record=np.random.default_rng(5).bytes(4000))
    with pytest.raises(ImageRefused) as caught:
        build_placeholder(envelope, made.inspected(data).metadata, made.PREVIEW)
    assert caught.value.facts["reason"] is Refusal.DOES_NOT_FIT


def test_the_same_arguments_give_the_same_placeholder() -> None:
    for name in ("jpeg-full", "png-full", "webp-full", "tiff-raw"):
        assert placeholder_of(made.samples()[name]) == placeholder_of(made.samples()[name])


TOOLS = {
    Format.JPEG: ["djpeg", "-outfile", "/dev/null"],
    Format.PNG: ["pngtopnm"],
    Format.WEBP: ["dwebp", "-o", "/dev/null"],
    Format.TIFF: ["tiffinfo", "-d"],
}


@pytest.mark.parametrize("fmt", Format)
def test_the_formats_own_tools_read_a_placeholder_with_zeros_behind_it(fmt: Format, tmp_path: Path) -> None:
    tool = TOOLS[fmt]
    if shutil.which(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    name = {Format.TIFF: "tiff-raw"}.get(fmt, f"{fmt}-full")
    path = tmp_path / "placeholder"
    path.write_bytes(placeholder_of(made.samples()[name]).ljust(200_000, b"\0"))
    result = subprocess.run([*tool, str(path)], capture_output=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_payload_that_is_announced_and_not_there_takes_no_memory(tmp_path: Path) -> None:
    data = made.samples()["jpeg"]
    envelope = made.envelope_for(data, length=1 << 46)
    head = build_placeholder(envelope, made.inspected(data).metadata, np.full((4, 4, 3), 9, np.uint8))
    (tmp_path / "forged.jpg").write_bytes(
        head.ljust(BLOCK, b"\0") + struct.pack(">4sQ32s", b"ARXL", 1 << 45, bytes(32))
    )
    with (tmp_path / "forged.jpg").open("rb") as file, pytest.raises(EnvelopeDamaged):
        read_payload(file)
