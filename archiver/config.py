"""TOML -> frozen, validated settings.

Every key is documented in config.example.toml; a test keeps the two in step. Unknown keys are refused and the nearest known one is named.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from archiver.errors import ConfigInvalid, ConfigMissing

ENVIRONMENT = "ARCHIVER_CONFIG"
SYSTEM_CONFIG = Path("/etc/archiver/config.toml")

_DURATION = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*(s|m|h|d|w|y)\s*$")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGTP]?)(i?)B?\s*$", re.IGNORECASE)


def parse_duration(value: object) -> object:
    """"30d" -> timedelta; units s, m, h, d, w, y (365 days). Anything but text passes through to pydantic."""
    if not isinstance(value, str):
        return value
    match = _DURATION.match(value)
    if match is None:
        raise ValueError(f"{value!r} is no duration: a number and one of s, m, h, d, w, y, as in '180d'")
    return timedelta(seconds=float(match[1]) * _SECONDS[match[2]])


def parse_size(value: object) -> object:
    """"64 KiB" -> 65536; powers of 1024 with an i, of 1000 without."""
    if not isinstance(value, str):
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError(f"{value!r} is no size: a number and a unit, as in '64 KiB' or '2 GB'")
    base = 1024 if match[3] else 1000
    return int(float(match[1]) * base ** ("KMGTP".index(match[2].upper()) + 1 if match[2] else 0))


Duration = Annotated[timedelta, BeforeValidator(parse_duration), Field(ge=timedelta(0))]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
SchemeName = Literal["sgc", "cocli", "coclico", "g-coclico", "seacom", "seseco"]
FormatName = Literal["jpeg", "png", "webp", "tiff"]


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class CatalogSettings(Section):
    url: str = "sqlite:////var/lib/archiver/catalog.db"
    url_file: Path | None = None


class VaultSettings(Section):
    path: Path = Path("/var/lib/archiver/vault")


class ModelSettings(Section):
    profile: str = "embedded-1"
    preset: str = "default"
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    threads: Annotated[int, Field(ge=0)] = 0


class GateSettings(Section):
    """The floor under a trial decode; what falls below stays resident."""

    semantic: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.3
    label_bce: Annotated[float, Field(ge=0.0)] | None = None
    colour: Annotated[float, Field(ge=0.0)] | None = 24.0


class TierSettings(Section):
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    kind: Literal["local"] = "local"
    path: Path
    high_watermark: Share = 0.0
    low_watermark: Share = 0.0
    sweep_files: Annotated[int, Field(ge=1)] = 10_000
    sweep_bytes: Size = 100 * 10**9
    exclude: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> TierSettings:
        if not self.path.is_absolute():
            raise ValueError(f"path {str(self.path)!r} must be absolute")
        if self.low_watermark > self.high_watermark:
            raise ValueError("low_watermark must not be above high_watermark")
        return self


class RuleSettings(Section):
    """All conditions of a rule must hold; the first rule that matches a file decides."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
    tiers: tuple[str, ...] = ()
    action: Literal["release", "record", "keep"] = "release"
    unused_for: Duration = timedelta(days=180)
    unchanged_for: Duration = timedelta(days=30)
    min_size: Size = 64 * 1024
    max_size: Size | None = None
    min_pixels: Annotated[int, Field(ge=0)] = 0
    max_pixels: Annotated[int, Field(ge=1)] | None = None
    formats: tuple[FormatName, ...] = ("jpeg", "png", "webp", "tiff")
    include: tuple[str, ...] = ("**",)
    exclude: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    without_tags: tuple[str, ...] = ()
    scheme: SchemeName = "sgc"
    gate: GateSettings = GateSettings()


class ReleaseSettings(Section):
    grace: Duration = timedelta(days=30)
    min_free: Size = 256 * 1024 * 1024


class ScheduleSettings(Section):
    scan: Duration = timedelta(hours=24)
    archive: Duration = timedelta(hours=1)
    expire: Duration = timedelta(hours=1)
    verify: Duration = timedelta(days=7)
    verify_bytes_per_second: Size = 20 * 10**6
    watch: bool = True


class LimitSettings(Section):
    """What one picture may cost; a file beyond a limit stays resident and is reported."""

    pixels: Annotated[int, Field(ge=1)] = 200_000_000
    file_size: Size = 2 * 10**9


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    journal: Literal["auto", "yes", "no"] = "auto"


class Settings(Section):
    catalog: CatalogSettings = CatalogSettings()
    vault: VaultSettings = VaultSettings()
    model: ModelSettings = ModelSettings()
    release: ReleaseSettings = ReleaseSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    tier: tuple[TierSettings, ...] = ()
    rule: tuple[RuleSettings, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        names = [tier.name for tier in self.tier]
        for what, seen in (("tier", names), ("rule", [rule.name for rule in self.rule])):
            if len(set(seen)) != len(seen):
                raise ValueError(f"two {what}s have the same name")
        for rule in self.rule:
            for name in rule.tiers:
                if name not in names:
                    raise ValueError(f"rule {rule.name!r} names tier {name!r}, which is not configured")
        paths = [tier.path for tier in self.tier]
        for one in paths:
            if any(other != one and other.is_relative_to(one) for other in paths) or paths.count(one) > 1:
                raise ValueError(f"tiers overlap at {one}")
        return self

    @property
    def catalog_url(self) -> str:
        """The database URL, from the file named by `url_file` if there is one (it may hold a password)."""
        if self.catalog.url_file is not None:
            return self.catalog.url_file.read_text(encoding="utf-8").strip()
        return self.catalog.url


def config_path(given: Path | None = None) -> Path:
    """The file that will be read: --config, else $ARCHIVER_CONFIG, else ~/.config (if it is there), else /etc."""
    if given is not None:
        return given
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config")) / "archiver" / "config.toml"
    return home if home.exists() else SYSTEM_CONFIG


def load(path: Path) -> Settings:
    """Read and validate one TOML file.

    Raises ConfigMissing, or ConfigInvalid with every problem, one a line, each with the key it concerns.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigMissing(path=path) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(path=path, problem=error) from error
    try:
        return Settings.model_validate(raw)
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors(include_url=False)]
        raise ConfigInvalid(path=path, problem="; ".join(problems)) from error


def _explain(problem: Any) -> str:
    where = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), _known_keys(problem["loc"][:-1]), n=1, cutoff=0.5)
        return f"unknown key {where}" + (f" (did you mean {near[0]}?)" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    # The value is left out where it may be a secret.
    return f"{where}: {message}" if where else message


def _known_keys(location: tuple[str | int, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in location:
        if isinstance(part, int):
            continue
        model = _SECTIONS[part]
    return list(model.model_fields)


_SECTIONS: dict[str, type[BaseModel]] = {
    "catalog": CatalogSettings,
    "vault": VaultSettings,
    "model": ModelSettings,
    "release": ReleaseSettings,
    "schedule": ScheduleSettings,
    "limits": LimitSettings,
    "log": LogSettings,
    "tier": TierSettings,
    "rule": RuleSettings,
    "gate": GateSettings,
}
