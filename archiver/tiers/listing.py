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

AREA = ".archiver"  # everything of ours on a tier; never scanned

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
_KINDS |= {extension.upper(): kind for extension, kind in _KINDS.items()}  # nearly all are one or the other


class Skip(StrEnum):
    """Why something in a tier is not tracked."""

    SYMLINK = "symbolic link"
    SPECIAL = "pipe, socket or device"
    MOUNT = "mount point"
    EXCLUDED = "excluded by the configuration"
    UNREADABLE = "unreadable"


Seen = tuple[str, int, int, int, int]
"""A candidate file as lstat saw it: name, size, mtime (ns), inode, atime (ns)."""


@dataclass(slots=True)
class Listing:
    """A directory's candidate files and subdirectories, each sorted by name; `problem` where not all could be read."""

    files: list[Seen] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    skipped: Counter[Skip] = field(default_factory=Counter)
    unsupported: Counter[str] = field(default_factory=Counter)  # images of formats that are never archived, by format
    hard_linked: int = 0
    problem: OSError | None = None

    def fingerprint(self) -> bytes:
        """16 bytes that change whenever a file or subdirectory appears, vanishes, is written to, replaced or read."""
        # Version 2 of the marshal format: later ones depend on how often an object is referred to.
        return hashlib.blake2b(marshal.dumps((self.files, self.directories), 2), digest_size=16).digest()


def tracked_kind(name: str) -> str | None:
    """ "" for a file name we track, the format for an image that is never archived, None for anything else."""
    stem, _, extension = name.rpartition(".")
    if not stem or name.startswith("._"):  # macOS keeps a file's second fork in "._IMG_1.JPG": not an image
        return None
    return _KINDS.get(extension, _KINDS.get(extension.lower()))


def list_directory(fd: int, keep_atime: bool) -> Listing:
    """Read an open directory. Access times are 0 unless `keep_atime`; what vanishes meanwhile is not there.

    An OSError ends it early and becomes the listing's `problem`.
    """
    listing = Listing()
    add, kinds = listing.files.append, _KINDS
    try:
        with os.scandir(fd) as entries:
            for entry in entries:
                name = entry.name
                stem, _, extension = name.rpartition(".")
                kind = kinds.get(extension)
                if kind is None or not stem or name[0] == ".":
                    kind = tracked_kind(name)
                if kind is None or not entry.is_file(follow_symlinks=False):
                    _note_other(listing, entry, name)
                    continue
                if kind:
                    listing.unsupported[kind] += 1
                    continue
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                if stat.st_nlink != 1:
                    listing.hard_linked += 1
                atime_ns = stat.st_atime_ns if keep_atime else 0
                add((name, stat.st_size, stat.st_mtime_ns, stat.st_ino, atime_ns))
    except OSError as error:
        listing.problem = error
    listing.files.sort()
    listing.directories.sort()
    return listing


def _note_other(listing: Listing, entry: os.DirEntry[str], name: str) -> None:
    if entry.is_dir(follow_symlinks=False):
        if name != AREA:
            listing.directories.append(name)
    elif entry.is_symlink():
        listing.skipped[Skip.SYMLINK] += 1
    elif not entry.is_file(follow_symlinks=False):
        listing.skipped[Skip.SPECIAL] += 1


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
