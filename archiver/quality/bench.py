"""Every scheme and every codec on the same photographs, measured by judges that code nothing.

    for row in measure(paths, engine): ...

is all that a script needs; `archiver bench quality` adds the table, the plots and the sheets.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from archiver.codec.colour import shrink
from archiver.codec.picture import Picture, working_size
from archiver.codec.record import Scheme
from archiver.codec.schemes import PRESETS, SUPPORTED
from archiver.decoder.engine import Engine
from archiver.errors import ImageRefused
from archiver.formats.facts import Refusal
from archiver.formats.pixels import array, blurred, decoding, enlarged, from_array, shrunk, to_srgb
from archiver.quality.codecs import CODECS
from archiver.quality.judge import SemanticJudge
from archiver.quality.natural import SMALLEST, NaturalJudge
from archiver.quality.search import Search, write_whole

CROP_SIDE = 512
_WHOLE_SIDE = 1024  # pixels of a whole picture's long side
_COLOUR_SIDE = 16
# Schemes that leave much of their budget free: codecs are held to what they take. The others fill theirs.
VARYING = (Scheme.SGC.label, Scheme.SESECO.label)
_VERSION = 4  # of what is remembered; changes with whatever changes figures

Pixels = NDArray[np.uint8]
Reconstruct = Callable[[Pixels], Pixels]
"""A picture (h, w, 3), sides multiples of the profile's, through an autoencoder and back."""


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    schemes: None for all that the profile codes. targets: bytes that codecs are held to, beside those of schemes.
    whole: whole pictures, at most 1024 pixels a side, rather than centre crops of 512x512. preset: that of the engine,
    so that what is remembered of another one is not taken for it.
    """

    schemes: tuple[Scheme, ...] | None = None
    codecs: tuple[str, ...] = tuple(CODECS)
    targets: tuple[int, ...] = (88, 256, 685)
    whole: bool = False
    preset: str = "default"


@dataclass(frozen=True, slots=True)
class Row:
    """One way of keeping one picture.

    method: a scheme, a codec or an anchor. target: what a codec was held to: bytes, a scheme whose bytes on this
    picture it was given, "lowest" for its worst setting at full size; "" for all else. size: None where nothing is
    stored. semantics: cosine by the judge that codes nothing. own_semantics and label_bce: by the coder's network.
    colour: mean difference of 16x16 thumbnails, 0..255. brisque, niqe: lower is better.
    """

    method: str
    target: str
    size: int | None
    bpp: float | None
    semantics: float
    own_semantics: float
    label_bce: float | None
    colour: float
    brisque: float
    niqe: float
    coded_at: str = ""


@dataclass(frozen=True, slots=True)
class Variant:
    """One way of keeping one picture, before it is measured."""

    method: str
    target: str
    pixels: Pixels
    size: int | None = None
    coded_at: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """All rows of one picture. regions: (rows, 16, 128), for distances between sets of pictures.

    key: of the picture and all that its figures depend on. pictures: of the variants, in the order of the rows; empty
    for a result that is remembered from an earlier run.
    """

    path: Path
    key: str
    rows: tuple[Row, ...]
    regions: NDArray[np.float32]
    pictures: tuple[Pixels, ...] = ()


def measure(
    paths: Sequence[Path],
    engine: Engine,
    options: Options = Options(),
    folder: Path | None = None,
    reconstruct: Reconstruct | None = None,
) -> Iterator[Result]:
    """Measure photographs one after the other; `folder` remembers what is done, so that a run can be interrupted.

    Raises ModelsNotInstalled, MeasuresNotInstalled, and what `photograph` and the engine raise.
    """
    bench = Bench(engine, options, folder, reconstruct)
    for path, another in zip(paths, [None, *paths], strict=False):
        yield bench.result(path, another)


class Bench:
    """The judges and the engine, for one picture at a time."""

    def __init__(
        self, engine: Engine, options: Options, folder: Path | None = None, reconstruct: Reconstruct | None = None
    ) -> None:
        self._engine = engine
        supported = tuple(scheme for scheme in SUPPORTED if scheme in engine.profile.schemes)
        self._options = options = options if options.schemes is not None else replace(options, schemes=supported)
        self._folder = folder
        self._reconstruct = reconstruct
        self._judge = SemanticJudge()
        self._natural = NaturalJudge()
        steering = (engine.profile.presets, PRESETS.get(options.preset))
        about = repr((_VERSION, engine.profile.fingerprint, steering, options, reconstruct is not None))
        self._run = hashlib.sha256(about.encode()).hexdigest()[:16]

    def result(self, path: Path, another: Path | None) -> Result:
        """Measure the photograph at `path`; `another` is one that has nothing to do with it.

        Raises what `measure` raises.
        """
        key = f"{self._run}-{_content(path, *([another] if another else []))}"
        known = self._folder / "rows" / f"{key}.npz" if self._folder else None
        if known and known.exists():
            return _read(path, key, known)
        pixels = photograph(path, whole=self._options.whole)
        other = _fitted(photograph(another, whole=self._options.whole), pixels) if another else None
        result = self._measured(path, key, pixels, self._variants(path, pixels, other))
        if known:
            _write(known, result)
        return result

    # -- ways of keeping a picture -------------------------------------------------------------------------------------

    def _variants(self, path: Path, pixels: Pixels, other: Pixels | None) -> list[Variant]:
        schemes = self._schemes(pixels)
        targets = {str(target): target for target in self._options.targets}
        targets |= {one.method: one.size for one in schemes if one.method in VARYING and one.size is not None}
        return [*self._anchors(pixels, other), *schemes, *self._codecs(path, pixels, targets)]

    def _anchors(self, pixels: Pixels, other: Pixels | None) -> Iterator[Variant]:
        height, width, _ = pixels.shape
        yield Variant("original", "", pixels)
        if other is not None:
            yield Variant("another photograph", "", other)
        colours = shrink(pixels, _COLOUR_SIDE, _COLOUR_SIDE)
        yield Variant("16x16 colours, enlarged", "", array(blurred(from_array(colours), (width, height))))
        if self._reconstruct is None:
            return
        for side in sorted({max(width, height), self._engine.profile.long_side}, reverse=True):
            size = working_size(width, height, side, self._engine.profile.multiple)
            made = self._reconstruct(array(shrunk(Image.fromarray(pixels), size)))
            yield Variant(f"autoencoder alone, {side} pixels", "", enlarged(made, (width, height)))

    def _schemes(self, pixels: Pixels) -> list[Variant]:
        picture = self._picture(pixels)
        records = [self._engine.encode([picture], scheme)[0] for scheme in self._options.schemes or ()]
        made = self._engine.decode(records)
        size = (picture.width, picture.height)
        return [
            Variant(record.scheme.label, "", enlarged(one, size), len(record.to_bytes()))
            for record, one in zip(records, made, strict=True)
        ]

    def _codecs(self, path: Path, pixels: Pixels, targets: dict[str, int]) -> Iterator[Variant]:
        height, width, _ = pixels.shape
        wanted = self._judge.see([pixels])[0] if self._options.codecs else None

        def nearest(pictures: Sequence[Pixels]) -> int:
            assert wanted is not None
            seen = self._judge.see(pictures)
            return max(range(len(seen)), key=lambda index: wanted.likeness(seen[index]))

        known = f"{_content(path)}-{width}x{height}"
        search = Search(pixels, nearest, self._folder / "coded" / known if self._folder else None)
        for name in self._options.codecs:
            codec = CODECS[name]
            found = {label: search.best(codec, target) for label, target in targets.items()}
            for label, coded in (found | {"lowest": search.lowest(codec)}).items():
                at = f"{coded.width}x{coded.height} q{coded.quality}"
                yield Variant(name, label, coded.picture((width, height)), len(coded.payload), at)

    # -- measuring -----------------------------------------------------------------------------------------------------

    def _measured(self, path: Path, key: str, pixels: Pixels, variants: Sequence[Variant]) -> Result:
        seen = self._judge.see([variant.pixels for variant in variants])
        original = self._picture(pixels)
        decoded = [self._picture(variant.pixels).pixels for variant in variants]
        reports = self._engine.measure([original] * len(variants), decoded)
        rows = []
        for variant, view, own in zip(variants, seen, reports, strict=True):
            row = Row(
                method=variant.method,
                target=variant.target,
                size=variant.size,
                bpp=None if variant.size is None else 8 * variant.size / (original.width * original.height),
                semantics=seen[0].likeness(view),
                own_semantics=own.semantic,
                label_bce=own.label_bce,
                colour=own.colour,
                brisque=self._natural.brisque(variant.pixels),
                niqe=self._natural.niqe(variant.pixels),
                coded_at=variant.coded_at,
            )
            rows.append(row)
        regions = np.stack([view.regions for view in seen])
        return Result(path, key, tuple(rows), regions, tuple(variant.pixels for variant in variants))

    def _picture(self, pixels: Pixels) -> Picture:
        """At the profile's working size."""
        height, width, _ = pixels.shape
        size = working_size(width, height, self._engine.profile.long_side, self._engine.profile.multiple)
        return Picture(array(shrunk(Image.fromarray(pixels), size)), width, height)


