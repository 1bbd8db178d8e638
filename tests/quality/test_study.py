"""A run measures what it says, can be interrupted, and does nothing twice."""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image

from archiver.cli.main import cli
from archiver.codec.record import Scheme
from archiver.errors import ImageRefused
from archiver.formats.folder import photographs
from archiver.quality.bench import Bench, Options, photograph
from archiver.quality.study import Report, packaged_settings, study

OPTIONS = Options((Scheme.SGC, Scheme.COCLI), ("webp",), (685,), preset="quick")


def run(folder: Path, weights: Path, out: Path, stop: Event | None = None, after: int | None = None) -> Report:
    """A run that is stopped after some photographs."""
    stop, done = stop or Event(), []

    def advance(path: Path) -> None:
        done.append(path)
        if len(done) == after:
            stop.set()

    out.mkdir(exist_ok=True)
    settings = packaged_settings(weights, out / "vault", "quick")
    return study(photographs(folder), settings, OPTIONS, out, stop, advance)


@pytest.fixture(scope="module")
def out(folder: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after the first photograph and then went on."""
    place = tmp_path_factory.mktemp("bench")
    assert run(folder, weights, place, after=1).pictures == 1
    return place


def test_an_interrupted_run_goes_on_and_repeats_nothing(
    folder: Path, weights: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []
    original = Bench._measured

    def counting(self: Bench, path: Path, *rest: object) -> object:
        measured.append(path.name)
        return original(self, path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "_measured", counting)
    first = run(folder, weights, out)
    assert measured == ["two.jpg"]
    assert first.pictures == 2
    reasons = {path.name: reason for path, reason in first.left_out.items()}
    assert reasons.keys() == {"three.jpg", "four.jpg"}
    assert "it carries a record" in reasons["four.jpg"]
    again = run(folder, weights, out)
    assert measured == ["two.jpg"]
    assert again.summaries == first.summaries


def test_every_way_of_keeping_a_picture_has_its_row(folder: Path, weights: Path, out: Path) -> None:
    report = run(folder, weights, out)
    found = {(one.method, one.target): one for one in report.summaries}
    assert set(found) == {
        ("original", ""),
        ("another photograph", ""),
        ("16x16 colours, enlarged", ""),
        ("autoencoder alone, 512 pixels", ""),
        ("sgc", ""),
        ("cocli", ""),
        *(("webp", target) for target in ("685", "sgc", "lowest")),
    }
    original, colours = found["original", ""], found["16x16 colours, enlarged", ""]
    assert original.semantics.mean == pytest.approx(1, abs=1e-5) and original.colour.mean == 0
    assert original.frechet == pytest.approx(0, abs=1e-3) and colours.frechet > 1
    assert found["autoencoder alone, 512 pixels", ""].semantics.mean > colours.semantics.mean
    sgc, webp = found["sgc", ""], found["webp", "sgc"]
    assert sgc.size and webp.size and webp.size.mean <= sgc.size.mean <= 685
    assert webp.fitting == 2 and found["webp", "lowest"].fitting is None
    assert sgc.bpp and sgc.bpp.mean == pytest.approx(8 * sgc.size.mean / 512**2)
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * len(found) - 1  # the first photograph has no other one to be compared with
    assert report.table.read_text().count("\n") == len(found) + 2
    for picture in (report.plot, *report.sheets):
        with Image.open(picture) as image:
            assert min(image.size) > 400


def test_a_photograph_is_measured_upright_and_from_its_middle(photos: list[NDArray[np.uint8]], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    wide = np.hstack([photos[0], photos[1]])
    Image.fromarray(wide).save(tmp_path / "turned.png", exif=exif)
    assert photograph(tmp_path / "turned.png").shape == (512, 512, 3)
    assert photograph(tmp_path / "turned.png", whole=True).shape == (512, 256, 3)
    (tmp_path / "none.png").write_bytes(b"none")
    with pytest.raises(ImageRefused):
        photograph(tmp_path / "none.png")


def test_what_cannot_be_measured_is_refused_and_not_measured_as_white(
    photos: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(photos[0][..., 0].astype(np.uint16) * 257).save(tmp_path / name)
        with pytest.raises(ImageRefused, match="not 8 bits"):
            photograph(tmp_path / name)
    Image.fromarray(photos[0][:191]).save(tmp_path / "wide.png")
    assert photograph(tmp_path / "wide.png").shape == (512, 512, 3)
    with pytest.raises(ImageRefused, match="too small"):
        photograph(tmp_path / "wide.png", whole=True)


def test_a_limit_spreads_over_the_folder(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.jpg").touch()
    assert [path.name for path in photographs(tmp_path, 3)] == ["0.jpg", "3.jpg", "6.jpg"]
    assert len(photographs(tmp_path, 99)) == 10


def test_a_folder_without_photographs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    answer = CliRunner().invoke(cli, ["bench", "quality", str(tmp_path), "--out", str(tmp_path / "bench")])
    assert answer.exit_code == 2
    assert "no photograph in" in answer.output and not (tmp_path / "bench").exists()


def test_the_command_refuses_what_it_does_not_know(folder: Path, tmp_path: Path) -> None:
    for words in (["--codecs", "gif"], ["--schemes", "sgc,none"]):
        done = CliRunner().invoke(cli, ["bench", "quality", str(folder), "--out", str(tmp_path / "out"), *words])
        assert done.exit_code == 2
    assert not (tmp_path / "out").exists()
