"""Messages of a queue: their effect is the object's, whatever came how often and in which order."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_s3 import Bucket, Moto

from archiver.catalog.rows import FileRow, State
from archiver.config import Settings
from archiver.errors import BucketUnreachable, TierNotScanned
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Tally, ignore
from archiver.lifecycle.site import Site
from archiver.s3 import listen
from archiver.s3.effect import Acted
from archiver.s3.hooking import open_queue
from archiver.s3.listen import Batch, Listener
from archiver.s3.queue import Queue
from archiver.s3.tier import S3Tier
from archiver.tiers.scan import scan
from tests.s3.queues import TestQueue, make_queue, told


@pytest.fixture
def queue(moto_server: Moto) -> TestQueue:
    return make_queue(moto_server.endpoint)


def settings_of(sqlite_url: str, bucket: Bucket, queue: TestQueue, **others: Any) -> Settings:
    tier = {"name": "photos", "kind": "s3", "bucket": bucket.name, "endpoint": bucket.endpoint, "prefix": "p/"}
    return Settings.model_validate(
        {
            "catalog": {"url": sqlite_url},
            "tier": [{**tier, "queue_url": queue.url}],
            "rule": [{"name": "all"}],
            **others,
        }
    )


@pytest.fixture
def settings(sqlite_url: str, bucket: Bucket, queue: TestQueue) -> Settings:
    return settings_of(sqlite_url, bucket, queue)


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    with open_site(settings) as opened:
        for tier in opened.tiers.values():
            scan(opened.catalog, tier)
        yield opened


def tier_of(site: Site) -> S3Tier:
    tier = site.tiers["photos"]
    assert isinstance(tier, S3Tier)
    return tier


def hear(site: Site, wrapped: Callable[[Queue], Queue] = lambda queue: queue) -> list[Batch]:
    """Take in all that waits."""
    tier, batches = tier_of(site), []
    assert tier.settings.queue_url
    queue = wrapped(open_queue(tier.settings, tier.settings.queue_url))
    Listener(site, [tier], queue, ignore).run(threading.Event(), batches.append, once=True)
    return batches


def row(site: Site, key: str) -> FileRow | None:
    return site.catalog.find(site.tier_ids["photos"], key)


def test_what_was_written_or_deleted_is_in_the_catalog(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("p/2019/a b+c%.jpg", b"1")
    bucket.put("p/gone.jpg", b"2")
    queue.send(*told(bucket, "ObjectCreated:Put", "p/2019/a b+c%.jpg", "p/gone.jpg"))
    (batch,) = hear(site)
    assert (batch.messages, batch.keys, batch.changed, batch.kept) == (2, 2, 2, 0)
    assert [found.state for key in ("2019/a b+c%.jpg", "gone.jpg") if (found := row(site, key))] == [State.RESIDENT] * 2
    bucket.delete("p/gone.jpg")
    queue.send(*told(bucket, "ObjectRemoved:Delete", "p/gone.jpg"))
    hear(site)
    gone = row(site, "gone.jpg")
    assert gone is not None and gone.state is State.GONE
    assert queue.counts() == (0, 0)


def test_the_object_counts_and_not_the_order_of_the_messages(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("p/a.jpg", b"old")
    written = told(bucket, "ObjectCreated:Put", "p/a.jpg")
    removed = told(bucket, "ObjectRemoved:Delete", "p/a.jpg", "p/never.jpg")
    queue.send(*removed, *written, *removed)  # the deletion came before the writing
    assert [batch.messages for batch in hear(site)] == [5]
    found = row(site, "a.jpg")
    assert found is not None and found.state is State.RESIDENT
    assert row(site, "never.jpg") is None


def test_a_message_that_comes_twice_changes_nothing_more(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("p/a.jpg")
    messages = told(bucket, "ObjectCreated:Put", "p/a.jpg")
    queue.send(*messages * 3)
    queue.send(*messages)
    hear(site)
    before = [entry.act for entry in site.catalog.audit_rows()]
    queue.send(*messages * 2)
    (batch,) = hear(site)
    assert (batch.keys, batch.changed) == (1, 0)
    assert [entry.act for entry in site.catalog.audit_rows()] == before


def test_what_is_ours_or_lies_elsewhere_is_left_alone(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("elsewhere.jpg")
    bucket.put("p/.archiver/holding/x.jpg")
    queue.send(*told(bucket, "ObjectCreated:Put", "elsewhere.jpg", "p/.archiver/holding/x.jpg"))
    (batch,) = hear(site)
    assert (batch.elsewhere, batch.changed, batch.kept) == (1, 0, 0)
    assert row(site, ".archiver/holding/x.jpg") is None
    assert queue.counts() == (0, 0)


def test_the_test_message_of_s3_is_taken_out(site: Site, queue: TestQueue) -> None:
    queue.send('{"Service":"Amazon S3","Event":"s3:TestEvent"}')
    (batch,) = hear(site)
    assert (batch.messages, batch.keys, batch.poison) == (1, 0, 0)
    assert queue.counts() == (0, 0) and queue.dead() == []


def test_poison_goes_to_the_dead_letter_queue_with_the_reason(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("p/a.jpg")
    queue.send("not json", *told(bucket, "ObjectCreated:Put", "p/a.jpg"), '{"Records":[{"s3":{}}]}')
    (batch,) = hear(site)
    assert (batch.messages, batch.poison, batch.changed) == (3, 2, 1)
    assert queue.counts() == (0, 0)
    dead = queue.dead()
    assert {message["Body"] for message in dead} == {"not json", '{"Records":[{"s3":{}}]}'}
    assert all("no event" in message["MessageAttributes"]["archiver"]["StringValue"] for message in dead)


def test_poison_stays_where_there_is_no_dead_letter_queue(sqlite_url: str, bucket: Bucket, moto_server: Moto) -> None:
    queue = make_queue(moto_server.endpoint, buries=False)
    with open_site(settings_of(sqlite_url, bucket, queue)) as site:
        scan(site.catalog, tier_of(site))
        queue.send("not json")
        assert [batch.poison for batch in hear(site)] == [1]
    assert queue.counts() == (0, 1)


def test_poison_that_cannot_be_buried_keeps_no_other_message_waiting(
    site: Site, bucket: Bucket, queue: TestQueue
) -> None:
    bucket.put("p/a.jpg")
    queue.send("not json", *told(bucket, "ObjectCreated:Put", "p/a.jpg"))
    queue.client.delete_queue(QueueUrl=queue.dead_url)
    (batch,) = hear(site)
    assert (batch.poison, batch.changed) == (1, 1)
    assert queue.counts() == (0, 1)  # until the queue's own policy moves it


def test_hundreds_of_messages_are_taken_in_together(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    keys = [f"p/{number}.jpg" for number in range(130)]
    for key in keys:
        bucket.put(key)
    queue.send(*told(bucket, "ObjectCreated:Put", *keys))
    batches = hear(site)
    assert [batch.messages for batch in batches] == [100, 30]
    assert sum(batch.changed for batch in batches) == 130
    assert queue.counts() == (0, 0)


def test_before_the_first_scan_nothing_is_taken_from_the_queue(
    settings: Settings, bucket: Bucket, queue: TestQueue
) -> None:
    queue.send(*told(bucket, "ObjectCreated:Put", "p/a.jpg"))
    with open_site(settings) as site, pytest.raises(TierNotScanned):
        hear(site)
    assert queue.counts() == (1, 0)


def test_while_the_bucket_cannot_be_reached_nothing_is_taken_from_the_queue(
    site: Site, bucket: Bucket, queue: TestQueue
) -> None:
    bucket.delete("p/.archiver/tier.json")  # another bucket, it seems
    queue.send(*told(bucket, "ObjectCreated:Put", "p/a.jpg"))
    with pytest.raises(BucketUnreachable):
        hear(site)
    assert queue.counts() == (1, 0)


class Dying(Queue):
    """A queue whose listener is gone before it can delete anything."""

    def __init__(self, queue: Queue) -> None:
        super().__init__(queue._client, queue.url)

    def delete(self, messages: Any) -> None:
        raise KeyboardInterrupt


def test_a_message_is_deleted_after_its_effect_and_not_before(site: Site, bucket: Bucket, queue: TestQueue) -> None:
    bucket.put("p/a.jpg")
    queue.send(*told(bucket, "ObjectCreated:Put", "p/a.jpg"))
    with pytest.raises(KeyboardInterrupt):
        hear(site, Dying)
    assert row(site, "a.jpg") is not None
    assert queue.counts() == (0, 1)


def test_the_program_takes_in_what_waits(tmp_path: Path, settings: Settings, bucket: Bucket, queue: TestQueue) -> None:
    with open_site(settings) as site:
        scan(site.catalog, tier_of(site))
    bucket.put("p/a.jpg")
    queue.send("poison", *told(bucket, "ObjectCreated:Put", "p/a.jpg"))
    config = tmp_path / "archiver.toml"
    config.write_text(
        f'[catalog]\nurl = "{settings.catalog.url}"\n[[tier]]\nname = "photos"\nkind = "s3"\nbucket = "{bucket.name}"\n'
        f'prefix = "p/"\nendpoint = "{bucket.endpoint}"\nqueue_url = "{queue.url}"\n'
    )
    command = [sys.executable, "-m", "archiver", "--config", str(config), "s3", "listen", "--once", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    listening, batch = map(json.loads, done.stdout.splitlines())
    assert listening["type"] == "listening"
    assert (batch["type"], batch["messages"], batch["poison"], batch["changed"]) == ("batch", 2, 1, 1)
    assert "no event of an object store" in done.stderr


class Counting(Queue):
    """A queue that tells how often messages were kept hidden."""

    def __init__(self, queue: Queue, often_enough: int) -> None:
        super().__init__(queue._client, queue.url)
        self._left = often_enough
        self.kept = threading.Event()

    def hide(self, messages: Any, seconds: int) -> None:
        super().hide(messages, seconds)
        self._left -= 1
        if not self._left:
            self.kept.set()


def test_messages_in_hand_stay_hidden_while_work_is_longer_than_the_queue_waits(
    sqlite_url: str, bucket: Bucket, moto_server: Moto, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = make_queue(moto_server.endpoint, visibility=3)
    with open_site(settings_of(sqlite_url, bucket, queue)) as site:
        scan(site.catalog, tier_of(site))
        bucket.put("p/a.jpg")
        queue.send(*told(bucket, "ObjectCreated:Put", "p/a.jpg"))
        tier, batches = tier_of(site), []
        assert tier.settings.queue_url
        counting = Counting(open_queue(tier.settings, tier.settings.queue_url), 4)  # one a second: longer than three
        seen: list[list[Any]] = []

        def work(*_: Any) -> Acted:
            assert counting.kept.wait(60)
            seen.append(counting.receive(0))
            return Acted(Tally())

        monkeypatch.setattr(listen, "act", work)
        Listener(site, [tier], counting, ignore).run(threading.Event(), batches.append, once=True)
    assert seen == [[]]
    assert queue.counts() == (0, 0)


def test_queues_need_no_http_server(tmp_path: Path) -> None:
    """`archiver[s3]` brings neither uvicorn nor starlette, which only web hooks need."""
    program = "import sys; sys.modules.update(uvicorn=None, starlette=None); import archiver.s3.listening"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