def photograph(path: Path, *, whole: bool = False) -> Pixels:
    """An upright sRGB picture (h, w, 3): its short side brought to 512 pixels and the middle cut out, or the whole.

    Raises ImageRefused, also for one of more than 8 bits a channel, which would be cut to white, and for one whose
    short side is too small for the measures; OSError.
    """
    with decoding(), Image.open(path) as image:
        if image.mode.startswith(("I", "F")):
            raise ImageRefused(reason=Refusal.BIT_DEPTH, detail=f"its pixels are {image.mode}")
        icc = image.info.get("icc_profile")
        image.draft("RGB", (2 * _WHOLE_SIDE, 2 * _WHOLE_SIDE))
        upright = to_srgb(ImageOps.exif_transpose(image).convert("RGB"), icc)
    if whole:
        upright.thumbnail((_WHOLE_SIDE, _WHOLE_SIDE), Image.Resampling.LANCZOS)
        if min(upright.size) < SMALLEST:
            size = f"{upright.width}x{upright.height} pixels"
            raise ImageRefused(reason=Refusal.TOO_SMALL, detail=f"{size}, measures need {SMALLEST} a side")
        return array(upright)
    return array(ImageOps.fit(upright, (CROP_SIDE, CROP_SIDE), Image.Resampling.LANCZOS))


def _fitted(other: Pixels, pixels: Pixels) -> Pixels:
    height, width, _ = pixels.shape
    return array(ImageOps.fit(Image.fromarray(other), (width, height), Image.Resampling.LANCZOS))


# -- remembering -------------------------------------------------------------------------------------------------------


def _content(*paths: Path) -> str:
    return hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in paths)).hexdigest()[:24]


def _write(path: Path, result: Result) -> None:
    out = io.BytesIO()
    rows = json.dumps([asdict(row) for row in result.rows])
    np.savez_compressed(out, rows=np.array(rows), regions=result.regions)
    write_whole(path, out.getvalue())


def _read(path: Path, key: str, known: Path) -> Result:
    with np.load(known) as raw:
        rows = tuple(Row(**row) for row in json.loads(str(raw["rows"])))
        return Result(path, key, rows, raw["regions"])
