"""Events of object stores: the hook that makes a store tell of them, and what listens."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


class EventUnreadable(ArchiverError):
    """a message is no event of an object store: {reason}"""

    exit_code = 4
    hint = "Only S3, EventBridge, or a store's webhook should be able to send there; the queue's policy says who can."


class EventUnfinished(ArchiverError):
    """{count} messages could not be dealt with"""

    exit_code = 4
    hint = "The log says why. They come again; and what no message told of is found by the periodic scan."


class QueueUnreachable(ArchiverError):
    """the queue {queue} cannot be reached: {reason}"""

    exit_code = 4
    hint = "Nothing is lost: messages wait in the queue, and the periodic scan finds what no message told of."


class QueueUnknown(ArchiverError):
    """tier {tier} names no queue of events"""

    exit_code = 2
    hint = "`archiver s3 install-hook` makes one and tells its URL, which is `queue_url` of the [[tier]]."


class HookImpossible(ArchiverError):
    """bucket {bucket}: {reason}"""

    exit_code = 2
    hint = "Nothing was changed. docs/s3.md tells which stores have queues; the others can send to `listen --http`."


class HookRefused(ArchiverError):
    """bucket {bucket}: {what} was refused: {reason}"""

    exit_code = 4
    hint = "What was done before it stays; run the same again when it is mended: docs/s3.md lists the rights it takes."


class HookNotKept(ArchiverError):
    """bucket {bucket}: the store did not keep the {what} as it was written"""

    exit_code = 4
    hint = (
        "Somebody else wrote it at the same time, or the store lacks a part of it: run it again and look at the diff."
    )


class WebhookUnguarded(ArchiverError):
    """a webhook at {address} without a token would hear everybody"""

    exit_code = 2
    hint = "Name a file with a token by --token-file, or listen at 127.0.0.1."
