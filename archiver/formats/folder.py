"""The photographs below a folder, by their names: where somebody points at a collection that is no tier."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff"})


def photographs(folder: Path, limit: int | None = None) -> list[Path]:
    """All of them in the order of their paths; with a limit, as many, evenly spread."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file())
    if limit is None or limit >= len(found):
        return found
    return [found[number * len(found) // limit] for number in range(limit)]
