"""Reading containers from a seekable file in bounded bites."""

from __future__ import annotations

import io
from typing import BinaryIO

from archiver.errors import ImageRefused
from archiver.formats.facts import Refusal

_BITE = 1 << 20


def file_length(file: BinaryIO) -> int:
    """Bytes in the file; the position is left at the end."""
    return file.seek(0, io.SEEK_END)


def exactly(file: BinaryIO, size: int) -> bytes:
    """The next `size` bytes; fewer are a truncated file. Raises ImageRefused."""
    data = file.read(size)
    if len(data) != size:
        raise corrupt(f"it ends at byte {file.tell()}, in the middle of a part")
    return data


def corrupt(detail: str) -> ImageRefused:
    """The refusal for a damaged file."""
    return ImageRefused(reason=Refusal.CORRUPT, detail=detail)


def refuse_data_after(file: BinaryIO, end: int) -> None:
    """Zeros may follow the image as padding; anything else (a video, a second picture) would be lost.

    Raises ImageRefused.
    """
    file.seek(end)
    at = end
    while bite := file.read(_BITE):
        if bite.count(0) != len(bite):
            start = at + len(bite) - len(bite.lstrip(b"\0"))
            length = file_length(file)
            raise ImageRefused(
                reason=Refusal.DATA_AFTER_END, detail=f"{length - start} bytes follow the image at byte {start}"
            )
        at += len(bite)
