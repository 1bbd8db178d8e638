"""Queues on a server of moto, and the messages that S3 would send there about objects of a SeaweedFS."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_plus

from fixtures_s3 import Bucket, client_of

from archiver.s3 import documents

_numbers = itertools.count(1)


@dataclass(frozen=True)
class TestQueue:
    """A queue with a dead-letter queue."""

    __test__ = False

    client: Any
    url: str
    dead_url: str

    def send(self, *bodies: str) -> None:
        """Put messages into it."""
        for start in range(0, len(bodies), 10):
            part = bodies[start : start + 10]
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(part)]
            assert not self.client.send_message_batch(QueueUrl=self.url, Entries=entries).get("Failed")

    def counts(self) -> tuple[int, int]:
        """How many messages wait, and how many are hidden."""
        return self._count(self.url)

    def dead(self) -> list[dict[str, Any]]:
        """What lies in the dead-letter queue; takes it out."""
        answer = self.client.receive_message(
            QueueUrl=self.dead_url, MaxNumberOfMessages=10, MessageAttributeNames=["All"], WaitTimeSeconds=0
        )
        found: list[dict[str, Any]] = answer.get("Messages", [])
        return found

    def _count(self, url: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


def make_queue(endpoint: str, *, visibility: int = 30, tries: int = 5, buries: bool = True) -> TestQueue:
    """A queue of a moto server."""
    client, name = client_of(endpoint, "sqs"), f"events-{os.getpid()}-{next(_numbers)}"
    dead_url = client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = client.get_queue_attributes(QueueUrl=dead_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {"VisibilityTimeout": str(visibility)}
    if buries:
        attributes |= documents.encoded({"RedrivePolicy": {"deadLetterTargetArn": arn, "maxReceiveCount": tries}})
    return TestQueue(client, client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"], dead_url)


def told(bucket: Bucket, name: str, *keys: str, etag: str | None = None, sequencer: str = "") -> list[str]:
    """What S3 would send of each key: the object's own ETag where there is one and none is given."""
    return [json.dumps({"Records": [_record(bucket, name, key, etag, sequencer)]}) for key in keys]


def _record(bucket: Bucket, name: str, key: str, etag: str | None, sequencer: str) -> dict[str, Any]:
    if etag is None and name == "LifecycleTransition":
        etag = bucket.client.head_object(Bucket=bucket.name, Key=key)["ETag"].strip('"')
    entry = {"key": quote_plus(key), "size": 1, "eTag": etag or "", "sequencer": sequencer}
    return {
        "eventVersion": "2.3",
        "eventSource": "aws:s3",
        "eventTime": "2026-01-02T03:04:05.678Z",
        "eventName": name,
        "s3": {"s3SchemaVersion": "1.0", "bucket": {"name": bucket.name}, "object": entry},
    }
