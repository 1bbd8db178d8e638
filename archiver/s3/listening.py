"""The life of `archiver s3 listen`: which tiers and queues it opens, and until when it listens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING

from archiver.config import Settings
from archiver.errors import QueueUnknown, TierUnknown, WebhookUnguarded
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.site import Site
from archiver.s3.hooking import open_queue
from archiver.s3.listen import Batch, Listener, hear
from archiver.s3.tier import S3Tier
from archiver.units import counted

if TYPE_CHECKING:
    from archiver.http_server import Listening


def listen(
    settings: Settings,
    names: Sequence[str],
    stop: Event,
    report: Callable[[Batch], None],
    ready: Callable[[str], None],
    *,
    once: bool = False,
) -> None:
    """Take in what the queues of the named tiers (none: of all) have, until `stop` is set, or they are empty.

    Each queue has a thread; the first that fails for good ends all. Raises TierUnknown, QueueUnknown, and what
    `Listener.run` raises.
    """
    with _opened(settings, names) as (site, tiers):
        with_queue = [tier for tier in tiers if tier.settings.queue_url]
        if not with_queue or (names and len(with_queue) < len(tiers)):
            without = next((tier.name for tier in tiers if not tier.settings.queue_url), "")
            raise QueueUnknown(tier=without or "(none)")
        by_url: dict[str, list[S3Tier]] = {}
        for tier in with_queue:
            by_url.setdefault(tier.settings.queue_url or "", []).append(tier)
        queues = [Listener(site, those, open_queue(those[0].settings, url), hear) for url, those in by_url.items()]
        ready(f"listening to {counted(len(queues), 'queue')} for {counted(len(with_queue), 'tier')}")
        with ThreadPoolExecutor(len(queues), "listen") as threads:
            running = [threads.submit(queue.run, stop, report, once=once) for queue in queues]
            done, _ = wait(running, return_when=FIRST_EXCEPTION)
            if any(future.exception() for future in done):
                stop.set()
        for future in running:
            future.result()


def serve(
    settings: Settings, names: Sequence[str], at: Listening, token: str | None, ready: Callable[[str], None]
) -> None:
    """Take in what stores send over HTTP, until SIGTERM or SIGINT; `ready` hears the address once it listens.

    Raises TierUnknown, QueueUnknown, WebhookUnguarded, ConfigInvalid (certificate), SystemRefused (the address).
    """
    # Queues need no HTTP server, and its libraries may not be there.
    from archiver import http_server
    from archiver.s3.webhook import Receiver, create_app

    if token is None and not at.reaches_only_this_machine:
        raise WebhookUnguarded(address=at.address)
    with _opened(settings, names) as (site, tiers), http_server.bind(at) as listener:
        http_server.serve(create_app(Receiver(site, tiers, hear), token), at, listener, ready)


@contextmanager
def _opened(settings: Settings, names: Sequence[str]) -> Iterator[tuple[Site, list[S3Tier]]]:
    with open_site(settings) as site:
        tiers = [tier for tier in site.tiers.values() if isinstance(tier, S3Tier)]
        known = [tier.name for tier in tiers]
        if unknown := [name for name in names if name not in known]:
            raise TierUnknown(tier=unknown[0], known=", ".join(known) or "none in a bucket")
        yield site, [tier for tier in tiers if not names or tier.name in names]
