"""The engine whose records are decoded on another host, over HTTP. Imports no torch.

Only records travel: pictures are encoded and measured here, so that photographs do not leave this machine, and that
part needs the model libraries. Recalling needs neither them nor weights: the other host says what its profiles are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from archiver.codec import schemes
from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.config import Settings
from archiver.decoder import wire
from archiver.decoder.client import Client
from archiver.decoder.engine import Generated, Priority
from archiver.decoder.queued import QueuedEngine
from archiver.errors import DecoderProfileMissing, ProfileUnknown
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault


class RemoteEngine:
    """`archiver.decoder.engine.Engine` whose records another host decodes; `open_coder` makes the one that codes here.

    Raises ConfigInvalid (no usable token).
    """

    def __init__(self, settings: Settings, open_coder: Callable[[Settings], QueuedEngine]) -> None:
        self._settings, self._open_coder = settings, open_coder
        self._client = Client(settings)
        self._vault = Vault(settings.vault.path)
        self._lock = threading.Lock()
        self._coder: QueuedEngine | None = None
        self._profiles: tuple[ProfileInfo, ...] = ()  # of the other host, as far as they were asked for
        self._device = ""

    @property
    def profile(self) -> ProfileInfo:
        """The profile that new records are coded with: that in the vault here, else that of the other host.

        Raises ProfileUnknown, DecoderUnreachable.
        """
        name = self._settings.model.profile
        try:
            return self._vault.named(name)
        except ProfileUnknown:
            for info in reversed(self._remote_profiles()):
                if info.name == name:
                    return info
            raise

    @property
    def device(self) -> str:
        """The other host's device: that which made the last picture, else what it says of itself."""
        return self._device or self._client.stats().device or "not known before the first picture"

    def encode(self, pictures: Sequence[Picture], scheme: Scheme) -> list[Record]:
        """The records of pictures, made here. Raises ModelsNotInstalled, ProfileUnknown, SchemeUnsupported."""
        return self._coding().encode(pictures, scheme)

    def measure(self, pictures: Sequence[Picture], decoded: Sequence[NDArray[np.uint8]]) -> list[FidelityReport]:
        """How near each decoded picture is to its original, judged here. Raises ModelsNotInstalled, ProfileUnknown."""
        return self._coding().measure(pictures, decoded)

    def decode(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[NDArray[np.uint8]]:
        """The pictures (h, w, 3) of records, as `Engine.decode` says.

        Raises DecoderUnreachable, DecoderRefused, DecoderProfileMissing, DecoderAnswerInvalid too.
        """
        return [generated.pixels for generated in self.generate(records, priority=priority, deadline=deadline)]

    def generate(
        self, records: Sequence[Record], *, priority: Priority = Priority.BULK, deadline: float | None = None
    ) -> list[Generated]:
        """The pictures of records and what made each, as `Engine.generate` says. Raises as `decode` does."""
        pictures: list[Generated] = []
        for some in _portions(records):
            pictures += self._client.decode(some, priority, deadline)
        if pictures:
            self._device = pictures[-1].device
        return pictures

    def colour_map(self, record: Record) -> NDArray[np.uint8]:
        """The colour map (rows, columns, 3) that a placeholder shows. Raises RecordCorrupt."""
        return schemes.preview(record)

    def profile_of(self, record: Record) -> ProfileInfo:
        """The profile that a record was coded with, as the vault here or the other host knows it.

        Raises DecoderProfileMissing, DecoderUnreachable.
        """
        try:
            return self._vault.find(record.profile)
        except ProfileUnknown:
            known = {info.key: info for info in (self._profiles or self._remote_profiles())}
            if record.profile not in known:
                known = {info.key: info for info in self._remote_profiles()}  # it may have come meanwhile
            if record.profile not in known:
                where, profile = self._client.where, record.profile.hex()
                raise DecoderProfileMissing(where=where, profile=profile) from None
            return known[record.profile]

    def close(self) -> None:
        """Give connections, and what encoding needed, back."""
        with self._lock:
            coder, self._coder = self._coder, None
        if coder is not None:
            coder.close()
        self._client.close()

    def _coding(self) -> QueuedEngine:
        with self._lock:
            if self._coder is None:
                here = self._settings.decoder.model_copy(update={"where": "process"})
                self._coder = self._open_coder(self._settings.model_copy(update={"decoder": here}))
            return self._coder

    def _remote_profiles(self) -> tuple[ProfileInfo, ...]:
        self._profiles = self._client.profiles()
        return self._profiles


def _portions(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records by the request: neither too many nor too long together."""
    some: list[Record] = []
    length = 0
    for record in records:
        size = len(record.to_bytes())
        if some and (len(some) == wire.MOST_RECORDS or length + size > wire.MOST_REQUEST):
            yield some
            some, length = [], 0
        some.append(record)
        length += size
    if some:
        yield some
