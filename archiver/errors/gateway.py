"""The S3 gateway: why it cannot begin."""

from __future__ import annotations

from archiver.errors.base import ArchiverError


class GatewayUnguarded(ArchiverError):
    """a gateway that listens on {address} needs keys or a token: others can reach it"""

    exit_code = 2
    hint = "Set `keys_file` or `token_file` under [gateway], or listen on 127.0.0.1."


class GatewayWithoutTier(ArchiverError):
    """there is no bucket to serve: no tier is of kind s3"""

    exit_code = 2
    hint = 'Add a [[tier]] with kind = "s3" to the configuration.'


class CacheTaken(ArchiverError):
    """another gateway keeps its images in {path}"""

    exit_code = 7
    hint = "Give each its own folder: `cache` under [gateway]."
