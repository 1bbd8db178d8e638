"""What each scheme is made of, and how its record is composed and read; needs no model.

A scheme = a condition + side information + how it steers (docs/schemes.md). The first two are sections of the record,
the third is its `Steering`. Byte budgets are those of the papers where they give one; colour maps take the finest step
that fits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archiver.codec import attention_map, codebook, colour_map, dct, embedding, label_map, region_colours
from archiver.codec.codebook import Codebook
from archiver.codec.colour import area_means, shrink
from archiver.codec.picture import Picture
from archiver.codec.record import (
    AttentionGuidance,
    LinearGuidance,
    Record,
    Sampler,
    Scheme,
    Section,
    SectionKind,
    Steering,
)
from archiver.errors import RecordCorrupt

_LABEL_CELLS = (1, 2)  # label cells along the side of a latent cell
_GREY = 128
_LABEL_SCHEMES = (Scheme.SGC, Scheme.SESECO)
_MAP_SCHEMES = (Scheme.SGC, Scheme.COCLICO, Scheme.LOSSLESS)
# Sections of each scheme beside an embedding. SEACOM's colours may be missing.
_SECTIONS = {
    Scheme.SGC: (SectionKind.LABEL_MAP, SectionKind.COLOUR_MAP),
    Scheme.COCLI: (),
    Scheme.COCLICO: (SectionKind.COLOUR_MAP,),
    Scheme.G_COCLICO: (SectionKind.COLOUR_DCT,),
    Scheme.SEACOM: (SectionKind.ATTENTION_MAP, SectionKind.COLOUR_MAP),
    Scheme.SESECO: (SectionKind.LABEL_MAP, SectionKind.REGION_COLOURS),
    Scheme.LOSSLESS: (SectionKind.COLOUR_MAP,),
}
# Cells of a colour map's long side: as in the papers, and for a network that was taught to take colours as a condition.
_COLOUR_SIDE, _FINE_COLOUR_SIDE = 16, 32
# That side at most, and steps of luma and chroma, finest first: the first that fits is taken. Coarser chroma would let
# more cells fit and be liked by the measures, but what is pale gets tints that the eye sees.
_MAP_RUNGS = (
    *((32, 8, 12), (32, 12, 20), (32, 16, 32), (32, 24, 40)),
    *((24, 12, 20), (24, 16, 32), (20, 12, 20), (20, 16, 32)),
    *((16, 8, 12), (16, 12, 20), (16, 16, 32), (16, 24, 40), (16, 32, 64), (16, 48, 96), (16, 96, 160)),
    # No photograph comes here, but saturated swatches do. One cell takes six bytes at most, so that one always fits.
    *((12, 48, 96), (12, 96, 160), (8, 48, 96), (8, 96, 160), (4, 96, 160), (1, 96, 160)),
)
# Coefficients of luma and of each chroma that are kept, and their steps, finest first. From the fourth on the steps
# hold any map; the last takes twelve bytes at most.
_DCT_RUNGS = (
    *((256, 100, 2, 4), (256, 100, 3, 6), (256, 100, 4, 8), (256, 100, 6, 12)),
    *((256, 100, 8, 16), (256, 100, 12, 24), (256, 100, 20, 40), (256, 100, 40, 80)),
    *((144, 64, 40, 80), (64, 25, 40, 80), (16, 9, 40, 80), (1, 1, 40, 80)),
)
# Cells of an attention map's long side, and bits: the first that fits is taken. Beside colours the last, for a byte of
# colours does more for a picture.
_ATTENTION_STEPS = ((16, 4), (16, 3), (16, 2), (8, 4), (8, 3), (8, 2), (4, 2))
_BUDGETS = {
    Scheme.SGC: 685,
    Scheme.COCLI: 88,
    Scheme.COCLICO: 256,
    Scheme.G_COCLICO: 256,
    Scheme.SEACOM: 256,
    Scheme.SESECO: 685,
}
_FEW_DIMENSIONS = 256
# Levels a dimension. Three are 55 bytes at 256 dimensions, cosine 0.90 to the embedding (4 levels: 68 bytes, 0.94); of
# CLIP's 768 or 1024 dimensions they would leave COCLICO's colours no room.
_FEW_LEVELS, _MANY_LEVELS = 3, 2
# Bytes of an embedding's direction by a codebook: what COCLI's budget has room for, whatever its dimensions are.
LEARNT_GROUPS = 56

SUPPORTED = tuple(_BUDGETS)

_FEW = Steering(Sampler.DPM_SOLVER, steps=20, guidance=2.0)
_MANY = Steering(Sampler.DDIM, steps=200, guidance=2.0)
_LINEAR = LinearGuidance(strength=1.0, cutoff=0.25, pixel_steps=4)
PRESETS: dict[str, dict[Scheme, Steering]] = {
    "default": {
        Scheme.SGC: replace(_FEW, start=0.7, colours_condition=True),
        Scheme.COCLI: _FEW,
        Scheme.COCLICO: replace(_FEW, start=0.7, colours_condition=True),
        Scheme.G_COCLICO: replace(_FEW, linear=_LINEAR, colours_condition=True),
        Scheme.SEACOM: replace(_FEW, attention=AttentionGuidance(strength=0.1, until=0.5)),
        Scheme.SESECO: replace(_FEW, start=0.7, linear=_LINEAR, colours_condition=True),
    },
    "paper": {
        Scheme.SGC: replace(_MANY, start=0.7),
        Scheme.COCLI: _MANY,
        Scheme.COCLICO: replace(_MANY, start=0.7),
        Scheme.G_COCLICO: replace(_MANY, linear=replace(_LINEAR, pixel_steps=40)),
        Scheme.SEACOM: replace(_MANY, attention=AttentionGuidance(strength=0.02, until=0.5)),
        Scheme.SESECO: replace(_MANY, start=0.7, linear=replace(_LINEAR, pixel_steps=40)),
    },
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the networks say of a picture. embedding: (D,); labels: (rows, columns) of 0..words-1; attention: (heads,
    rows, columns), how much each cell receives, 1 for an even share; only SEACOM asks for it.
    """

    embedding: NDArray[np.float32]
    labels: NDArray[np.uint8]
    words: int
    attention: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """What a record says of its picture; None where its scheme does not say.

    embedding: (D,). labels: (rows, columns). colours: (rows, columns, 3) sRGB bytes. detail: (rows, columns) in 0..1,
    how finely the colours of each cell are known; None means that they all are. attention: (heads, rows, columns) in
    octaves, 0 for an even share.
    """

    embedding: NDArray[np.float32] | None = None
    labels: NDArray[np.uint8] | None = None
    colours: NDArray[np.uint8] | None = None
    detail: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None


