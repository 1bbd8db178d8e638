"""A bucket archived by the messages of its lifecycle rule: doubled, disordered, among poison, killed in between."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from archiver.catalog.rows import Act, State
from archiver.config import Settings
from archiver.formats import Kind
from archiver.lifecycle.outcome import Outcome, ignore
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.s3.hooking import open_queue
from archiver.s3.listen import Batch, Listener
from archiver.s3.listening import listen
from archiver.s3.tier import S3Tier
from tests.fixtures_s3 import Bucket, Moto
from tests.lifecycle.conftest import random_vault
from tests.s3.queues import TestQueue, make_queue, told
from tests.s3.world import World, make_world, picture

__all__ = ["random_vault"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["tests.s3.test_listen_archive", "archiver.decoder.local", "archiver.models.embedded", "boto3"]
)


@pytest.fixture
def queue(moto_server: Moto) -> TestQueue:
    return make_queue(moto_server.endpoint, visibility=2)


@pytest.fixture
def world(tmp_path: Path, bucket: Bucket, random_vault: Path, queue: TestQueue) -> World:
    made = make_world(tmp_path, bucket, random_vault, queue_url=queue.url)
    # Nothing is cold by its age: only what a lifecycle rule moved is archived.
    rule = made.settings.rule[0].model_copy(update={"unused_for": _CENTURY, "unchanged_for": _CENTURY})
    made.settings = made.settings.model_copy(update={"rule": (rule,)})
    return made


_CENTURY = Settings.model_validate({"rule": [{"name": "x", "unused_for": "36500d"}]}).rule[0].unused_for


def hear(site: Site, listener: list[Outcome] | None = None) -> list[Batch]:
    """Take in all that waits."""
    tier, batches = site.tiers["bucket"], []
    assert isinstance(tier, S3Tier) and tier.settings.queue_url
    queue = open_queue(tier.settings, tier.settings.queue_url)
    outcomes = ignore if listener is None else listener.append
    Listener(site, [tier], queue, outcomes).run(threading.Event(), batches.append, once=True)
    return batches


def moved(world: World, keys: Sequence[str]) -> list[str]:
    """What S3 sends when its lifecycle rule has moved objects to a colder class."""
    return told(world.bucket, "LifecycleTransition", *(world.tier.prefix + key for key in keys))


def acts(site: Site) -> dict[Act, Counter[str]]:
    """How often each act was done to each file."""
    found: dict[Act, Counter[str]] = {}
    for row in site.catalog.audit_rows():
        found.setdefault(row.act, Counter())[str(row.path)] += 1
    return found


def test_a_bucket_is_archived_by_doubled_and_disordered_messages_among_poison(world: World, queue: TestQueue) -> None:
    keys = list(world.originals)
    whole = [world.tier.prefix + key for key in keys]
    messages = moved(world, keys) * 3 + told(world.bucket, "ObjectCreated:Put", *whole) * 2
    messages += told(world.bucket, "ObjectRemoved:Delete", *whole)  # late, of something that was there before
    messages += ["poison", "{}"]
    random.Random(7).shuffle(messages)
    with world.site() as site:
        queue.send(*messages)
        batches = hear(site)
        # What the placeholders themselves make the bucket say.
        queue.send(*told(world.bucket, "ObjectCreated:Put", *whole), *messages[:8])
        batches += hear(site)
        assert set(world.states(site).values()) == {State.RELEASED}
        assert {world.stands(key) for key in keys} == {Kind.PLACEHOLDER}
        done = acts(site)
        assert done[Act.RECORDED] == done[Act.RELEASED] == Counter(keys)
        assert Act.SUPERSEDED not in done and Act.GONE not in done
        assert sum(batch.archived for batch in batches) == len(keys)
        assert queue.counts() == (0, 0)
        assert {message["Body"] for message in queue.dead()} == {"poison", "{}"}
        assert not undo(site, [world.url()]).exit_code
    assert {key: world.get(key) for key in keys} == world.originals


def test_an_object_written_since_it_was_moved_is_not_archived(world: World, queue: TestQueue) -> None:
    messages = moved(world, ["2019/a.jpg"])
    world.bucket.put("photos/2019/a.jpg", picture(50))
    world.originals["2019/a.jpg"] = picture(50)
    with world.site() as site:
        queue.send(*messages)
        assert [(batch.archived, batch.kept) for batch in hear(site)] == [(0, 0)]
        assert world.stands("2019/a.jpg") is None


def test_what_is_pinned_or_named_by_no_rule_is_not_archived(world: World, queue: TestQueue) -> None:
    rule = world.settings.rule[0].model_copy(update={"exclude": ("*.png",)})
    keep = world.settings.rule[0].model_copy(update={"name": "keep", "action": "keep", "include": ("*.webp",)})
    world.settings = world.settings.model_copy(update={"rule": (keep, rule)})
    with world.site() as site:
        site.catalog.pin(site.tier_ids["bucket"], "2019/summer", subtree=True)
        queue.send(*moved(world, list(world.originals)))
        assert [(batch.archived, batch.kept) for batch in hear(site)] == [(1, 0)]
        states = world.states(site)
        assert states.pop("2019/a.jpg") is State.RELEASED
        assert set(states.values()) == {State.RESIDENT}


def test_what_was_refused_is_not_tried_again_by_every_message(world: World, queue: TestQueue) -> None:
    world.bucket.put("photos/broken.jpg", b"\xff\xd8\xff\xe0 no picture at all" * 20)
    with world.site() as site:
        messages = moved(world, ["broken.jpg"])
        queue.send(*messages)
        assert [(batch.refused, batch.kept) for batch in hear(site)] == [(1, 0)]
        queue.send(*messages)
        assert [(batch.refused, batch.kept) for batch in hear(site)] == [(0, 0)]
        assert acts(site)[Act.REFUSED] == Counter(["broken.jpg"])


# -- processes ---------------------------------------------------------------------------------------------------------


def _work(settings: Settings, kill_at: str, environment: dict[str, str]) -> None:
    os.environ.update(environment | {"ARCHIVER_KILL_AT": kill_at})
    listen(settings, (), threading.Event(), lambda _batch: None, lambda _status: None, once=True)


def run(settings: Settings, kill_at: str = "") -> int | None:
    """`archiver s3 listen --once` in a process of its own; its exit code."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = _SERVER.Process(target=_work, args=(settings, kill_at, environment))
    process.start()
    process.join(200)
    return process.exitcode


