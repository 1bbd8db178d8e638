"""The same as `archiver s3 listen` as a function of AWS Lambda; template and policy: archiver/s3/aws/.

Configuration: the file that $ARCHIVER_CONFIG names, or the TOML in $ARCHIVER_CONFIG_TOML; $ARCHIVER_CATALOG_URL may
hold the catalog's URL. The catalog is in PostgreSQL: many of these run at a time, each for minutes.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from archiver import config, logs
from archiver.errors import (
    CatalogUnavailable,
    ConfigInvalid,
    EventUnfinished,
    EventUnreadable,
    TierNotScanned,
    TierUnreachable,
)
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from archiver.lifecycle.site import Site
from archiver.s3.effect import act, look
from archiver.s3.events import ObjectEvent, parse
from archiver.s3.listen import Readiness, hear
from archiver.s3.tier import S3Tier

_LOG = logging.getLogger("archiver.s3.lambda")
CONFIG_TEXT = "ARCHIVER_CONFIG_TOML"
_SPARE_SECONDS = 30.0  # before Lambda ends a call, in which the files in hand are finished


class Context(Protocol):
    """What Lambda tells of a call."""

    def get_remaining_time_in_millis(self) -> int:
        """Until the call is ended."""
        ...


@dataclass(frozen=True, slots=True)
class _Message:
    """One message; `id` is "" where it came without a queue."""

    id: str
    body: str


def handle(event: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
    """Take in what SQS (with partial responses), S3, SNS or EventBridge calls a function with.

    Messages of a queue that were not dealt with are named in the answer, so that they come again; after the queue's
    number of tries they go to its dead-letter queue. For all others it raises what went wrong: Lambda tries again.
    """
    function = _function()
    messages = list(_messages(event))
    from_queue = any(message.id for message in messages)
    with _ended_in_time(context) as stop:
        try:
            failed = _take_in(function, messages, stop)
        except (TierUnreachable, TierNotScanned, CatalogUnavailable) as error:
            if not from_queue:
                raise
            _LOG.warning("%d messages come again: %s", len(messages), error.message)
            failed = messages
    if failed and not from_queue:
        raise EventUnfinished(count=len(failed))
    return {"batchItemFailures": [{"itemIdentifier": message.id} for message in failed]}


def _take_in(function: _Function, messages: Sequence[_Message], stop: threading.Event) -> list[_Message]:
    """The messages that were not dealt with."""
    understood: list[tuple[_Message, tuple[ObjectEvent, ...]]] = []
    failed: list[_Message] = []
    for message in messages:
        try:
            understood.append((message, parse(message.body)))
        except EventUnreadable as error:
            _LOG.warning("message %s: %s", message.id, error.message)
            failed.append(message)
    function.readiness.require()
    looked = look(function.site, function.tiers, [event for _, events in understood for event in events])
    acted = act(function.site, looked.cold, hear, stop)
    failed += [message for message, events in understood if not acted.is_done(events)]
    archived = acted.tally.count("release", Result.DONE)
    _LOG.info(
        "%d messages: %d keys looked at, %d archived, %d failed", len(messages), looked.keys, archived, len(failed)
    )
    return failed


def _messages(event: Mapping[str, Any]) -> Iterator[_Message]:
    records = event.get("Records")
    first = records[0] if isinstance(records, list) and records and isinstance(records[0], dict) else {}
    if first.get("eventSource") == "aws:sqs":
        yield from (_Message(str(record["messageId"]), str(record["body"])) for record in event["Records"])
    elif first.get("EventSource") == "aws:sns":
        yield from (_Message("", str(record["Sns"]["Message"])) for record in event["Records"])
    else:
        yield _Message("", json.dumps(event))


@contextmanager
def _ended_in_time(context: Context) -> Iterator[threading.Event]:
    """An event that is set shortly before Lambda ends the call."""
    stop = threading.Event()
    timer = threading.Timer(context.get_remaining_time_in_millis() / 1000 - _SPARE_SECONDS, stop.set)
    timer.start()
    try:
        yield stop
    finally:
        timer.cancel()


# -- what stays open from one call to the next -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Function:
    site: Site
    tiers: Sequence[S3Tier]
    readiness: Readiness


_opened = ExitStack()
_open: _Function | None = None
_opening = threading.Lock()


def _function() -> _Function:
    """What this function works with, opened by its first call.

    Raises ConfigInvalid, ConfigMissing, CatalogUnavailable.
    """
    global _open
    with _opening:
        if _open is None:
            settings = _settings()
            logs.configure(settings.log)
            site = _opened.enter_context(open_site(settings))
            tiers = [tier for tier in site.tiers.values() if isinstance(tier, S3Tier)]
            _open = _Function(site, tiers, Readiness(site, tiers, hear))
        return _open


def close() -> None:
    """Let go of what the first call opened; the next call opens it again."""
    global _open
    with _opening:
        _open = None
        _opened.close()


def _settings() -> config.Settings:
    text = os.environ.get(CONFIG_TEXT)
    source = Path(f"${CONFIG_TEXT}") if text else config.config_path()
    settings = config.parse(text, source) if text else config.load(source)
    if not settings.catalog_url.startswith("postgresql"):
        raise ConfigInvalid(
            path=source, problem="a function's catalog must be in PostgreSQL: it has no disk of its own"
        )
    return settings
