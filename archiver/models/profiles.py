"""What a profile is: named, pinned weights, the schemes that they can code and how they are best driven."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from archiver.codec.record import (
    FINGERPRINT_BYTES,
    AttentionGuidance,
    EmbeddingGuidance,
    LinearGuidance,
    Sampler,
    Scheme,
    Steering,
)
from archiver.errors import ProfileInvalid, ProfileUnknown

PROFILE_FILE = "profile.toml"
HUB_FORMAT = "archiver-hub-1"  # of profiles whose networks are those of diffusers and transformers
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FILE = re.compile(rf"(?:{_NAME.pattern}/)?{_NAME.pattern}")  # in a component's folder, or at the top
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SMALL = 256  # pixels
_MAX_TOML = 1 << 20
# What the TOML of a stranger can bring about: no TOML, keys that are missing or of another type, infinity where a whole
# number is wanted, brackets without end.
UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


@dataclass(frozen=True, slots=True)
class WeightFile:
    """One safetensors file, or a network's configuration beside it, pinned by its SHA-256 (hexadecimal)."""

    name: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Preset:
    """How a scheme is driven under a preset's name."""

    name: str
    scheme: Scheme
    steering: Steering


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """A profile as its `profile.toml` describes it.

    long_side: working size in pixels; sides are multiples of `multiple`, the pixels of one latent cell, or of two where
    the semantic encoder needs it.
    words: how many label words there are. schemes: those that it codes. presets: its own, beside those of
    codec.schemes. backend: SHA-256 over what drives the networks besides record and weights (the table `[backend]`), ""
    where nothing does.
    """

    name: str
    licence: str
    long_side: int
    multiple: int
    words: int
    files: tuple[WeightFile, ...]
    schemes: tuple[Scheme, ...]
    presets: tuple[Preset, ...]
    backend: str = ""

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 (32 bytes) over the files' hashes and names, by name: it changes when any weight does, or what drives
        them.
        """
        lines = [f"{file.sha256}  {file.name}\n" for file in sorted(self.files, key=lambda file: file.name)]
        if self.backend:
            lines.append(f"{self.backend}  [backend]\n")
        return hashlib.sha256("".join(lines).encode()).digest()

    @property
    def key(self) -> bytes:
        """The first 8 bytes of the fingerprint, which records carry."""
        return self.fingerprint[:FINGERPRINT_BYTES]


def sha256_of(path: Path) -> str:
    """The SHA-256 (hexadecimal) of what a file holds. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def enlarge_for(long_side: int) -> int:
    """How many times larger a semantic encoder sees pictures of a working size: it was taught on 512 pixels."""
    return 2 if long_side <= _SMALL else 1


def read_profile(directory: Path) -> ProfileInfo:
    """Read the `profile.toml` in `directory`; the weights are not touched.

    Raises ProfileUnknown (there is none) or ProfileInvalid (it does not say what it must).
    """
    path = directory / PROFILE_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_TOML)
    except FileNotFoundError:
        raise ProfileUnknown(profile=directory.name) from None
    return parse_profile(text, path)


def format_of(directory: Path) -> str:
    """Which kind of networks the profile in `directory` is of; "" where it does not say. Raises as `read_profile`."""
    read_profile(directory)
    return str(tomllib.loads((directory / PROFILE_FILE).read_text(encoding="utf-8")).get("format", ""))


@lru_cache(maxsize=16)  # the same few are asked for with every release
def parse_profile(text: bytes, path: Hashable) -> ProfileInfo:
    """Read what a `profile.toml` holds; `path` names it in the error. Raises ProfileInvalid."""
    try:
        return describe(tomllib.loads(text.decode("utf-8")))
    except UNREADABLE as problem:
        raise ProfileInvalid(path=path, problem=f"{type(problem).__name__}: {problem}") from problem


def describe(raw: dict[str, Any]) -> ProfileInfo:
    """A profile from its TOML's tables. Raises one of UNREADABLE."""
    name, of_hub = str(raw["name"]), raw.get("format") == HUB_FORMAT
    files = tuple(WeightFile(str(file["name"]), str(file["sha256"])) for file in raw["files"])
    for file in files:
        check_name(file.name, of_hub=of_hub)
        if not _SHA256.fullmatch(file.sha256):  # it becomes a name
            raise ValueError(f"file {file.name!r} with hash {file.sha256!r}")
    if not _NAME.fullmatch(name) or not files or len({file.name for file in files}) != len(files):
        raise ValueError("a name and one or more files with different names are needed")
    long_side = int(raw["long_side"])
    multiple = int(raw["multiple"]) if of_hub else int(raw["downscale"]) * 2 // enlarge_for(long_side)
    if not 1 <= multiple <= long_side:
        raise ValueError(f"no picture has a long side of {long_side} pixels and sides that are multiples of {multiple}")
    return ProfileInfo(
        name=name,
        licence=str(raw["licence"]),
        long_side=long_side,
        multiple=multiple,
        words=int(raw["words"]),
        files=files,
        schemes=tuple(Scheme.parse(label) for label in raw["schemes"]) if "schemes" in raw else tuple(Scheme),
        presets=tuple(
            Preset(preset, Scheme.parse(label), _steering(keys))
            for preset, schemes in raw.get("presets", {}).items()
            for label, keys in schemes.items()
        ),
        backend=hashlib.sha256(json.dumps(raw["backend"], sort_keys=True).encode()).hexdigest() if of_hub else "",
    )


def check_name(name: str, *, of_hub: bool) -> None:
    """Let only names of weight files pass, for they become paths: safetensors at the top; in hub profiles JSON, too,
    and one folder a component.

    Raises ValueError.
    """
    pattern, endings = (_FILE, (".safetensors", ".json")) if of_hub else (_NAME, (".safetensors",))
    if not pattern.fullmatch(name) or not name.endswith(endings):
        raise ValueError(f"{name!r} is no name of a weight file")


def _steering(raw: dict[str, Any]) -> Steering:
    keys = dict(raw)
    linear, attention, embedding = (keys.pop(name, None) for name in ("linear", "attention", "embedding"))
    keys["sampler"] = Sampler[str(keys["sampler"]).upper().replace("-", "_")]
    return Steering(
        **keys,
        linear=LinearGuidance(**linear) if linear is not None else None,
        attention=AttentionGuidance(**attention) if attention is not None else None,
        embedding=EmbeddingGuidance(**embedding) if embedding is not None else None,
    ).rounded()
