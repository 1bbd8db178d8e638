"""A gateway as it is run, before a bucket with images as they are before and after a release."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import urllib3
from botocore.config import Config

from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import fill_with_photographs, make_settings, scan_all

KEY, SECRET, TOKEN = "READER", "the-secret-of-the-reader", "the-token-of-the-reader"
SECONDS = 60.0  # a generous deadline on a busy machine


@dataclass(frozen=True)
class Released:
    """An image and what a release makes of it."""

    key: str
    original: bytes
    placeholder: bytes
    sha256: str

    @property
    def content_type(self) -> str:
        suffix = self.key.rpartition(".")[2].lower()
        return {"png": "image/png", "webp": "image/webp", "tif": "image/tiff"}.get(suffix, "image/jpeg")


def release_photographs(folder: Path, vault: Path) -> list[Released]:
    """Photographs of every format, released by the real thing with records of the vault's networks."""
    from archiver.catalog.schema import upgrade

    root = folder / "photos"
    root.mkdir()
    originals = {path: (root / path).read_bytes() for path in fill_with_photographs(root)}
    settings = make_settings(folder, root, vault, grace="0s")
    upgrade(settings.catalog_url)
    with open_site(settings) as site:
        scan_all(site)
        archive(site)
        return [_released(site, root, path, original) for path, original in sorted(originals.items())]


def _released(site: Any, root: Path, path: Path, original: bytes) -> Released:
    from hashlib import sha256

    with (root / path).open("rb") as file:
        head = os.lseek(file.fileno(), 0, os.SEEK_HOLE)
        assert head < len(original), path
        file.seek(0)
        return Released(str(path), original, file.read(head), sha256(original).hexdigest())


def put_original(bucket: Bucket, image: Released, key: str | None = None) -> dict[str, Any]:
    """The image as its owner uploads it; what a HEAD says of it then."""
    bucket.put(key or image.key, image.original, ContentType=image.content_type, Metadata={"album": "summer"})
    head: dict[str, Any] = bucket.client.head_object(Bucket=bucket.name, Key=key or image.key)
    return head


def put_released(bucket: Bucket, image: Released, key: str | None = None) -> dict[str, Any]:
    """The image's placeholder in its place; what a HEAD said of the original."""
    key = key or image.key
    before = put_original(bucket, image, key)
    marks = {
        "archiver-kind": "placeholder",
        "archiver-etag": before["ETag"].strip('"'),
        "archiver-length": str(len(image.original)),
        "archiver-modified": before["LastModified"].isoformat(),
        "archiver-sha256": image.sha256,
        "archiver-held": "copy",
    }
    bucket.put(key, image.placeholder, ContentType=image.content_type, Metadata={"album": "summer", **marks})
    return before


@dataclass
class Gateway:
    """A running `archiver s3 gateway`."""

    process: subprocess.Popen[str]
    address: str
    log: Path
    folder: Path

    def client(self, secret: str = SECRET, **config: Any) -> Any:
        """boto3's client of it, as a reader has."""
        return boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="eu-central-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=secret,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                max_pool_connections=64,
                **config,
            ),
        )

    def ask(self, path: str, method: str = "GET", token: str | None = TOKEN, **headers: str) -> Any:
        """A plain HTTP request, as of a browser."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if token is not None:
            given["Authorization"] = f"Bearer {token}"
        with urllib3.PoolManager() as pool:
            return pool.request(method, self.address + path, headers=given, retries=False, timeout=SECONDS)

    @property
    def generated(self) -> int:
        """Images that it generated so far."""
        return self.log.read_text().count("generated s3://")

    @property
    def cached(self) -> list[Path]:
        """What its cache has."""
        return sorted((self.folder / "cache").glob("??/*"))

    def kill(self) -> None:
        """End it as a power failure does."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def configuration(folder: Path, vault: Path, bucket: Bucket, **gateway: Any) -> Settings:
    """Settings of a gateway before a bucket; with keys and a token unless `gateway` says otherwise."""
    (folder / "keys").write_text(f"{KEY} {SECRET}\n")
    (folder / "token").write_text(TOKEN + "\n")
    given = {"keys_file": str(folder / "keys"), "token_file": str(folder / "token"), **gateway}
    return Settings.model_validate(
        {
            "catalog": {"url": f"sqlite:///{folder}/catalog.db"},
            "vault": {"path": str(vault)},
            "model": {"profile": "random-7", "preset": "draft", "threads": 1},
            "decoder": {"where": "worker"},  # most of the tests never decode: no torch for those
            "gateway": {"listen": "127.0.0.1:0", "cache": str(folder / "cache"), **given},
            "tier": [bucket.settings().model_dump(exclude_unset=True, mode="json") | {"kind": "s3"}],
        }
    )


@contextmanager
def running(settings: Settings, folder: Path) -> Iterator[Gateway]:
    """The gateway as a process of its own, until the body ends."""
    from archiver.config_text import render

    (folder / "config.toml").write_text(render(settings))
    log = folder / "gateway.log"
    command = [sys.executable, "-m", "archiver", "s3", "gateway", "--json"]
    environment = {**os.environ, "ARCHIVER_CONFIG": str(folder / "config.toml")}
    with log.open("a") as errors, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Gateway(process, json.loads(line)["address"], log, folder)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(SECONDS)