def compose(
    picture: Picture,
    facts: Facts,
    scheme: Scheme,
    profile: bytes,
    grid: tuple[int, int],
    steering: Steering,
    learnt: Codebook | None = None,
) -> Record:
    """The record of a picture; the same for the same arguments. `grid`: latent (columns, rows); `profile`: 8 bytes;
    `learnt`: the profile's codebook, where it has one.

    Raises ValueError for a scheme that is not in SUPPORTED, or for SEACOM without attention maps.
    """
    if scheme not in SUPPORTED:
        raise ValueError(f"scheme {scheme.label} is not implemented")
    # The seed is arbitrary, but the same picture should give the same record.
    seed = int.from_bytes(hashlib.sha256(np.ascontiguousarray(picture.pixels).tobytes()).digest()[:4], "big")
    conditions: list[Section] = []
    bare = Record(scheme, profile, seed, picture.width, picture.height, grid, steering.rounded(), ())
    if scheme is Scheme.COCLI:
        return _finest_that_fits(
            replace(bare, sections=(section,)) for section in _embedding_sections(facts.embedding, learnt)
        )
    if scheme in _LABEL_SCHEMES:
        conditions.append(Section(SectionKind.LABEL_MAP, label_map.encode(facts.labels, facts.words)))
    if scheme not in _LABEL_SCHEMES or steering.embedding is not None:
        conditions.append(next(_embedding_sections(facts.embedding, learnt)))
    if scheme is Scheme.SEACOM:
        if facts.attention is None:
            raise ValueError("seacom needs attention maps")
        return _finest_that_fits(
            replace(bare, sections=(*conditions, *sections))
            for sections in _attention_sections(facts.attention, picture, grid, steering.colours_condition)
        )
    side = _FINE_COLOUR_SIDE if steering.colours_condition else _COLOUR_SIDE
    match scheme:
        case Scheme.G_COCLICO:
            kind, rungs = SectionKind.COLOUR_DCT, _dct_payloads(shrink(picture.pixels, *map_size(grid, side)))
        case Scheme.SESECO:
            kind = SectionKind.REGION_COLOURS
            rungs = (
                region_colours.encode(colours, facts.labels, *steps) for colours, steps in _maps(picture, grid, side)
            )
        case _:
            kind = SectionKind.COLOUR_MAP
            rungs = (colour_map.encode(colours, *steps) for colours, steps in _maps(picture, grid, side))
    return _finest_that_fits(replace(bare, sections=(*conditions, Section(kind, payload))) for payload in rungs)


def _embedding_sections(vector: NDArray[np.float32], learnt: Codebook | None) -> Iterator[Section]:
    """An embedding, finest first."""
    if learnt is not None:
        yield Section(SectionKind.LEARNT_EMBEDDING, codebook.encode(vector, learnt))
        return
    for levels in (_FEW_LEVELS, _MANY_LEVELS) if vector.size <= _FEW_DIMENSIONS else (_MANY_LEVELS,):
        yield Section(SectionKind.EMBEDDING, embedding.encode(embedding.quantise(vector, levels)))


