"""The one place that makes boto3 clients."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import Any

from archiver.config import S3TierSettings
from archiver.errors import BucketUnreachable, ObjectsNotInstalled
from archiver.s3.budget import Budget

ATTEMPTS = 5  # of a request, with growing pauses in between
_CONNECT_SECONDS = 10
_READ_SECONDS = 60


def connect(settings: S3TierSettings, requests: Budget | None = None, service: str = "s3") -> Any:
    """A client of boto3 for a tier's server, which any number of threads may use; nothing is asked yet.

    Every sending of a request, repeated ones too, is taken from the budget. Raises ObjectsNotInstalled,
    BucketUnreachable (no such profile, a broken configuration of AWS).
    """
    try:
        import boto3
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
    except ImportError as error:
        raise ObjectsNotInstalled() from error
    config = Config(
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=settings.concurrency + 4,
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        tcp_keepalive=True,
        s3={"addressing_style": settings.addressing},
        # boto3 would send checksums that many servers other than AWS do not know: Content-MD5 is known to all.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    region = settings.region or ("us-east-1" if settings.endpoint else None)
    try:
        session = boto3.session.Session(botocore_session=_session(settings), region_name=region)
        client = session.client(service, endpoint_url=settings.endpoint or None, config=config)
    except (BotoCoreError, ValueError) as error:
        raise BucketUnreachable(tier=settings.name, reason=" ".join(str(error).split())) from error
    if requests is not None:
        client.meta.events.register("before-send", lambda **_: requests.take())
    return client


def _session(settings: S3TierSettings) -> Any:
    import botocore.session

    session = botocore.session.Session(profile=settings.profile or None)
    if settings.credentials_file is not None:
        session.set_config_variable("credentials_file", str(settings.credentials_file))
    # The parser that botocore comes with takes longer for the time of an object than for all else of a listing.
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=moment)
    return session


def moment(text: str | float) -> datetime:
    """A time as servers write it: ISO 8601 in listings, RFC 822 in headers, seconds elsewhere."""
    from botocore.utils import parse_timestamp

    if isinstance(text, str):
        with contextlib.suppress(ValueError):
            found = datetime.fromisoformat(text)
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    parsed: datetime = parse_timestamp(text)
    return parsed
