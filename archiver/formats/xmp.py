"""The label of a generated image, written into XMP (ISO 16684-1) without touching what else the packet says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from archiver.errors import ImageRefused
from archiver.formats.facts import Label, Refusal

NAMESPACE = "urn:archiver:label:1:"
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_SOURCE_TYPE = f"{_IPTC} DigitalSourceType"
_PADDING = re.compile(rb"[ \t\r\n]+(?=<\?xpacket end=)")
_XMLNS = re.compile(rb"""\sxmlns:([^\s=]+)\s*=\s*(["'])(.*?)\2""", re.DOTALL)


def with_label(packet: bytes | None, label: Label) -> bytes:
    """The packet with an rdf:Description of ours; a new packet if there is none.

    A DigitalSourceType that is there already gives way to ours: a property may stand only once, and what a camera
    said of the original is not
    true of this picture. Raises ImageRefused(METADATA_UNREADABLE) if the packet is no XMP that can be extended.
    """
    if packet is None:
        opening = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        head = f'{opening}<rdf:RDF xmlns:rdf="{_RDF}">'.encode()
        return head + _description(label, "") + b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    survey = _survey(packet)
    if survey.end is None:
        raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="its XMP holds no rdf:RDF")
    edits = [(survey.end, survey.end, _description(label, survey.about)), *survey.removals]
    for start, end, text in sorted(edits, reverse=True):
        packet = packet[:start] + text + packet[end:]
    grown = sum(len(text) - (end - start) for start, end, text in edits)
    padding = _PADDING.search(packet)
    if padding and grown > 0:
        kept = max(1, len(padding[0]) - grown)
        packet = packet[: padding.start()] + padding[0][-kept:] + packet[padding.end() :]
    return packet


def _description(label: Label, about: str) -> bytes:
    facts = {
        "Scheme": label.scheme,
        "Profile": label.profile,
        "SourceSHA256": label.source_sha256.hex(),
        "Device": label.device,
        "Version": label.version,
    }
    ours = "".join(f" archiver:{name}={quoteattr(value)}" for name, value in facts.items())
    return (
        f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(about)} xmlns:Iptc4xmpExt="{_IPTC}"'
        f' xmlns:archiver="{NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{SYNTHETIC}"{ours}/>'
    ).encode()


@dataclass(slots=True)
class _Survey:
    """What a packet's markup says: where rdf:RDF ends, what it is about, which bytes a rival statement takes up."""

    end: int | None = None
    about: str = ""
    removals: list[tuple[int, int, bytes]] = field(default_factory=list)


def _survey(packet: bytes) -> _Survey:
    """Walk the packet with expat; entities are refused, so that nothing can be expanded without bounds."""
    survey = _Survey()
    parser = expat.ParserCreate(namespace_separator=" ")
    depth_of_rival: list[int] = []
    seen_description = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal seen_description
        if name == _SOURCE_TYPE:
            depth_of_rival.append(parser.CurrentByteIndex)
        if name == f"{_RDF} Description" and not seen_description:
            seen_description = True
            survey.about = attributes.get(f"{_RDF} about", attributes.get("about", ""))
        if _SOURCE_TYPE in attributes:
            survey.removals.append(_attribute(packet, parser.CurrentByteIndex))

    def end(name: str) -> None:
        if name == _SOURCE_TYPE:
            closing = packet.index(b">", parser.CurrentByteIndex) + 1
            survey.removals.append((depth_of_rival.pop(), closing, b""))
        if name == f"{_RDF} RDF":
            survey.end = parser.CurrentByteIndex

    def entity(*_: object) -> None:
        raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="its XMP declares entities")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.EntityDeclHandler = entity
    body = packet.rstrip(b"\0")
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise ImageRefused(
            reason=Refusal.METADATA_UNREADABLE, detail=f"its XMP is not well-formed ({error})"
        ) from error
    if survey.end is not None and not packet.startswith(b"</", survey.end):
        raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="its XMP is empty or not in UTF-8")
    return survey


def _attribute(packet: bytes, tag_at: int) -> tuple[int, int, bytes]:
    """Where the DigitalSourceType attribute of the start tag at `tag_at` lies."""
    found = re.compile(rb"""\s[^\s=<>"']+:DigitalSourceType\s*=\s*("[^"]*"|'[^']*')""").search(packet, tag_at)
    if found is None:
        raise ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail="its DigitalSourceType cannot be replaced")
    return found.start(), found.end(), b""