def _write(world: World, folder: Path) -> Path:
    tier, model = world.tier, world.settings.model
    config = folder / "archiver.toml"
    config.write_text(
        f'catalog = {{ url = "{world.settings.catalog.url}" }}\nvault = {{ path = "{world.settings.vault.path}" }}\n'
        f'model = {{ profile = "{model.profile}", preset = "{model.preset}", batch = 4 }}\n'
        f'release = {{ min_free = 0 }}\n[[tier]]\nname = "bucket"\nkind = "s3"\nbucket = "{tier.bucket}"\n'
        f'prefix = "{tier.prefix}"\nendpoint = "{tier.endpoint}"\nqueue_url = "{tier.queue_url}"\n'
        '[[rule]]\nname = "all"\nmin_size = 0\nunused_for = "36500d"\n'
        'unchanged_for = "36500d"\ngate = { semantic = -1.0, colour = "none" }\n'
    )
    return config


@pytest.mark.parametrize("at", ["record.committed", "s3.release.held", "s3.listen.looked", "s3.listen.acted"])
def test_killed_between_the_effect_and_its_message_nothing_is_done_twice(
    world: World, queue: TestQueue, at: str
) -> None:
    keys = list(world.originals)
    with world.site():
        pass
    queue.send(*moved(world, keys))
    assert run(world.settings, at) == -signal.SIGKILL
    assert sum(queue.counts()) == len(keys)  # no message was lost
    _wait_until_shown(queue, len(keys))
    assert run(world.settings) == 0
    assert queue.counts() == (0, 0)
    with world.site() as site:
        assert set(world.states(site).values()) == {State.RELEASED}
        assert acts(site)[Act.RELEASED] == Counter(keys)
        assert acts(site)[Act.RECORDED] == Counter(keys)
        assert not undo(site, [world.url()]).exit_code
    assert {key: world.get(key) for key in keys} == world.originals


def test_asked_to_stop_it_finishes_what_is_in_hand_and_gives_the_rest_back(
    world: World, queue: TestQueue, tmp_path: Path
) -> None:
    world.fill({f"many/{number}.jpg": ("JPEG", number) for number in range(12)})
    with world.site():
        pass
    queue.send(*moved(world, list(world.originals)))
    config = _write(world, tmp_path)
    command = [sys.executable, "-m", "archiver", "-v", "--config", str(config), "s3", "listen", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        for line in process.stderr:
            if "release done" in line:
                break
        process.send_signal(signal.SIGTERM)
        said = [json.loads(line) for line in process.stdout]
        assert process.wait(60) == 0
    (batch,) = [line for line in said if line["type"] == "batch"]
    waiting, hidden = queue.counts()
    assert hidden == 0 and waiting == batch["kept"]
    with world.site() as site:
        states = Counter(world.states(site).values())
        assert states[State.RELEASED] == batch["archived"] > 0
        assert states[State.RELEASED] + states[State.RESIDENT] == len(world.originals)
        assert waiting == states[State.RESIDENT]


def _wait_until_shown(queue: TestQueue, count: int) -> None:
    """Until a dead listener's messages are given out again, as the queue's visibility says."""
    with_deadline = threading.Event()
    for _ in range(200):
        if queue.counts() == (count, 0):
            return
        with_deadline.wait(0.1)
    raise AssertionError(f"{queue.counts()}")
