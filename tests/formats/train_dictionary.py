"""How archiver/formats/metadata-1.zdict was made: zstd trained on synthetic metadata like that of cameras.

    python tests/formats/train_dictionary.py OUTPUT

The shipped file is never made again: records in the field need these very bytes (a test pins their hash). A better
one gets the next number.
"""

from __future__ import annotations

import random
import struct
import sys
from pathlib import Path

import zstandard
from PIL import Image, ImageCms

CAMERAS = [
    ("Canon", "Canon EOS 5D Mark IV", "EF24-70mm f/2.8L II USM", ""),
    ("Canon", "Canon EOS R6", "RF24-105mm F4 L IS USM", "Firmware Version 1.8.2"),
    ("Canon", "Canon EOS 700D", "EF-S18-55mm f/3.5-5.6 IS STM", ""),
    ("Canon", "Canon PowerShot G7 X Mark II", "8.8-36.8 mm", ""),
    ("NIKON CORPORATION", "NIKON D850", "24.0-70.0 mm f/2.8", "Ver.1.20 "),
    ("NIKON CORPORATION", "NIKON Z 6", "NIKKOR Z 24-70mm f/4 S", "Ver.02.20"),
    ("NIKON", "COOLPIX P900", "", "COOLPIX P900 V1.3"),
    ("SONY", "ILCE-7M3", "FE 24-105mm F4 G OSS", "ILCE-7M3 v3.10"),
    ("SONY", "DSC-RX100M5", "24-70mm F1.8-2.8", "DSC-RX100M5 v1.00"),
    ("FUJIFILM", "X-T3", "XF18-55mmF2.8-4 R LM OIS", "Digital Camera X-T3 Ver3.10"),
    ("Panasonic", "DMC-GX85", "LUMIX G VARIO 12-32/F3.5-5.6", "Ver.1.2  "),
    ("OLYMPUS CORPORATION", "E-M10MarkIII", "OLYMPUS M.14-42mm F3.5-5.6 EZ", "Version 1.0"),
    ("Apple", "iPhone 12", "iPhone 12 back dual wide camera 4.2mm f/1.6", "15.5"),
    ("Apple", "iPhone 8", "iPhone 8 back camera 3.99mm f/1.8", "13.3.1"),
    ("Apple", "iPhone 13 Pro", "iPhone 13 Pro back triple camera 5.7mm f/1.5", "16.1.1"),
    ("samsung", "SM-G973F", "", "G973FXXU9FUCD"),
    ("samsung", "SM-S911B", "Samsung S23 Rear Camera", "S911BXXS3AWF7"),
    ("Google", "Pixel 6", "Pixel 6 back camera 6.81mm f/1.85", "HDR+ 1.0.431178219zd"),
    ("HUAWEI", "VOG-L29", "", "VOG-L29 10.1.0.162"),
    ("Xiaomi", "Mi 9T", "", ""),
    ("LEICA CAMERA AG", "LEICA Q2", "SUMMILUX 1:1.7/28 ASPH.", "4.0"),
    ("RICOH IMAGING COMPANY, LTD.", "PENTAX K-1", "HD PENTAX-D FA 28-105mm F3.5-5.6 ED DC WR", ""),
    ("DJI", "FC3170", "", "10.00.12.07"),
    ("GoPro", "HERO9 Black", "", "HD9.01.01.60.00"),
]
SOFTWARE = [
    "Adobe Photoshop CS6 (Windows)",
    "Adobe Photoshop 24.1 (Macintosh)",
    "Adobe Photoshop Lightroom 6.0 (Macintosh)",
    "Adobe Photoshop Lightroom Classic 12.1 (Windows)",
    "Adobe Lightroom 8.2 (iOS)",
    "darktable 4.2.1",
    "RawTherapee 5.8",
    "GIMP 2.10.34",
    "Capture One 22 Windows",
    "Picasa",
    "Photos 8.0",
    "digiKam-7.9.0",
]


