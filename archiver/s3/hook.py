"""The lifecycle hook: a lifecycle rule, a notification and a queue, by which a bucket tells when objects go cold.

Four things make it up, each read, changed and written by a part of its own: a dead-letter queue, a queue, the bucket's
notification configuration and its lifecycle configuration. What would change is worked out first, from what is there;
then it is applied in an order in which every step finds what it needs, and read again. Nothing of others is touched.
"""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from archiver.errors import HookImpossible, HookNotKept, HookRefused
from archiver.s3 import documents
from archiver.s3.documents import Document, canonical
from archiver.s3.failures import code_of
from archiver.s3.objects import UNREADABLE

_SETTLE_SECONDS = 60.0  # in which a new queue and its policy are known everywhere, as SQS promises
_SETTLE_PAUSE = 2.0
_SMALLEST, _SMALLEST_IS_USUAL = "TransitionDefaultMinimumObjectSize", "all_storage_classes_128K"  # a put would reset it


@dataclass(frozen=True, slots=True)
class Wish:
    """What a hook is asked to be. `name` is in the ids of all that is ours.

    transition_days: so long after its last write an object goes to `storage_class`; 0 leaves that to other rules.
    """

    name: str
    bucket: str
    prefix: str = ""
    transition_days: int = 0
    storage_class: str = "STANDARD_IA"

    @property
    def id(self) -> str:
        return f"{documents.OURS}{self.name}"


@dataclass(frozen=True, slots=True)
class Target:
    """Where events go. `name` is "" for what is no queue of SQS: it is there already, and not ours to change."""

    arn: str
    name: str = ""

    @property
    def dead_arn(self) -> str:
        return f"{self.arn}{documents.DEAD}"

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]


@dataclass(frozen=True, slots=True)
class Change:
    """One part as it is and as it would be, both as canonical JSON, "" for what is not there."""

    part: str
    name: str
    before: str
    after: str
    note: str = ""
    wanted: Document | None = field(default=None, repr=False, compare=False)

    @property
    def is_needed(self) -> bool:
        return self.before != self.after

    def lines(self) -> Iterator[str]:
        """A unified diff of three lines of context, without its header."""
        differ = difflib.unified_diff(self.before.splitlines(), self.after.splitlines(), lineterm="", n=3)
        return (line for number, line in enumerate(differ) if number > 1)


class Part(Protocol):
    """One thing that the hook is made of."""

    part: str
    name: str

    def read(self) -> Document | None: ...

    def wanted(self, found: Document | None, *, removing: bool) -> Document | None: ...

    def write(self, found: Document | None, wanted: Document | None) -> None: ...


class Hook:
    """The hook of one bucket. s3, sqs: clients of boto3."""

    def __init__(self, wish: Wish, target: Target, s3: Any, sqs: Any) -> None:
        if wish.transition_days and wish.storage_class in UNREADABLE:
            reason = f"what is in {wish.storage_class} cannot be read any more, and so not be recorded"
            raise HookImpossible(bucket=wish.bucket, reason=reason)
        if target.name.endswith(".fifo"):
            raise HookImpossible(bucket=wish.bucket, reason="S3 sends to no FIFO queue")
        self.wish, self.target = wish, target
        bucket: list[Part] = [_Notification(wish, target, s3), _Lifecycle(wish, s3)]
        queues: list[Part] = [_DeadQueue(wish, target, sqs), _Queue(wish, target, sqs)] if target.name else []
        self._parts = (*queues, *bucket)

    def plan(self, *, removing: bool = False) -> tuple[Change, ...]:
        """What is there and what would be, in the order in which it is to be done. Only reads. Raises HookRefused."""
        changes = []
        for part in reversed(self._parts) if removing else self._parts:
            with _asking(self.wish.bucket, f"reading the {part.part}"):
                found = part.read()
            wanted = part.wanted(found, removing=removing)
            note = "messages in it are dropped; the scan finds what they told of" if found and wanted is None else ""
            changes.append(Change(part.part, part.name, canonical(found), canonical(wanted), note, wanted))
        return tuple(changes)

    def apply(self, changes: Sequence[Change]) -> None:
        """Do what a plan says, and read it again.

        Raises HookRefused, and HookNotKept where something else stands there than was planned upon or was written.
        """
        parts = {part.part: part for part in self._parts}
        for change in changes:
            if not change.is_needed:
                continue
            part = parts[change.part]
            with _asking(self.wish.bucket, f"writing the {part.part}"):
                found = part.read()
                if canonical(found) != change.before:
                    raise HookNotKept(bucket=self.wish.bucket, what=part.part)
                part.write(found, change.wanted)
                if not _settles(partial(_reads, part, change.after)):
                    raise HookNotKept(bucket=self.wish.bucket, what=part.part)

    def queue_url(self) -> str:
        """The URL of the queue, for the configuration; "" where the target is no queue of SQS."""
        queue = next((part for part in self._parts if isinstance(part, _Queue)), None)
        with _asking(self.wish.bucket, "reading the queue"):
            return queue.url() or "" if queue else ""


