"""The documents that make a bucket tell of its objects, and how ours are put among those of others: pure functions.

S3 takes notification and lifecycle configurations only as a whole. What is not ours is passed through as it came:
ours is what has an id that begins with `archiver-`. `Document` is such a configuration as boto3 gives and takes it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

Document = dict[str, Any]

OURS = "archiver-"
TAG = "archiver-hook"  # on queues that the hook has made, and may delete
DEAD = "-dead"  # the dead-letter queue has the queue's name and this
EVENTS = ("s3:LifecycleTransition", "s3:LifecycleExpiration:*", "s3:ObjectCreated:*", "s3:ObjectRemoved:*")
EVENTS_OF_MINIO = ("s3:ObjectTransition:Complete", "s3:ObjectCreated:*", "s3:ObjectRemoved:*")
EVENTS_OF_CEPH = (
    "s3:ObjectLifecycle:Transition:Current",
    "s3:ObjectLifecycle:Expiration:Current",
    "s3:ObjectCreated:*",
    "s3:ObjectRemoved:*",
)

_DAY = 24 * 3600
VISIBILITY = 300  # seconds that a message in hand is hidden; extended while work is long
_RECEIVES = 5  # a message that failed so often goes to the dead-letter queue
_EVENTBRIDGE = "EventBridgeConfiguration"
_TARGETS = {  # the three lists of a notification configuration, and what each calls its target
    "QueueConfigurations": "QueueArn",
    "TopicConfigurations": "TopicArn",
    "LambdaFunctionConfigurations": "LambdaFunctionArn",
}


def canonical(document: Document | None) -> str:
    """One text for all spellings of a configuration, to be compared and shown; "" for none."""
    return "" if document is None else json.dumps(_sorted(document), indent=2, sort_keys=True, ensure_ascii=False)


def _sorted(value: Any) -> Any:
    """Servers give lists in any order, and the names of filters in any case."""
    if isinstance(value, dict):
        inner = {key: _sorted(item) for key, item in value.items()}
        if set(inner) == {"Name", "Value"}:
            inner["Name"] = str(inner["Name"]).lower()
        # An empty entry says nothing, but for this one: to be there is all it says.
        return {key: item for key, item in inner.items() if item not in (None, "", [], {}) or key == _EVENTBRIDGE}
    if isinstance(value, list | tuple):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


# -- the bucket's configurations ---------------------------------------------------------------------------------------


def notification(id_: str, arn: str, prefix: str) -> tuple[str, Document]:
    """The list that our notification belongs into, and the entry."""
    partition, service = arn.split(":")[1:3]
    if service == "sns":
        # Ceph gives its targets, whatever they are, names of SNS without an account; AWS has one always.
        name, events = "TopicConfigurations", list(EVENTS if arn.split(":")[4].isdigit() else EVENTS_OF_CEPH)
    else:
        name, events = "QueueConfigurations", list(EVENTS_OF_MINIO if partition == "minio" else EVENTS)
    entry: Document = {"Id": id_, _TARGETS[name]: arn, "Events": events}
    if prefix:
        entry["Filter"] = {"Key": {"FilterRules": [{"Name": "prefix", "Value": prefix}]}}
    return name, entry


def with_notification(found: Document, name: str, entry: Document) -> Document:
    """A notification configuration with our entry in it, in the place of the one of the same id."""
    kept = without_notification(found, entry["Id"])
    return {**kept, name: [*kept.get(name, ()), entry]}


def without_notification(found: Document, id_: str) -> Document:
    """The same without our entry; nothing else is touched."""
    kept = {name: [entry for entry in found.get(name, ()) if entry.get("Id") != id_] for name in _TARGETS}
    return {**{name: value for name, value in found.items() if name not in _TARGETS}, **_filled(kept)}


def lifecycle_rule(id_: str, prefix: str, days: int, storage_class: str) -> Document:
    """Objects that have not been written for so many days go to a colder class, which S3 then tells of.

    Objects below 128 KiB, as placeholders are, S3 moves to none of the classes that can be read at once.
    """
    return {
        "ID": id_,
        "Status": "Enabled",
        "Filter": {"Prefix": prefix},
        "Transitions": [{"Days": days, "StorageClass": storage_class}],
    }


def with_rule(found: Document, rule: Document) -> Document:
    """A lifecycle configuration with our rule in it, in the place of the one of the same id."""
    kept = without_rule(found, rule["ID"])
    return {**kept, "Rules": [*kept.get("Rules", ()), rule]}


def without_rule(found: Document, id_: str) -> Document:
    """The same without our rule."""
    return {**found, "Rules": [rule for rule in found.get("Rules", ()) if rule.get("ID") != id_]}


def _filled(lists: Document) -> Document:
    return {name: entries for name, entries in lists.items() if entries}


# -- the queue ---------------------------------------------------------------------------------------------------------


def queue_attributes(dead_arn: str) -> Document:
    """What a queue of ours is like; `Policy` is apart, since others may have a say in it."""
    return {
        "VisibilityTimeout": str(VISIBILITY),
        "MessageRetentionPeriod": str(14 * _DAY),
        "ReceiveMessageWaitTimeSeconds": "20",
        "SqsManagedSseEnabled": "true",
        "RedrivePolicy": {"deadLetterTargetArn": dead_arn, "maxReceiveCount": _RECEIVES},
    }


def dead_attributes() -> Document:
    """What its dead-letter queue is like."""
    return {"MessageRetentionPeriod": str(14 * _DAY), "SqsManagedSseEnabled": "true"}


def may_send(id_: str, queue_arn: str, bucket: str) -> Document:
    """Exactly this bucket of exactly this account may send there."""
    partition, account = queue_arn.split(":")[1], queue_arn.split(":")[4]
    return {
        "Sid": id_,
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": queue_arn,
        "Condition": {
            "ArnEquals": {"aws:SourceArn": f"arn:{partition}:s3:::{bucket}"},
            "StringEquals": {"aws:SourceAccount": account},
        },
    }


def with_statement(policy: Document | None, statement: Document) -> Document:
    """A queue's policy with our statement in it, in the place of the one of the same Sid."""
    kept = without_statement(policy, statement["Sid"]) or {"Version": "2012-10-17", "Statement": []}
    return {**kept, "Statement": [*kept["Statement"], statement]}


def without_statement(policy: Document | None, sid: str) -> Document | None:
    """The same without our statement; None where nothing is left of it."""
    if policy is None:
        return None
    kept = [statement for statement in _statements(policy) if statement.get("Sid") != sid]
    return {**policy, "Statement": kept} if kept else None


def _statements(policy: Document) -> Sequence[Document]:
    statements = policy.get("Statement", [])
    return [statements] if isinstance(statements, dict) else statements


def decoded(attributes: Document, read: Callable[[str], Any] = json.loads) -> Document:
    """A queue's attributes with the documents in them as documents."""
    documents = ("Policy", "RedrivePolicy")
    found = {name: read(value) if name in documents else value for name, value in attributes.items() if value != ""}
    if "maxReceiveCount" in found.get("RedrivePolicy", {}):  # a number or a text, as it was given
        found["RedrivePolicy"]["maxReceiveCount"] = int(found["RedrivePolicy"]["maxReceiveCount"])
    return found


def encoded(attributes: Document) -> dict[str, str]:
    """The same as SQS takes them."""
    return {
        name: value if isinstance(value, str) else json.dumps(value, sort_keys=True)
        for name, value in attributes.items()
    }
