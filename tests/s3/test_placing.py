"""Nothing of a user is written over: by conditions, by the versions below, and by the journal of who is at work."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ConnectionClosedError

from archiver.errors import ConditionIgnored, ObjectChanged, PlaceholderDamaged
from archiver.s3 import journal, placing
from archiver.s3.journal import Entry, Intent, Owner, left_behind, struck
from archiver.s3.objects import Dressing
from archiver.s3.packs import Packed, Packs
from archiver.s3.store import ObjectStore
from tests.fixtures_fs import need_programs, need_root
from tests.fixtures_s3 import Bucket

OURS = Dressing(metadata={"archiver-kind": "placeholder"})
INTENT = Intent("release", "a.jpg", "e" * 32, 7, held="1-2", size=3)


@pytest.fixture(params=["conditions", "versions", "both"])
def careful(request: pytest.FixtureRequest, make_bucket: Callable[..., Bucket]) -> tuple[Bucket, ObjectStore]:
    bucket = make_bucket(versioned=request.param != "conditions")
    store = bucket.store()
    if request.param == "versions":
        ignorant = {"conditional_put": False, "conditional_delete": False, "conditional_complete": False}
        store.__dict__["abilities"] = dataclasses.replace(store.abilities, **ignorant)
    return bucket, store


def test_what_somebody_wrote_meanwhile_stays(careful: tuple[Bucket, ObjectStore]) -> None:
    bucket, store = careful
    bucket.put("a.jpg", b"original")
    before = store.head("a.jpg")
    bucket.put("a.jpg", b"edited")
    with pytest.raises(ObjectChanged):
        placing.replace(store, before, b"placeholder", OURS)
    with pytest.raises(ObjectChanged):
        placing.place(store, "a.jpg", b"image", OURS)
    with pytest.raises(ObjectChanged):
        placing.remove(store, before)
    assert bucket.get("a.jpg") == b"edited"


def test_what_is_expected_is_replaced_placed_and_removed(careful: tuple[Bucket, ObjectStore]) -> None:
    bucket, store = careful
    bucket.put("a.jpg", b"original")
    placed = placing.replace(store, store.head("a.jpg"), b"placeholder", OURS)
    assert bucket.get("a.jpg") == b"placeholder" and placed.etag == store.head("a.jpg").etag
    image = placing.replace(store, store.head("a.jpg"), b"image", OURS)
    placing.remove(store, dataclasses.replace(image, metadata=OURS.metadata))
    assert bucket.keys() == []
    assert placing.place(store, "a.jpg", b"again", Dressing()).etag == store.head("a.jpg").etag
    if store.abilities.versioned:
        kept = [store.read("a.jpg", limit=99, version=one.version_id) for one in store.versions("a.jpg") if one.size]
        assert kept == [b"again", b"original"], "of ours no old version stays, of users' every one does"


def test_a_bucket_without_conditions_and_versions_is_refused(bucket: Bucket) -> None:
    store = bucket.store()
    store.__dict__["abilities"] = dataclasses.replace(store.abilities, conditional_put=False, conditional_delete=False)
    bucket.put("a.jpg", b"original")
    for act in (
        lambda: placing.require_conditions(store),
        lambda: placing.replace(store, store.head("a.jpg"), b"x", OURS),
        lambda: placing.place(store, "b.jpg", b"x", OURS),
        lambda: placing.remove(store, store.head("a.jpg")),
    ):
        with pytest.raises(ConditionIgnored):
            act()
    assert bucket.keys() == ["a.jpg"] and bucket.get("a.jpg") == b"original"


# -- the journal -------------------------------------------------------------------------------------------------------


def test_acts_under_way_are_left_alone_and_those_of_the_dead_are_not(
    versioned_bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = versioned_bucket.store()
    entry = Entry(store, [INTENT])
    assert list(left_behind(store)) == []
    entry.keep()
    entry.close()
    (left,) = left_behind(store)
    assert left.acts == (INTENT,)

    body = json.loads(versioned_bucket.get(left.info.key))
    assert [act["key"] for act in body["acts"]] == ["a.jpg"]
    body["owner"]["pid"], body["owner"]["started"] = 1, "never"  # a process of that number, but another one
    versioned_bucket.put(left.info.key, json.dumps(body).encode())
    assert len(list(left_behind(store))) == 1
    body["owner"]["host"] = "elsewhere"
    versioned_bucket.put(left.info.key, json.dumps(body).encode())
    assert list(left_behind(store)) == [], "of another host nothing is known until it has been silent for long"
    monkeypatch.setattr(journal, "_STALE", -5)
    (left,) = left_behind(store)
    struck(store, left)
    for version in store.versions(left.info.key):
        store.delete(left.info.key, version=version.version_id)
    versioned_bucket.put(left.info.key, b"{")
    with pytest.raises(PlaceholderDamaged):
        list(left_behind(store))


def test_a_process_of_another_container_with_the_same_host_name_is_not_taken_for_dead() -> None:
    """Its number is that of another process here, or of none."""
    need_root()
    need_programs("unshare")
    code = "from archiver.s3.journal import Owner; me = Owner.here()\n"
    code += "print(me.host, me.pid, me.started, flush=True); input()"
    command = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout is not None
        host, pid, started = container.stdout.readline().split()
        other = Owner(host, int(pid), started)
        assert other.pid < 10 and other.is_alive(time.time_ns())
        assert not other.is_alive(0), "once it has been silent for long"
        container.communicate("\n")


def test_an_owner_that_was_taken_for_dead_stops(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    store = bucket.store()
    entry = Entry(store, [INTENT])
    entry.hold_on()
    monkeypatch.setattr(journal, "_RENEWED", 0)
    entry.hold_on()
    (listed,) = store.list(".archiver/journal/")
    assert Owner.here().is_alive(listed.modified_ns)
    bucket.delete(listed.key)
    with pytest.raises(ObjectChanged):
        entry.hold_on()
    entry.close()


def test_what_was_sent_twice_leaves_nothing_behind(versioned_bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to the first sending is lost, and boto3 sends it once more."""
    store = versioned_bucket.store()
    send = store.client._endpoint._get_response
    lost: list[str] = []

    def lossy(request: Any, model: Any, context: Any) -> Any:
        answer = send(request, model, context)
        if model.name == "PutObject" and request.url not in lost:
            lost.append(request.url)
            return None, ConnectionClosedError(endpoint_url=request.url)
        return answer

    monkeypatch.setattr(store.client._endpoint, "_get_response", lossy)
    Entry(store, [INTENT]).close()
    packs = Packs(store)
    packs.write(pack := packs.new_key(), [Packed("a.jpg", b"placeholder", OURS)])
    packs.delete(pack)
    assert len(lost) == 2
    assert versioned_bucket.keys() == []
