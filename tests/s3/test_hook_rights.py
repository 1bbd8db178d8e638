"""The rights that the hook's policy gives are enough for it, held by moto as AWS would hold them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from archiver.config import S3TierSettings
from archiver.errors import HookRefused
from archiver.s3 import hook
from archiver.s3.hook import Wish
from archiver.s3.hooking import open_hook
from tests.fixtures_s3 import client_of, free_ports, wait_until

POLICY = Path(hook.__file__).with_name("aws") / "hook-policy.json"


@pytest.fixture
def guarded(_s3_credentials: None) -> Iterator[str]:
    """A moto server of this test's own, with a bucket: that it looks at rights would disturb the others."""
    endpoint, folder = f"http://127.0.0.1:{free_ports(1)[0]}", Path(tempfile.mkdtemp(prefix="archiver-moto-"))

    def answers() -> bool:
        try:
            client_of(endpoint).create_bucket(Bucket="photos")
        except (BotoCoreError, ClientError):
            return False
        return True

    with (folder / "log").open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", endpoint.rpartition(":")[2]]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
    try:
        wait_until(answers, "moto", process, folder / "log")
        yield endpoint
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def policy() -> dict[str, Any]:
    """The policy for this bucket; moto knows no single queues in policies, only all."""
    text = POLICY.read_text().replace("BUCKET", "photos")
    found: dict[str, Any] = json.loads(text)
    found["Statement"][1]["Resource"] = "*"
    return found


def test_the_rights_of_the_policy_are_enough_and_nobody_does_it_without(
    guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    iam = client_of(guarded, "iam")
    iam.create_user(UserName="hook")
    key = iam.create_access_key(UserName="hook")["AccessKey"]
    iam.put_user_policy(UserName="hook", PolicyName="hook", PolicyDocument=json.dumps(policy()))
    iam.create_user(UserName="nobody")
    other = iam.create_access_key(UserName="nobody")["AccessKey"]
    assert urllib3.request("POST", f"{guarded}/moto-api/reset-auth", body=b"0").status == 200  # from here on it looks

    def act_as(one: dict[str, Any]) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", one["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", one["SecretAccessKey"])

    settings = S3TierSettings(name="photos", bucket="photos", endpoint=guarded)
    act_as(other)
    with pytest.raises(HookRefused):
        open_hook(settings, Wish("photos", "photos", "", 90), "archiver-photos").plan()
    act_as(key)
    for days in (90, 120):
        ours = open_hook(settings, Wish("photos", "photos", "", days), "archiver-photos")
        ours.apply(ours.plan())
        assert not any(change.is_needed for change in ours.plan())
    ours.apply(ours.plan(removing=True))
