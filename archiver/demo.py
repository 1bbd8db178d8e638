"""The whole way on copies of a few photographs: scan, archive, recall, and a contact sheet to judge the result by."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageOps

from archiver import gallery
from archiver.access.client import let_through
from archiver.config import RecallSettings, Settings, load
from archiver.errors import DemoFolderTaken, DemoWithoutPhotographs, ImageRefused
from archiver.formats.folder import photographs
from archiver.formats.inspection import refuse_ours
from archiver.formats.pixels import decoding
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Listener, Outcome, Result
from archiver.setup import create, starting_config, write_config

# Real photographs that scikit-image's wheel brings. Most are PNG; a photo collection is not, so some are saved as what
# cameras and phones write. Name, suffix to save as ("" copies the file as it is).
_SAMPLES = (
    ("astronaut.png", ".jpg"),
    ("coffee.png", ".jpg"),
    ("chelsea.png", ".jpg"),
    ("rocket.jpg", ""),
    ("motorcycle_left.png", ".webp"),
    ("hubble_deep_field.jpg", ""),
    ("camera.png", ".tif"),
    ("gravel.png", ".jpg"),
    ("coins.png", ""),
    ("grass.png", ".webp"),
    ("moon.png", ".jpg"),
    ("brick.png", ""),
)
_QUALITY = 92

# The starting configuration, but for age and size: these copies are seconds old and small.
_DEMO_RULE = {
    'unused_for = "180d"': 'unused_for = "0s"',
    'unchanged_for = "30d"': 'unchanged_for = "0s"',
    '"64 KiB"': "0",
}


@dataclass(slots=True)
class Specimen:
    """One copy, and what became of it."""

    name: str
    path: Path
    made: str  # how the copy was made
    bytes_before: int
    sha256: str
    width: int
    height: int
    outcomes: dict[str, Outcome] = field(default_factory=dict)  # by act

    @property
    def released(self) -> Outcome | None:
        """The release, where it was done."""
        return self._done("release")

    @property
    def recalled(self) -> Outcome | None:
        """The recall, where it was done."""
        return self._done("recall")

    @property
    def reason(self) -> str:
        """Why it stayed as it was; empty where it did not."""
        return next((o.reason for o in self.outcomes.values() if o.result in (Result.REFUSED, Result.FAILED)), "")

    def _done(self, act: str) -> Outcome | None:
        outcome = self.outcomes.get(act)
        return outcome if outcome is not None and outcome.result is Result.DONE else None


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Where everything is and what became of every copy."""

    work: Path
    config: Path
    photos: Path
    sheet_png: Path
    sheet_html: Path
    profile: str
    scheme: str
    specimens: tuple[Specimen, ...]
    left_out: dict[Path, str]  # of the chosen photographs, and why


def demonstrate(
    work: Path, source: Path | None, count: int, listener: Listener, announce: Callable[[str, int], None]
) -> Demonstration:
    """Copy photographs into `work`, archive the copies, recall two of three, draw the contact sheet.

    `announce` is told what comes next and for how many files. Raises DemoFolderTaken, DemoWithoutPhotographs,
    ModelsNotInstalled, OSError.
    """
    from archiver.lifecycle.archive import archive
    from archiver.lifecycle.recall import recall
    from archiver.tiers.scan import scan

    if work.exists() and any(work.iterdir()):
        raise DemoFolderTaken(path=work)
    chosen = _photographs(source, count)
    photos = work.absolute() / "photos"
    photos.mkdir(parents=True)
    with let_through(RecallSettings().socket):  # what was released is left out, and not recalled for this
        specimens, originals, left_out = _copies(chosen, photos)
    if not specimens:
        raise DemoWithoutPhotographs(where=source)
    config, settings = _configure(work.absolute(), photos)

    def listen(outcome: Outcome) -> None:
        assert isinstance(outcome.path, Path)  # the only tier is a folder
        by_path[outcome.path].outcomes[outcome.act] = outcome
        listener(outcome)

    by_path = {specimen.path: specimen for specimen in specimens}
    with open_site(settings) as site:
        announce("archiving", len(specimens))
        scan(site.catalog, site.tiers["photos"])
        archive(site, paths=[photos], listener=listen)
        released = [specimen for specimen in specimens if specimen.released]
        placeholders = {specimen.path: _thumbnail(specimen.path)[0] for specimen in released}
        wanted = [specimen.path for number, specimen in enumerate(released) if number % 3 < 2]
        announce("recalling", len(wanted))
        recall(site, wanted, listener=listen)
    demonstration = Demonstration(
        work=work,
        config=config,
        photos=photos,
        sheet_png=work / "contact-sheet.png",
        sheet_html=work / "contact-sheet.html",
        profile=settings.model.profile,
        scheme=settings.rule[0].scheme,
        specimens=tuple(specimens),
        left_out=left_out,
    )
    entries = [_entry(demonstration, specimen, originals, placeholders) for specimen in specimens]
    gallery.contact_sheet(entries, demonstration.sheet_png, demonstration.sheet_html)
    return demonstration


