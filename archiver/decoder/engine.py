"""The engine that the rest of the program sees: pictures in, records out, and back. Imports no torch by itself."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.config import Settings
from archiver.errors import ModelsNotInstalled
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault

if TYPE_CHECKING:
    from archiver.decoder.queued import QueuedEngine
    from archiver.decoder.work import Runner


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


def open_engine(settings: Settings) -> Engine:
    """The engine of a configuration; weights are loaded when they are first needed.

    Raises ModelsNotInstalled, ConfigInvalid (no usable token), DecoderFailed (the device is not there).
    """
    if settings.decoder.url is None:
        return open_here(settings)
    from archiver.decoder.remote import RemoteEngine

    return RemoteEngine(settings)


def open_here(settings: Settings) -> QueuedEngine:
    """The engine that decodes on this machine, in this process or in a worker. Raises as `open_engine` does."""
    from archiver.decoder.queued import QueuedEngine
    from archiver.decoder.service import DecodeService

    vault, decoder = Vault(settings.vault.path), settings.decoder
    threads = settings.model.threads or len(os.sched_getaffinity(0))
    runner: Runner
    if decoder.where == "worker":
        from archiver.decoder.worker import WHERE, Setup, WorkerRunner

        if importlib.util.find_spec("torch") is None:
            raise ModelsNotInstalled(missing="torch")
        where, runner = WHERE, WorkerRunner(Setup(vault.path, decoder.device, decoder.batch, threads))
    else:
        try:
            from archiver.decoder.networks import LocalRunner
        except ImportError as error:
            raise ModelsNotInstalled(missing=error.name or error) from error
        where = "in this process"
        runner = LocalRunner(vault, device=decoder.device, batch=decoder.batch, threads=threads)
    idle = None if decoder.idle is None else decoder.idle.total_seconds()
    service = DecodeService(runner, limit=decoder.waiting, idle=idle, where=where)
    return QueuedEngine(vault, settings.model.profile, settings.model.preset, service)
