"""A record told in words: its fields, what each part costs, and bits per pixel."""

from __future__ import annotations

from dataclasses import dataclass

from archiver.codec import attention_map, codebook, colour_map, dct, embedding, label_map
from archiver.codec.record import Record, Scheme, Section, SectionKind, Steering
from archiver.units import counted


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a record: its name, its bytes, what it says."""

    name: str
    bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """All parts of a record, which add up to `bytes`; `bits_per_pixel` of the source's pixels."""

    bytes: int
    bits_per_pixel: float
    parts: tuple[Part, ...]


def explain(record: Record) -> Explanation:
    """Name every part of a record with its bytes.

    Raises RecordCorrupt.
    """
    size = len(record.to_bytes())
    sections = tuple(_section(section) for section in record.sections)
    steering = len(record.steering.to_bytes())
    source = f"{record.width}x{record.height} pixels, latent grid {record.grid[0]}x{record.grid[1]}"
    is_exact = record.scheme is Scheme.LOSSLESS  # nothing is sampled, but every record has these fields
    known = [
        Part("profile", len(record.profile), "none" if is_exact else record.profile.hex()),
        Part("seed", 4, "none" if is_exact else f"{record.seed:#010x}"),
        Part("steering", steering, "none" if is_exact else _steering(record.steering)),
        *sections,
        Part("checksum", 4, "CRC-32"),
    ]
    header = Part("header", size - sum(part.bytes for part in known), f"scheme {record.scheme.label}, {source}")
    return Explanation(size, 8 * size / (record.width * record.height), (header, *known))


def _steering(steering: Steering) -> str:
    sampler = steering.sampler.name.lower().replace("_", "-")
    words = [f"{sampler}, {counted(steering.steps, 'step')}, guidance {steering.guidance:g}"]
    if steering.start is not None:
        words.append(f"from the colour map at t = {steering.start:.2f} T")
    if steering.linear is not None:
        linear = steering.linear
        words.append(f"linear guidance {linear.strength:.2f} of frequencies up to {linear.cutoff:.2f}")
    if steering.attention is not None:
        words.append(f"attention {steering.attention.strength:.2f} in the first {steering.attention.until:.0%}")
    if steering.embedding is not None:
        words.append(f"embedding {steering.embedding.strength:.2f} in {counted(steering.embedding.steps, 'step')}")
    if steering.colours_condition:
        words.append("colours as a condition")
    return ", ".join(words)


def _section(section: Section) -> Part:
    return Part(section.kind.name.lower().replace("_", " "), len(section.to_bytes()), _content(section))


def _content(section: Section) -> str:
    match section.kind:
        case SectionKind.EMBEDDING:
            code = embedding.decode(section.payload)
            return f"{code.codes.size} dimensions, {code.levels} levels each, norm {code.norm:.3g}"
        case SectionKind.LEARNT_EMBEDDING:
            return f"{codebook.groups_of(section.payload)} groups, by the profile's codebook"
        case SectionKind.LABEL_MAP:
            labels = label_map.decode(section.payload)
            return f"{labels.shape[1]}x{labels.shape[0]} cells, {len(set(labels.flat))} labels"
        case SectionKind.COLOUR_MAP:
            rows, columns, _ = colour_map.decode(section.payload).shape
            return "{}x{} cells, luma in steps of {}, chroma of {}".format(
                columns, rows, *colour_map.steps(section.payload)
            )
        case SectionKind.COLOUR_DCT:
            known = dct.decode(section.payload)
            luma, chroma = int(known.mask[0].sum()), int(known.mask[1].sum())
            return (
                f"{luma} luma and 2 x {chroma} chroma coefficients of {known.mask.shape[2]}x{known.mask.shape[1]} cells"
            )
        case SectionKind.REGION_COLOURS:
            return "coarse colours, refined by label region"
        case SectionKind.ATTENTION_MAP:
            maps = attention_map.decode(section.payload)
            heads, rows, columns = maps.levels.shape
            return f"{heads} heads, {columns}x{rows} cells, {maps.bits} bits each"