# -- queues ------------------------------------------------------------------------------------------------------------

_NO_QUEUE = ("AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist")


class _DeadQueue:
    """Where messages go that nobody can deal with."""

    part = "dead-letter queue"

    def __init__(self, wish: Wish, target: Target, client: Any) -> None:
        self.name = f"{target.name}{documents.DEAD}"
        self._wish, self._target, self._client = wish, target, client

    def url(self) -> str | None:
        try:
            return str(self._client.get_queue_url(QueueName=self.name)["QueueUrl"])
        except ClientError as error:
            if code_of(error) in _NO_QUEUE:
                return None
            raise

    def read(self) -> Document | None:
        """Its attributes, as far as the hook has a say in them, and whether the hook made it."""
        url = self.url()
        if url is None:
            return None
        answer = self._client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        known = {*self._usual(), "Policy"}
        kept = {name: value for name, value in answer["Attributes"].items() if name in known}
        tags = self._client.list_queue_tags(QueueUrl=url).get("Tags", {})
        return {"Attributes": documents.decoded(kept), "Tags": {k: v for k, v in tags.items() if k == documents.TAG}}

    def wanted(self, found: Document | None, *, removing: bool) -> Document | None:
        main = _Queue(self._wish, self._target, self._client)
        wanted = main.wanted(main.read(), removing=removing)
        if not _is_ours(found):
            # Somebody else's, or none: it is made only for a queue of ours.
            return found if found or wanted is None or not _is_ours(wanted) else self._new()
        return None if wanted is None else self._new(found)

    def _new(self, found: Document | None = None) -> Document:
        return _of_ours({**(found or {}).get("Attributes", {}), **self._usual()})

    def _usual(self) -> Document:
        """What it is like where the hook made it."""
        return documents.dead_attributes()

    def write(self, found: Document | None, wanted: Document | None) -> None:
        """Create it, change it, or delete it with what is in it."""
        if wanted is None:
            self._client.delete_queue(QueueUrl=self.url())
        elif found is None:
            attributes = documents.encoded(wanted["Attributes"])
            self._client.create_queue(QueueName=self.name, Attributes=attributes, tags=wanted["Tags"])
        else:
            dropped = {name: "" for name in found["Attributes"] if name not in wanted["Attributes"]}
            attributes = documents.encoded(wanted["Attributes"]) | dropped
            self._client.set_queue_attributes(QueueUrl=self.url(), Attributes=attributes)


class _Queue(_DeadQueue):
    """Where events go. One that others made, too, is only told to take them from this bucket."""

    part = "queue"

    def __init__(self, wish: Wish, target: Target, client: Any) -> None:
        super().__init__(wish, target, client)
        self.name = target.name

    def wanted(self, found: Document | None, *, removing: bool) -> Document | None:
        attributes = (found or {}).get("Attributes", {})
        policy = attributes.get("Policy")
        if removing:
            left = documents.without_statement(policy, self._wish.id)
            if found is None or (_is_ours(found) and left is None):
                return None
            return {**found, "Attributes": {**attributes, "Policy": left} if left else _without(attributes, "Policy")}
        statement = documents.may_send(self._wish.id, self._target.arn, self._wish.bucket)
        attributes = {**attributes, "Policy": documents.with_statement(policy, statement)}
        if found is None or _is_ours(found):
            return _of_ours({**attributes, **self._usual()})
        return {**found, "Attributes": attributes}

    def _usual(self) -> Document:
        return documents.queue_attributes(self._target.dead_arn)


