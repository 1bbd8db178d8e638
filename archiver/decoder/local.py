"""The engine of this machine, in this process."""

from __future__ import annotations

from archiver.decoder.networks import Device, LocalRunner
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.service import DecodeService
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault


class LocalEngine(QueuedEngine):
    """`archiver.decoder.engine.Engine` whose networks are in this process.

    The arguments are those of `LocalRunner` and `DecodeService`. Raises DecoderFailed where the device is not there.
    """

    def __init__(
        self,
        vault: Vault,
        profile: ProfileInfo,
        preset: str,
        threads: int,
        *,
        device: Device = "auto",
        batch: int = 0,
        limit: int = 1024,
        idle: float | None = None,
    ) -> None:
        runner = LocalRunner(vault, device=device, batch=batch, threads=threads)
        super().__init__(vault, profile, preset, DecodeService(runner, limit=limit, idle=idle))
