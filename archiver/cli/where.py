"""The arguments that name files: a path, or `s3://bucket/key`."""

from __future__ import annotations

from pathlib import Path

import click

from archiver.s3.address import ObjectUrl
from archiver.tiers.protocol import Where


def where(text: str) -> Where:
    """A path of a local tier, or the URL of an object or of all below it; for the `type` of a parameter of click."""
    if not text.startswith("s3:/"):
        return Path(text)
    try:
        return ObjectUrl.parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def absolute(named: Where) -> Where:
    """As it is told to others, who may be elsewhere."""
    return named.absolute() if isinstance(named, Path) else named
