"""Photographs for training: tar shards of WebP files, decoded once into a memory-mapped array."""

from __future__ import annotations

import hashlib
import io
import logging
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from archiver.errors import ImageRefused, TrainingBegun, TrainingDataDamaged, TrainingDataMissing
from archiver.formats.pixels import decoding
from archiver.training.loop import CPU, Tell, nobody, sent

log = logging.getLogger(__name__)

_HELD_OUT_ONE_IN = 50
_AT_ONCE = 256  # photographs that are decoded side by side


def held_out(name: str) -> bool:
    """Whether the photograph `name` is kept for validation: 2 %, by a hash of its name, the same in every run."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % _HELD_OUT_ONE_IN == 0


def shard_members(shards: list[Path]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every WebP file in the tar `shards`, in order.

    Raises TrainingDataDamaged for a shard that is no tar file, or not all of one.
    """
    for shard in shards:
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    if member.isfile() and member.name.endswith(".webp"):
                        stream = tar.extractfile(member)
                        assert stream is not None  # it is a file
                        yield member.name, stream.read()
        except (tarfile.TarError, ValueError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise TrainingDataDamaged(path=shard, problem=str(error) or "it ends too early") from error


@dataclass(frozen=True, slots=True)
class Photos:
    """All photographs as one array (N, S, S, 3) of bytes, with the rows that may be trained on and those held out."""

    pixels: NDArray[np.uint8]
    train: NDArray[np.int64]
    validation: NDArray[np.int64]

    def pictures(self, rows: NDArray[np.int64], device: torch.device = CPU) -> Tensor:
        """Whole photographs (B, 3, S, S) in [-1, 1]."""
        return to_tensor(self.pixels[rows], device)

    def crops(self, rng: np.random.Generator, batch: int, side: int, device: torch.device = CPU) -> Tensor:
        """Random training crops (B, 3, side, side) in [-1, 1], half of them mirrored."""
        out = np.empty((batch, side, side, 3), np.uint8)
        room = self.pixels.shape[1] - side + 1
        for slot, row in enumerate(rng.choice(self.train, batch)):
            y, x = rng.integers(0, room, 2)
            crop = self.pixels[row, y : y + side, x : x + side]
            out[slot] = crop[:, ::-1] if rng.random() < 0.5 else crop
        return to_tensor(out, device)


def to_tensor(pixels: NDArray[np.uint8], device: torch.device = CPU) -> Tensor:
    """Bytes (B, H, W, 3) to (B, 3, H, W) in [-1, 1], channels last in memory."""
    return sent(np.array(pixels), device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def to_pixels(pictures: Tensor) -> NDArray[np.uint8]:
    """(B, 3, H, W) in [-1, 1] to bytes (B, H, W, 3)."""
    scaled = pictures.float().clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).contiguous().numpy()


def _decode(name: str, data: bytes, side: int) -> NDArray[np.uint8] | None:
    """None for a picture that cannot be decoded: one among thousands is no reason to train on none."""
    try:
        with decoding(), Image.open(io.BytesIO(data)) as image:
            return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.LANCZOS))
    except ImageRefused:
        log.warning("%s is left out: it cannot be decoded", name)
        return None


def _line(name: str) -> str:
    """A member's name as one line of UTF-8; tar takes line breaks and other bytes, too."""
    return name.replace("\n", "\\n").encode("utf-8", "backslashreplace").decode()


def load_photos(data: Path, cache: Path, side: int, tell: Tell = nobody) -> Photos:
    """Photographs of the tar shards in the folder `data`; decoded into `cache` on first use, mapped afterwards.

    What cannot be decoded is left out. Raises TrainingDataMissing when `data` holds no photograph, TrainingDataDamaged,
    TrainingBegun where those in `cache` were decoded for another side.
    """
    shards = sorted(data.glob("*.tar"))
    if not shards:
        raise TrainingDataMissing(path=data)
    pixel_file, name_file = cache / "photos.npy", cache / "photos.txt"
    if not name_file.exists():  # written last: its presence says that the pixels are complete
        cache.mkdir(parents=True, exist_ok=True)
        count = sum(1 for _ in shard_members(shards))
        if not count:
            raise TrainingDataMissing(path=data)
        pixels = np.lib.format.open_memmap(pixel_file, "w+", np.uint8, (count, side, side, 3))
        names: list[str] = []
        members = shard_members(shards)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as lanes:
            while some := list(islice(members, _AT_ONCE)):
                pictures = lanes.map(lambda member: _decode(member[0], member[1], side), some)
                for (name, _), picture in zip(some, pictures, strict=True):
                    if picture is not None:
                        pixels[len(names)] = picture
                        names.append(_line(name))
                tell(len(names) / count, {})
        if not names:
            raise TrainingDataMissing(path=data)
        pixels.flush()
        partial = name_file.with_suffix(".partial")
        partial.write_bytes("\n".join(names).encode())
        partial.replace(name_file)
    names = name_file.read_bytes().decode().split("\n")
    kept_out = np.array([held_out(name) for name in names])
    pixels = np.load(pixel_file, mmap_mode="r")[: len(names)]  # behind them is room for what was left out
    if pixels.shape[1] != side:
        raise TrainingBegun(path=cache)
    return Photos(pixels, np.flatnonzero(~kept_out), np.flatnonzero(kept_out))
