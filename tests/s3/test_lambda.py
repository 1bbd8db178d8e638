"""The function of AWS Lambda: its answers to the services that call it, and the template that it comes with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.config import S3TierSettings
from archiver.errors import BucketUnreachable, ConfigInvalid, EventUnfinished
from archiver.s3 import aws_lambda, lambda_handler
from archiver.s3.scan import scan_bucket
from archiver.s3.tier import S3Tier
from tests.fixtures_s3 import Bucket
from tests.s3.queues import told

AWS = Path(aws_lambda.__file__).with_name("aws")


@dataclass(frozen=True)
class Call:
    """What Lambda tells of a call."""

    milliseconds: int = 300_000

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


@dataclass(frozen=True)
class Function:
    """A deployed function: its bucket, and the catalog that it writes."""

    bucket: Bucket
    catalog: Catalog

    def state(self, key: str) -> State | None:
        row = self.catalog.find(self.catalog.tiers()[0].id, key)
        return None if row is None else row.state


@pytest.fixture
def function(postgresql_url: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Function]:
    tier = {"name": "photos", "kind": "s3", "bucket": bucket.name, "endpoint": bucket.endpoint}
    lines = ["[[tier]]", *(f'{name} = "{value}"' for name, value in tier.items()), "[[rule]]", 'name = "all"']
    monkeypatch.setenv("ARCHIVER_CONFIG_TOML", "\n".join(lines))
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", postgresql_url)
    with Catalog.open(postgresql_url) as catalog:
        scan_bucket(catalog, S3Tier(S3TierSettings.model_validate(tier)))
        yield Function(bucket, catalog)
    aws_lambda.close()


def from_queue(*bodies: str) -> dict[str, Any]:
    """What Lambda hands over of a queue."""
    return {
        "Records": [
            {"messageId": f"m{number}", "receiptHandle": "r", "body": body, "eventSource": "aws:sqs"}
            for number, body in enumerate(bodies)
        ]
    }


def failed(answer: dict[str, list[dict[str, str]]]) -> list[str]:
    return [entry["itemIdentifier"] for entry in answer["batchItemFailures"]]


@pytest.mark.postgresql
def test_only_what_was_not_understood_is_named_as_failed(function: Function) -> None:
    function.bucket.put("a+b.jpg")
    event = from_queue(*told(function.bucket, "ObjectCreated:Put", "a+b.jpg"), "poison", '{"Event":"s3:TestEvent"}')
    assert failed(lambda_handler(event, Call())) == ["m1"]
    assert function.state("a+b.jpg") is State.RESIDENT


@pytest.mark.postgresql
def test_everything_comes_again_while_the_bucket_cannot_be_reached(function: Function) -> None:
    function.bucket.put("a.jpg")
    identity = function.bucket.get(".archiver/tier.json")
    function.bucket.delete(".archiver/tier.json")
    event = from_queue(*told(function.bucket, "ObjectCreated:Put", "a.jpg", "b.jpg"))
    assert failed(lambda_handler(event, Call())) == ["m0", "m1"]
    with pytest.raises(BucketUnreachable):
        lambda_handler(json.loads(told(function.bucket, "ObjectCreated:Put", "a.jpg")[0]), Call())
    function.bucket.put(".archiver/tier.json", identity)
    assert failed(lambda_handler(event, Call())) == []
    assert function.state("a.jpg") is State.RESIDENT


@pytest.mark.postgresql
def test_services_may_call_without_a_queue(function: Function) -> None:
    for key in ("direct.jpg", "sns.jpg", "bridge.jpg"):
        function.bucket.put(key)
    (direct,) = told(function.bucket, "ObjectCreated:Put", "direct.jpg")
    (wrapped,) = told(function.bucket, "ObjectCreated:Put", "sns.jpg")
    assert failed(lambda_handler(json.loads(direct), Call())) == []
    assert failed(lambda_handler({"Records": [{"EventSource": "aws:sns", "Sns": {"Message": wrapped}}]}, Call())) == []
    detail = {"bucket": {"name": function.bucket.name}, "object": {"key": "bridge.jpg"}}
    bridge = {"source": "aws.s3", "detail-type": "Object Created", "time": "2026-01-02T03:04:05Z", "detail": detail}
    assert failed(lambda_handler(bridge, Call())) == []
    assert {function.state(key) for key in ("direct.jpg", "sns.jpg", "bridge.jpg")} == {State.RESIDENT}
    with pytest.raises(EventUnfinished):
        lambda_handler({"nothing": "known"}, Call())


def test_a_catalog_on_a_disk_that_goes_away_is_refused(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVER_CONFIG_TOML", f'[catalog]\nurl = "{sqlite_url}"\n')
    with pytest.raises(ConfigInvalid, match="PostgreSQL"):
        lambda_handler(from_queue(), Call())


# -- template and policies ---------------------------------------------------------------------------------------------


def test_the_template_is_one_that_cloudformation_takes() -> None:
    lint = pytest.importorskip("cfnlint.api")

    def problems(text: str) -> list[str]:
        return [str(match) for match in lint.lint_all(text) if match.rule.id[0] in "EW"]

    text = (AWS / "template.yaml").read_text()
    assert problems(text) == []
    assert problems(text.replace("MessageRetentionPeriod", "MessageRetentionTime"))  # it would tell


def _actions(text: str) -> set[str]:
    return set(re.findall(r"(?<=[\" ])(?:s3|sqs|kms):[A-Z][A-Za-z]+", text))


@pytest.mark.parametrize("name", ["hook-policy.json", "listen-policy.json", "template.yaml"])
def test_no_policy_lets_more_than_it_names(name: str) -> None:
    text = (AWS / name).read_text()
    assert not re.search(r'(s3|sqs|kms):(\*|[A-Za-z]+\*)|"Action": "\*"|Resource: "?\*', text)
    assert "s3:PutBucketPolicy" not in text and "iam:" not in text
    for statement in json.loads(text)["Statement"] if name.endswith(".json") else ():
        assert "*" not in json.dumps(statement["Resource"])


def test_the_hook_asks_for_nothing_that_its_policy_does_not_let() -> None:
    source = "".join((AWS.parent / f"{name}.py").read_text() for name in ("hook", "hooking"))
    asked = set(re.findall(r"(?:_client|sts)\.([a-z_]+)\(", source))
    spelled = {"".join(word.title() for word in name.split("_")) for name in asked} - {"GetCallerIdentity"}
    named = {
        "GetBucketNotificationConfiguration": "s3:GetBucketNotification",
        "PutBucketNotificationConfiguration": "s3:PutBucketNotification",
        "GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
        "PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
        "DeleteBucketLifecycle": "s3:PutLifecycleConfiguration",
    }
    needed = {named.get(name, f"sqs:{name}") for name in spelled} | {"sqs:TagQueue"}  # of a queue created with tags
    assert _actions((AWS / "hook-policy.json").read_text()) == needed


def test_the_listener_asks_for_nothing_that_its_policy_does_not_let() -> None:
    asked = set(re.findall(r"_client\.([a-z_]+)\(", (AWS.parent / "queue.py").read_text()))
    spelled = {"".join(word.title() for word in name.removesuffix("_batch").split("_")) for name in asked}
    assert _actions((AWS / "listen-policy.json").read_text()) == {f"sqs:{name}" for name in spelled}
