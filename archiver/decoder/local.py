"""The engine of this machine.

Every picture is coded and every record decoded by itself, on one core, as many at a time as there are threads.
Convolutions over a batch, or over several cores, give results that differ in the last bits with the size of the batch
and the number of cores; a record must not look different because of the company that it travelled in. What that costs
is told in docs/schemes.md, "Speed".
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray

from archiver.codec import schemes
from archiver.codec.fidelity import FidelityReport
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme, Steering
from archiver.decoder.decoding import decode_records, to_tensor
from archiver.decoder.engine import Priority
from archiver.decoder.judge import judge
from archiver.errors import PresetUnknown, SchemeUnsupported
from archiver.models.embedded import EmbeddedModels, load_embedded
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault


class LocalEngine:
    """`archiver.decoder.engine.Engine` on the CPU."""

    def __init__(self, vault: Vault, profile: ProfileInfo, preset: str, threads: int) -> None:
        self._vault = vault
        self._profile = profile
        self._preset = preset
        self._loaded: dict[bytes, EmbeddedModels] = {}
        self._loading = threading.Lock()
        self._pool = ThreadPoolExecutor(threads, "archiver-model", initializer=lambda: torch.set_num_threads(1))

    @property
    def profile(self) -> ProfileInfo:
        """The profile that new records are coded with."""
        return self._profile

    @property
    def device(self) -> str:
        """What does the arithmetic, for the label of a generated image."""
        return f"cpu, torch {torch.__version__}"

    def encode(self, pictures: Sequence[Picture], scheme: Scheme) -> list[Record]:
        """The records of pictures at the profile's working size. Raises SchemeUnsupported, PresetUnknown,
        WeightsDamaged.
        """
        steering = self._steering(scheme)
        models = self._models(self._profile.key)

        def encode_one(picture: Picture) -> Record:
            height, width, _ = picture.pixels.shape
            grid = (width // self._profile.multiple, height // self._profile.multiple)
            with torch.inference_mode():
                seen = models.semantics(to_tensor(picture.pixels))
            labels = seen.labels[0].to(torch.uint8).numpy()
            facts = schemes.Facts(seen.embedding[0].numpy(), labels, self._profile.words)
            return schemes.compose(picture, facts, scheme, self._profile.key, grid, steering)

        return list(self._pool.map(encode_one, pictures))

    def decode(
        self,
        records: Sequence[Record],
        *,
        priority: Priority = Priority.BULK,  # noqa: ARG002
        deadline: float | None = None,  # noqa: ARG002
    ) -> list[NDArray[np.uint8]]:
        """The pictures (h, w, 3) of records, upright, at working size; the same record gives the same bytes.

        Raises ProfileUnknown, WeightsDamaged, SchemeUnsupported, RecordCorrupt.
        """

        def decode_one(record: Record) -> NDArray[np.uint8]:
            if record.scheme not in schemes.SUPPORTED:
                raise self._unsupported(record.scheme)
            return decode_records(self._models(record.profile), [record])[0]

        return list(self._pool.map(decode_one, records))

    def measure(self, pictures: Sequence[Picture], decoded: Sequence[NDArray[np.uint8]]) -> list[FidelityReport]:
        """How near each decoded picture is to its original; the judge is the coder's own semantic network."""
        models = self._models(self._profile.key)
        originals = [picture.pixels for picture in pictures]
        return list(self._pool.map(lambda one, other: judge(models, one, other), originals, decoded))

    def colour_map(self, record: Record) -> NDArray[np.uint8]:
        """The colour map (rows, columns, 3) that a placeholder shows. Raises RecordCorrupt."""
        return schemes.preview(record)

    def profile_of(self, record: Record) -> ProfileInfo:
        """The profile that a record was coded with. Raises ProfileUnknown."""
        return self._profile if record.profile == self._profile.key else self._vault.find(record.profile)

    def _steering(self, scheme: Scheme) -> Steering:
        if scheme not in schemes.SUPPORTED or scheme not in self._profile.schemes:
            raise self._unsupported(scheme)
        own = {preset.scheme: preset.steering for preset in self._profile.presets if preset.name == self._preset}
        steering = own.get(scheme) or schemes.PRESETS.get(self._preset, {}).get(scheme)
        if steering is None:
            raise PresetUnknown(profile=self._profile.name, preset=self._preset, scheme=scheme.label)
        return steering

    def _unsupported(self, scheme: Scheme) -> SchemeUnsupported:
        known = ", ".join(one.label for one in schemes.SUPPORTED if one in self._profile.schemes)
        return SchemeUnsupported(profile=self._profile.name, scheme=scheme.label, reason=f"it has {known}")

    def _models(self, key: bytes) -> EmbeddedModels:
        """The networks that a record's profile names, loaded once and verified on the way."""
        with self._loading:
            if key not in self._loaded:
                models = load_embedded(self._vault.directory(key))
                for network in (models.autoencoder, models.denoiser, models.semantics):
                    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
                self._loaded[key] = models
            return self._loaded[key]
