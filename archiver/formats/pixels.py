"""Pixels in and out: decoding with Pillow, orientation, colour profiles, blurring."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageFile, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin
from PIL.Image import Resampling, Transpose

from archiver.errors import ImageRefused
from archiver.formats.facts import Format, Mode, Refusal
from archiver.formats.scan import corrupt

# The plugins are used directly: Image.open would try every other format, and has a pixel limit of its own, for the
# whole process.
_PLUGINS: dict[Format, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    Format.JPEG: JpegImagePlugin.JpegImageFile,
    Format.PNG: PngImagePlugin.PngImageFile,
    Format.WEBP: WebPImagePlugin.WebPImageFile,
    Format.TIFF: TiffImagePlugin.TiffImageFile,
}
_COLOURS_A_SIDE = 13  # of the cube of colours that tells sRGB's own profile
# What Pillow warns of (odd EXIF, unknown tags) is checked here before Pillow sees the file; a daemon's log is no
# place for it.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
_STORED = {**_UPRIGHT, 6: Transpose.ROTATE_90, 8: Transpose.ROTATE_270}


@contextmanager
def decoding() -> Iterator[None]:
    """Turn whatever Pillow raises on a bad file into a refusal.

    Errors of the disk and of the machine stay what they are.
    """
    try:
        yield
    except ImageRefused:
        raise
    except MemoryError as error:
        raise ImageRefused(reason=Refusal.TOO_LARGE, detail="decoding it needs more memory than there is") from error
    except Image.DecompressionBombError as error:
        raise ImageRefused(reason=Refusal.TOO_LARGE, detail="more pixels than Pillow decodes of a TIFF") from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise corrupt(str(error)) from error
    except Exception as error:  # Pillow's plugins raise any of a dozen types on malformed input
        raise corrupt(f"{type(error).__name__}: {error}") from error


def decode(file: BinaryIO, fmt: Format, size: tuple[int, int], mode: Mode, at_least: tuple[int, int]) -> Image.Image:
    """The whole picture as stored, which proves that it can be decoded.

    A JPEG may come at 1/2, 1/4 or 1/8 of its size, but never below `at_least` pixels, in a fraction of the time: every
    coefficient is read and checked all the same, and only the inverse DCT, which cannot fail, has less to do. Raises
    ImageRefused if decoding fails or its outcome differs from what the headers say, `size` and `mode`.
    """
    file.seek(0)
    with decoding():
        image = _PLUGINS[fmt](file)
        found = image.size
        if fmt is Format.JPEG:
            image.draft(None, at_least)
        stored = _loaded(image)
        if fmt is not Format.JPEG:
            found = stored.size
        if found != size or stored.mode != mode:
            raise corrupt(f"its headers say {size[0]}x{size[1]} {mode}, its data is {found} {stored.mode}")
        return stored


def _loaded(image: ImageFile.ImageFile) -> Image.Image:
    """The pixels as stored: of all its plugins, Pillow's one for TIFF turns pictures upright while loading."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()
        return image
    turned = image.getexif().get(ExifTags.Base.Orientation, 1)
    image.load()
    return to_stored(image, turned)


def to_upright(image: Image.Image, orientation: int) -> Image.Image:
    """As a viewer shows it."""
    method = _UPRIGHT.get(orientation)
    return image if method is None else image.transpose(method)


def to_stored(image: Image.Image, orientation: int) -> Image.Image:
    """The inverse of `to_upright`."""
    method = _STORED.get(orientation)
    return image if method is None else image.transpose(method)


def to_srgb(image: Image.Image, icc: bytes | None) -> Image.Image:
    """RGB in sRGB. Without a profile, or with one that works in one direction only, values are taken to be sRGB."""
    pair = _transforms(icc, image.mode) if icc else None
    return image.convert("RGB") if pair is None else _applied(image, pair[0])


def from_srgb(image: Image.Image, icc: bytes | None, mode: Mode) -> Image.Image:
    """sRGB (RGB) in the source's mode and profile; the inverse of `to_srgb` as far as gamuts allow."""
    pair = _transforms(icc, mode) if icc else None
    return image.convert(mode) if pair is None else _applied(image, pair[1])


def _applied(image: Image.Image, transform: ImageCms.ImageCmsTransform) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise AssertionError("only a transform in place returns nothing")
    return converted


@lru_cache(maxsize=8)
def _transforms(icc: bytes, mode: str) -> tuple[ImageCms.ImageCmsTransform, ImageCms.ImageCmsTransform] | None:
    """(profile to sRGB, sRGB to profile); None for sRGB, and if either cannot be built: a profile of another colour
    space, or for input only.
    """
    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    try:
        profile = ImageCms.getOpenProfile(io.BytesIO(icc))
        srgb = ImageCms.createProfile("sRGB")
        there = ImageCms.buildTransform(profile, srgb, mode, "RGB", intent, flags)
        back = ImageCms.buildTransform(srgb, profile, "RGB", mode, intent, flags)
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
    return None if mode == "RGB" and _changes_nothing(there) else (there, back)


def _changes_nothing(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether it moves no colour by more than one step of 255: the profile is sRGB's own, as most are."""
    steps = np.linspace(0, 255, _COLOURS_A_SIDE).astype(np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, _COLOURS_A_SIDE, 3)
    moved = np.asarray(_applied(from_array(cube), transform)).astype(int) - cube
    return bool(np.abs(moved).max() <= 1)


def smoothed(picture: NDArray[np.uint8], pixels: int) -> NDArray[np.uint8]:
    """Without detail below this many pixels; 0 leaves one colour, 1 everything."""
    if pixels == 1:
        return picture
    image = from_array(picture)
    size = (1, 1) if not pixels else tuple(max(1, side // pixels) for side in image.size)
    small = image.resize((size[0], size[1]), Resampling.BOX)
    return array(small.resize(image.size, Resampling.BILINEAR))


def enlarged(picture: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture (h, w) or (h, w, 3) at `size` (width, height) pixels: bicubic, or Lanczos where it has to shrink.

    A reader waits for it: OpenCV takes a twentieth of Pillow's time, and differs from machine to machine by no more
    than one step of 255. Large pictures stay arrays, for Pillow would copy them into memory of its own.
    """
    height, width = picture.shape[:2]
    if (width, height) == size:
        return picture
    if width > size[0] or height > size[1]:
        return array(from_array(picture).resize(size, Resampling.LANCZOS))
    import cv2  # only where it is needed: it takes longer to import than everything else here

    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """RGB from uint8 (h, w, 3), grey from (h, w); the inverse of `array`."""
    return Image.fromarray(np.ascontiguousarray(pixels))


def blurred(colours: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A colour map at `size` pixels, without visible cells."""
    return colours.resize(size, Resampling.BICUBIC)


def shrunk(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture at `size` pixels, by Hamming's window over a box-reduced copy, in a third of the time of Lanczos'."""
    return image.resize(size, Resampling.HAMMING, reducing_gap=3.0)


def array(image: Image.Image) -> NDArray[np.uint8]:
    """uint8 (h, w, 3), or (h, w) of grey."""
    return np.asarray(image, dtype=np.uint8).copy()
