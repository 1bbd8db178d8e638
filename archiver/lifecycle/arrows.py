"""Named points between two steps of an act, where a test can kill the process.

`ARCHIVER_KILL_AT=release.exchanged` (or `name:3` for the third time it is passed) ends the process there with SIGKILL,
as a power cut or the kernel's out-of-memory killer would: nothing is flushed, no handler runs. Without the variable an
arrow costs one comparison.
"""

from __future__ import annotations

import os
import signal
import threading
from functools import cache

ARROWS = (
    "record.encoded",
    "record.gated",
    "record.committed",
    "release.journalled",
    "release.placeholder_started",
    "release.placeholder_written",
    "release.leased",
    "release.exchanged",
    "release.committed",
    "recall.decoded",
    "recall.journalled",
    "recall.tail_written",
    "recall.head_written",
    "recall.committed",
    "restore.journalled",
    "restore.copied",
    "restore.tail_written",
    "restore.head_written",
    "restore.committed",
    "rerelease.journalled",
    "rerelease.head_written",
    "rerelease.punched",
    "rerelease.committed",
    "undo.verified",
    "undo.journalled",
    "undo.exchanged",
    "undo.unlinked",
    "undo.committed",
    "expire.unlinked",
    "expire.committed",
    "rebuild.adopted",
)

S3_ARROWS = (
    "s3.release.journalled",
    "s3.release.packed",
    "s3.release.held",
    "s3.release.placed",
    "s3.release.committed",
    "s3.recall.journalled",
    "s3.recall.placed",
    "s3.recall.committed",
    "s3.restore.journalled",
    "s3.restore.placed",
    "s3.restore.committed",
    "s3.rerelease.placed",
    "s3.rerelease.committed",
    "s3.undo.verified",
    "s3.undo.journalled",
    "s3.undo.placed",
    "s3.undo.committed",
    "s3.undo.deleted",
    "s3.expire.deleted",
    "s3.expire.committed",
    "s3.compact.written",
)
"""The same for acts on objects, which have steps of their own."""

_lock = threading.Lock()
_passed = 0


@cache
def _aim() -> tuple[str, int]:
    name, _, times = os.environ.get("ARCHIVER_KILL_AT", "").partition(":")
    return name, int(times or 1)


def arrow(name: str) -> None:
    """Pass the point `name`; dies here if a test asked for it."""
    target, times = _aim()
    if name != target:
        return
    global _passed
    with _lock:
        _passed += 1
        if _passed == times:
            os.kill(os.getpid(), signal.SIGKILL)
