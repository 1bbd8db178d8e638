"""Names of formats that are refused, so that the report can say what a file is."""

from __future__ import annotations

_SIGNATURES = (
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"8BPS", "Photoshop PSD"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"II+\0", "BigTIFF"),
    (b"MM\0+", "BigTIFF"),
    (b"IIRO", "Olympus ORF raw"),
    (b"IIRS", "Olympus ORF raw"),
    (b"MMOR", "Olympus ORF raw"),
    (b"IIU\0", "Panasonic RW2 raw"),
    (b"FUJIFILM", "Fujifilm RAF raw"),
    (b"FOVb", "Sigma X3F raw"),
    (b"\0MRM", "Minolta MRW raw"),
    (b"II\x1a\0\0\0HEAPCCDR", "Canon CRW raw"),
    (b"II\xbc", "JPEG XR"),
    (b"v/1\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"\0\0\x01\0", "icon"),
    (b"gimp xcf", "GIMP XCF"),
    (b"DDS ", "DDS"),
    (b"SIMPLE", "FITS"),
    (b"qoif", "QOI"),
    (b"FLIF", "FLIF"),
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"<svg", "SVG"),
    (b"<?xml", "XML, perhaps SVG"),
    (b"\x8aMNG", "MNG"),
    (b"\x8bJNG", "JNG"),
)
_BRANDS = {
    b"avif": "AVIF",
    b"avis": "AVIF sequence",
    b"crx ": "Canon CR3 raw",
    b"mif1": "HEIF",
    b"msf1": "HEIF sequence",
    b"jxl ": "JPEG XL",
}


def name_of(head: bytes) -> str:
    """What a file that starts with these bytes (64 are enough) probably is; "not an image we know" otherwise."""
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        heic = brand.startswith((b"hei", b"hev"))
        return "HEIC" if heic else _BRANDS.get(brand, "a film or another ISO media file")
    if head[:1] == b"P" and head[1:2] in b"1234567" and head[2:3].isspace():
        return "PNM"
    if not head.strip(b"\0"):
        return "it starts with zeros"
    return next((name for signature, name in _SIGNATURES if head.startswith(signature)), "not an image we know")
