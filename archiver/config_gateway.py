"""Settings of `archiver s3 gateway`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from archiver.config_fields import AbsolutePath, Interval, Section, Size, none

_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"
_OptionalFile = Annotated[AbsolutePath | None, BeforeValidator(none)]


class GatewaySettings(Section):
    """Where readers of buckets are answered, who they may be, and how much of what was generated is kept."""

    listen: Annotated[str, Field(pattern=_ADDRESS)] = "127.0.0.1:8466"
    keys_file: _OptionalFile = None
    token_file: _OptionalFile = None
    certificate_file: _OptionalFile = None
    key_file: _OptionalFile = None
    cache: AbsolutePath = Path("/var/cache/archiver/gateway")
    cache_size: Size = 10 * 10**9
    concurrent: Annotated[int, Field(ge=1, le=256)] = 4
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 256
    deadline: Interval = timedelta(minutes=2)

    @model_validator(mode="after")
    def _whole_identity(self) -> GatewaySettings:
        if self.certificate_file is None and self.key_file is not None:
            raise ValueError("key_file without certificate_file")
        return self
