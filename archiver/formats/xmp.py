"""The label of a generated image, written into XMP (ISO 16684-1) without touching what else the packet says."""

from __future__ import annotations

import re
from dataclasses import dataclass
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

from archiver.errors import ImageRefused
from archiver.formats.facts import Label, Refusal

NAMESPACE = "urn:archiver:label:1:"
SYNTHETIC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_BETWEEN = "}"  # a namespace and its name: ElementTree's choice, so that what expat lets pass is readable there, too
_SOURCE_TYPE = f"{_IPTC}{_BETWEEN}DigitalSourceType"
_RDF_ROOT, _DESCRIPTION, _ABOUT = (f"{_RDF}{_BETWEEN}{name}" for name in ("RDF", "Description", "about"))
_ATTRIBUTE = re.compile(rb"""\s[^\s=<>"']+:DigitalSourceType\s*=\s*("[^"]*"|'[^']*')""")
# A label must never need escapes, nor grow beyond what `survey` allowed for.
_ODD = re.compile(r"[^A-Za-z0-9 ._:+/()@-]")
_LONGEST = 64  # characters
_END = b"<?xpacket end="
_WHITE = b" \t\r\n"


def with_label(packet: bytes | None, label: Label) -> bytes:
    """The packet with an rdf:Description of ours, which eats into its white padding; a new packet if there is none.

    A DigitalSourceType that is there already gives way to ours: a property may stand only once, and what a camera
    said of the original is not true of this picture. Raises ImageRefused(METADATA_UNREADABLE) if the packet is no XMP
    that can be extended.
    """
    if packet is None:
        opening = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        head = f'{opening}<rdf:RDF xmlns:rdf="{_RDF}">'.encode()
        return head + _description(label, "") + b'</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    survey = _survey(packet)
    labelled = packet
    edits = [(survey.end, survey.end, _description(label, survey.about)), *survey.rivals]
    for start, end, text in sorted(edits, reverse=True):
        labelled = labelled[:start] + text + labelled[end:]
    labelled = _with_less_padding(labelled, len(labelled) - len(packet))
    if len(_survey(labelled).rivals) != 1:  # ours alone must be left, in markup that still parses
        raise _unreadable("its DigitalSourceType cannot be replaced")
    return labelled


def _with_less_padding(packet: bytes, surplus: int) -> bytes:
    """The packet without `surplus` of the white bytes before its end mark, or as many of them as there are but one."""
    end = packet.rfind(_END)
    text = len(packet[:end].rstrip(_WHITE)) if end > 0 else end
    spare = min(max(surplus, 0), max(end - text - 1, 0))
    return packet[: end - spare] + packet[end:] if spare else packet


def _unreadable(detail: str) -> ImageRefused:
    return ImageRefused(reason=Refusal.METADATA_UNREADABLE, detail=detail)


def _description(label: Label, about: str) -> bytes:
    facts = {
        "Scheme": label.scheme,
        "Profile": label.profile,
        "SourceSHA256": label.source_sha256.hex(),
        "Device": label.device,
        "Version": label.version,
    }
    ours = "".join(f' archiver:{name}="{_ODD.sub("_", value)[:_LONGEST]}"' for name, value in facts.items())
    return (
        f'<rdf:Description xmlns:rdf="{_RDF}" rdf:about={quoteattr(about)} xmlns:Iptc4xmpExt="{_IPTC}"'
        f' xmlns:archiver="{NAMESPACE}" Iptc4xmpExt:DigitalSourceType="{SYNTHETIC}"{ours}/>'
    ).encode()


@dataclass(frozen=True, slots=True)
class _Survey:
    """What a packet's markup says: where rdf:RDF ends, what it is about, which bytes state a DigitalSourceType."""

    end: int
    about: str
    rivals: tuple[tuple[int, int, bytes], ...]


class _Surveyor:
    """Walks a packet with expat. Entities are refused, so that nothing can be expanded without bounds."""

    def __init__(self, packet: bytes) -> None:
        self._packet = packet
        self._path: list[str] = []
        self._rival_at = 0
        self.end = -1
        self.about: str | None = None
        self.rivals: list[tuple[int, int, bytes]] = []
        self._parser = expat.ParserCreate(namespace_separator=_BETWEEN)
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.EntityDeclHandler = self._entity

    def walk(self) -> None:
        self._parser.Parse(self._packet.rstrip(b"\0"), True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self._parser.CurrentByteIndex
        if name == _DESCRIPTION and self._path[-1:] == [_RDF_ROOT]:
            if self.about is None:
                self.about = attributes.get(_ABOUT, "")
            if _SOURCE_TYPE in attributes:
                found = _ATTRIBUTE.search(self._packet, at)
                if found is None:
                    raise _unreadable("its DigitalSourceType cannot be replaced")
                self.rivals.append((found.start(), found.end(), b""))
        self._path.append(name)
        if self._is_rival():
            self._rival_at = at

    def _is_rival(self) -> bool:
        return self._path[-3:] == [_RDF_ROOT, _DESCRIPTION, _SOURCE_TYPE]

    def _end(self, name: str) -> None:
        at = self._parser.CurrentByteIndex
        if self._is_rival():
            is_empty = not self._packet.startswith(b"</", at)  # of <a/>, expat reports the end behind the tag
            self.rivals.append((self._rival_at, at if is_empty else self._packet.index(b">", at) + 1, b""))
        if name == _RDF_ROOT:
            self.end = at
        self._path.pop()

    def _entity(self, *_: object) -> None:
        raise _unreadable("its XMP declares entities")


def _survey(packet: bytes) -> _Survey:
    surveyor = _Surveyor(packet)
    try:
        surveyor.walk()
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise _unreadable(f"its XMP is not well-formed ({error})") from error
    if surveyor.end < 0 or not packet.startswith(b"</", surveyor.end):
        raise _unreadable("its XMP is empty, not in UTF-8, or holds no rdf:RDF")
    return _Survey(surveyor.end, surveyor.about or "", tuple(surveyor.rivals))