def _is_ours(queue: Document | None) -> bool:
    return queue is not None and documents.TAG in queue["Tags"]


def _of_ours(attributes: Document) -> Document:
    return {"Attributes": attributes, "Tags": {documents.TAG: "made by archiver s3 install-hook"}}


def _without(attributes: Document, name: str) -> Document:
    return {key: value for key, value in attributes.items() if key != name}


# -- the bucket --------------------------------------------------------------------------------------------------------


class _Notification:
    """The bucket's notification configuration: S3 takes it only as a whole."""

    part = "notification"

    def __init__(self, wish: Wish, target: Target, client: Any) -> None:
        self.name = wish.bucket
        self._wish, self._target, self._client = wish, target, client

    def read(self) -> Document:
        return _plain(self._client.get_bucket_notification_configuration(Bucket=self.name))

    def wanted(self, found: Document | None, *, removing: bool) -> Document:
        if removing:
            return documents.without_notification(found or {}, self._wish.id)
        name, entry = documents.notification(self._wish.id, self._target.arn, self._wish.prefix)
        return documents.with_notification(found or {}, name, entry)

    def write(self, _found: Document | None, wanted: Document | None) -> None:
        def put() -> bool:
            try:
                self._client.put_bucket_notification_configuration(
                    Bucket=self.name, NotificationConfiguration=wanted or {}
                )
            except ClientError as error:
                # S3 tries the queue first, whose policy may not be known everywhere yet.
                if "validate the following destination" in str(error):
                    return False
                raise
            return True

        if not _settles(put):
            raise HookRefused(bucket=self.name, what="the notification", reason="S3 may not send to that queue")


class _Lifecycle:
    """The bucket's lifecycle configuration: S3 takes it only as a whole."""

    part = "lifecycle rules"

    def __init__(self, wish: Wish, client: Any) -> None:
        self.name = wish.bucket
        self._wish, self._client = wish, client

    def read(self) -> Document | None:
        try:
            found = _plain(self._client.get_bucket_lifecycle_configuration(Bucket=self.name))
        except ClientError as error:
            if code_of(error) == "NoSuchLifecycleConfiguration":
                return None
            raise
        return _without(found, _SMALLEST) if found.get(_SMALLEST) == _SMALLEST_IS_USUAL else found

    def wanted(self, found: Document | None, *, removing: bool) -> Document | None:
        wish = self._wish
        if removing or not wish.transition_days:
            left = documents.without_rule(found or {}, wish.id)
            return left if left["Rules"] else None
        rule = documents.lifecycle_rule(wish.id, wish.prefix, wish.transition_days, wish.storage_class)
        return documents.with_rule(found or {}, rule)

    def write(self, _found: Document | None, wanted: Document | None) -> None:
        if wanted is None:
            self._client.delete_bucket_lifecycle(Bucket=self.name)
            return
        rules = {"Rules": wanted["Rules"]}
        self._client.put_bucket_lifecycle_configuration(
            Bucket=self.name, LifecycleConfiguration=rules, **_without(wanted, "Rules")
        )


def _plain(answer: Document) -> Document:
    return _without(answer, "ResponseMetadata")


# -- asking ------------------------------------------------------------------------------------------------------------


def _reads(part: Part, expected: str) -> bool:
    return canonical(part.read()) == expected


def _settles(is_so: Callable[[], bool]) -> bool:
    """Whether something comes true: these services answer from copies that may be a minute old."""
    deadline, pause = time.monotonic() + _SETTLE_SECONDS, threading.Event()
    while not is_so():
        if time.monotonic() > deadline:
            return False
        pause.wait(_SETTLE_PAUSE)
    return True


@contextmanager
def _asking(bucket: str, what: str) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise HookRefused(bucket=bucket, what=what, reason=f"{code_of(error)}: {_message(error)}") from error
    except (BotoCoreError, HTTPError, OSError) as error:
        raise HookRefused(bucket=bucket, what=what, reason=" ".join(str(error).split())) from error


def _message(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Message", "it did not say why"))
