"""What the first block of a file says about whether its reader must wait."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tests.formats.image_samples as made
from archiver.access.heads import Finding, judge, look
from archiver.formats import BLOCK, build_placeholder
from tests.access.watching import placeholder

RECORD = bytes(range(200))


def head_of(name: str) -> tuple[bytes, int]:
    data = made.samples()[name]
    return build_placeholder(made.envelope_for(data, RECORD), made.inspected(data).metadata, made.PREVIEW), len(data)


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_a_placeholder_of_every_format_is_known_by_its_first_block(name: str) -> None:
    head, length = head_of(name)
    assert judge(head.ljust(BLOCK, b"\0")[:BLOCK], length, written=True) is Finding.PLACEHOLDER


@pytest.mark.parametrize("name", made.SAMPLE_NAMES)
def test_an_original_of_every_format_is_resident(name: str) -> None:
    data = made.samples()[name]
    assert judge(data[:BLOCK], len(data), written=True) is Finding.RESIDENT


@given(st.integers(0, BLOCK - 1))
def test_a_placeholder_in_the_making_is_never_taken_for_resident_for_ever(count: int) -> None:
    data = placeholder()
    if b"ARCV" in data[:count] or not count:
        assert judge(data[:count], count, written=True) is Finding.UNSETTLED
    assert judge(data[:BLOCK], BLOCK, written=True) is Finding.UNSETTLED
    assert judge(bytes(BLOCK), len(data), written=False) is Finding.UNSETTLED


def test_a_sparse_file_whose_first_block_is_zero_pays_once() -> None:
    assert judge(bytes(BLOCK), 10**9, written=True) is Finding.RESIDENT


def test_a_text_about_us_is_resident() -> None:
    text = b"The magic is ARCV. " * 300
    assert judge(text[:BLOCK], len(text), written=True) is Finding.RESIDENT


@given(st.binary(max_size=BLOCK), st.integers(0, 10**7))
def test_nothing_in_a_file_breaks_the_judgement(head: bytes, size: int) -> None:
    assert isinstance(judge(b"\xff\xd8" + head + b"ARCV" + head, size, written=True), Finding)


def test_a_file_that_is_not_in_memory_is_left_to_a_helper(tmp_path: Path) -> None:
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(3 * BLOCK))
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with pytest.raises(BlockingIOError):
            look(file.fileno(), wait=False)
        assert look(file.fileno(), wait=True) is Finding.RESIDENT
        assert look(file.fileno(), wait=False) is Finding.RESIDENT


def test_only_regular_files_are_looked_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    descriptor = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    assert look(descriptor, wait=False) is Finding.RESIDENT
    os.close(descriptor)


def test_a_placeholder_whose_length_is_not_its_own_is_let_through() -> None:
    head, length = head_of("jpeg")
    assert replace(made.envelope_for(made.samples()["jpeg"], RECORD)).source.length == length
    assert judge(head.ljust(BLOCK, b"\0")[:BLOCK], length + 1, written=True) is Finding.UNSETTLED
