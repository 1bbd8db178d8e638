"""The webhook: a real process of `archiver s3 listen --http`, asked over HTTP, also by a real SeaweedFS."""

from __future__ import annotations

import base64
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3
from fixtures_s3 import Bucket, Seaweed, new_bucket

from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.config import S3TierSettings
from archiver.s3.scan import scan_bucket
from archiver.s3.tier import S3Tier
from tests.s3.queues import told

pytest.importorskip("starlette")
TOKEN = "a-token-of-the-tests-0123456789"


@dataclass(frozen=True)
class Webhook:
    """A listening process, and the catalog that it writes."""

    address: str
    catalog: Catalog
    process: subprocess.Popen[str]

    def post(self, body: str | bytes, token: str = f"Bearer {TOKEN}") -> urllib3.BaseHTTPResponse:
        headers = {"Authorization": token} if token else {}
        return urllib3.request("POST", self.address, body=body, headers=headers, retries=False, timeout=30)

    def state(self, key: str) -> State | None:
        row = self.catalog.find(self.catalog.tiers()[0].id, key)
        return None if row is None else row.state


@contextmanager
def listening(folder: Path, url: str, bucket: Bucket) -> Iterator[Webhook]:
    """The program, listening for a tier that is a whole bucket and has been scanned."""
    tier = S3TierSettings(name="photos", bucket=bucket.name, endpoint=bucket.endpoint)
    config, token = folder / "archiver.toml", folder / "token"
    config.write_text(
        f'[catalog]\nurl = "{url}"\n[[tier]]\nname = "photos"\nkind = "s3"\nbucket = "{bucket.name}"\n'
        f'endpoint = "{bucket.endpoint}"\n[[rule]]\nname = "all"\n'
    )
    token.write_text(TOKEN)
    with Catalog.open(url) as catalog:
        scan_bucket(catalog, S3Tier(tier))
        command = [sys.executable, "-m", "archiver", "--config", str(config), "s3", "listen", "--json"]
        process = subprocess.Popen(
            [*command, "--http", "127.0.0.1:0", "--token-file", str(token)],
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
        )
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, (folder / "log").read_text()
            yield Webhook(json.loads(line)["status"], catalog, process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def place(
    tmp_path_factory: pytest.TempPathFactory, seaweed: Seaweed, _sqlite_template: Path
) -> Iterator[tuple[Webhook, Bucket]]:
    """One process for the tests that leave it as it was."""
    folder, bucket = tmp_path_factory.mktemp("webhook"), new_bucket(seaweed.endpoint)
    shutil.copyfile(_sqlite_template, folder / "catalog.db")
    with listening(folder, f"sqlite:///{folder}/catalog.db", bucket) as webhook:
        yield webhook, bucket


def test_a_sender_is_answered_when_the_catalog_knows(place: tuple[Webhook, Bucket]) -> None:
    webhook, bucket = place
    bucket.put("2019/a b+c.jpg")
    assert webhook.post(told(bucket, "ObjectCreated:Put", "2019/a b+c.jpg")[0]).status == 204
    assert webhook.state("2019/a b+c.jpg") is State.RESIDENT
    bucket.delete("2019/a b+c.jpg")
    assert webhook.post(told(bucket, "ObjectRemoved:Delete", "2019/a b+c.jpg")[0]).status == 204
    assert webhook.state("2019/a b+c.jpg") is State.GONE


def test_many_senders_at_once_are_all_answered(place: tuple[Webhook, Bucket]) -> None:
    webhook, bucket = place
    keys = [f"many/{number}.jpg" for number in range(40)]
    for key in keys:
        bucket.put(key)
    bodies = told(bucket, "ObjectCreated:Put", *keys)
    with ThreadPoolExecutor(20) as threads:
        assert {answer.status for answer in threads.map(webhook.post, bodies * 2)} == {204}
    assert {webhook.state(key) for key in keys} == {State.RESIDENT}


@pytest.mark.parametrize(
    "token", ["", "Bearer wrong-token-0123456789", TOKEN, "Basic !!", "Basic " + base64.b64encode(b"a:b").decode()]
)
def test_nobody_is_heard_without_the_token(place: tuple[Webhook, Bucket], token: str) -> None:
    webhook, bucket = place
    bucket.put("secret.jpg")
    answer = webhook.post(told(bucket, "ObjectCreated:Put", "secret.jpg")[0], token)
    assert answer.status == 401
    assert webhook.state("secret.jpg") is None


def test_ceph_shows_the_token_as_a_password(place: tuple[Webhook, Bucket]) -> None:
    webhook, _ = place
    shown = "Basic " + base64.b64encode(f"archiver:{TOKEN}".encode()).decode()
    assert webhook.post('{"Event":"s3:TestEvent"}', shown).status == 204


@pytest.mark.parametrize("body", [b"not json", b"{}", b"\xff", b" " * ((1 << 20) + 1)])
def test_poison_is_refused_and_does_no_harm(place: tuple[Webhook, Bucket], body: bytes) -> None:
    webhook, _ = place
    answer = webhook.post(body)
    assert answer.status == 400 and b"no event of an object store" in answer.data
    assert urllib3.request("GET", f"{webhook.address}/health").status == 200


def test_other_methods_and_places_are_not_there(place: tuple[Webhook, Bucket]) -> None:
    webhook, _ = place
    assert urllib3.request("GET", webhook.address).status == 405
    assert urllib3.request("POST", f"{webhook.address}/x").status == 404
    head = urllib3.request("HEAD", webhook.address, headers={"Authorization": f"Bearer {TOKEN}"})
    assert head.status == 204


def test_while_the_bucket_cannot_be_reached_senders_are_told_to_come_back(
    tmp_path: Path, sqlite_url: str, bucket: Bucket
) -> None:
    with listening(tmp_path, sqlite_url, bucket) as webhook:
        bucket.put("a.jpg")
        identity = bucket.get(".archiver/tier.json")
        bucket.delete(".archiver/tier.json")
        answer = webhook.post(told(bucket, "ObjectCreated:Put", "a.jpg")[0])
        assert answer.status == 503 and "Retry-After" in answer.headers
        assert webhook.state("a.jpg") is None
        bucket.put(".archiver/tier.json", identity)
        assert webhook.post(told(bucket, "ObjectCreated:Put", "a.jpg")[0]).status == 204
        webhook.process.send_signal(signal.SIGTERM)
        assert webhook.process.wait(30) in (0, -signal.SIGTERM)  # uvicorn ends by the signal once it has finished


def test_a_webhook_for_everybody_needs_a_token(tmp_path: Path, sqlite_url: str, bucket: Bucket) -> None:
    config = tmp_path / "archiver.toml"
    config.write_text(
        f'[catalog]\nurl = "{sqlite_url}"\n[[tier]]\nname = "photos"\nkind = "s3"\nbucket = "{bucket.name}"\n'
        f'endpoint = "{bucket.endpoint}"\n'
    )
    command = [sys.executable, "-m", "archiver", "--config", str(config), "s3", "listen", "--http", "0.0.0.0:0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "without a token" in done.stderr


def test_seaweedfs_tells_of_its_objects_itself(tmp_path: Path, sqlite_url: str, _s3_credentials: None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="archiver-weed-"))
    server = Seaweed(folder)
    try:
        # Where it sends to is known when the program listens, and that needs the bucket: it is started twice.
        server.start()
        bucket, versioned = new_bucket(server.endpoint), new_bucket(server.endpoint, versioned=True)
        with listening(tmp_path, sqlite_url, bucket) as webhook:
            server.stop()
            (folder / "notification.toml").write_text(
                f'[notification.webhook]\nenabled = true\nendpoint = "{webhook.address}"\nbearer_token = "{TOKEN}"\n'
            )
            server.start()
            bucket.put("2019/a b+c.jpg")
            bucket.put("b.jpg")
            versioned.put("of-another-tier.jpg")
            _wait_for(lambda: webhook.state("2019/a b+c.jpg") is State.RESIDENT)
            bucket.delete("b.jpg")
            bucket.put("c.jpg")
            _wait_for(lambda: webhook.state("c.jpg") is State.RESIDENT)
            _wait_for(lambda: webhook.state("b.jpg") in (State.GONE, None))
            assert webhook.state("of-another-tier.jpg") is None
    finally:
        server.stop()
        shutil.rmtree(folder)


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)