def srgb_iec61966() -> bytes:
    """The sRGB profile that most editors embed, from the numbers of IEC 61966-2-1: a curve and a dozen tags."""

    def text(value: str) -> bytes:
        return b"text\0\0\0\0" + value.encode() + b"\0"

    def description(value: str, size: int) -> bytes:
        line = struct.pack(">I", len(value) + 1) + value.encode() + b"\0"
        return (b"desc\0\0\0\0" + line + bytes(7) + line).ljust(size, b"\0")

    def xyz(*values: int) -> bytes:
        return b"XYZ \0\0\0\0" + struct.pack(">3i", *values)

    def curve(x: float) -> float:
        return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4

    trc = b"curv\0\0\0\0" + struct.pack(">I1024H", 1024, *(round(65535 * curve(i / 1023)) for i in range(1024)))
    description_size = 90 + 18
    tags = [
        (b"cprt", text("Copyright (c) 1998 Hewlett-Packard Company")),
        (b"desc", description("sRGB IEC61966-2.1", description_size)),
        (b"wtpt", xyz(0xF351, 0x10000, 0x116CC)),
        (b"bkpt", xyz(0, 0, 0)),
        (b"rXYZ", xyz(0x6FA2, 0x38F5, 0x390)),
        (b"gXYZ", xyz(0x6299, 0xB785, 0x18DA)),
        (b"bXYZ", xyz(0x24A0, 0xF84, 0xB6CF)),
        (b"dmnd", description("IEC http://www.iec.ch", 112)),
        (b"dmdd", description("IEC 61966-2.1 Default RGB colour space - sRGB", 136)),
        (b"vued", description("Reference Viewing Condition in IEC61966-2.1", 134)),
        (b"view", b"view\0\0\0\0" + struct.pack(">6iI", 0x13A4FE, 0x145F2E, 0x10CF14, 0x3EDCC, 0x4130B, 0x35C9E, 1)),
        (b"lumi", xyz(0x4C0956, 0x500000, 0x571FE7)),
        (b"meas", b"meas\0\0\0\0" + struct.pack(">I3iIII", 1, 0, 0, 0, 0, 0x28F, 2)),
        (b"tech", b"sig \0\0\0\0CRT "),
    ]
    count = len(tags) + 3
    table, body = b"", b""
    start = 132 + 12 * count
    for name, data in tags:
        table += struct.pack(">4sII", name, start + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    for name in (b"rTRC", b"gTRC", b"bTRC"):
        table += struct.pack(">4sII", name, start + len(body), len(trc))
    body += trc
    total = start + len(body)
    head = struct.pack(
        ">I4sI4s4s4s6H4s4sI4s",
        total,
        b"Lino",
        0x02100000,
        b"mntr",
        b"RGB ",
        b"XYZ ",
        1998,
        2,
        9,
        6,
        49,
        0,
        b"acsp",
        b"MSFT",
        0,
        b"IEC ",
    )
    head += b"sRGB" + bytes(12) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D) + b"HP  "
    return head.ljust(128, b"\0") + struct.pack(">I", count) + table + body


def srgb_by_little_cms() -> bytes:
    """The sRGB profile that GIMP, darktable and Pillow make, without its date."""
    data = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return data[:24] + bytes(12) + data[36:]


def exif(rng: random.Random) -> bytes:
    """EXIF as one of the cameras writes it, through Pillow."""
    make, model, lens, firmware = rng.choice(CAMERAS)
    data = Image.Exif()
    data.endian = "<" if make in ("Canon", "SONY", "FUJIFILM", "Panasonic", "HUAWEI", "Xiaomi") else ">"
    year, month, day = rng.randint(5, 24), rng.randint(1, 12), rng.randint(1, 28)
    hour, minute, second = rng.randint(0, 23), rng.randint(0, 59), rng.randint(0, 59)
    when = f"20{year:02}:{month:02}:{day:02} {hour:02}:{minute:02}:{second:02}"
    data[0x010F], data[0x0110] = make, model
    data[0x0112] = rng.choice([1, 1, 1, 6, 8, 3])
    data[0x011A] = data[0x011B] = rng.choice([72.0, 72.0, 300.0, 240.0])
    data[0x0128] = 2
    data[0x0131] = rng.choice([firmware or "1.0", rng.choice(SOFTWARE)])
    data[0x0132] = when
    data[0x0213] = 1
    if rng.random() < 0.3:
        data[0x013B] = data[0x8298] = rng.choice(["(c) All rights reserved", "Copyright", ""])
    sub = data.get_ifd(0x8769)
    sub[0x829A] = rng.choice([1 / 60, 1 / 125, 1 / 250, 1 / 1000, 1 / 30])
    sub[0x829D] = rng.choice([1.8, 2.8, 4.0, 5.6, 8.0])
    sub[0x8822] = rng.choice([0, 1, 2, 3])
    sub[0x8827] = rng.choice([50, 100, 200, 400, 800, 1600])
    sub[0x8830] = 2
    sub[0x9000] = rng.choice([b"0230", b"0231", b"0220", b"0221", b"0232"])
    sub[0x9003] = sub[0x9004] = when
    if rng.random() < 0.4:
        sub[0x9010] = sub[0x9011] = sub[0x9012] = rng.choice(["+01:00", "+02:00", "-05:00", "+09:00"])
    sub[0x9101] = b"\1\2\3\0"
    sub[0x9201], sub[0x9202] = 6.9, 3.6
    sub[0x9204], sub[0x9207], sub[0x9209] = 0.0, rng.choice([2, 3, 5]), rng.choice([0, 16, 24])
    sub[0x920A] = rng.choice([4.2, 24.0, 35.0, 50.0, 85.0])
    sub[0x9290] = sub[0x9291] = sub[0x9292] = f"{rng.randint(0, 999):03}"
    sub[0xA000], sub[0xA001] = b"0100", rng.choice([1, 1, 65535])
    sub[0xA002], sub[0xA003] = rng.choice([(4032, 3024), (6000, 4000), (5472, 3648), (1600, 1200), (3840, 2160)])
    sub[0xA217], sub[0xA300], sub[0xA301] = 2, b"\3", b"\1"
    sub[0xA401] = sub[0xA402] = sub[0xA403] = sub[0xA406] = 0
    sub[0xA405] = rng.choice([24, 26, 35, 50])
    if lens:
        sub[0xA432] = (24.0, 70.0, 2.8, 2.8)
        sub[0xA433], sub[0xA434] = make, lens
    if rng.random() < 0.4:
        gps = data.get_ifd(0x8825)
        gps[0] = b"\2\3\0\0"
        gps[1], gps[2] = rng.choice("NS"), (float(rng.randint(0, 60)), float(rng.randint(0, 59)), rng.random() * 60)
        gps[3], gps[4] = rng.choice("EW"), (float(rng.randint(0, 90)), float(rng.randint(0, 59)), rng.random() * 60)
        gps[5], gps[6] = b"\0", rng.random() * 900
        gps[29] = when[:10]
    return data.tobytes()


