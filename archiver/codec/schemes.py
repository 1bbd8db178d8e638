"""What each scheme is made of, and how its record is composed and read; needs no model.

A scheme = a condition + side information + how it steers (docs/schemes.md). The first two are sections of the record,
the third is its `Steering`. Byte budgets are those of the papers where they give one; colour maps take the finest step
that fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from archiver.codec import colour_map, dct, embedding, label_map, region_colours
from archiver.codec.colour import shrink
from archiver.codec.picture import Picture
from archiver.codec.record import LinearGuidance, Record, Sampler, Scheme, Section, SectionKind, Steering
from archiver.errors import RecordCorrupt

LABEL_CELLS = 2  # label cells along the side of a latent cell
_GREY = 128
_SECTION_HEAD = 3  # kind and length
_LABEL_SCHEMES = (Scheme.SGC, Scheme.SESECO)
_COLOUR_SIDE = 16  # cells of a colour map's long side [paper: 16x16]
# Steps of luma and chroma, finest first: the first that fits is taken.
_MAP_STEPS = ((8, 12), (12, 20), (16, 32), (24, 40), (32, 64), (48, 96), (96, 160))
_DCT_STEPS = ((3, 6), (4, 8), (6, 12), (8, 16), (12, 24), (20, 40), (40, 80))
_DCT_KEPT = (256, 100)  # coefficients of luma and of each chroma
_BUDGETS = {Scheme.SGC: 685, Scheme.COCLI: 88, Scheme.COCLICO: 256, Scheme.G_COCLICO: 256, Scheme.SESECO: 685}
_EMBEDDING_LEVELS = 3  # 55 bytes at 256 dimensions, cosine 0.90 to the embedding (4 levels: 68 bytes, 0.94)

SUPPORTED = tuple(_BUDGETS)
_T = TypeVar("_T")

_FEW = Steering(Sampler.DPM_SOLVER, steps=20, guidance=2.0)
_MANY = Steering(Sampler.DDIM, steps=200, guidance=2.0)
_LINEAR = LinearGuidance(strength=1.0, cutoff=0.25, pixel_steps=4)
PRESETS: dict[str, dict[Scheme, Steering]] = {
    "default": {
        Scheme.SGC: replace(_FEW, start=0.7, colours_condition=True),
        Scheme.COCLI: _FEW,
        Scheme.COCLICO: replace(_FEW, start=0.7, colours_condition=True),
        Scheme.G_COCLICO: replace(_FEW, linear=_LINEAR, colours_condition=True),
        Scheme.SESECO: replace(_FEW, start=0.7, linear=_LINEAR, colours_condition=True),
    },
    "paper": {
        Scheme.SGC: replace(_MANY, start=0.7),
        Scheme.COCLI: _MANY,
        Scheme.COCLICO: replace(_MANY, start=0.7),
        Scheme.G_COCLICO: replace(_MANY, linear=replace(_LINEAR, pixel_steps=40)),
        Scheme.SESECO: replace(_MANY, start=0.7, linear=replace(_LINEAR, pixel_steps=40)),
    },
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a semantic encoder says of a picture. embedding: (D,); labels: (rows, columns) of 0..words-1."""

    embedding: NDArray[np.float32]
    labels: NDArray[np.uint8]
    words: int


@dataclass(frozen=True, slots=True)
class Material:
    """What a record says of its picture; None where its scheme does not say.

    embedding: (D,). labels: (rows, columns). colours: (rows, columns, 3) sRGB bytes. detail: (rows, columns) in 0..1,
    how finely the colours of each cell are known; None means that they all are.
    """

    embedding: NDArray[np.float32] | None = None
    labels: NDArray[np.uint8] | None = None
    colours: NDArray[np.uint8] | None = None
    detail: NDArray[np.float32] | None = None


