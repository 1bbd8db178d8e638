"""Any folder of odd and hostile files: ARCHIVER_TEST_CORPUS=FOLDER pytest tests/formats/test_corpus.py -s"""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tests.formats.image_samples as made
from archiver.errors import ImageRefused
from archiver.formats import (
    BLOCK,
    Envelope,
    Kind,
    Limits,
    SourceFacts,
    build_placeholder,
    encode_exact,
    load_picture,
    read_envelope,
    read_metadata,
    survey,
)
from archiver.formats.pixels import decode

CORPUS = os.environ.get("ARCHIVER_TEST_CORPUS")


@pytest.mark.corpus
@pytest.mark.skipif(CORPUS is None, reason="ARCHIVER_TEST_CORPUS names no folder")
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("smallest", [1, BLOCK + 1], ids=["all-sizes", "as-configured"])
def test_every_file_comes_back_whole_or_is_refused_by_name(smallest: int, capsys: pytest.CaptureFixture[str]) -> None:
    outcomes: Counter[str] = Counter()
    for path in sorted(Path(str(CORPUS)).rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        try:
            found = made.inspect(io.BytesIO(data), Limits(smallest_file=smallest))
        except ImageRefused as refused:
            outcomes[str(refused.facts["reason"])] += 1
            continue
        outcomes[f"accepted {found.format}, {round_trip(data)} block(s)"] += 1
    with capsys.disabled():
        lines = "".join(f"\n{count:6} {outcome}" for outcome, count in sorted(outcomes.items()))
        os.write(1, lines.encode() + b"\n")
    assert outcomes


@pytest.mark.corpus
@pytest.mark.skipif(CORPUS is None, reason="ARCHIVER_TEST_CORPUS names no folder")
@pytest.mark.timeout(1800)
def test_every_file_decoded_small_is_refused_for_what_it_would_be_decoded_whole() -> None:
    def verdict(data: bytes, *, whole: bool) -> str:
        file = io.BytesIO(data)
        try:
            found = survey(file, Limits(smallest_file=1))
            size = (found.width, found.height)
            decode(file, found.format, size, found.mode, size if whole else (1, 1))
        except ImageRefused as refused:
            return refused.message
        return "whole"

    for path in sorted(Path(str(CORPUS)).rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            assert verdict(data, whole=False) == verdict(data, whole=True), path


def round_trip(data: bytes) -> int:
    """Through placeholder and generated image; the number of blocks the placeholder takes."""
    found = made.inspect(io.BytesIO(data), Limits(smallest_file=1))
    picture = load_picture(io.BytesIO(data), found, 256, 16)
    facts = SourceFacts(
        found.format,
        len(data),
        hashlib.sha256(data).digest(),
        found.width,
        found.height,
        found.orientation,
        found.mode,
        0,
        1,
    )
    envelope = Envelope(Kind.PLACEHOLDER, np.random.default_rng(1).bytes(500), facts)
    preview = np.asarray(Image.fromarray(picture.pixels).resize((12, 9)))
    head = build_placeholder(envelope, found.metadata, preview)
    whole = head.ljust(len(data), b"\0")
    generated = encode_exact(picture.pixels, envelope, found.metadata, made.LABEL)
    assert len(generated) == len(data)
    assert read_envelope(io.BytesIO(head[:BLOCK])) == envelope
    assert read_envelope(io.BytesIO(generated)) == replace(envelope, kind=Kind.GENERATED)
    for copy in (whole, generated):
        assert read_metadata(io.BytesIO(copy)) == found.metadata
        with Image.open(io.BytesIO(copy)) as image:
            image.load()
    return -(-len(head) // BLOCK)
