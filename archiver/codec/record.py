"""The record: what is left of a picture, as self-delimiting, checksummed bytes.

    magic 2 | version and scheme 1 (4 bits each) | length of all that follows, varint
    profile 8 | seed 4 | width varint | height varint | grid columns varint | grid rows varint | steering 3..11
    sections: kind 1 | length varint | payload ...                                   until the checksum
    CRC-32 of everything before it, 4

Integers are big-endian, varints LEB128. A record is read for ever: a change of layout takes a new version, and the old
reader stays (tests/codec/golden). Version 2 knows attention guidance and the lossless scheme, version 3 guidance by the
embedding, and colours in SEACOM, version 4 learnt embeddings; a record is written in the lowest version that holds it.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from enum import IntEnum

from archiver.codec.fields import FieldReader, varint
from archiver.errors import RecordCorrupt, RecordVersionUnknown

MAGIC = b"\xa7r"
VERSION = 4
FINGERPRINT_BYTES = 8
NO_PROFILE = bytes(FINGERPRINT_BYTES)  # of a record that needs no weights
MAX_BODY = 1 << 16  # bytes; far over any record, so that a hostile length reserves nothing
MAX_SIDE = 1 << 20  # pixels of a source
MAX_GRID = 64  # latent cells a side: 1024 pixels at 16 a cell
_CHECKSUM_BYTES = 4
_ATTENTION = 0x01  # the further flag of attention guidance


class Scheme(IntEnum):
    """How a record describes its picture; see docs/schemes.md."""

    SGC = 1
    COCLI = 2
    COCLICO = 3
    G_COCLICO = 4
    SEACOM = 5
    SESECO = 6
    LOSSLESS = 7  # the file keeps the original's exact bytes, transcoded; the record only says so

    @property
    def label(self) -> str:
        """The name in configuration and output, as in "g-coclico"."""
        return self.name.lower().replace("_", "-")

    @classmethod
    def parse(cls, label: str) -> Scheme:
        """The scheme of a label.

        Raises ValueError for an unknown one.
        """
        for scheme in cls:
            if scheme.label == label:
                return scheme
        raise ValueError(f"{label!r} is no scheme: {', '.join(scheme.label for scheme in cls)}")


class SectionKind(IntEnum):
    """What a section of a record holds."""

    EMBEDDING = 1
    LABEL_MAP = 2
    COLOUR_MAP = 3
    COLOUR_DCT = 4
    ATTENTION_MAP = 5
    REGION_COLOURS = 6
    LEARNT_EMBEDDING = 7  # by the codebook of the profile


class Sampler(IntEnum):
    """Which solver runs the diffusion backwards."""

    DDIM = 0
    DPM_SOLVER = 1


@dataclass(frozen=True, slots=True)
class LinearGuidance:
    """How a known linear map of the picture steers (docs/schemes.md).

    strength: gamma, 0..1 in 1/255. cutoff: which of the latent grid's frequencies are steered, share of the highest,
    0..1 in 1/255. pixel_steps: at how many of the last steps the pixels' mean colours are corrected, 0..255.
    """

    strength: float
    cutoff: float
    pixel_steps: int


@dataclass(frozen=True, slots=True)
class AttentionGuidance:
    """How stored attention maps steer (docs/schemes.md); all of it ours.

    strength: eta, the longest step as a share of the latent's length, 0..1 in 1/255. until: in which share of the
    steps, from the first on, 0..1 in 1/255.
    """

    strength: float
    until: float


@dataclass(frozen=True, slots=True)
class EmbeddingGuidance:
    """How the stored embedding steers the finished latent (docs/schemes.md); all of it ours.

    strength: eta of the first step, as a share of the latent's length, 1..15 in 1/32. steps: 1..15.
    """

    strength: float
    steps: int


@dataclass(frozen=True, slots=True)
class Steering:
    """How the decoder is to be driven; part of the record, so that later defaults never change an old record's picture.

    steps: solver steps over the whole range of times, 1..255.
    guidance: classifier-free guidance scale, 0..15.9 in sixteenths; 1 is none.
    start: time at which decoding starts from the noised colour map (SDEdit), share of T in 1/255; None: from noise at
    T. linear: guidance by a known linear map, or None.
    colours_condition: whether the colour map is also given to the network as a trained condition [ours].
    attention: guidance by stored attention maps, or None. embedding: guidance by the stored embedding, or None.
    """

    sampler: Sampler
    steps: int
    guidance: float
    start: float | None = None
    linear: LinearGuidance | None = None
    colours_condition: bool = False
    attention: AttentionGuidance | None = None
    embedding: EmbeddingGuidance | None = None

    def to_bytes(self) -> bytes:
        """3 to 11 bytes: flags, steps, guidance, then what there is of start, linear and embedding guidance, and,
        announced by the last flag, a byte of further flags and what there is of attention guidance.
        """
        flags = self.sampler | (self.embedding is not None) << 3
        flags |= (self.start is not None) << 4 | (self.linear is not None) << 5
        flags |= self.colours_condition << 6 | (self.attention is not None) << 7
        out = bytearray((flags, self.steps, _level(self.guidance, 16)))
        if self.start is not None:
            out.append(_level(self.start, 255))
        if self.linear is not None:
            out += bytes((_level(self.linear.strength, 255), _level(self.linear.cutoff, 255), self.linear.pixel_steps))
        if self.embedding is not None:
            out.append(_nibble(self.embedding.steps) << 4 | _nibble(round(self.embedding.strength * 32)))
        if self.attention is not None:
            out += bytes((_ATTENTION, _level(self.attention.strength, 255), _level(self.attention.until, 255)))
        return bytes(out)

    @classmethod
    def read(cls, reader: FieldReader, version: int = VERSION) -> Steering:
        """Take the bytes of `to_bytes` off `reader`, in a record of this version.

        Raises RecordCorrupt.
        """
        flags, steps, guidance = reader.take(3, "the steering")
        if (flags & 0x80 and version < 2) or (flags & 0x08 and version < 3) or flags & 0x07 not in tuple(Sampler):
            raise RecordCorrupt(problem=f"steering {flags:#04x} is unknown")
        start = reader.byte("the start") / 255 if flags & 0x10 else None
        if not steps or start == 0:
            raise RecordCorrupt(problem="it asks for no steps at all")
        linear = None
        if flags & 0x20:
            strength, cutoff, pixel_steps = reader.take(3, "the linear guidance")
            linear = LinearGuidance(strength / 255, cutoff / 255, pixel_steps)
        embedding = None
        if flags & 0x08:
            embedding_steps, strength = divmod(reader.byte("the embedding guidance"), 16)
            if not embedding_steps or not strength:
                raise RecordCorrupt(problem="it asks for no embedding guidance at all")
            embedding = EmbeddingGuidance(strength / 32, embedding_steps)
        attention = None
        if flags & 0x80:
            further, strength, until = reader.take(3, "the attention guidance")
            if further != _ATTENTION:
                raise RecordCorrupt(problem=f"further steering {further:#04x} is unknown")
            attention = AttentionGuidance(strength / 255, until / 255)
        sampler, colours_condition = Sampler(flags & 0x07), bool(flags & 0x40)
        return cls(sampler, steps, guidance / 16, start, linear, colours_condition, attention, embedding)

    def rounded(self) -> Steering:
        """The nearest steering that a record can hold.

        Raises ValueError where a value is out of range.
        """
        try:
            return self.read(FieldReader(self.to_bytes()))
        except RecordCorrupt:  # there is no record that could be at fault
            raise ValueError(f"no record holds {self}") from None


def _level(value: float, scale: int) -> int:
    level = round(value * scale)
    if not 0 <= level <= 255:
        raise ValueError(f"{value} does not fit a record")
    return level


def _nibble(value: int) -> int:
    if not 1 <= value <= 15:
        raise ValueError(f"{value} does not fit a record")
    return value


@dataclass(frozen=True, slots=True)
class Section:
    """One coded part of a record."""

    kind: SectionKind
    payload: bytes

    def to_bytes(self) -> bytes:
        """Kind, length, payload."""
        return bytes((self.kind,)) + varint(len(self.payload)) + self.payload


@dataclass(frozen=True, slots=True)
class Record:
    """All that a decoder needs besides the weights.

    profile: first 8 bytes of the profile's fingerprint. seed: 32 bits. width, height: pixels of the upright source.
    grid: latent cells, (columns, rows). Each kind of section appears once at most.
    """

    scheme: Scheme
    profile: bytes
    seed: int
    width: int
    height: int
    grid: tuple[int, int]
    steering: Steering
    sections: tuple[Section, ...]

    @property
    def version(self) -> int:
        """The lowest version that can hold it: programs that know no later one read it, too."""
        if self.has(SectionKind.LEARNT_EMBEDDING):
            return 4
        if self.steering.embedding is not None or (self.scheme is Scheme.SEACOM and self.has(SectionKind.COLOUR_MAP)):
            return 3
        return 2 if self.steering.attention is not None or self.scheme is Scheme.LOSSLESS else 1

    def has(self, kind: SectionKind) -> bool:
        """Whether there is a section of this kind."""
        return any(section.kind == kind for section in self.sections)

    def section(self, kind: SectionKind) -> bytes:
        """The payload of a section.

        Raises RecordCorrupt where the record has none of this kind.
        """
        for section in self.sections:
            if section.kind == kind:
                return section.payload
        raise RecordCorrupt(problem=f"a {self.scheme.label} record without {kind.name.lower().replace('_', ' ')}")

    def to_bytes(self) -> bytes:
        """The record as bytes; the same for equal records."""
        body = bytearray(self.profile)
        body += self.seed.to_bytes(4, "big")
        for number in (self.width, self.height, *self.grid):
            body += varint(number)
        body += self.steering.to_bytes()
        for section in self.sections:
            body += section.to_bytes()
        head = MAGIC + bytes((self.version << 4 | self.scheme,)) + varint(len(body) + _CHECKSUM_BYTES)
        return head + body + zlib.crc32(head + body).to_bytes(_CHECKSUM_BYTES, "big")

    @classmethod
    def from_bytes(cls, data: bytes) -> Record:
        """Read a record that is all of `data`.

        Raises RecordCorrupt, or RecordVersionUnknown for one written by a later version.
        """
        record, length = cls.read(data)
        if length != len(data):
            raise RecordCorrupt(problem=f"{len(data) - length} bytes too many after its end")
        return record

    @classmethod
    def read(cls, data: bytes) -> tuple[Record, int]:
        """Read the record that `data` begins with; returns it and its length in bytes.

        Raises RecordCorrupt, or RecordVersionUnknown for one written by a later version.
        """
        reader = FieldReader(bytes(data[: MAX_BODY + 16]))
        if reader.take(2, "the magic") != MAGIC:
            raise RecordCorrupt(problem="it does not begin like a record")
        version, scheme = divmod(reader.byte("the version"), 16)
        if version > VERSION:
            raise RecordVersionUnknown(version=version, known=VERSION)
        length = reader.varint("the length", FINGERPRINT_BYTES + _CHECKSUM_BYTES, MAX_BODY)
        end = reader.position + length
        body = FieldReader(reader.take(length, "the body")[:-_CHECKSUM_BYTES])
        if zlib.crc32(data[: end - _CHECKSUM_BYTES]) != int.from_bytes(data[end - _CHECKSUM_BYTES : end], "big"):
            raise RecordCorrupt(problem="its checksum does not match")
        if version < 1 or scheme not in tuple(Scheme):
            raise RecordCorrupt(problem=f"version {version}, scheme {scheme} never existed")
        record = cls._read_body(version, Scheme(scheme), body)
        if record.version != version:
            raise RecordCorrupt(problem=f"version {version} for what version {record.version} holds")
        return record, end

    @classmethod
    def _read_body(cls, version: int, scheme: Scheme, body: FieldReader) -> Record:
        profile = body.take(FINGERPRINT_BYTES, "the profile")
        seed = int.from_bytes(body.take(4, "the seed"), "big")
        width, height = (body.varint(f"the {what}", 1, MAX_SIDE) for what in ("width", "height"))
        columns, rows = (body.varint(f"the {what} of the grid", 1, MAX_GRID) for what in ("columns", "rows"))
        steering = Steering.read(body, version)
        sections: list[Section] = []
        while body.left:
            kind = body.byte("a section")
            if kind not in tuple(SectionKind) or any(section.kind == kind for section in sections):
                raise RecordCorrupt(problem=f"section {kind} is unknown or there twice")
            payload = body.take(body.varint("a section's length", 0, MAX_BODY), "a section")
            sections.append(Section(SectionKind(kind), payload))
        return cls(scheme, profile, seed, width, height, (columns, rows), steering, tuple(sections))
