"""Messages of object stores: what they mean, and that nothing else gets through."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.errors import EventUnreadable
from archiver.s3.events import MOST_BYTES, EventKind, ObjectEvent, parse

ETAG = "d41d8cd98f00b204e9800998ecf8427e"

# What can be a key: 1 to 1024 bytes of UTF-8.
keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=256)


def record(name: str = "ObjectCreated:Put", key: str = "a.jpg", source: str = "aws:s3", **entry: Any) -> dict[str, Any]:
    """One record as S3 documents it."""
    return {
        "eventVersion": "2.1",
        "eventSource": source,
        "awsRegion": "eu-central-1",
        "eventTime": "2026-01-02T03:04:05.678Z",
        "eventName": name,
        "userIdentity": {"principalId": "AWS:somebody"},
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": "archiver-photos",
            "bucket": {"name": "photos", "ownerIdentity": {"principalId": "x"}, "arn": "arn:aws:s3:::photos"},
            "object": {"key": key, "size": 1024, "eTag": ETAG, "sequencer": "0055AED6DCD90281E5", **entry},
        },
    }


def notification(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


def eventbridge(detail_type: str, key: str = "a.jpg", **entry: Any) -> dict[str, Any]:
    return {
        "version": "0",
        "id": "17793124-05d4-b198-2fde-7ededc63b103",
        "detail-type": detail_type,
        "source": "aws.s3",
        "account": "111122223333",
        "time": "2026-01-02T03:04:05Z",
        "resources": ["arn:aws:s3:::photos"],
        "detail": {
            "version": "0",
            "bucket": {"name": "photos"},
            "object": {
                "key": key,
                "size": 5,
                "etag": ETAG,
                "version-id": "v1",
                "sequencer": "00617F08299329D189",
                **entry,
            },
            "reason": "PutObject",
        },
    }


def seaweedfs(kind: str, path: str, *, old: dict[str, Any] | None = None, new: dict[str, Any] | None = None) -> str:
    """As `weed server` 4.48 posts it."""
    message: dict[str, Any] = {"delete_chunks": True, "signatures": [-66390291]}
    if old is not None:
        message["old_entry"] = old
    if new is not None:
        message |= {"new_entry": new, "new_parent_path": path.rpartition("/")[0]}
    return json.dumps({"event_type": kind, "key": path, "message": message})


def filer_entry(name: str, **extended: str) -> dict[str, Any]:
    return {
        "name": name,
        "attributes": {"file_size": 5, "mtime": 1795284335, "file_mode": 432, "md5": "XUFAKrxLKna5cZ2REBfFkg=="},
        "extended": {name: base64.b64encode(value.encode()).decode() for name, value in extended.items()},
    }


# -- S3 ----------------------------------------------------------------------------------------------------------------


@given(keys)
def test_a_key_is_decoded_once_and_exactly(key: str) -> None:
    (event,) = parse(notification(record(key=quote_plus(key))))
    assert event.key == key


@pytest.mark.parametrize(
    ("encoded", "key"),
    [
        ("red+flower.jpg", "red flower.jpg"),
        ("a%2Bb.jpg", "a+b.jpg"),
        ("100%2525.jpg", "100%25.jpg"),  # once
        ("2019%2Fa.jpg", "2019/a.jpg"),  # MinIO
        ("%C3%A9t%C3%A9/%F0%9F%8C%8A.jpg", "été/🌊.jpg"),
    ],
)
def test_encoded_keys(encoded: str, key: str) -> None:
    (event,) = parse(notification(record(key=encoded)))
    assert event.key == key


def test_ceph_does_not_encode_keys() -> None:
    (event,) = parse(notification(record(key="a+b%20c.jpg", source="ceph:s3", size="1024")))
    assert (event.key, event.size) == ("a+b%20c.jpg", 1024)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("ObjectCreated:Put", EventKind.CREATED),
        ("s3:ObjectCreated:CompleteMultipartUpload", EventKind.CREATED),
        ("ObjectRemoved:Delete", EventKind.REMOVED),
        ("ObjectRemoved:DeleteMarkerCreated", EventKind.REMOVED),
        ("LifecycleExpiration:Delete", EventKind.REMOVED),
        ("s3:LifecycleTransition", EventKind.TRANSITIONED),
        ("s3:ObjectTransition:Complete", EventKind.TRANSITIONED),
        ("s3:ObjectLifecycle:Transition:Current", EventKind.TRANSITIONED),
    ],
)
def test_names_of_events(name: str, kind: EventKind) -> None:
    (event,) = parse(notification(record(name, versionId="3HL4kqtJlcpXroDTDmJ")))
    assert event == ObjectEvent(
        kind,
        "photos",
        "a.jpg",
        ETAG,
        1024,
        "3HL4kqtJlcpXroDTDmJ",
        "0055AED6DCD90281E5",
        datetime(2026, 1, 2, 3, 4, 5, 678000, UTC),
    )


@pytest.mark.parametrize(
    "name", ["ObjectTagging:Put", "ObjectAcl:Put", "s3:ObjectLifecycle:Transition:NonCurrent", "New"]
)
def test_what_changes_no_content_is_no_event(name: str) -> None:
    assert parse(notification(record(name))) == ()


def test_the_test_message_of_s3_is_no_poison() -> None:
    assert (
        parse('{"Service":"Amazon S3","Event":"s3:TestEvent","Time":"2026-01-02T03:04:05.678Z","Bucket":"photos"}')
        == ()
    )


def test_a_message_of_sns_is_unwrapped_once() -> None:
    inner = notification(record())
    wrapped = json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "arn", "Message": inner})
    assert parse(wrapped) == parse(inner)
    with pytest.raises(EventUnreadable):
        parse(json.dumps({"Type": "Notification", "Message": wrapped}))


def test_several_records_keep_their_order() -> None:
    records = [record(key=f"{number}.jpg") for number in range(5)]
    assert [event.key for event in parse(notification(*records))] == [f"{number}.jpg" for number in range(5)]


# -- EventBridge -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("detail_type", "kind"),
    [
        ("Object Created", EventKind.CREATED),
        ("Object Deleted", EventKind.REMOVED),
        ("Object Storage Class Changed", EventKind.TRANSITIONED),
    ],
)
def test_eventbridge_does_not_encode_keys(detail_type: str, kind: EventKind) -> None:
    (event,) = parse(json.dumps(eventbridge(detail_type, "a+b%20c.jpg")))
    assert (event.kind, event.bucket, event.key, event.etag) == (kind, "photos", "a+b%20c.jpg", ETAG)
    assert (event.version, event.size, event.at) == ("v1", 5, datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))


def test_other_events_of_eventbridge() -> None:
    assert parse(json.dumps(eventbridge("Object Tags Added"))) == ()
    with pytest.raises(EventUnreadable):
        parse(json.dumps(eventbridge("Object Created") | {"source": "somebody.else"}))


# -- SeaweedFS ---------------------------------------------------------------------------------------------------------


def test_seaweedfs_tells_of_files_by_their_path() -> None:
    entry = filer_entry("a+b c%.jpg", **{"Seaweed-X-Amz-ETag": ETAG})
    (event,) = parse(seaweedfs("create", "/buckets/photos/dir/a+b c%.jpg", new=entry))
    assert (event.kind, event.bucket, event.key) == (EventKind.CREATED, "photos", "dir/a+b c%.jpg")
    assert (event.etag, event.size) == (ETAG, 5)
    (event,) = parse(seaweedfs("delete", "/buckets/photos/dir/a+b c%.jpg", old=entry))
    assert (event.kind, event.key) == (EventKind.REMOVED, "dir/a+b c%.jpg")


def test_a_rename_in_seaweedfs_is_two_events() -> None:
    message = json.loads(
        seaweedfs("rename", "/buckets/photos/a.jpg", old=filer_entry("a.jpg"), new=filer_entry("b.jpg"))
    )
    message["message"]["new_parent_path"] = "/buckets/photos/sub"
    assert [(event.kind, event.key) for event in parse(json.dumps(message))] == [
        (EventKind.REMOVED, "a.jpg"),
        (EventKind.CREATED, "sub/b.jpg"),
    ]


def test_versions_in_seaweedfs_are_told_by_their_folder() -> None:
    folder = filer_entry("a.jpg.versions", **{"Seaweed-X-Amz-Latest-Version-Id": "6715de68"}) | {"is_directory": True}
    (event,) = parse(seaweedfs("update", "/buckets/photos/d/a.jpg.versions", old=folder, new=folder))
    assert (event.kind, event.key, event.version) == (EventKind.CREATED, "d/a.jpg", "6715de68")
    (event,) = parse(seaweedfs("delete", "/buckets/photos/d/a.jpg.versions", old=folder))
    assert (event.kind, event.key) == (EventKind.REMOVED, "d/a.jpg")


@pytest.mark.parametrize(
    "path",
    [
        "/buckets/photos",
        "/buckets/.system/owners/a/photos",
        "/etc/iam/identity.json",
        "/buckets/photos/.uploads/ad783db/0001_a084.part",
        "/buckets/photos/d/a.jpg.versions/v_6715de6897bb4914d37c134eb583e670",
    ],
)
def test_files_of_seaweedfs_that_are_no_objects(path: str) -> None:
    assert parse(seaweedfs("create", path, new=filer_entry(path.rpartition("/")[2]))) == ()


# -- order -------------------------------------------------------------------------------------------------------------


def test_sequencers_are_numbers_of_any_length() -> None:
    def event(sequencer: str) -> ObjectEvent:
        return ObjectEvent(EventKind.CREATED, "b", "k", sequencer=sequencer)

    assert event("0055AED6DCD90281E5").is_older(event("0055AED6DCD90281E6"))
    assert event("FF").is_older(event("0100")) and not event("0100").is_older(event("ff"))
    assert event("ab").is_older(event("AC")) and not event("AC").is_older(event("ab"))
    assert not event("").is_older(event("1")) and not event("1").is_older(event(""))


# -- everything else ---------------------------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.binary(max_size=300) | st.text(max_size=300))
def test_nothing_but_named_errors_comes_of_garbage(body: bytes | str) -> None:
    with pytest.raises(EventUnreadable):
        parse(body)


_SAMPLES: list[dict[str, Any]] = [
    json.loads(notification(record())),
    eventbridge("Object Created"),
    json.loads(seaweedfs("update", "/buckets/b/k", old=filer_entry("k"), new=filer_entry("k"))),
    {"Type": "Notification", "Message": notification(record())},
]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (container, key) of a document."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else [])
    return [(value, key) for key, _ in pairs] + [place for _, inner in pairs for place in _places(inner)]


@given(st.data())
def test_a_message_with_anything_in_any_place_is_understood_or_refused(data: st.DataObject) -> None:
    document = json.loads(json.dumps(data.draw(st.sampled_from(_SAMPLES))))
    container, key = data.draw(st.sampled_from(_places(document)))
    if isinstance(container, dict) and data.draw(st.booleans()):
        del container[key]
    else:
        container[key] = data.draw(_json)
    try:
        events = parse(json.dumps(document))
    except EventUnreadable:
        return
    for event in events:
        assert 0 < len(event.key.encode()) <= 1024
        assert event.bucket and "/" not in event.bucket
        assert event.size is None or event.size >= 0


@pytest.mark.parametrize(
    "body",
    [
        pytest.param("[" * 100_000, id="nested too deep"),
        pytest.param('{"Records":' + "9" * 10_000 + "}", id="a number of ten thousand digits"),
        pytest.param(" " * (MOST_BYTES + 1), id="too large"),
        pytest.param(notification(*[record()] * 1001), id="too many records"),
        pytest.param(notification(record(key="%FF.jpg")), id="a key that is not UTF-8"),
        pytest.param(notification(record(key="\ud800")), id="half a character"),
        pytest.param(notification(record(key="k" * 1025)), id="a key that is too long"),
        pytest.param(notification(record(key="")), id="no key"),
        pytest.param(notification({"eventSource": "aws:sqs", "body": "x"}), id="a record of another service"),
        pytest.param('{"Event":"s3:OtherEvent"}', id="not the test message"),
        pytest.param("{}", id="empty"),
    ],
)
def test_poison(body: str) -> None:
    with pytest.raises(EventUnreadable):
        parse(body)
