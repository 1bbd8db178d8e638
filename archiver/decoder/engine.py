"""The engine that the rest of the program sees: pictures in, records out, and back. Imports no torch by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.models.profiles import ProfileInfo


class Priority(IntEnum):
    """Who waits for a picture; the lowest goes first."""

    INTERACTIVE = 0  # a reader, blocked until the picture is there
    BULK = 1  # nobody: trial decodes, recalls of whole folders


@dataclass(frozen=True, slots=True, eq=False)
class Generated:
    """pixels (h, w, 3), upright, at working size; device: what made them, for the label."""

    pixels: NDArray[np.uint8]
    device: str


class Engine(Protocol):
    """Codes pictures with the profile of the configuration; decodes records of any profile in the vault.

    Every method may be called from any number of threads at once.
    """

    @property
    def profile(self) -> ProfileInfo:
        """The profile that new records are coded with. Raises ProfileUnknown."""
        ...

    @property
    def device(self) -> str:
        """What does the arithmetic, for the label of a generated image."""
        ...

    def encode(self, pictures: Sequence[Picture], scheme: Scheme) -> list[Record]:
        """The records of pictures at the profile's working size. Raises SchemeUnsupported, WeightsDamaged."""
        ...

    def decode(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[NDArray[np.uint8]]:
        """The pictures (h, w, 3) of records, upright, at working size; the same record gives the same bytes.

        deadline: a time.monotonic() after which nobody wants them any more; None waits for ever.
        Raises ProfileUnknown, WeightsDamaged, SchemeUnsupported, RecordCorrupt, and what keeps a decoder from its work:
        DecoderBusy (too many wait already), DeadlineMissed, DecoderFailed.
        """
        ...

    def generate(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[Generated]:
        """As `decode`, and what made each picture: a device that failed is left for another at any time."""
        ...

    def measure(self, pictures: Sequence[Picture], decoded: Sequence[NDArray[np.uint8]]) -> list[FidelityReport]:
        """How near each decoded picture is to its original; the judge is the coder's own semantic network."""
        ...

    def colour_map(self, record: Record) -> NDArray[np.uint8]:
        """The colour map (rows, columns, 3) that a placeholder shows. Raises RecordCorrupt."""
        ...

    def profile_of(self, record: Record) -> ProfileInfo:
        """The profile that a record was coded with. Raises ProfileUnknown."""
        ...

    def close(self) -> None:
        """Drop what waits, finish what runs, give memory, processes and connections back."""
        ...
