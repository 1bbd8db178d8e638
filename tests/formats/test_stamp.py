"""An untouched generated image is told from one that somebody worked on, whatever the label says."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tests.formats.image_samples as made
from archiver.errors import ImageRefused
from archiver.formats import BLOCK, Found, Refusal, build_placeholder, encode_exact, jpeg, look
from archiver.formats.containers import container_of

PIXELS = np.asarray(made.photo(160, 120, noise=6))
ONE_OF_EACH = ("jpeg-full", "png", "webp-full", "tiff-raw", "tiff-big-endian")


def generated(name: str) -> bytes:
    data = made.samples()[name]
    return encode_exact(PIXELS, made.envelope_for(data), made.inspected(data).metadata, made.LABEL)


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_a_file_is_what_was_made_of_it(name: str) -> None:
    data = made.samples()[name]
    placeholder = build_placeholder(made.envelope_for(data), made.inspected(data).metadata, PIXELS[::10, ::10])
    assert look(io.BytesIO(data)) is Found.ORDINARY
    assert look(io.BytesIO(placeholder)) is Found.PLACEHOLDER
    assert look(io.BytesIO(generated(name))) is Found.GENERATED


@pytest.mark.parametrize("name", ONE_OF_EACH)
@settings(max_examples=40, deadline=None)
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_byte_that_is_not_ours_makes_it_somebodys_work(name: str, where: float, flip: int) -> None:
    image = bytearray(generated(name))
    ours = container_of(made.inspected(made.samples()[name]).format).ours(io.BytesIO(bytes(image)))
    theirs = [at for at in range(len(image)) if not any(start <= at < end for start, end in ours)]
    image[theirs[int(where * len(theirs))]] ^= flip
    found = look(io.BytesIO(bytes(image)))
    # A broken container shows no envelope any more: then it is no file of ours at all.
    assert found in (Found.EDITED, Found.ORDINARY)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_more_or_fewer_bytes_are_an_edit_too(name: str) -> None:
    image = generated(name)
    assert look(io.BytesIO(image + b"note")) is Found.EDITED
    assert look(io.BytesIO(image[:-40])) in (Found.EDITED, Found.ORDINARY)


def test_an_edit_is_seen_however_many_segments_of_padding_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A JPEG of 2 GB, of which zeros may be the most, has 30,000 of them."""
    monkeypatch.setattr(jpeg, "_MAX_SEGMENTS", 60)
    data = made.samples()["jpeg"]
    image = encode_exact(PIXELS, made.envelope_for(data, length=10 << 20), made.inspected(data).metadata, made.LABEL)
    assert look(io.BytesIO(image)) is Found.GENERATED
    assert look(io.BytesIO(image[:-3] + bytes([image[-3] ^ 1]) + image[-2:])) is Found.EDITED


def test_a_first_block_before_a_hole_is_known_as_one() -> None:
    image = generated("jpeg-full")
    assert look(io.BytesIO(image[:BLOCK].ljust(len(image), b"\0"))) is Found.HEAD


def test_an_edited_image_may_be_archived_and_an_untouched_one_may_not() -> None:
    image = generated("jpeg-full")
    with pytest.raises(ImageRefused) as refused:
        made.inspect(io.BytesIO(image), made.LIMITS)
    assert refused.value.facts["reason"] is Refusal.GENERATED
    caption = b"\xff\xfe\x00\x0aour cat."
    edited = image[:2] + caption + image[2:]
    inspection = made.inspect(io.BytesIO(edited), made.LIMITS)
    assert any(block.data == b"our cat." for block in inspection.metadata)
