"""Pictures of every supported kind, made on the spot, with all the metadata each format can carry."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from functools import cache
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from archiver.formats import Envelope, Inspection, Kind, Label, Limits, SourceFacts, ifd, load_picture, survey

LIMITS = Limits()
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description rdf:about="uuid:7" xmlns:dc="http://purl.org/dc/elements/1.1/" dc:format="image/jpeg">'
    b"<dc:subject><rdf:Bag><rdf:li>sea &amp; sky</rdf:li></rdf:Bag></dc:subject></rdf:Description>"
    b"</rdf:RDF></x:xmpmeta>" + b" " * 300 + b'\n<?xpacket end="w"?>'
)
CAMERA_SAYS_CAPTURED = XMP.replace(
    b' dc:format="image/jpeg"',
    b' xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    b' ext:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"',
)


def photo(width: int = 320, height: int = 240, mode: str = "RGB", noise: int = 24) -> Image.Image:
    """A scene whose four corners differ, so that turning it shows, with grain, so that files are not tiny."""
    rng = np.random.default_rng(width * 31 + height)
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    planes = np.stack([200 - 120 * x / width, 190 - 110 * y / height, 60 + 120 * x * y / (width * height)], axis=-1)
    planes[: height // 4, : width // 4] += 40
    pixels = np.clip(planes + rng.integers(-noise, noise + 1, planes.shape), 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def exif(orientation: int = 1, *, thumbnail: bool = False, order: str = "<") -> bytes:
    """An EXIF block (from its TIFF header on) with a maker note, GPS and, if asked, a thumbnail behind it all."""
    o = order
    below = ifd.Tree(((0x9003, 2, b"2019:07:04 12:00:00\0"), (0x927C, 7, bytes(range(200)))))
    gps = ifd.Tree(((0, 1, b"\2\3\0\0"), (1, 2, b"N\0")))
    fields = [
        (0x010F, 2, b"Maker\0"),
        (0x0110, 2, b"Camera One\0"),
        (0x0112, 3, struct.pack(o + "H", orientation)),
        (0x8769, 4, below),
        (0x8825, 4, gps),
    ]
    main = bytearray(ifd.header(o, 8) + ifd.serialise(ifd.Tree(tuple(fields)), o, 8))
    if thumbnail:
        small = jpeg(photo(40, 30))
        at = len(main)
        struct.pack_into(o + "I", main, 8 + 2 + 12 * len(fields), at)
        second = [
            (0x0103, 3, struct.pack(o + "H", 6)),
            (0x0201, 4, struct.pack(o + "I", at + 42)),
            (0x0202, 4, struct.pack(o + "I", len(small))),
        ]
        main += ifd.serialise(ifd.Tree(tuple(second)), o, at) + small
    return bytes(main)


def srgb_profile() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def wide_profile() -> bytes:
    """A working RGB profile that is not sRGB: red and green exchanged, which nobody can overlook."""
    data = bytearray(srgb_profile())
    entries = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * struct.unpack_from(">I", data, 128)[0], 12)}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    data[red + 4 : red + 12], data[green + 4 : green + 12] = data[green + 4 : green + 12], data[red + 4 : red + 12]
    return bytes(data)


def saved(image: Image.Image, fmt: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def jpeg(image: Image.Image, **options: object) -> bytes:
    return saved(image, "JPEG", **options)


def with_segments(data: bytes, *segments: tuple[int, bytes]) -> bytes:
    """A JPEG with more segments behind its JFIF header."""
    at = 2
    while data[at + 1] == 0xE0:
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    more = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body for marker, body in segments)
    return data[:at] + more + data[at:]


def with_chunks(data: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with more chunks behind its header."""
    more = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )
    return data[:33] + more + data[33:]


def photoshop(*, thumbnail: bool = False) -> bytes:
    iptc = b"\x1c\2\x50\0\5Alice"
    resources = b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc
    if thumbnail:
        resources += b"8BIM\4\x0c\0\0" + struct.pack(">I", 50) + bytes(50)
    return b"Photoshop 3.0\0" + resources


def full_jpeg(orientation: int = 1, **options: object) -> bytes:
    extended = b"http://ns.adobe.com/xmp/extension/\0" + b"A" * 32 + struct.pack(">II", 900, 0) + b"x" * 900
    plain = jpeg(photo(), quality=88, dpi=(300, 300), **options)
    return with_segments(
        plain,
        (0xE1, b"Exif\0\0" + exif(orientation, thumbnail=True, order=">")),
        (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + XMP),
        (0xE1, extended),
        (0xE2, b"ICC_PROFILE\0\1\2" + srgb_profile()[:300]),
        (0xE2, b"ICC_PROFILE\0\2\2" + srgb_profile()[300:]),
        (0xED, photoshop(thumbnail=True)),
        (0xEC, b"Ducky\0\1\0\4\0\0\0<\0\0"),
        (0xFE, b"a comment"),
        (0xFE, b"and another"),
    )


def full_png(orientation: int = 1) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_text("Software", "made for a test")
    info.add_text("Long", "text " * 200, zip=True)
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    info.add_itxt("Title", "Möwe", "de", "Titel")
    plain = saved(photo(), "PNG", pnginfo=info, dpi=(72, 72))
    return with_chunks(
        plain,
        (b"gAMA", struct.pack(">I", 45455)),
        (b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)),
        (b"sRGB", b"\0"),
        (b"tIME", struct.pack(">HBBBBB", 2019, 7, 4, 12, 0, 0)),
        (b"eXIf", exif(orientation, thumbnail=True)),
        (b"teSt", b"private, safe to copy"),
    )