def xmp(rng: random.Random) -> bytes:
    """XMP as editors write it."""
    software = rng.choice(SOFTWARE)
    year, month, day = rng.randint(10, 24), rng.randint(1, 12), rng.randint(1, 28)
    hour, minute = rng.randint(0, 23), rng.randint(0, 59)
    stamp = f"20{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:00+02:00"
    ids = ["".join(rng.choice("0123456789abcdef") for _ in range(32)) for _ in range(3)]
    toolkit = rng.choice(
        [
            "XMP Core 6.0.0",
            "XMP Core 4.4.0-Exiv2",
            "Adobe XMP Core 5.6-c140 79.160451, 2017/05/06-01:08:21",
            "Image::ExifTool 12.40",
        ]
    )
    opening = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
    head = (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="{toolkit}">\n'
        f' <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n'
        '  <rdf:Description rdf:about=""\n    xmlns:xmp="http://ns.adobe.com/xap/1.0/"\n'
        '    xmlns:dc="http://purl.org/dc/elements/1.1/"\n'
        '    xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"\n    xmlns:xmpMM="http://ns.adobe.com/xap/1.0/mm/"\n'
        '    xmlns:stEvt="http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"\n'
        '    xmlns:stRef="http://ns.adobe.com/xap/1.0/sType/ResourceRef#"\n'
        '    xmlns:tiff="http://ns.adobe.com/tiff/1.0/"\n'
        '    xmlns:exif="http://ns.adobe.com/exif/1.0/"\n    xmlns:aux="http://ns.adobe.com/exif/1.0/aux/"\n'
        '    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"\n'
        '    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"\n'
        '    xmlns:xmpRights="http://ns.adobe.com/xap/1.0/rights/"\n'
        '    xmlns:Iptc4xmpCore="http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"\n'
    )
    facts = (
        f'   xmp:CreatorTool="{software}"\n   xmp:CreateDate="{stamp}"\n   xmp:ModifyDate="{stamp}"\n'
        f'   xmp:MetadataDate="{stamp}"\n   xmp:Rating="{rng.randint(0, 5)}"\n'
        f'   photoshop:DateCreated="{stamp}"\n   photoshop:ColorMode="3"\n'
        f'   photoshop:ICCProfile="sRGB IEC61966-2.1"\n   dc:format="image/jpeg"\n'
        f'   xmpMM:DocumentID="xmp.did:{ids[0]}"\n   xmpMM:InstanceID="xmp.iid:{ids[1]}"\n'
        f'   xmpMM:OriginalDocumentID="{ids[2].upper()}">\n'
    )
    lists = (
        "   <dc:creator>\n    <rdf:Seq>\n     <rdf:li>Photographer</rdf:li>\n    </rdf:Seq>\n   </dc:creator>\n"
        '   <dc:rights>\n    <rdf:Alt>\n     <rdf:li xml:lang="x-default">Copyright</rdf:li>\n'
        "    </rdf:Alt>\n   </dc:rights>\n"
        '   <dc:title>\n    <rdf:Alt>\n     <rdf:li xml:lang="x-default">Title</rdf:li>\n'
        "    </rdf:Alt>\n   </dc:title>\n"
        "   <dc:subject>\n    <rdf:Bag>\n     <rdf:li>family</rdf:li>\n"
        "     <rdf:li>holiday</rdf:li>\n    </rdf:Bag>\n   </dc:subject>\n"
        '   <xmpMM:History>\n    <rdf:Seq>\n     <rdf:li\n      stEvt:action="derived"\n'
        '      stEvt:parameters="converted from image/x-canon-cr2 to image/jpeg, saved to new location"/>\n'
        f'     <rdf:li\n      stEvt:action="saved"\n      stEvt:instanceID="xmp.iid:{ids[1]}"\n'
        f'      stEvt:when="{stamp}"\n      stEvt:softwareAgent="{software}"\n      stEvt:changed="/"/>\n'
        f"    </rdf:Seq>\n   </xmpMM:History>\n   <xmpMM:DerivedFrom\n"
        f'    stRef:documentID="xmp.did:{ids[0]}"\n    stRef:originalDocumentID="{ids[2].upper()}"/>\n'
    )
    closing = "  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n"
    padding = (" " * 100 + "\n") * rng.choice([0, 20, 20]) + '<?xpacket end="w"?>'
    return (opening + head + facts + (lists if rng.random() < 0.6 else "") + closing + padding).encode()


