"""A queue of SQS, or of a server that speaks as SQS does: receiving, keeping hidden, deleting and burying messages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError
from urllib3.exceptions import HTTPError

from archiver.errors import QueueUnreachable

_LOG = logging.getLogger("archiver.s3.queue")
MOST = 10  # messages in one request of SQS
_MOST_HIDDEN = 12 * 3600  # seconds; SQS lets no message be hidden longer
_MOST_REASON = 256  # characters


@dataclass(frozen=True, slots=True)
class Message:
    """One message in hand: nobody else is given it until its time is over."""

    id: str
    receipt: str
    body: str
    receives: int = 1  # how often it was given out, this time included


class Queue:
    """One queue. Every method raises QueueUnreachable where it cannot be asked, and may be called from any thread."""

    def __init__(self, client: Any, url: str) -> None:
        self.url = url
        self._client = client

    def __str__(self) -> str:
        return self.url

    def attributes(self) -> Attributes:
        """How long messages stay hidden, and where those go that cannot be dealt with."""
        with self._asking():
            answer = self._client.get_queue_attributes(QueueUrl=self.url, AttributeNames=["All"])
        return Attributes.of(answer.get("Attributes", {}))

    def receive(self, seconds: int) -> list[Message]:
        """Up to ten messages; waits so many seconds for the first."""
        with self._asking():
            answer = self._client.receive_message(
                QueueUrl=self.url,
                MaxNumberOfMessages=MOST,
                WaitTimeSeconds=seconds,
                MessageSystemAttributeNames=["ApproximateReceiveCount"],
            )
        return [_message(raw) for raw in answer.get("Messages", ())]

    def hide(self, messages: Sequence[Message], seconds: int) -> None:
        """Keep messages in hand for so many seconds from now; 0 gives them back.

        One that came too late is given to somebody else meanwhile, which does no harm: it is only told in the log.
        """
        for entries in _entries(messages):
            hidden = [{**entry, "VisibilityTimeout": min(seconds, _MOST_HIDDEN)} for entry in entries]
            with self._asking():
                answer = self._client.change_message_visibility_batch(QueueUrl=self.url, Entries=hidden)
            self._note(answer, "kept in hand")

    def delete(self, messages: Sequence[Message]) -> None:
        """Take messages out for good. One that could not be deleted comes again, which does no harm."""
        for entries in _entries(messages):
            with self._asking():
                answer = self._client.delete_message_batch(QueueUrl=self.url, Entries=entries)
            self._note(answer, "deleted")

    def bury(self, message: Message, reason: str, dead_url: str) -> None:
        """Move a message that nobody will ever understand to the dead-letter queue, with the reason."""
        said = {"archiver": {"DataType": "String", "StringValue": reason[:_MOST_REASON] or "unknown"}}
        with self._asking():
            self._client.send_message(QueueUrl=dead_url, MessageBody=message.body, MessageAttributes=said)
        self.delete([message])

    def url_of(self, arn: str) -> str:
        """The URL of another queue, by its ARN."""
        account, name = arn.split(":")[-2:]
        with self._asking():
            answer = self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
        return str(answer["QueueUrl"])

    def _note(self, answer: Mapping[str, Any], what: str) -> None:
        if failed := answer.get("Failed"):
            _LOG.warning("%s: %d messages were not %s: %s", self, len(failed), what, failed[0].get("Message", "?"))

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            said = error.response.get("Error", {})
            raise QueueUnreachable(queue=self.url, reason=f"{said.get('Code')}: {said.get('Message')}") from error
        except (BotoCoreError, HTTPError, OSError) as error:
            raise QueueUnreachable(queue=self.url, reason=str(error)) from error


@dataclass(frozen=True, slots=True)
class Attributes:
    """What a queue is like. visibility: seconds that a message in hand is hidden. dead_arn: "" where it has none."""

    visibility: int = 30
    dead_arn: str = ""

    @classmethod
    def of(cls, raw: Mapping[str, str]) -> Attributes:
        redrive = json.loads(raw.get("RedrivePolicy") or "{}")
        return cls(int(raw.get("VisibilityTimeout", 30)), str(redrive.get("deadLetterTargetArn", "")))


def endpoint_of(url: str) -> str | None:
    """Where a queue's server is asked; None for AWS itself, whose addresses boto3 knows."""
    parts = urlsplit(url)
    return None if _is_aws(parts.hostname) else f"{parts.scheme}://{parts.netloc}"


def region_of(url: str) -> str | None:
    """The region that a queue of AWS names in its URL; None elsewhere."""
    host = urlsplit(url).hostname
    return (host or "").split(".")[1] if _is_aws(host) else None


def _is_aws(host: str | None) -> bool:
    labels = (host or "").split(".")
    return labels[0] == "sqs" and ".".join(labels[2:]) in ("amazonaws.com", "amazonaws.com.cn")


def _message(raw: Mapping[str, Any]) -> Message:
    receives = int(raw.get("Attributes", {}).get("ApproximateReceiveCount", 1))
    return Message(raw["MessageId"], raw["ReceiptHandle"], raw.get("Body", ""), receives)


def _entries(messages: Sequence[Message]) -> Iterator[list[dict[str, Any]]]:
    for start in range(0, len(messages), MOST):
        part = messages[start : start + MOST]
        yield [{"Id": str(number), "ReceiptHandle": message.receipt} for number, message in enumerate(part)]
