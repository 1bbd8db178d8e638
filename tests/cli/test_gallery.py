"""The contact sheet shows what is synthetic, and is one picture and one page that need nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archiver.codec.fidelity import FidelityReport
from archiver.gallery import STATEMENT, Entry, build_page, contact_sheet, draw_sheet, thumbnail


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8))


def entry(name: str = "rome.jpg", **changes: object) -> Entry:
    fields: dict[str, object] = {
        "name": name,
        "width": 640,
        "height": 480,
        "sha256": "ab" * 32,
        "original": picture(640, 480),
        "original_bytes": 100_000,
        "placeholder": picture(16, 12),
        "placeholder_bytes": 4096,
        "record_bytes": 480,
        "regenerated": picture(640, 480, 1),
        "regenerated_bytes": 100_000,
        "scheme": "sgc",
        "profile": "embedded-1",
        "fidelity": FidelityReport(semantic=0.61, label_bce=None, colour=5.25),
    }
    return Entry(**(fields | changes))  # type: ignore[arg-type]


def test_a_sheet_is_a_png_and_a_page_that_fetches_nothing(tmp_path: Path) -> None:
    contact_sheet([entry(), entry("two.png")], tmp_path / "sheet.png", tmp_path / "sheet.html")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
    page = (tmp_path / "sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 6
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert "<script" not in page


def test_regenerated_images_are_called_synthetic_and_originals_are_not() -> None:
    page = build_page([entry(), entry("kept.jpg", regenerated=None)])
    assert STATEMENT in page
    assert page.count(">SYNTHETIC<") == 1
    assert "not recalled" in page


def test_the_facts_of_a_record_are_told() -> None:
    page = build_page([entry()])
    for fact in (
        "100.0 kB",
        "4.1 kB on disk",
        "record 480 bytes",
        "0.0125 bits per pixel",
        "semantic 0.61",
        "abababab",
        "sgc",
    ):
        assert fact in page, fact


def test_why_an_image_stayed_is_told() -> None:
    stayed = entry(placeholder=None, regenerated=None, scheme="", record_bytes=0, fidelity=None, note="semantic 0.21")
    assert build_page([stayed]).count("semantic 0.21") == 1
    draw_sheet([stayed])


def test_names_of_files_are_no_markup() -> None:
    page = build_page([entry('<img src="x">&.jpg')])
    assert '<img src="x">' not in page
    assert "&lt;img" in page


def test_many_images_make_two_columns_and_odd_shapes_fit() -> None:
    narrow = draw_sheet([entry() for _ in range(4)])
    shapes = [picture(1, 4000), picture(4000, 1), picture(3, 3)]
    wide = draw_sheet([entry("x" * 300, original=shape, placeholder=shape, regenerated=shape) for shape in shapes * 2])
    assert wide.width > 1.8 * narrow.width


def test_a_thumbnail_lets_go_of_its_file(tmp_path: Path) -> None:
    picture(3000, 2000).save(tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        small = thumbnail(image)
    assert small.width <= 600 and small.getpixel((0, 0)) is not None


def test_an_empty_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        contact_sheet([], tmp_path / "a.png", tmp_path / "a.html")
