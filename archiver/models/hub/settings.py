"""What a hub profile says of how its networks are driven: the table `[backend]` of its `profile.toml`."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from archiver.errors import ProfileInvalid
from archiver.models.profiles import PROFILE_FILE

Precision = Literal["float16", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """The text encoder's tokens for no text at all: one that begins, one that ends, then what fills up."""

    begin: int
    end: int
    fill: int
    length: int

    @property
    def tokens(self) -> list[int]:
        """All of them."""
        return [self.begin, self.end, *[self.fill] * (self.length - 2)]


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """The self-attention that SEACOM keeps: its name within the denoiser, and into how many groups its heads are
    averaged.
    """

    layer: str
    groups: int


@dataclass(frozen=True, slots=True)
class HubSettings:
    """cell: pixels along the side of a cell of a record's grid. embedding: how the semantic embedding enters, through
    IP-Adapter's image tokens or as Stable unCLIP's class embedding. precision: of the arithmetic on a GPU; a CPU
    computes in float32. The scales are those of IP-Adapter, ControlNet and the LoRA, where there are any.
    """

    cell: int
    embedding: Literal["ip-adapter", "class"]
    prompt: Prompt
    attention: AttentionLayer
    precision: Precision = "float16"
    embedding_scale: float = 1.0
    labels_scale: float = 1.0
    lora_scale: float = 1.0


def read_settings(directory: Path) -> HubSettings:
    """The settings of the profile in `directory`, which must be one of a hub's. Raises ProfileInvalid."""
    path = directory / PROFILE_FILE
    try:
        return _parse(tomllib.loads(path.read_text(encoding="utf-8"))["backend"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise ProfileInvalid(path=path, problem=f"[backend] {type(problem).__name__}: {problem}") from problem


def _parse(raw: dict[str, Any]) -> HubSettings:
    keys = dict(raw)
    settings = HubSettings(
        prompt=Prompt(**keys.pop("prompt")), attention=AttentionLayer(**keys.pop("attention")), **keys
    )
    for what, value, known in (
        ("embedding", settings.embedding, ("ip-adapter", "class")),
        ("precision", settings.precision, ("float16", "bfloat16")),
    ):
        if value not in known:
            raise ValueError(f"{what} is {value!r}, this version knows {', '.join(known)}")
    if settings.cell < 1 or settings.prompt.length < 2 or settings.attention.groups < 1:
        raise ValueError("cell, prompt.length or attention.groups is too small")
    return settings
