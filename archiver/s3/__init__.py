"""Buckets as tiers; nothing outside of this package knows boto3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archiver.s3.aws_lambda import Context


def lambda_handler(event: Mapping[str, Any], context: Context) -> dict[str, list[dict[str, str]]]:
    """The handler for AWS Lambda: see `archiver.s3.aws_lambda.handle`, and docs/s3.md."""
    from archiver.s3.aws_lambda import handle  # whoever imports this package for a tier needs nothing of it

    return handle(event, context)