def full_webp(orientation: int = 1, **options: object) -> bytes:
    return saved(
        photo(), "WEBP", exif=exif(orientation, thumbnail=True), xmp=XMP, icc_profile=srgb_profile(), **options
    )


def full_tiff(orientation: int = 1, compression: str | None = None, mode: str = "RGB", **options: object) -> bytes:
    info = TiffImagePlugin.ImageFileDirectory_v2()
    info[270], info[271], info[272], info[315] = "A description", "Maker", "Camera One", "Alice"
    info[274] = orientation
    info[700] = XMP
    info.tagtype[700] = 1
    info[33723] = b"\x1c\2\x50\0\5Alice"
    info.tagtype[33723] = 7
    if compression in (None, "raw"):  # through libtiff Pillow cannot write a directory below
        info[34665] = {36867: "2019:07:04 12:00:00"}
    profile = {"icc_profile": srgb_profile()} if mode == "RGB" else {}
    return saved(photo(mode=mode), "TIFF", tiffinfo=info, compression=compression, dpi=(300, 300), **profile, **options)


def big_endian_tiff(orientation: int = 1) -> bytes:
    """Strips of one row each, tables behind the pixels, Motorola order."""
    image = photo(90, 70)
    rows = [image.crop((0, y, 90, y + 1)).tobytes() for y in range(70)]
    at = 8 + sum(map(len, rows))
    fields = (
        (256, 3, struct.pack(">H", 90)),
        (257, 3, struct.pack(">H", 70)),
        (258, 3, struct.pack(">3H", 8, 8, 8)),
        (259, 3, struct.pack(">H", 1)),
        (262, 3, struct.pack(">H", 2)),
        (270, 2, b"in Motorola order\0"),
        (273, 4, struct.pack(">70I", *(8 + 270 * y for y in range(70)))),
        (274, 3, struct.pack(">H", orientation)),
        (277, 3, struct.pack(">H", 3)),
        (278, 3, struct.pack(">H", 1)),
        (279, 4, struct.pack(">70I", *[270] * 70)),
        (282, 5, struct.pack(">II", 300, 1)),
        (34665, 4, ifd.Tree(((36867, 2, b"2019:07:04 12:00:00\0"), (37500, 7, bytes(range(99)))))),
    )
    return ifd.header(">", at) + b"".join(rows) + ifd.serialise(ifd.Tree(fields), ">", at)


def turned(orientation: int) -> bytes:
    """A JPEG whose pixels are stored so that this orientation shows `photo()` upright."""
    from archiver.formats.pixels import to_stored

    return jpeg(to_stored(photo(noise=4), orientation), quality=95, exif=b"Exif\0\0" + exif(orientation))


@cache
def samples() -> dict[str, bytes]:
    """Every kind of image that is accepted, by name."""
    made = {
        "jpeg": jpeg(photo(), quality=85),
        "jpeg-grey": jpeg(photo(mode="L"), quality=90),
        "jpeg-progressive": jpeg(photo(), quality=85, progressive=True),
        "jpeg-444": jpeg(photo(), quality=60, subsampling=0),
        "jpeg-full": full_jpeg(),
        "jpeg-full-progressive": full_jpeg(6, progressive=True),
        "png": saved(photo(), "PNG"),
        "png-grey": saved(photo(mode="L"), "PNG"),
        "png-full": full_png(3),
        "png-icc": saved(photo(), "PNG", icc_profile=wide_profile()),
        "webp": saved(photo(), "WEBP", quality=80),
        "webp-lossless": saved(photo(), "WEBP", lossless=True),
        "webp-full": full_webp(8),
        "tiff-big-endian": big_endian_tiff(),
        "tiff-grey": full_tiff(mode="L", compression="tiff_adobe_deflate"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"):
        made[f"tiff-{compression}"] = full_tiff(2, compression)
    for orientation in range(1, 9):
        made[f"jpeg-turned-{orientation}"] = turned(orientation)
    return made


SAMPLE_NAMES = tuple(samples())
LABEL = Label("sgc", "embedded-1", bytes(range(32)), "cpu", "0.1.0")
PREVIEW: NDArray[np.uint8] = np.asarray(photo(12, 9), dtype=np.uint8)


def inspect(file: BinaryIO, limits: Limits) -> Inspection:
    """All that is found out about an image before it is archived; the picture is decoded."""
    found = survey(file, limits)
    load_picture(file, found, 1, 1)
    return found


def inspected(data: bytes, limits: Limits = LIMITS) -> Inspection:
    return inspect(io.BytesIO(data), limits)


def envelope_for(data: bytes, record: bytes = bytes(range(256)), length: int | None = None) -> Envelope:
    """What a release of this file would write."""
    found = inspected(data)
    facts = SourceFacts(
        found.format,
        len(data) if length is None else length,
        hashlib.sha256(data).digest(),
        found.width,
        found.height,
        found.orientation,
        found.mode,
        1_562_241_600_123_456_789,
        4242,
    )
    return Envelope(Kind.PLACEHOLDER, record, facts, 7)
