"""The lossless rung: a JPEG as JPEG XL, which gives back its exact bytes, in about four fifths of them.

The transcoding is libjxl's (ISO/IEC 18181-2, annex A: JPEG bitstream reconstruction data), through imagecodecs. Its
result is far larger than a record, so the record only says that there is one, and shows the picture's colours; where
the result lies is not the codec's affair.
"""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from archiver.codec import colour_map
from archiver.codec.colour import shrink
from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import NO_PROFILE, Record, Sampler, Scheme, Section, SectionKind, Steering
from archiver.codec.schemes import map_size
from archiver.errors import TranscodeRefused, TranscoderNotInstalled

EXACT = FidelityReport(semantic=1.0, label_bce=None, colour=0.0)
"""What a copy of the very bytes is worth."""

_UNSTEERED = Steering(Sampler.DDIM, steps=1, guidance=1.0)  # nothing is sampled; a record has this field all the same
_STEPS = (8, 12)  # of luma and chroma
_CELL = 16  # pixels of the working size


def is_installed() -> bool:
    """Whether this installation can transcode and restore."""
    return find_spec("imagecodecs") is not None


def compose(picture: Picture) -> Record:
    """The record of a picture whose bytes are kept elsewhere: its colour map, for the placeholder. Needs no weights."""
    height, width, _ = picture.pixels.shape
    grid = (max(1, width // _CELL), max(1, height // _CELL))
    colours = colour_map.encode(shrink(picture.pixels, *map_size(grid, _CELL)), *_STEPS)
    section = Section(SectionKind.COLOUR_MAP, colours)
    return Record(Scheme.LOSSLESS, NO_PROFILE, 0, picture.width, picture.height, grid, _UNSTEERED, (section,))


def transcode(jpeg: bytes) -> bytes:
    """A JPEG file as JPEG XL, proven to give its bytes back.

    Raises TranscodeRefused (CMYK, arithmetic coding, damage: what libjxl does not take), TranscoderNotInstalled.
    """
    codecs = _imagecodecs()
    try:
        packed = bytes(codecs.jpegxl_encode_jpeg(jpeg, usecontainer=True, numthreads=1))
    except (RuntimeError, ValueError) as error:
        raise TranscodeRefused(problem=str(error)) from error
    if restore(packed, len(jpeg)) != jpeg:
        raise TranscodeRefused(problem="it does not give the same bytes back")
    return packed


def restore(packed: bytes, length: int) -> bytes:
    """The JPEG file of `length` bytes that was transcoded; never takes memory for more.

    Raises TranscodeRefused where `packed` is damaged or gives another length, TranscoderNotInstalled.
    """
    codecs = _imagecodecs()
    try:
        jpeg = bytes(codecs.jpegxl_decode_jpeg(packed, numthreads=1, out=length))
    except (RuntimeError, ValueError) as error:
        raise TranscodeRefused(problem=str(error)) from error
    if len(jpeg) != length:
        raise TranscodeRefused(problem=f"it gives {len(jpeg)} bytes instead of {length}")
    return jpeg


def _imagecodecs() -> ModuleType:
    """Imported when it is needed: most installations never do."""
    try:
        import imagecodecs
    except ImportError as error:
        raise TranscoderNotInstalled(missing=error.name or error) from error
    module: ModuleType = imagecodecs
    return module
