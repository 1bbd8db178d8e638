"""What the first block of a file says: must its reader wait for a recall?"""

from __future__ import annotations

import errno
import io
import os
import stat
from enum import Enum, auto

from archiver.errors import ArchiverError
from archiver.formats.envelope import MAGIC
from archiver.formats.facts import BLOCK, Kind
from archiver.formats.reading import read_envelope


class Finding(Enum):
    """What a file is to its readers."""

    RESIDENT = auto()  # no placeholder: never look again
    PLACEHOLDER = auto()
    UNSETTLED = auto()  # being written: let it through, but look again the next time


def look(file: int, *, wait: bool) -> Finding:
    """What an open file is. Raises OSError; BlockingIOError without `wait` if its first block is not in memory."""
    facts = os.fstat(file)
    if not stat.S_ISREG(facts.st_mode):
        return Finding.RESIDENT
    buffer = bytearray(BLOCK)
    try:
        count = os.preadv(file, [buffer], 0, 0 if wait else os.RWF_NOWAIT)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:  # a filesystem that cannot promise not to wait
            raise BlockingIOError(error.errno, error.strerror) from None
        raise
    if not wait and count < min(BLOCK, facts.st_size):
        raise BlockingIOError
    return judge(bytes(buffer[:count]), facts.st_size, written=facts.st_blocks > 0)


def judge(head: bytes, size: int, *, written: bool) -> Finding:
    """What a file is by its first 4096 bytes and its size; written: it has blocks on the disk.

    A placeholder is one only in full length: a tool that is just copying it, block by block, shall not be disturbed,
    nor shall the file be taken for something else for ever.
    """
    if MAGIC in head:
        return _of_ours(head, size)
    if not head or (not written and not any(head)):
        return Finding.UNSETTLED
    return Finding.RESIDENT


def _of_ours(head: bytes, size: int) -> Finding:
    try:
        envelope = read_envelope(io.BytesIO(head))
    except ArchiverError:
        envelope = None
    if envelope is not None and envelope.kind is Kind.PLACEHOLDER:
        return Finding.PLACEHOLDER if envelope.source.length == size else Finding.UNSETTLED
    # Half a block may still become a placeholder; a whole one that is none, as of a generated image, does not.
    return Finding.RESIDENT if envelope is not None or len(head) == BLOCK else Finding.UNSETTLED
