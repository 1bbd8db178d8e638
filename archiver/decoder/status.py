"""Where records are decoded, for `archiver decoder status`. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from archiver.config import Settings

_PLACES = {
    "process": "in the process that needs them",
    "worker": "in a worker process, started when it is needed",
}


@dataclass(frozen=True, slots=True)
class DecoderStatus:
    """where: as configured, in words. The rest is known of another host alone.

    waiting: records in its queue. running: those being decoded. done: since it started.
    """

    where: str
    version: str | None = None
    device: str | None = None
    profiles: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    waiting: int | None = None
    running: int | None = None
    done: int | None = None
    failed: int | None = None

    def lines(self) -> Iterator[tuple[str, str]]:
        """What is known, as pairs of words."""
        yield "records are decoded", self.where
        for name in ("version", "device", "waiting", "running", "done", "failed"):
            if (value := getattr(self, name)) is not None:
                yield name, str(value) or "not known yet"
        if self.device is not None:
            yield "profiles", ", ".join(self.profiles) or "none"
            yield "in memory", ", ".join(self.loaded) or "nothing: loaded when needed"


def examine(settings: Settings) -> DecoderStatus:
    """Where the configuration sends records; another host is asked how it does.

    Raises DecoderUnreachable, DecoderRefused, DecoderAnswerInvalid, ConfigInvalid (no usable token).
    """
    if settings.decoder.url is None:
        return DecoderStatus(_PLACES[settings.decoder.where])
    from archiver.decoder.client import Client

    client = Client(settings)
    try:
        stats = client.stats()
        return DecoderStatus(
            where=f"at {client.where}",
            version=stats.version,
            device=stats.device,
            profiles=tuple(f"{info.name} ({info.fingerprint.hex()[:16]})" for info in client.profiles()),
            loaded=stats.loaded,
            waiting=stats.waiting,
            running=stats.running,
            done=stats.done,
            failed=stats.failed,
        )
    finally:
        client.close()