def _attention_sections(
    received: NDArray[np.float32], picture: Picture, grid: tuple[int, int], with_colours: bool
) -> Iterator[tuple[Section, ...]]:
    """Attention maps, finest first; or, where a network is told colours, coarse ones with colours, finest first."""
    if not with_colours:
        for side, bits in _ATTENTION_STEPS:
            yield (_attention_section(received, side, bits),)
        return
    coarse = _attention_section(received, *_ATTENTION_STEPS[-1])
    for colours, steps in _maps(picture, grid, _COLOUR_SIDE):
        yield coarse, Section(SectionKind.COLOUR_MAP, colour_map.encode(colours, *steps))


def _attention_section(received: NDArray[np.float32], side: int, bits: int) -> Section:
    _, rows, columns = received.shape
    coarse = area_means(received, *map_size((columns, rows), side))
    return Section(SectionKind.ATTENTION_MAP, attention_map.encode(attention_map.quantise(coarse, bits)))


def _dct_payloads(colours: NDArray[np.uint8]) -> Iterator[bytes]:
    truncations = (dct.Truncation(*rung) for rung in _DCT_RUNGS)
    return (dct.encode(colours, one) for one in truncations if dct.holds(colours, one))


def _maps(picture: Picture, grid: tuple[int, int], side: int) -> Iterator[tuple[NDArray[np.uint8], tuple[int, int]]]:
    """A picture's colour maps and the steps to code them in, finest first; none has more than `side` cells a side."""
    for rung, *steps in _MAP_RUNGS:
        if rung <= side:
            yield shrink(picture.pixels, *map_size(grid, rung)), (steps[0], steps[1])


def _finest_that_fits(records: Iterator[Record]) -> Record:
    """The first record within its scheme's budget, the last one where none is."""
    for record in records:
        if len(record.to_bytes()) <= _BUDGETS[record.scheme]:
            break
    return record


def material(record: Record, learnt: Codebook | None = None) -> Material:
    """Decode the sections of a record; an embedding that was coded by a codebook only with `learnt`, the profile's.

    Raises RecordCorrupt.
    """
    _refuse_useless(record)
    columns, rows = record.grid
    labels = code = None
    if record.scheme in _LABEL_SCHEMES:
        labels = label_map.decode(record.section(SectionKind.LABEL_MAP))
        if labels.shape not in ((rows * cells, columns * cells) for cells in _LABEL_CELLS):
            raise RecordCorrupt(problem="its label map does not fit its grid")
    if _has_embedding(record):
        code = _embedding(record, learnt)
    match record.scheme:
        case scheme if scheme in _MAP_SCHEMES:
            return Material(code, labels, colour_map.decode(record.section(SectionKind.COLOUR_MAP)))
        case Scheme.G_COCLICO:
            return Material(code, labels, dct.decode(record.section(SectionKind.COLOUR_DCT)).picture())
        case Scheme.SESECO:
            assert labels is not None  # it is one of _LABEL_SCHEMES
            colours, detail = region_colours.decode(record.section(SectionKind.REGION_COLOURS), labels)
            return Material(code, labels, colours, detail)
        case Scheme.SEACOM:
            maps = attention_map.decode(record.section(SectionKind.ATTENTION_MAP))
            told = record.has(SectionKind.COLOUR_MAP)
            return Material(
                code,
                colours=colour_map.decode(record.section(SectionKind.COLOUR_MAP)) if told else None,
                attention=maps.octaves(),
            )
        case _:
            return Material(code, labels)


def _has_embedding(record: Record) -> bool:
    """Whether its scheme and its steering ask for one."""
    return record.scheme in SUPPORTED and (record.scheme not in _LABEL_SCHEMES or record.steering.embedding is not None)


def _refuse_useless(record: Record) -> None:
    """Nobody would ever read what a section without use holds, nor find it damaged. Raises RecordCorrupt."""
    learnt = record.has(SectionKind.LEARNT_EMBEDDING)
    coded = SectionKind.LEARNT_EMBEDDING if learnt else SectionKind.EMBEDDING
    useful = (*_SECTIONS[record.scheme], *((coded,) if _has_embedding(record) else ()))
    for section in record.sections:
        if section.kind not in useful:
            kind = section.kind.name.lower().replace("_", " ")
            raise RecordCorrupt(problem=f"a {record.scheme.label} record has no use for its {kind}")


def _embedding(record: Record, learnt: Codebook | None) -> NDArray[np.float32] | None:
    if not record.has(SectionKind.LEARNT_EMBEDDING):
        return embedding.decode(record.section(SectionKind.EMBEDDING)).vector()
    payload = record.section(SectionKind.LEARNT_EMBEDDING)
    if learnt is not None:
        return codebook.decode(payload, learnt)
    codebook.groups_of(payload)
    return None


def check(record: Record) -> None:
    """Prove that every part of a record can be read, but for what takes the profile's codebook.

    Raises RecordCorrupt.
    """
    material(record)


def colour_preview(record: Record) -> NDArray[np.uint8] | None:
    """The colour map (rows, columns, 3) that a record holds, sRGB bytes; None where its scheme has none.

    Nothing else of it is decoded where that can be: every release asks for this. Raises RecordCorrupt.
    """
    if record.scheme in _MAP_SCHEMES:
        return colour_map.decode(record.section(SectionKind.COLOUR_MAP))
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