def photoshop(rng: random.Random) -> bytes:
    """IPTC inside Photoshop's image resources."""
    iptc = b"\x1c\x01\x5a\0\3\x1b%G\x1c\2\0\0\2\0\2" + b"".join(
        bytes([0x1C, 2, number]) + struct.pack(">H", len(text)) + text
        for number, text in (
            (5, b"Title"),
            (25, b"family"),
            (55, b"20190704"),
            (60, b"120000+0200"),
            (80, b"Photographer"),
            (116, b"Copyright"),
        )
    )
    resources = b"8BIM\4\4\0\0" + struct.pack(">I", len(iptc)) + iptc + bytes(len(iptc) % 2)
    resources += b"8BIM\4\x25\0\0\0\0\0\x10" + rng.randbytes(16)
    resources += b"8BIM\3\xed\0\0\0\0\0\x10\0H\0\0\0\1\0\1\0H\0\0\0\1\0\1"
    return b"Photoshop 3.0\0" + resources


def framed(kind: bytes, data: bytes) -> bytes:
    return bytes([len(kind)]) + kind + struct.pack(">I", len(data)) + data


def sample(rng: random.Random) -> bytes:
    """Metadata of one file, framed as `packing` frames it."""
    fmt = rng.choice([0, 0, 0, 0, 1, 2])
    profile = rng.choice([srgb_iec61966(), srgb_by_little_cms()])
    parts = [bytes([fmt])]
    if fmt == 0:
        parts.append(
            framed(b"\xe0", b"JFIF\0\1" + rng.choice([b"\1\0\0\1\0\1", b"\1\1\0H\0H", b"\2\1\1,\1,"]) + b"\0\0")
        )
        parts.append(framed(b"\xe1", b"Exif\0\0" + exif(rng)))
        if rng.random() < 0.5:
            parts.append(framed(b"\xed", photoshop(rng)))
        if rng.random() < 0.6:
            parts.append(framed(b"\xe1", b"http://ns.adobe.com/xap/1.0/\0" + xmp(rng)))
        if rng.random() < 0.7:
            parts.append(framed(b"\xe2", b"ICC_PROFILE\0\1\1" + profile))
        if rng.random() < 0.2:
            parts.append(
                framed(
                    b"\xfe",
                    rng.choice(
                        [
                            b"CREATOR: gd-jpeg v1.0 (using IJG JPEG v62), quality = 90\n",
                            b"Created with GIMP",
                            b"File written by Adobe Photoshop\xa8 5.2",
                        ]
                    ),
                )
            )
    elif fmt == 1:
        parts += [
            framed(b"gAMA", b"\0\0\xb1\x8f"),
            framed(b"sRGB", b"\0"),
            framed(b"pHYs", b"\0\0\x0b\x13\0\0\x0b\x13\1"),
        ]
        parts.append(framed(b"cHRM", struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)))
        parts.append(framed(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(rng)))
        parts.append(
            framed(b"tEXt", b"Software\0" + rng.choice([b"Adobe ImageReady", b"gnome-screenshot", b"www.inkscape.org"]))
        )
        parts.append(framed(b"eXIf", exif(rng)))
    else:
        parts += [framed(b"ICCP", profile), framed(b"EXIF", exif(rng)), framed(b"XMP ", xmp(rng))]
    return b"".join(parts)


def main() -> None:
    rng = random.Random(1)
    samples = [sample(rng) for _ in range(1200)]
    dictionary = zstandard.train_dictionary(12 << 10, samples, k=1024, d=8, level=19)
    Path(sys.argv[1]).write_bytes(dictionary.as_bytes())


if __name__ == "__main__":
    main()
