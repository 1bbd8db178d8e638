"""A codebook for a profile's embeddings, learnt on what its encoder sees in somebody's own pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import torch
from numpy.typing import NDArray

from archiver.codec import codebook, embedding
from archiver.codec.codebook import Codebook
from archiver.codec.record import Scheme
from archiver.codec.schemes import LEARNT_GROUPS
from archiver.decoder.networks import Device, open_backend
from archiver.errors import CodebookNotTaken, ImageRefused, TooFewToLearnFrom
from archiver.formats.facts import Limits
from archiver.formats.inspection import load_picture, survey
from archiver.models.profiles import HUB_FORMAT, ProfileInfo, format_of
from archiver.models.vault import Vault

# With fewer, a bit a dimension comes nearer to pictures that were not learnt from (docs/models.md).
LEAST = 500
_EVERY_TENTH = 10  # is kept back, to tell how near the codebook comes to pictures that it has not seen


@dataclass(frozen=True, slots=True)
class Coded:
    """How an embedding is coded: its bytes, and the mean cosine of what is decoded, for pictures not learnt from."""

    size: int
    cosine: float


@dataclass(frozen=True, slots=True)
class Learnt:
    """A codebook and what is known of it. left_out: what could not be archived either, and why. before: without one."""

    codebook: Codebook
    pictures: int
    left_out: dict[Path, str]
    now: Coded
    before: Coded


def learn(
    vault: Vault,
    profile: ProfileInfo,
    paths: Sequence[Path],
    device: Device,
    stop: Event,
    advance: Callable[[Path], None],
) -> Learnt | None:
    """Learn from the pictures at `paths`; None once `stop` is set. `advance` is told of each picture that is done.

    Raises CodebookNotTaken, TooFewToLearnFrom, and what keeps the profile's encoder from its work.
    """
    with_gpu = device != "cpu" and torch.cuda.is_available()
    directory = vault.directory(profile.fingerprint)
    if format_of(directory) != HUB_FORMAT:
        raise CodebookNotTaken(profile=profile.name)
    backend = open_backend(directory, torch.device("cuda" if with_gpu else "cpu"))
    seen: list[NDArray[np.float32]] = []
    left_out: dict[Path, str] = {}
    for path in paths:
        if stop.is_set():
            return None
        try:
            with path.open("rb") as file:
                picture = load_picture(file, survey(file, Limits()), profile.long_side, profile.multiple)
        except (ImageRefused, OSError) as error:
            left_out[path] = error.message if isinstance(error, ImageRefused) else str(error.strerror)
        else:
            seen.append(backend.observe(picture.pixels, Scheme.COCLI).embedding)
        advance(path)
    if len(seen) < LEAST:
        raise TooFewToLearnFrom(found=len(seen), least=LEAST)
    return _learnt(np.stack(seen), left_out)


def _learnt(seen: NDArray[np.float32], left_out: dict[Path, str]) -> Learnt:
    kept_back = np.arange(len(seen)) % _EVERY_TENTH == 0
    groups = min(LEARNT_GROUPS, seen.shape[1])
    found = codebook.learn(seen[~kept_back], groups)
    unseen = seen[kept_back]
    learnt = [codebook.encode(one, found) for one in unseen]
    plain = [embedding.quantise(one, 2) for one in unseen]
    return Learnt(
        codebook=found,
        pictures=int((~kept_back).sum()),
        left_out=left_out,
        now=Coded(len(learnt[0]), _cosine(unseen, [codebook.decode(payload, found) for payload in learnt])),
        before=Coded(len(embedding.encode(plain[0])), _cosine(unseen, [code.vector() for code in plain])),
    )


def _cosine(embeddings: NDArray[np.float32], decoded: Sequence[NDArray[np.float32]]) -> float:
    pairs = zip(embeddings.astype(np.float64), np.stack(decoded).astype(np.float64), strict=True)
    return float(np.mean([one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1) for one, other in pairs]))
