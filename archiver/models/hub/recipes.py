"""Recipes: what a hub profile is made of, before its weights are here. Imports no torch.

A recipe is the `profile.toml` that the vault will hold, less what only a download can tell: commit, size and SHA-256 of
its files. `pinned` writes these in. A file whose recipe gives a SHA-256 is held to it from the first byte on; one
without is *unpinned*, and what came first is trusted when somebody says so (`archiver models pin`).
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archiver.errors import NotAHubProfile, ProfileInvalid, RecipeUnknown
from archiver.models.profiles import HUB_FORMAT, UNREADABLE, ProfileInfo, check_name, describe

PACKAGED = Path(__file__).with_name("profiles")
_FILES = "[[files]]"  # the first of these lines begins the last part of a recipe
LEARNT = "learnt"  # the key, and from what, of a file that was made here and that no hub has
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TOML = 1 << 20
_ANY_HASH = "0" * 64  # stands for a hash that is not known yet where only the rest is looked at


@dataclass(frozen=True, slots=True)
class Source:
    """A file of a recipe and where it comes from. sha256, size (bytes): None where the recipe does not know them."""

    name: str
    repository: str
    revision: str
    path: str
    sha256: str | None
    size: int | None


@dataclass(frozen=True, slots=True)
class Pin:
    """What a download told of a file."""

    commit: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What a profile needs, in MiB, from its networks' numbers of parameters: the weights that decode, at the precision
    of a GPU and of a CPU, and those that encode besides, on a CPU.
    """

    decode_gpu: int
    decode_cpu: int
    encode_cpu: int


@dataclass(frozen=True, slots=True)
class Recipe:
    """A hub profile that can be pulled. info: as `profile.toml` describes it; hashes that are not known mean nothing.

    sources: of its files, but for those that were made here.
    """

    info: ProfileInfo
    about: str
    memory: Memory
    sources: tuple[Source, ...]
    text: str

    @property
    def is_pinned(self) -> bool:
        """Whether the recipe itself says what every file must be."""
        return all(source.sha256 for source in self.sources)

    def pinned(self, pins: Mapping[str, Pin]) -> str:
        """The `profile.toml` with the pins of all files, by name."""
        tables = [self.text[: _files_begin(self.text)].rstrip()]
        for source in self.sources:
            pin = pins[source.name]
            values = {"name": source.name, "repository": source.repository, "revision": pin.commit}
            values |= {"path": source.path, "sha256": pin.sha256}
            tables.append(file_table({**values, "size": pin.size}))
        return "\n\n".join(tables) + "\n"


def file_table(values: Mapping[str, str | int]) -> str:
    """A file of a recipe or a `profile.toml`."""
    # Every JSON string or whole number is one of TOML, too.
    return "\n".join([_FILES, *(f"{key} = {json.dumps(value)}" for key, value in values.items())])


def packaged() -> tuple[Recipe, ...]:
    """The recipes that ship with this package, by name."""
    return tuple(read_recipe(path) for path in sorted(PACKAGED.glob("*.toml")))


def find_recipe(name: str) -> Recipe:
    """A packaged recipe by its name, or any by the path of its file (one that ends in ".toml").

    Raises RecipeUnknown, NotAHubProfile or ProfileInvalid.
    """
    if name.endswith(".toml"):
        return read_recipe(Path(name))
    for recipe in packaged():
        if recipe.info.name == name:
            return recipe
    raise RecipeUnknown(name=name)


def read_recipe(path: Path) -> Recipe:
    """The recipe in a file; a `profile.toml` with pins is one, too.

    Raises RecipeUnknown, NotAHubProfile or ProfileInvalid.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOML).decode("utf-8")
        raw = tomllib.loads(text)
        if raw.get("format") != HUB_FORMAT:
            raise NotAHubProfile(path=path)
        return _parse(raw, text)
    except FileNotFoundError:
        raise RecipeUnknown(name=path) from None
    except UNREADABLE as problem:
        raise ProfileInvalid(path=path, problem=f"{type(problem).__name__}: {problem}") from problem


def _parse(raw: dict[str, Any], text: str) -> Recipe:
    sources = tuple(_source(entry) for entry in raw["files"] if LEARNT not in entry)
    # The same description, of what is known already: whatever is wrong with it shall be known before gigabytes come.
    known = raw | {"files": [{"sha256": _ANY_HASH} | entry for entry in raw["files"]]}
    memory = Memory(**{key: int(value) for key, value in raw["memory"].items()})
    _files_begin(text)
    return Recipe(describe(known), str(raw["about"]), memory, sources, text)


def _source(entry: dict[str, Any]) -> Source:
    sha256, size = entry.get("sha256"), entry.get("size")
    source = Source(
        name=str(entry["name"]),
        repository=str(entry["repository"]),
        revision=str(entry["revision"]),
        path=str(entry["path"]),
        sha256=None if sha256 is None else str(sha256),
        size=None if size is None else int(size),
    )
    check_name(source.name, of_hub=True)
    if not _REPOSITORY.fullmatch(source.repository) or (sha256 is not None and not _SHA256.fullmatch(str(sha256))):
        raise ValueError(f"{source.repository!r} or the hash of {source.name}")
    if Path(source.path).suffix != Path(source.name).suffix or ".." in Path(source.path).parts:
        raise ValueError(f"{source.path!r} cannot be {source.name}")
    return source


def _files_begin(text: str) -> int:
    match = re.search(rf"^{re.escape(_FILES)}", text, re.MULTILINE)
    if match is None:
        raise ValueError("it names no files")
    rest = tomllib.loads(text[match.start() :])
    if set(rest) != {"files"}:
        raise ValueError(f"{', '.join(sorted(set(rest) - {'files'}))} after the files, which must come last")
    return match.start()
