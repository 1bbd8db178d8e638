"""JPEG files of every kind come back byte for byte, or are refused; nothing else comes back at all."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import photograph
from PIL import Image, ImageCms

from archiver.codec import lossless, schemes
from archiver.codec.picture import Picture
from archiver.codec.record import NO_PROFILE, Record
from archiver.errors import TranscodeRefused


def jpeg(mode: str = "RGB", size: tuple[int, int] = (160, 112), **options: Any) -> bytes:
    buffer = BytesIO()
    Image.fromarray(photograph(3, *size)).convert(mode).save(buffer, "JPEG", **{"quality": 88, **options})
    return buffer.getvalue()


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
KINDS = {
    "baseline": jpeg(),
    "progressive": jpeg(progressive=True),
    "grey": jpeg("L"),
    "unsubsampled": jpeg(subsampling="4:4:4", optimize=True),
    "odd sides": jpeg(size=(157, 91), subsampling="4:2:2"),
    "restart markers": jpeg(restart_marker_blocks=4),
    "metadata": jpeg(exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0", comment=b"by hand", icc_profile=SRGB),
    "fill bytes": jpeg()[:2] + b"\xff" * 5 + jpeg()[2:],
    "data behind the end": jpeg() + b"and more" * 20,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_jpeg_comes_back_byte_for_byte_from_fewer_bytes(kind: str) -> None:
    packed = lossless.transcode(KINDS[kind])
    assert lossless.restore(packed, len(KINDS[kind])) == KINDS[kind]
    assert len(packed) < len(KINDS[kind])  # of so small a picture; a photograph takes about four fifths


@pytest.mark.parametrize("data", [jpeg("CMYK"), jpeg()[:-800], b"\xff\xd8\xff" + bytes(500), b"", b"RIFF"])
def test_what_cannot_be_carried_is_refused(data: bytes) -> None:
    with pytest.raises(TranscodeRefused):
        lossless.transcode(data)


@pytest.mark.parametrize("off", [-1, 1])
def test_another_length_than_was_promised_is_refused(off: int) -> None:
    with pytest.raises(TranscodeRefused):
        lossless.restore(lossless.transcode(jpeg()), len(jpeg()) + off)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_damage_is_refused_or_shows_in_the_bytes_and_never_takes_more_memory(data: st.DataObject) -> None:
    packed = bytearray(lossless.transcode(KINDS["baseline"]))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = lossless.restore(bytes(packed), len(jpeg()))
    except TranscodeRefused:
        return
    assert len(found) == len(jpeg())  # whose hash the caller compares


@pytest.mark.parametrize("size", [(256, 176), (16, 16), (256, 16), (20, 12)])
def test_its_record_needs_no_weights_and_shows_the_colours(size: tuple[int, int]) -> None:
    record = lossless.compose(Picture(photograph(1, *size), 4000, 3000))
    assert Record.from_bytes(record.to_bytes()) == record
    assert record.profile == NO_PROFILE
    preview = schemes.preview(record)
    assert preview.shape[2] == 3 and np.ptp(preview) > 0
    assert len(record.to_bytes()) < 700
