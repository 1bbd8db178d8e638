"""Which clients and which queue a tier's hook works with."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError

from archiver.config import S3TierSettings
from archiver.errors import HookImpossible
from archiver.s3.client import connect
from archiver.s3.hook import Hook, Target, Wish
from archiver.s3.queue import Queue, endpoint_of, region_of

_ARN = re.compile(r"arn:[a-z-]+:(sqs|sns):[A-Za-z0-9-]*:[A-Za-z0-9_-]*:[A-Za-z0-9_.:-]+")
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,75}")  # SQS allows 80 characters, and the dead-letter queue needs five


def open_hook(settings: S3TierSettings, wish: Wish, queue: str) -> Hook:
    """The hook of a tier's bucket. queue: the name of a queue of SQS, made where there is none; or the URL of one; or
    the ARN of anything that the store can send to.

    Raises HookImpossible.
    """
    url = queue if "://" in queue else settings.queue_url or ""
    sqs = queue_client(settings, url)
    return Hook(wish, _target(settings, wish, queue, sqs, url), connect(settings), sqs)


def open_queue(settings: S3TierSettings, url: str) -> Queue:
    """The queue of that URL, asked with the tier's credentials."""
    return Queue(queue_client(settings, url), url)


def queue_client(settings: S3TierSettings, url: str) -> Any:
    """A client of SQS for the queue of that URL; without one, of the server that has the bucket."""
    return connect(_beside(settings, url), service="sqs")


def _beside(settings: S3TierSettings, url: str) -> S3TierSettings:
    """The same credentials for the server that has the queue of that URL."""
    if not url:
        return settings
    place = {"endpoint": endpoint_of(url) or "", "region": region_of(url) or settings.region}
    return settings.model_copy(update=place)


def _target(settings: S3TierSettings, wish: Wish, queue: str, sqs: Any, url: str) -> Target:
    if queue.startswith("arn:"):
        if not _ARN.fullmatch(queue):
            raise HookImpossible(bucket=wish.bucket, reason=f"{queue} names no queue and no topic")
        *_, service, _region, account, name = queue.split(":", 5)
        return Target(queue, name if service == "sqs" and account.isdigit() else "")
    name = urlsplit(queue).path.rpartition("/")[2] if "://" in queue else queue
    if not _QUEUE.fullmatch(name):
        raise HookImpossible(bucket=wish.bucket, reason=f"{name} can be no queue's name: letters, digits, - and _")
    account = _account(settings, wish, queue, url)
    partition, region = sqs.meta.partition, sqs.meta.region_name
    return Target(f"arn:{partition}:sqs:{region}:{account}:{name}", name)


def _account(settings: S3TierSettings, wish: Wish, queue: str, url: str) -> str:
    """Whose queue it is: as its URL says, else whoever asks; STS tells anybody who they are."""
    if "://" in queue and (owner := urlsplit(queue).path.strip("/").partition("/")[0]).isdigit():
        return owner
    sts = connect(_beside(settings, url), service="sts")
    try:
        return str(sts.get_caller_identity()["Account"])
    except (ClientError, BotoCoreError) as error:
        reason = f"its server has no queues, it seems ({' '.join(str(error).split())})"
        raise HookImpossible(bucket=wish.bucket, reason=reason) from error
