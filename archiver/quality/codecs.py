"""Classical codecs as a careful user drives them: no metadata, default effort or more, colour at half resolution."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from archiver.errors import MeasuresNotInstalled


@dataclass(frozen=True, slots=True)
class Codec:
    """A codec with one setting, `low` to `high`, that makes its files larger and its pictures better."""

    name: str
    low: int
    high: int
    smallest: int  # pixels of the shorter side
    encode: Callable[[Image.Image, int], bytes]
    decode: Callable[[bytes], Image.Image]


def _saved(image: Image.Image, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, **how)  # type: ignore[arg-type]
    return out.getvalue()


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _jpeg(image: Image.Image, quality: int) -> bytes:
    both = (_saved(image, format="JPEG", quality=quality, optimize=True, progressive=one) for one in (False, True))
    return min(both, key=len)


def _jpeg2000(image: Image.Image, quality: int) -> bytes:
    # The rate is a compression ratio; eight steps halve it. A bare code stream needs no file header.
    ratio = 2 ** ((96 - quality) / 8)
    levels = max(1, min(6, min(image.size).bit_length() - 2))
    layers = {"quality_mode": "rates", "quality_layers": [ratio], "num_resolutions": levels}
    return _saved(image, format="JPEG2000", no_jp2=True, irreversible=True, mct=1, **layers)


def _webp(image: Image.Image, quality: int) -> bytes:
    return _saved(image, format="WEBP", quality=quality, method=6)


def _avif(image: Image.Image, quality: int) -> bytes:
    return _saved(image, format="AVIF", quality=quality, speed=4, max_threads=1)


def _jpeg_xl(image: Image.Image, quality: int) -> bytes:
    # From the largest distance that libjxl takes down to next to nothing.
    distance = 25 * (0.1 / 25) ** (quality / 99)
    codecs = _imagecodecs()
    coded: bytes = codecs.jpegxl_encode(
        np.asarray(image), distance=distance, effort=7, lossless=False, numthreads=1, usecontainer=False
    )
    return coded


def _open_jpeg_xl(data: bytes) -> Image.Image:
    return Image.fromarray(_imagecodecs().jpegxl_decode(data, numthreads=1))


def _imagecodecs() -> Any:
    try:
        import imagecodecs
    except ImportError as error:
        raise MeasuresNotInstalled(missing=error.name or error) from None
    return imagecodecs


# -- VVC ---------------------------------------------------------------------------------------------------------------

_VVC_WORST = 63  # of its quantiser's parameter


def _vvc(image: Image.Image, quality: int) -> bytes:
    """One intra frame as a bare stream by VVenC; its parameter counts the other way."""
    width, height = image.size
    source = ("-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", "1", "-i", "-")
    colours = ("-vf", "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p10le")
    coder = ("-c:v", "libvvenc", "-preset", "medium", "-threads", "1", "-qp", str(_VVC_WORST - quality))
    return _ffmpeg(image.tobytes(), *source, "-frames:v", "1", *colours, *coder, "-f", "vvc")


def _open_vvc(data: bytes) -> Image.Image:
    colours = ("-vf", "scale=in_color_matrix=bt709:in_range=tv,format=rgb24")
    return _opened(_ffmpeg(data, "-f", "vvc", "-i", "-", "-frames:v", "1", *colours, "-f", "image2pipe", "-c:v", "png"))


def _ffmpeg(data: bytes, *words: str) -> bytes:
    """What the packaged ffmpeg makes of `data`. Raises MeasuresNotInstalled, CalledProcessError."""
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError as error:
        raise MeasuresNotInstalled(missing=error.name or error) from None
    return subprocess.run(
        [get_ffmpeg_exe(), "-v", "error", *words, "-"], input=data, capture_output=True, check=True
    ).stdout


CODECS = {
    codec.name: codec
    for codec in (
        Codec("jpeg", 0, 95, 8, _jpeg, _opened),
        Codec("jpeg2000", 0, 96, 8, _jpeg2000, _opened),
        Codec("webp", 0, 100, 8, _webp, _opened),
        Codec("avif", 0, 100, 8, _avif, _opened),
        Codec("jpeg-xl", 0, 99, 8, _jpeg_xl, _open_jpeg_xl),
        Codec("vvc", 0, 43, 32, _vvc, _open_vvc),
    )
}
