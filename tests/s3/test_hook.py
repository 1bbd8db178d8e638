"""The hook: what it sets up, that it can be run again, and that nothing of others is touched, on a server of moto."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fixtures_s3 import Bucket, client_of
from hypothesis import given
from hypothesis import strategies as st

from archiver.cli.main import cli
from archiver.s3 import documents
from archiver.s3.documents import Document

_numbers = itertools.count(1)
THEIR_RULE = {"ID": "theirs", "Status": "Enabled", "Filter": {"Prefix": "tmp/"}, "Expiration": {"Days": 3}}


class Place:
    """A bucket of moto that is a tier, its queues, and the program."""

    def __init__(self, folder: Path, bucket: Bucket) -> None:
        self.bucket = bucket
        self.name = f"tier-{os.getpid()}-{next(_numbers)}"
        self.queue = f"archiver-{self.name}"
        self.s3, self.sqs = bucket.client, client_of(bucket.endpoint, "sqs")
        self.config = folder / "archiver.toml"
        self.write()

    def write(self, **others: str) -> None:
        """The configuration."""
        tier = {"name": self.name, "kind": "s3", "bucket": self.bucket.name, "endpoint": self.bucket.endpoint} | others
        lines = ["[[tier]]", *(f'{key} = "{value}"' for key, value in tier.items())]
        self.config.write_text("\n".join([*lines, "[[rule]]", 'name = "old"', 'unused_for = "200d"']))

    def run(self, *arguments: str, typed: str = "") -> Result:
        return CliRunner().invoke(cli, ["--config", str(self.config), "s3", *arguments], input=typed)

    def install(self, *arguments: str) -> Result:
        done = self.run("install-hook", self.name, "--yes", *arguments)
        assert done.exit_code == 0, done.output
        return done

    def remove(self, *arguments: str) -> Result:
        done = self.run("remove-hook", self.name, "--yes", *arguments)
        assert done.exit_code == 0, done.output
        return done

    def rules(self) -> list[Document]:
        try:
            answer = self.s3.get_bucket_lifecycle_configuration(Bucket=self.bucket.name)
        except self.s3.exceptions.ClientError as error:
            assert error.response["Error"]["Code"] == "NoSuchLifecycleConfiguration"
            return []
        rules: list[Document] = answer["Rules"]
        return rules

    def notifications(self) -> Document:
        answer: Document = self.s3.get_bucket_notification_configuration(Bucket=self.bucket.name)
        return {name: value for name, value in answer.items() if name != "ResponseMetadata"}

    def queues(self) -> set[str]:
        """The names of all queues that begin as ours does."""
        urls = self.sqs.list_queues(QueueNamePrefix=self.queue).get("QueueUrls", ())
        return {url.rpartition("/")[2] for url in urls}

    def attributes(self, name: str) -> Document:
        url = self.sqs.get_queue_url(QueueName=name)["QueueUrl"]
        answer = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])
        return documents.decoded(answer["Attributes"])

    def state(self) -> tuple[Any, ...]:
        """Everything that the hook could touch."""
        named = sorted(self.queues())
        return self.rules(), self.notifications(), named, [self.attributes(name).get("Policy") for name in named]


@pytest.fixture
def place(tmp_path: Path, moto_bucket: Callable[..., Bucket]) -> Place:
    return Place(tmp_path, moto_bucket())


def test_the_hook_is_a_rule_a_notification_a_queue_and_its_dead_letter_queue(place: Place) -> None:
    place.write(prefix="photos/")
    place.install("--transition-days", "90", "--class", "GLACIER_IR")
    (rule,) = place.rules()
    assert rule["ID"] == place.queue and rule["Status"] == "Enabled"
    assert rule["Filter"] == {"Prefix": "photos/"}
    assert rule["Transitions"] == [{"Days": 90, "StorageClass": "GLACIER_IR"}]
    (entry,) = place.notifications()["QueueConfigurations"]
    assert set(entry["Events"]) == set(documents.EVENTS)
    assert entry["Filter"]["Key"]["FilterRules"] == [{"Name": "prefix", "Value": "photos/"}]
    queue, dead = place.attributes(place.queue), place.attributes(f"{place.queue}-dead")
    assert entry["QueueArn"] == queue["QueueArn"]
    assert queue["RedrivePolicy"] == {"deadLetterTargetArn": dead["QueueArn"], "maxReceiveCount": 5}
    assert (queue["VisibilityTimeout"], queue["MessageRetentionPeriod"]) == ("300", "1209600")


def test_only_that_bucket_of_that_account_may_send(place: Place) -> None:
    place.install()
    queue = place.attributes(place.queue)
    (statement,) = queue["Policy"]["Statement"]
    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert (statement["Action"], statement["Resource"]) == ("sqs:SendMessage", queue["QueueArn"])
    assert statement["Condition"]["ArnEquals"] == {"aws:SourceArn": f"arn:aws:s3:::{place.bucket.name}"}
    assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": queue["QueueArn"].split(":")[4]}


def test_objects_go_cold_when_the_rules_say_so(place: Place) -> None:
    place.install()
    assert place.rules()[0]["Transitions"] == [{"Days": 200, "StorageClass": "STANDARD_IA"}]


def test_running_it_again_changes_nothing(place: Place) -> None:
    place.install()
    before = place.state()
    done = place.run("install-hook", place.name, "--json")
    assert done.exit_code == 0, done.output
    *changes, hook = map(json.loads, done.stdout.splitlines())
    assert [change["needed"] for change in changes] == [False] * 4
    assert hook["applied"] and hook["queue_url"].endswith(place.queue)
    assert place.state() == before


def test_another_wish_replaces_ours(place: Place) -> None:
    place.install("--transition-days", "90")
    place.install("--transition-days", "120")
    assert [rule["Transitions"][0]["Days"] for rule in place.rules()] == [120]
    place.install("--transition-days", "0")
    assert place.rules() == []


def test_a_dry_run_and_a_no_change_nothing(place: Place) -> None:
    before = place.state()
    done = place.run("install-hook", place.name, "--dry-run")
    assert done.exit_code == 0 and f'+      "Id": "{place.queue}"' in done.output.replace("  +", "+")
    refused = place.run("install-hook", place.name, typed="n\n")
    assert refused.exit_code == 130
    assert place.run("install-hook", place.name, "--json").exit_code == 2
    assert place.state() == before


def test_nothing_of_others_is_touched(place: Place) -> None:
    topic = place.sqs.create_queue(QueueName=f"others-{place.name}")["QueueUrl"]
    arn = place.sqs.get_queue_attributes(QueueUrl=topic, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    theirs = {
        "Id": "theirs",
        "QueueArn": arn,
        "Events": ["s3:ObjectTagging:*"],
        "Filter": {"Key": {"FilterRules": [{"Name": "suffix", "Value": ".txt"}]}},
    }
    place.s3.put_bucket_lifecycle_configuration(
        Bucket=place.bucket.name, LifecycleConfiguration={"Rules": [THEIR_RULE]}
    )
    place.s3.put_bucket_notification_configuration(
        Bucket=place.bucket.name, NotificationConfiguration={"QueueConfigurations": [theirs]}
    )
    before = place.state()
    place.install()
    assert THEIR_RULE in place.rules() and len(place.rules()) == 2
    assert theirs in place.notifications()["QueueConfigurations"]
    place.remove()
    assert place.state() == before


def test_remove_undoes_all_of_it(place: Place) -> None:
    before = place.state()
    place.install()
    place.remove()
    assert place.state() == before == ([], {}, [], [])
    place.remove()  # again


def test_a_queue_of_somebody_else_is_only_told_to_take_events(place: Place) -> None:
    policy = {"Version": "2012-10-17", "Statement": [{"Sid": "a", "Effect": "Deny", "Principal": "*", "Action": "*"}]}
    place.sqs.create_queue(QueueName=place.queue, Attributes={"Policy": json.dumps(policy), "VisibilityTimeout": "33"})
    place.install()
    found = place.attributes(place.queue)
    assert [statement["Sid"] for statement in found["Policy"]["Statement"]] == ["a", place.queue]
    assert found["VisibilityTimeout"] == "33" and "RedrivePolicy" not in found
    assert place.queues() == {place.queue}
    place.remove()
    assert place.attributes(place.queue)["Policy"] == policy


def test_a_queue_that_another_bucket_sends_to_stays(place: Place, tmp_path: Path, moto_bucket: Any) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other", moto_bucket())
    place.install()
    other.install("--queue", place.queue)
    place.remove()
    assert [one["Sid"] for one in place.attributes(place.queue)["Policy"]["Statement"]] == [other.queue]
    other.remove("--queue", place.queue)
    assert place.queues() == set()


def test_a_queue_may_be_named_by_its_url(place: Place) -> None:
    url = place.sqs.create_queue(QueueName=place.queue)["QueueUrl"]
    place.write(queue_url=url)
    place.install()
    (entry,) = place.notifications()["QueueConfigurations"]
    assert entry["QueueArn"] == place.attributes(place.queue)["QueueArn"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--class", "DEEP_ARCHIVE"], "cannot be read"),
        (["--queue", "events.fifo"], "no queue's name"),
        (["--queue", "arn:aws:s3:::bucket"], "names no queue"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_changes(place: Place, arguments: list[str], said: str) -> None:
    before = place.state()
    done = place.run("install-hook", place.name, "--yes", *arguments)
    assert done.exit_code == 2 and said in done.output
    assert place.state() == before


def test_a_bucket_that_is_not_there_is_a_named_failure(place: Place) -> None:
    place.write(bucket="not-there")
    done = place.run("install-hook", place.name, "--yes")
    assert done.exit_code == 4 and "NoSuchBucket" in done.output and "hint:" in done.output


# -- documents ---------------------------------------------------------------------------------------------------------

_texts = st.text(min_size=1, max_size=8)
_rules = st.lists(
    st.fixed_dictionaries({"ID": _texts, "Status": st.just("Enabled"), "Filter": st.just({})}), max_size=4
)
_entries = st.lists(st.fixed_dictionaries({"Id": _texts, "QueueArn": _texts, "Events": st.lists(_texts)}), max_size=3)


@given(_rules)
def test_our_rule_comes_and_goes_without_a_trace(rules: list[Document]) -> None:
    found = {"Rules": rules, "TransitionDefaultMinimumObjectSize": "varies_by_storage_class"}
    rule = documents.lifecycle_rule("archiver-x", "", 30, "STANDARD_IA")
    once = documents.with_rule(found, rule)
    assert documents.with_rule(once, rule) == once
    assert documents.without_rule(once, "archiver-x") == found


@given(_entries, _entries, st.booleans())
def test_our_notification_comes_and_goes_without_a_trace(
    queues: list[Document], topics: list[Document], bridge: bool
) -> None:
    found = {"QueueConfigurations": queues, "TopicConfigurations": topics}
    found = {name: entries for name, entries in found.items() if entries} | (
        {"EventBridgeConfiguration": {}} if bridge else {}
    )
    name, entry = documents.notification("archiver-x", "arn:aws:sqs:eu-central-1:111122223333:q", "p/")
    once = documents.with_notification(found, name, entry)
    assert documents.with_notification(once, name, entry) == once
    assert documents.without_notification(once, "archiver-x") == found
    assert documents.canonical(once) != documents.canonical(found)


def test_that_eventbridge_is_on_is_not_overlooked() -> None:
    assert documents.canonical({"EventBridgeConfiguration": {}}) != documents.canonical({})


def test_spellings_of_servers_are_the_same_configuration() -> None:
    rule = {"FilterRules": [{"Name": "Prefix", "Value": "p/"}]}
    assert documents.canonical({"Filter": {"Key": rule}, "Events": ["b", "a"]}) == documents.canonical(
        {"Events": ["a", "b"], "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "p/"}]}}, "Other": []}
    )


@pytest.mark.parametrize(
    ("arn", "list_", "event"),
    [
        ("arn:aws:sqs:eu-central-1:111122223333:q", "QueueConfigurations", "s3:LifecycleTransition"),
        ("arn:aws:sns:eu-central-1:111122223333:t", "TopicConfigurations", "s3:LifecycleTransition"),
        ("arn:minio:sqs::primary:webhook", "QueueConfigurations", "s3:ObjectTransition:Complete"),
        ("arn:aws:sns:default::topic", "TopicConfigurations", "s3:ObjectLifecycle:Transition:Current"),
    ],
)
def test_every_store_is_asked_in_its_own_words(arn: str, list_: str, event: str) -> None:
    name, entry = documents.notification("archiver-x", arn, "")
    assert name == list_ and event in entry["Events"] and "Filter" not in entry
