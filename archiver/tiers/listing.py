"""What one directory holds, as far as it concerns us, read with one lstat a candidate and none for anything else."""

from __future__ import annotations

import hashlib
import marshal
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from archiver.config import compile_patterns, path_matches
from archiver.config_tiers import AREA as AREA  # everything of ours on a tier; never scanned

_TRACKED = ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "tif", "tiff")
_UNSUPPORTED = {
    "heif": ("heic", "heif", "hif"),
    "avif": ("avif", "avifs"),
    "jpeg xl": ("jxl",),
    "jpeg 2000": ("jp2", "j2k", "jpf", "jpx"),
    "gif": ("gif",),
    "bmp": ("bmp",),
    "photoshop": ("psd", "psb"),
    "raw": (
        *("3fr", "arw", "cr2", "cr3", "crw", "dcr", "dng", "erf", "fff", "iiq", "k25", "kdc", "mef", "mos", "mrw"),
        *("nef", "nrw", "orf", "pef", "raf", "raw", "rw2", "rwl", "sr2", "srf", "srw", "x3f"),
    ),
}
_IS_TRACKED = ""
_KINDS = dict.fromkeys(_TRACKED, _IS_TRACKED) | {
    extension: kind for kind, extensions in _UNSUPPORTED.items() for extension in extensions
}
# How nearly all tracked names end, so that one look at a name is enough.
_ENDINGS = frozenset(ending for name in (".jpg", ".png", ".tif") for ending in (name, name.upper()))


class Skip(StrEnum):
    """Why something in a tier is not tracked."""

    SYMLINK = "symbolic link"
    SPECIAL = "pipe, socket or device"
    MOUNT = "mount point"
    EXCLUDED = "excluded by the configuration"
    UNREADABLE = "unreadable"
    TOO_DEEP = "path too long"
    MARKER = "folder marker of a bucket"
    UNNAMEABLE = "key that is no path"


Seen = tuple[str, int, int, int, int]
"""A candidate file as lstat saw it: name, size, mtime (ns), inode, atime (ns)."""


@dataclass(slots=True)
class Listing:
    """A directory's candidate files, in its own order, and its subdirectories; `problem` where not all were read."""

    files: list[Seen] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    skipped: Counter[Skip] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)  # images of formats that are never archived, by format
    hard_linked: int = 0
    problem: OSError | None = None

    def fingerprint(self) -> bytes:
        """16 bytes that change whenever a file or subdirectory appears, vanishes, is written to, replaced or read.

        Filesystems list a directory that has not changed in the same order again; on one that did not it would be
        compared with the catalog each time, no more.
        """
        # Version 2 of the marshal format: later ones depend on how often an object is referred to.
        return hashlib.blake2b(marshal.dumps((self.files, self.directories), 2), digest_size=16).digest()


def tracked_kind(name: str) -> str | None:
    """ "" for a file name we track, the format for an image that is never archived, None for anything else."""
    stem, _, extension = name.rpartition(".")
    if not stem or name.startswith("._"):  # macOS keeps a file's second fork in "._IMG_1.JPG": not an image
        return None
    return _KINDS.get(extension.lower())


def list_directory(fd: int, keep_atime: bool) -> Listing:
    """Read an open directory. Access times are 0 unless `keep_atime`; what vanishes meanwhile is not there.

    An OSError ends it early and becomes the listing's `problem`.
    """
    # This loop is most of a scan: a microsecond in it is half a second in half a million files (benchmarks/scan.py).
    listing = Listing()
    add, endings, hard_linked = listing.files.append, _ENDINGS, 0
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                at_a_glance = name[-4:] in endings and name[0] != "." and entry.is_file(follow_symlinks=False)
                if not at_a_glance and not _is_other_tracked(listing, entry):
                    continue
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.st_nlink != 1:
                    hard_linked += 1
                add((name, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_atime_ns if keep_atime else 0))
    except OSError as error:
        listing.problem = error
    listing.hard_linked = hard_linked
    listing.directories.sort()
    return listing


def _is_other_tracked(listing: Listing, entry: os.DirEntry[str]) -> bool:
    """Whether an entry that does not look like a tracked file at a glance is one; what else it is is noted."""
    name = entry.name
    if entry.is_file(follow_symlinks=False):
        kind = tracked_kind(name)
        if kind:
            listing.unsupported[kind] += 1
        return kind == _IS_TRACKED
    if entry.is_dir(follow_symlinks=False):
        if name != AREA:
            listing.directories.append(name)
    else:
        listing.skipped[Skip.SYMLINK if entry.is_symlink() else Skip.SPECIAL] += 1
    return False


class Exclusion:
    """The patterns of a tier for what is never looked at."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._spec = compile_patterns(patterns) if patterns else None
        # A pattern that takes something back may mean something below an excluded directory.
        self._takes_back = any(pattern.startswith("!") for pattern in patterns)

    def prunes(self, path: str) -> bool:
        """Whether nothing in the directory `path` is looked at."""
        return self._spec is not None and not self._takes_back and path_matches(self._spec, f"{path}/")

    def apply(self, listing: Listing, path: str) -> None:
        """Take what is excluded out of the listing of the directory `path`, and count it."""
        if self._spec is None:
            return
        spec, prefix = self._spec, f"{path}/" if path else ""
        before = len(listing.files) + len(listing.directories)
        listing.files = [seen for seen in listing.files if not path_matches(spec, prefix + seen[0])]
        listing.directories = [name for name in listing.directories if not self.prunes(prefix + name)]
        if excluded := before - len(listing.files) - len(listing.directories):
            listing.skipped[Skip.EXCLUDED] += excluded