def compose(
    picture: Picture, facts: Facts, scheme: Scheme, profile: bytes, grid: tuple[int, int], steering: Steering
) -> Record:
    """The record of a picture; the same for the same arguments. `grid`: latent (columns, rows); `profile`: 8 bytes.

    Raises ValueError for a scheme that is not in SUPPORTED.
    """
    if scheme not in SUPPORTED:
        raise ValueError(f"scheme {scheme.label} is not implemented")
    # The seed is arbitrary, but the same picture should give the same record.
    seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(picture.pixels).tobytes()).digest()[:4], "big")
    if scheme in _LABEL_SCHEMES:
        condition = Section(SectionKind.LABEL_MAP, label_map.encode(facts.labels, facts.words))
    else:
        code = embedding.quantise(facts.embedding, _EMBEDDING_LEVELS)
        condition = Section(SectionKind.EMBEDDING, embedding.encode(code))
    bare = Record(scheme, profile, seed, picture.width, picture.height, grid, steering.rounded(), (condition,))
    side = _side_information(picture, facts, bare)
    return replace(bare, sections=(condition, side)) if side is not None else bare


def _side_information(picture: Picture, facts: Facts, bare: Record) -> Section | None:
    if bare.scheme is Scheme.COCLI:
        return None
    columns, rows = map_size(bare.grid, _COLOUR_SIDE)
    colours = shrink(picture.pixels, columns, rows)
    room = _BUDGETS[bare.scheme] - len(bare.to_bytes()) - _SECTION_HEAD
    match bare.scheme:
        case Scheme.G_COCLICO:
            truncations = [dct.Truncation(*_DCT_KEPT, *steps) for steps in _DCT_STEPS]
            return Section(SectionKind.COLOUR_DCT, _finest(lambda cut: dct.encode(colours, cut), truncations, room))
        case Scheme.SESECO:
            return Section(
                SectionKind.REGION_COLOURS,
                _finest(lambda steps: region_colours.encode(colours, facts.labels, *steps), _MAP_STEPS, room),
            )
        case _:
            return Section(
                SectionKind.COLOUR_MAP, _finest(lambda steps: colour_map.encode(colours, *steps), _MAP_STEPS, room)
            )


def _finest(code: Callable[[_T], bytes], ladder: Sequence[_T], room: int) -> bytes:
    """The first payload of at most `room` bytes, the coarsest of all where none fits."""
    for rung in ladder:
        payload = code(rung)
        if len(payload) <= room:
            break
    return payload


def material(record: Record) -> Material:
    """Decode the sections of a record.

    Raises RecordCorrupt.
    """
    columns, rows = record.grid
    labels = code = None
    if record.scheme in _LABEL_SCHEMES:
        labels = label_map.decode(record.section(SectionKind.LABEL_MAP))
        if labels.shape != (rows * LABEL_CELLS, columns * LABEL_CELLS):
            raise RecordCorrupt(problem="its label map does not fit its grid")
    elif record.scheme in SUPPORTED:
        code = embedding.decode(record.section(SectionKind.EMBEDDING)).vector()
    match record.scheme:
        case Scheme.SGC | Scheme.COCLICO:
            return Material(code, labels, colour_map.decode(record.section(SectionKind.COLOUR_MAP)))
        case Scheme.G_COCLICO:
            return Material(code, labels, dct.decode(record.section(SectionKind.COLOUR_DCT)).picture())
        case Scheme.SESECO:
            assert labels is not None  # it is one of _LABEL_SCHEMES
            colours, detail = region_colours.decode(record.section(SectionKind.REGION_COLOURS), labels)
            return Material(code, labels, colours, detail)
        case _:
            return Material(code, labels)


def check(record: Record) -> None:
    """Prove that every part of a record can be read.

    Raises RecordCorrupt.
    """
    material(record)


def colour_preview(record: Record) -> NDArray[np.uint8] | None:
    """The colour map (rows, columns, 3) that a record holds, sRGB bytes; None where its scheme has none.

    Raises RecordCorrupt.
    """
    return material(record).colours


def preview(record: Record) -> NDArray[np.uint8]:
    """The colour map (rows, columns, 3) for a placeholder; plain grey where the record has none.

    Raises RecordCorrupt.
    """
    colours = colour_preview(record)
    columns, rows = record.grid
    return np.full((rows, columns, 3), _GREY, np.uint8) if colours is None else colours


def map_size(grid: tuple[int, int], side: int) -> tuple[int, int]:
    """(columns, rows) of a map of the latent grid's shape, `side` cells at most along the long side and never more than
    the grid has.
    """
    scale = min(1.0, side / max(grid))
    columns, rows = (max(1, round(cells * scale)) for cells in grid)
    return columns, rows
