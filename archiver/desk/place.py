"""Where an open file lies: a descriptor's path is what /proc says and is believed only as far as it can be checked."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from archiver.errors import ArchiverError
from archiver.lifecycle.site import Site
from archiver.tiers import fileops
from archiver.tiers.listing import AREA
from archiver.tiers.local import LocalTier


@dataclass(frozen=True, slots=True)
class Place:
    """`path` is for messages; `tier`, `relative` were checked: that very file stands there. None and "" elsewhere."""

    path: Path
    tier: LocalTier | None = None
    relative: str = ""

    @property
    def is_an_archivers(self) -> bool:
        """Whether it lies in what is an archiver's own on a tier, perhaps of another installation."""
        return AREA in (Path(self.relative) if self.tier else self.path).parts


def place_of(site: Site, fd: int) -> Place:
    """The place of an open file, by the path that the kernel has for its descriptor now."""
    path = Path(fileops.path_of(fd))
    for tier in site.local_tiers:
        try:
            root = Path(fileops.path_of(tier.root_fd))
            if path.is_relative_to(root):
                relative = str(path.relative_to(root))
                if _stands(tier, relative, os.fstat(fd)):
                    return Place(tier.root / relative, tier, relative)
        except (ArchiverError, OSError):  # the tier, or the folder, cannot be reached: the file is taken for nobody's
            continue
    return Place(path)


def _stands(tier: LocalTier, relative: str, found: os.stat_result) -> bool:
    folder, _, name = relative.rpartition("/")
    if relative.split("/", 1)[0] == AREA:
        return False
    directory_fd = fileops.open_directory(tier.root_fd, folder)
    try:
        return os.path.samestat(found, os.stat(name, dir_fd=directory_fd, follow_symlinks=False))
    except FileNotFoundError:
        return False
    finally:
        os.close(directory_fd)
