"""Records, placeholders, held originals, and why an image stays resident."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


class RecordCorrupt(ArchiverError):
    """the record is damaged: {problem}"""

    exit_code = 5
    hint = "The catalog and the placeholder each hold a copy: `archiver verify` names the good one."


class RecordVersionUnknown(ArchiverError):
    """the record has version {version}, this program reads up to {known}"""

    exit_code = 5
    hint = "Upgrade archiver; records are never rewritten."


class PlaceholderDamaged(ArchiverError):
    """{path}: {problem}"""

    exit_code = 5
    hint = (
        "`archiver verify` compares it with the catalog, `archiver rebuild` takes in what the catalog has missed; "
        "`archiver undo` works within the grace period."
    )


class EnvelopeDamaged(ArchiverError):
    """the placeholder's envelope is damaged: {problem}"""

    exit_code = 5
    hint = "`archiver verify` compares it with the catalog, which holds the same record."


class NotReleased(ArchiverError):
    """{path} is {state}: there is nothing to recall"""

    exit_code = 5


class NothingHeld(ArchiverError):
    """no original of {path} is held any more"""

    exit_code = 5
    hint = "Its grace period is over. `archiver recall` regenerates an image of the same meaning."


class HeldOriginalDamaged(ArchiverError):
    """the held original of {path} does not match its recorded hash; it was left where it is: {held}"""

    exit_code = 5
    hint = "Check the disk before anything else."


class FileModified(ArchiverError):
    """{path} was changed since it was {state}"""

    exit_code = 5
    hint = "It is treated as a new original. `archiver undo --to DIR` puts the held original beside it."


class NoRecord(ArchiverError):
    """there is no record of {path}"""

    exit_code = 5
    hint = "It carries none and the catalog has none: `archiver status FILE` says what is known of it."


class NotRecorded(ArchiverError):
    """{path} is {state}: only a recorded file can be released"""

    exit_code = 5


class FileBusy(ArchiverError):
    """{path} is being worked on by another archiver process"""

    exit_code = 7
    hint = "Nothing was changed. Try again in a moment."


class HardLinked(ArchiverError):
    """hard-linked: {path} has {links} names"""

    exit_code = 1
    hint = "Releasing one name would change what the others show, so such files stay resident."


class Pinned(ArchiverError):
    """pinned: {path}"""

    exit_code = 1
    hint = "`archiver unpin` lets it go."


class GateFailed(ArchiverError):
    """below the gate: {measure} {value}, the rule asks {floor}"""

    exit_code = 1
    hint = "The image stays as it is. A richer scheme or a lower floor in the rule's [rule.gate] would let it pass."


class TranscodeRefused(ArchiverError):
    """JPEG XL cannot carry these bytes: {problem}"""

    exit_code = 1
    hint = "The lossless scheme is for JPEG files that libjxl reads (no CMYK, no arithmetic coding, not damaged)."


class NothingSaved(ArchiverError):
    """kept without loss it would take {after} bytes of {before}"""

    exit_code = 1
    hint = "The image stays as it is: transcoding would free no block of the disk."


class ImageRefused(ArchiverError):
    """{reason}: {detail}"""

    exit_code = 1
    hint = "The image stays as it is."

    @property
    def kind(self) -> str:
        """The reason: there are many."""
        return str(self.facts["reason"])