def _configure(work: Path, photos: Path) -> tuple[Path, Settings]:
    text = starting_config([photos], work / "state")
    for cautious, eager in _DEMO_RULE.items():
        text = text.replace(cautious, eager)
    config = work / "archiver.toml"
    write_config(config, text)
    settings = load(config)
    create(settings)
    return config, settings


# -- photographs -------------------------------------------------------------------------------------------------------


def _photographs(source: Path | None, count: int) -> list[tuple[Path, str, str]]:
    """File, name of its copy and suffix to save it as ("" for as it is). Raises DemoWithoutPhotographs."""
    if source is not None:
        found = photographs(source, count)
        if not found:
            raise DemoWithoutPhotographs(where=source)
        return [(path, f"{number:03}-{path.name}", "") for number, path in enumerate(found, 1)]
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise DemoWithoutPhotographs(where="this installation")
    folder = Path(package.origin).parent / "data"
    there = [(folder / name, suffix) for name, suffix in _SAMPLES[:count] if (folder / name).exists()]
    return [(path, path.stem + (suffix or path.suffix), suffix) for path, suffix in there]


def _copies(
    chosen: Sequence[tuple[Path, str, str]], photos: Path
) -> tuple[list[Specimen], dict[Path, Image.Image], dict[Path, str]]:
    """Copies, thumbnails of them by path, and what was left out, and why."""
    specimens: list[Specimen] = []
    originals: dict[Path, Image.Image] = {}
    left_out: dict[Path, str] = {}
    for original, name, suffix in chosen:
        path = photos / name
        try:
            with decoding():
                made = _copy(original, path, suffix)
                originals[path], (width, height) = _thumbnail(path)
        except (ImageRefused, OSError) as error:
            path.unlink(missing_ok=True)
            left_out[original] = error.message if isinstance(error, ImageRefused) else str(error.strerror)
            continue
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        specimens.append(Specimen(name, path, made, len(content), sha256, width, height))
    return specimens, originals, left_out


def _copy(original: Path, path: Path, suffix: str) -> str:
    with original.open("rb") as file:
        refuse_ours(file)
    if suffix:
        _save_as(original, path)
        return f"{original.name}, saved as {suffix[1:].upper()}"
    shutil.copyfile(original, path)
    return f"{original.name}, as it is"


def _save_as(original: Path, path: Path) -> None:
    """Save in the format of the name, with the little EXIF that is true of it."""
    with Image.open(original) as image:
        exif = Image.Exif()
        exif[0x010E] = f"{original.name} of scikit-image, saved anew by archiver demo"  # ImageDescription
        exif[0x0131] = "archiver demo"  # Software
        if path.suffix == ".tif":
            image.save(path, compression="tiff_lzw", exif=exif)
        else:
            image.save(path, quality=_QUALITY, exif=exif)


def _thumbnail(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """Upright, small, and the size it had."""
    with Image.open(path) as image:
        upright = ImageOps.exif_transpose(image)
        return gallery.thumbnail(upright), upright.size


def _entry(
    made: Demonstration,
    specimen: Specimen,
    originals: dict[Path, Image.Image],
    placeholders: dict[Path, Image.Image],
) -> gallery.Entry:
    released, record = specimen.released, specimen.outcomes.get("record")
    return gallery.Entry(
        name=specimen.name,
        width=specimen.width,
        height=specimen.height,
        sha256=specimen.sha256,
        original=originals[specimen.path],
        original_bytes=specimen.bytes_before,
        placeholder=placeholders.get(specimen.path),
        placeholder_bytes=released.bytes_after if released else 0,
        record_bytes=released.record_bytes if released else 0,
        regenerated=_thumbnail(specimen.path)[0] if specimen.recalled else None,
        regenerated_bytes=specimen.path.stat().st_size,
        scheme=made.scheme if released else "",
        profile=made.profile,
        fidelity=record.fidelity if record else None,
        note=f"stays as it is: {specimen.reason}" if specimen.reason else "",
    )
