"""The engine over a vault and a decode service: what the service does not know of profiles and presets. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_for
from time import monotonic
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from archiver.codec import schemes
from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme, Steering
from archiver.decoder.engine import Generated, Priority
from archiver.decoder.service import DecodeService, Stats
from archiver.decoder.work import Decode, Encode, Measure, Work
from archiver.errors import DeadlineMissed, DecoderFailed, PresetUnknown, SchemeUnsupported
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault

Result = TypeVar("Result")


class QueuedEngine:
    """`archiver.decoder.engine.Engine` whose work waits in a `DecodeService`.

    `profile` is for new records; its name is looked up when there are some: others are decoded without it.
    """

    def __init__(self, vault: Vault, profile: ProfileInfo | str, preset: str, service: DecodeService) -> None:
        self.service = service
        self._vault = vault
        self._profile = profile
        self._found: dict[bytes, ProfileInfo] = {}
        self._preset = preset

    @property
    def profile(self) -> ProfileInfo:
        """The profile that new records are coded with. Raises ProfileUnknown."""
        if isinstance(self._profile, str):
            self._profile = self._vault.named(self._profile)
        return self._profile

    @property
    def device(self) -> str:
        """What does the arithmetic, for the label of a generated image."""
        return self.service.device

    def encode(self, pictures: Sequence[Picture], scheme: Scheme) -> list[Record]:
        """The records of pictures at the profile's working size. Raises ProfileUnknown, SchemeUnsupported,
        PresetUnknown, WeightsDamaged.
        """
        steering = steering_of(self.profile, self._preset, scheme)
        return self._do([Encode(picture, scheme, steering, self.profile.key) for picture in pictures])

    def decode(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[NDArray[np.uint8]]:
        """The pictures (h, w, 3) of records, as `Engine.decode` says."""
        return [generated.pixels for generated in self.generate(records, priority=priority, deadline=deadline)]

    def generate(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[Generated]:
        """The pictures of records and what made each, as `Engine.generate` says."""
        return gather(
            self.submit(records, priority, deadline, wait=priority is Priority.BULK), deadline, self.service.where
        )

    def submit(
        self, records: Sequence[Record], priority: Priority, deadline: float | None = None, *, wait: bool = False
    ) -> list[Future[Generated]]:
        """Begin to decode, without waiting for the pictures; all are queued or none.

        Cancelling a future drops what has not begun. Raises DecoderBusy, ProfileUnknown, SchemeUnsupported.
        """
        for record in records:
            profile = self.profile_of(record)
            if record.scheme not in schemes.SUPPORTED:
                raise _unsupported(profile, record.scheme)
        return self.service.submit([Decode(record) for record in records], priority, deadline, wait=wait)

    def measure(self, pictures: Sequence[Picture], decoded: Sequence[NDArray[np.uint8]]) -> list[FidelityReport]:
        """How near each decoded picture is to its original; the judge is the coder's own semantic network."""
        return self._do([Measure(*pair, self.profile.key) for pair in zip(pictures, decoded, strict=True)])

    def colour_map(self, record: Record) -> NDArray[np.uint8]:
        """The colour map (rows, columns, 3) that a placeholder shows. Raises RecordCorrupt."""
        return schemes.preview(record)

    def profile_of(self, record: Record) -> ProfileInfo:
        """The profile that a record was coded with. Raises ProfileUnknown."""
        if record.profile not in self._found:
            self._found[record.profile] = self._vault.find(record.profile)
        return self._found[record.profile]

    def stats(self) -> Stats:
        """What the service is doing and has done."""
        return self.service.stats()

    def close(self) -> None:
        """Drop what waits, finish what runs, give the memory back."""
        self.service.close()

    def _do(self, works: Sequence[Work]) -> list[Any]:
        return gather(self.service.submit(works, Priority.BULK, wait=True), None, self.service.where)


def steering_of(profile: ProfileInfo, preset: str, scheme: Scheme) -> Steering:
    """How a profile drives a scheme under a preset: its own tables come first, then those of every profile.

    Raises SchemeUnsupported, PresetUnknown.
    """
    if scheme not in schemes.SUPPORTED or scheme not in profile.schemes:
        raise _unsupported(profile, scheme)
    own = {one.scheme: one.steering for one in profile.presets if one.name == preset}
    steering = own.get(scheme) or schemes.PRESETS.get(preset, {}).get(scheme)
    if steering is None:
        raise PresetUnknown(profile=profile.name, preset=preset, scheme=scheme.label)
    return steering


def _unsupported(profile: ProfileInfo, scheme: Scheme) -> SchemeUnsupported:
    known = ", ".join(one.label for one in schemes.SUPPORTED if one in profile.schemes)
    return SchemeUnsupported(profile=profile.name, scheme=scheme.label, reason=f"it has {known}")


def gather(futures: Sequence[Future[Result]], deadline: float | None, where: str) -> list[Result]:
    """The results of all; once one has failed, or the deadline has passed, the others are dropped.

    Raises DeadlineMissed, DecoderFailed (it was closed) and what the works raise.
    """
    began = monotonic()
    try:
        left = None if deadline is None else max(0.0, deadline - began)
        done, _ = wait_for(futures, left, "FIRST_EXCEPTION")
        failed = [future for future in futures if future in done and (future.cancelled() or future.exception())]
        if not failed and len(done) < len(futures):
            raise DeadlineMissed(where=where, seconds=f"{monotonic() - began:.1f}")
        return [future.result() for future in failed or futures]
    except CancelledError:
        raise DecoderFailed(where=where, reason="it was closed") from None
    finally:
        for future in futures:
            future.cancel()
