"""`archiver s3 listen`: what a queue tells of buckets, taken in batch by batch.

    receive -> parse -> look (catalog) -> act (archive) -> delete the messages

A message is deleted after its effect is committed and not before: whoever dies in between finds it again, and doing it
again changes nothing (see effect.py). While work is long the messages in hand are kept hidden from others. What cannot
be understood goes to the dead-letter queue at once; what fails goes there by the queue's own policy, when it has failed
often enough.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event

from archiver.errors import (
    ArchiverError,
    CatalogUnavailable,
    EventUnreadable,
    QueueUnreachable,
    TierNotScanned,
    TierUnreachable,
)
from archiver.lifecycle.arrows import arrow
from archiver.lifecycle.outcome import Listener as Hearer
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.site import Site
from archiver.s3.effect import Acted, Looked, act, look
from archiver.s3.events import ObjectEvent, parse
from archiver.s3.queue import MOST, Attributes, Message, Queue
from archiver.s3.tier import S3Tier

_LOG = logging.getLogger("archiver.s3.listen")
POLL_SECONDS = 10  # that the queue is asked to wait for a first message; a stop waits no longer
_TOGETHER = 100  # messages of one batch: enough to keep the encoder busy
_PAUSES = (1.0, 5.0, 15.0, 60.0)  # seconds before a queue, tier or catalog that failed is tried again


@dataclass(frozen=True, slots=True)
class Batch:
    """What became of the messages of one batch."""

    queue: str
    messages: int
    keys: int  # looked at
    changed: int  # files that the catalog has otherwise now
    elsewhere: int  # events of objects that lie in no tier
    archived: int
    refused: int
    poison: int  # messages that are no events
    kept: int  # messages that come again: something failed, or it was stopped
    seconds: float


class Listener:
    """One queue, and the tiers whose events it has."""

    def __init__(self, site: Site, tiers: Sequence[S3Tier], queue: Queue, hear: Hearer) -> None:
        self._site, self._tiers, self._queue, self._hear = site, tiers, queue, hear
        self._readiness = Readiness(site, tiers, hear)
        self._attributes = Attributes()

    def run(self, stop: Event, report: Callable[[Batch], None], *, once: bool = False) -> None:
        """Take in batches until `stop` is set, or with `once` until the queue is empty.

        With `once` raises QueueUnreachable, TierUnreachable, TierNotScanned, CatalogUnavailable; else waits for these
        to pass. Raises the errors of the models.
        """
        failures = 0
        while not stop.is_set():
            try:
                batch = self._next(stop, once)
            except (QueueUnreachable, TierUnreachable, TierNotScanned, CatalogUnavailable) as error:
                if once:
                    raise
                pause = _PAUSES[min(failures, len(_PAUSES) - 1)]
                failures += 1
                _LOG.warning("%s: %s; trying again in %g s", self._queue, error.message, pause)
                stop.wait(pause)
                continue
            failures = 0
            if batch is not None:
                report(batch)
            elif once:
                return

    def _next(self, stop: Event, once: bool) -> Batch | None:
        """One batch; None where there was no message."""
        self._attributes = self._queue.attributes()
        # Asked before any message is taken: one that is given to somebody who cannot act on it comes nearer to its end.
        self._readiness.require()
        messages = self._receive(0 if once else POLL_SECONDS)
        if not messages:
            return None
        began = time.monotonic()
        understood = [(message, events) for message in messages if (events := self._understood(message)) is not None]
        with self._kept_hidden([message for message, _ in understood]):
            looked = look(self._site, self._tiers, [event for _, events in understood for event in events])
            arrow("s3.listen.looked")
            acted = act(self._site, looked.cold, self._hear, stop)
            arrow("s3.listen.acted")
        kept = [message for message, events in understood if not acted.is_done(events)]
        self._queue.delete([message for message, _ in understood if message not in kept])
        if stop.is_set():
            self._queue.hide(kept, 0)
        counts = len(messages), len(messages) - len(understood), len(kept)
        return self._told(*counts, looked, acted, time.monotonic() - began)

    def _receive(self, seconds: int) -> list[Message]:
        messages = received = self._queue.receive(seconds)
        while len(received) == MOST and len(messages) < _TOGETHER:
            received = self._queue.receive(0)
            messages = messages + received
        return messages

    def _understood(self, message: Message) -> tuple[ObjectEvent, ...] | None:
        """The events of a message; None for one that has none and never will, which is buried where the queue says."""
        try:
            return parse(message.body)
        except EventUnreadable as error:
            _LOG.warning("%s: message %s: %s", self._queue, message.id, error.message)
            self._bury(message, error.message)
            return None

    def _bury(self, message: Message, reason: str) -> None:
        """Where that is not possible it stays, until the queue's own policy moves it: the others are taken in now."""
        if not self._attributes.dead_arn:
            return
        try:
            self._queue.bury(message, reason, self._queue.url_of(self._attributes.dead_arn))
        except QueueUnreachable as error:
            because = error.facts["reason"]
            _LOG.warning("message %s could not be moved to %s: %s", message.id, self._attributes.dead_arn, because)

    def _told(self, messages: int, poison: int, kept: int, looked: Looked, acted: Acted, seconds: float) -> Batch:
        batch = Batch(
            queue=self._queue.url,
            messages=messages,
            keys=looked.keys,
            changed=sum(looked.changes),
            elsewhere=looked.elsewhere,
            archived=acted.tally.count("release", Result.DONE),
            refused=sum(n for (_, result), n in acted.tally.counts.items() if result is Result.REFUSED),
            poison=poison,
            kept=kept,
            seconds=round(seconds, 3),
        )
        _LOG.info(
            "%d messages: %d keys looked at, %d changed, %d archived, %d refused, %d not understood, %d kept, %.1f s",
            *(batch.messages, batch.keys, batch.changed, batch.archived, batch.refused, batch.poison, batch.kept),
            batch.seconds,
        )
        return batch

    @contextmanager
    def _kept_hidden(self, messages: Sequence[Message]) -> Iterator[None]:
        """While the body runs, nobody else is given these messages, however long it takes."""
        visibility = max(self._attributes.visibility, 3)
        over = threading.Event()

        def keep() -> None:
            while not over.wait(visibility / 3):
                try:
                    self._queue.hide(messages, visibility)
                except ArchiverError as error:
                    # Somebody else may be given them, and finds nothing left to do.
                    _LOG.warning("%s: messages in hand could not be kept: %s", self._queue, error.message)

        keeper = threading.Thread(target=keep, name="keep-hidden", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            over.set()
            keeper.join()


class Readiness:
    """Whether tiers can be acted upon: they are there, were scanned once, and what dead processes left is settled."""

    def __init__(self, site: Site, tiers: Sequence[S3Tier], hear: Hearer) -> None:
        self._site, self._tiers, self._hear = site, tiers, hear
        self._settled = False

    def require(self) -> None:
        """Look again. Raises TierUnreachable, TierNotScanned."""
        scanned = {row.name for row in self._site.catalog.tiers() if row.first_scan_done_at is not None}
        for tier in self._tiers:
            if tier.name not in scanned:
                raise TierNotScanned(tier=tier.name)
            tier.check()
        if not self._settled:
            for tier in self._tiers:
                for outcome in self._site.keeper(tier).settle():
                    self._hear(outcome)
            self._settled = True


def hear(outcome: Outcome) -> None:
    """One line a file."""
    level = logging.WARNING if outcome.result is Result.FAILED else logging.INFO
    because = f": {outcome.reason}" if outcome.reason else ""
    facts = {"act": outcome.act, "result": str(outcome.result), "file": str(outcome.path)}
    _LOG.log(level, "%s %s %s%s", outcome.act, outcome.result, outcome.path, because, extra=facts)
