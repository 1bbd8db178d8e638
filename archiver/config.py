"""TOML -> frozen, validated settings.

Every key is documented in config.example.toml; a test keeps the two in step. Unknown keys are refused and the nearest
known one is named. Secrets (the catalog's URL may hold a password) come from the environment or a file; they are never
echoed.
"""

from __future__ import annotations

import os
import re
import tomllib
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from archiver.config_fields import (
    AbsolutePath,
    Duration,
    Floor,
    FormatName,
    Interval,
    Name,
    NonEmpty,
    OptionalSize,
    Patterns,
    SchemeName,
    Section,
    Size,
    Tag,
    absolute,
    compile_patterns,
    none,
    not_empty,
    path_matches,
)
from archiver.config_gateway import GatewaySettings
from archiver.config_prices import PriceSettings, price_problems
from archiver.config_problems import Place, all_problems, disagreements, shared_folders
from archiver.config_tiers import AnyTier, LocalTierSettings, S3TierSettings, TierSettings
from archiver.errors import ConfigInvalid, ConfigMissing

__all__ = [
    "LocalTierSettings",
    "S3TierSettings",
    "Section",
    "Settings",
    "TierSettings",
    "absolute",
    "compile_patterns",
    "config_path",
    "load",
    "parse",
    "path_matches",
    "redact_url",
]

ENVIRONMENT = "ARCHIVER_CONFIG"
CATALOG_URL_ENVIRONMENT = "ARCHIVER_CATALOG_URL"
DECODER_TOKEN_ENVIRONMENT = "ARCHIVER_DECODER_TOKEN"
SYSTEM_CONFIG = Path("/etc/archiver/config.toml")

_PLAIN_SQLITE = re.compile(r"sqlite(?:\+pysqlite)?:////[^?#]+")

_ADDRESS = r"^(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):[0-9]{1,5}$"
# No path, no query, and no user: a password does not belong into a configuration.
_DECODER_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")


class CatalogSettings(Section):
    """Where the catalog is; a URL with a password belongs in a file or the environment, not in the configuration."""

    url: str = Field(default="sqlite:////var/lib/archiver/catalog.db", repr=False)
    url_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None

    @field_validator("url")
    @classmethod
    def _usable(cls, url: str) -> str:
        if problem := _url_problem(url):
            raise ValueError(problem)
        return url

    @model_validator(mode="after")
    def _one_source(self) -> CatalogSettings:
        if self.url_file is not None and "url" in self.model_fields_set:
            raise ValueError("give url or url_file, not both")
        return self


class VaultSettings(Section):
    path: AbsolutePath = Path("/var/lib/archiver/vault")
    mirror: Annotated[Annotated[str, Field(pattern=r"^https?://\S+$")] | None, BeforeValidator(none)] = None
    offline: bool = False


class ModelSettings(Section):
    profile: Annotated[str, Field(min_length=1)] = "embedded-1"
    preset: Annotated[str, Field(min_length=1)] = "default"
    batch: Annotated[int, Field(ge=1, le=256)] = 8
    threads: Annotated[int, Field(ge=0)] = 0


class GateSettings(Section):
    """The floor under a trial decode; what falls below stays resident. None: not asked for."""

    semantic: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.25
    label_bce: Floor = None
    colour: Floor = 24.0


class RuleSettings(Section):
    """All conditions of a rule must hold; the first rule that matches a file decides."""

    name: Name
    tiers: tuple[str, ...] = ()
    action: Literal["release", "record", "keep"] = "release"
    unused_for: Duration = timedelta(days=180)
    unchanged_for: Duration = timedelta(days=30)
    min_size: Size = 64 * 1024
    max_size: OptionalSize = None
    min_pixels: Annotated[int, Field(ge=0)] = 0
    max_pixels: Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(none)] = None
    formats: Annotated[tuple[FormatName, ...], AfterValidator(not_empty)] = ("jpeg", "png", "webp", "tiff")
    include: Annotated[Patterns, AfterValidator(not_empty)] = ("**",)
    exclude: Patterns = ()
    tags: tuple[Tag, ...] = ()
    without_tags: tuple[Tag, ...] = ()
    scheme: SchemeName = "sgc"
    ladder: tuple[SchemeName, ...] = ()
    gate: GateSettings = GateSettings()

    @field_validator("max_size", "max_pixels")
    @classmethod
    def _above_min(cls, most: int | None, info: ValidationInfo) -> int | None:
        least = info.data.get(f"min_{(info.field_name or '').removeprefix('max_')}")
        if most is not None and least is not None and most < least:
            raise ValueError(f"{most} is below the minimum ({least}): no file could match")
        return most

    @field_validator("ladder")
    @classmethod
    def _climbable(cls, ladder: tuple[SchemeName, ...]) -> tuple[SchemeName, ...]:
        if len(set(ladder)) < len(ladder):
            raise ValueError("names a scheme twice")
        if "lossless" in ladder[:-1]:
            raise ValueError("goes on after lossless, which never falls short")
        return ladder

    @model_validator(mode="after")
    def _one_way_up(self) -> RuleSettings:
        if self.ladder and "scheme" in self.model_fields_set:
            raise ValueError("give scheme or ladder, not both")
        return self

    @property
    def rungs(self) -> tuple[SchemeName, ...]:
        """The schemes that are tried, in this order, until the gate lets one pass."""
        return self.ladder or (self.scheme,)


class ReleaseSettings(Section):
    grace: Duration = timedelta(days=30)
    min_free: Size = 256 * 1024 * 1024


class ScheduleSettings(Section):
    scan: Interval = timedelta(hours=24)
    archive: Interval = timedelta(hours=1)
    expire: Interval = timedelta(hours=1)
    verify: Interval = timedelta(days=7)
    verify_bytes_per_second: Annotated[Size, Field(ge=1)] = 20 * 10**6
    watch: bool = True


class RecallRuleSettings(Section):
    """What becomes of somebody who reads a released file.

    All conditions must hold, an empty list is none; the first rule that matches decides.
    """

    name: Name
    process: tuple[NonEmpty, ...] = ()
    cgroup: tuple[NonEmpty, ...] = ()
    user: tuple[NonEmpty, ...] = ()
    tiers: tuple[str, ...] = ()
    include: Annotated[Patterns, AfterValidator(not_empty)] = ("**",)
    exclude: Patterns = ()
    action: Literal["recall", "placeholder", "refuse"] = "recall"
    errno: Literal["EPERM", "EIO", "EBUSY", "EAGAIN"] = "EPERM"
    priority: Literal["interactive", "bulk"] = "interactive"


class RecallSettings(Section):
    """How readers of released files are answered."""

    mode: Literal["transparent", "managed"] = "transparent"
    events: Literal["auto", "open"] = "auto"
    socket: AbsolutePath = Path("/run/archiver/recall.sock")
    on_failure: Literal["placeholder", "error"] = "placeholder"
    deadline: Interval = timedelta(minutes=15)
    concurrent: Annotated[int, Field(ge=1, le=256)] = 4
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 4096
    per_hour: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(none)] = 5000
    rule: tuple[RecallRuleSettings, ...] = ()

    @property
    def desk_socket(self) -> Path:
        """Where the daemon tells of recalls, and answers mounts: beside the socket of `archiver-recall`."""
        return self.socket.with_name("desk.sock")


class DecoderSettings(Section):
    """Where records are decoded, and what `archiver decoder serve` offers to other hosts."""

    where: str = "process"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    batch: Annotated[int, Field(ge=0, le=256)] = 0
    waiting: Annotated[int, Field(ge=1, le=100_000)] = 1024
    idle: Annotated[Interval | None, BeforeValidator(none)] = timedelta(minutes=10)
    timeout: Interval = timedelta(minutes=2)
    token_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None
    ca_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None
    listen: Annotated[str, Field(pattern=_ADDRESS)] = "127.0.0.1:8465"
    certificate_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None
    key_file: Annotated[AbsolutePath | None, BeforeValidator(none)] = None

    @field_validator("where")
    @classmethod
    def _known_place(cls, where: str) -> str:
        url = _DECODER_URL.fullmatch(where)
        if where not in ("process", "worker") and (url is None or int(url[2] or 1) not in range(1, 1 << 16)):
            raise ValueError('must be "process", "worker" or the URL of a decoder, as "https://gpu.example:8465"')
        return where

    @model_validator(mode="after")
    def _whole_identity(self) -> DecoderSettings:
        if self.certificate_file is None and self.key_file is not None:
            raise ValueError("key_file without certificate_file")
        return self

    @property
    def token(self) -> str | None:
        """$ARCHIVER_DECODER_TOKEN, else what `token_file` holds; None where there is neither. Never to be printed.

        Raises ConfigInvalid where it cannot be read or is too short to keep anybody out.
        """
        token, source = os.environ.get(DECODER_TOKEN_ENVIRONMENT, "").strip(), f"${DECODER_TOKEN_ENVIRONMENT}"
        if not token and self.token_file is None:
            return None
        if not token and self.token_file is not None:
            token, source = _text_of(self.token_file, "decoder.token_file"), str(self.token_file)
        if not re.fullmatch(r"[!-~]{16,512}", token):
            raise ConfigInvalid(path=source, problem="a token is one line of 16 to 512 letters, digits and signs")
        return token

    @property
    def url(self) -> str | None:
        """The decoder on another host; None where records are decoded here."""
        return self.where if "://" in self.where else None


class LimitSettings(Section):
    """What one picture may cost; a file beyond a limit stays resident and is reported."""

    pixels: Annotated[int, Field(ge=1)] = 200_000_000
    file_size: Annotated[Size, Field(ge=1)] = 2 * 10**9


class LogSettings(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    journal: Literal["auto", "yes", "no"] = "auto"


class Settings(Section):
    catalog: CatalogSettings = CatalogSettings()
    vault: VaultSettings = VaultSettings()
    model: ModelSettings = ModelSettings()
    decoder: DecoderSettings = DecoderSettings()
    release: ReleaseSettings = ReleaseSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    recall: RecallSettings = RecallSettings()
    limits: LimitSettings = LimitSettings()
    log: LogSettings = LogSettings()
    gateway: GatewaySettings = GatewaySettings()
    tier: tuple[AnyTier, ...] = ()
    rule: tuple[RuleSettings, ...] = ()
    prices: tuple[PriceSettings, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        tiers = [(tier.name, Place.of(tier.model_dump())) for tier in self.tier]
        rules = [(rule.name, rule.tiers) for rule in self.rule]
        recall_rules = [(rule.name, rule.tiers) for rule in self.recall.rule]
        priced = [(tier.name, tier.prices) for tier in self.tier if isinstance(tier, S3TierSettings)]
        if problems := [*disagreements(tiers, rules, recall_rules), *price_problems(priced, self.prices)]:
            raise ValueError("; ".join(problems))
        return self

    @property
    def catalog_url(self) -> str:
        """The database URL: $ARCHIVER_CATALOG_URL, else what `url_file` holds, else `url`; never to be printed.

        Raises ConfigInvalid where the file cannot be read or the URL is not one of a SQLite or PostgreSQL database.
        """
        url = self._raw_catalog_url()
        if problem := _url_problem(url):
            raise ConfigInvalid(path=self.catalog_url_source, problem=problem)
        return url

    @property
    def redacted_url(self) -> str:
        """The database URL with *** for a password; a sentence where there is no readable one. Never raises."""
        try:
            return redact_url(self.catalog_url)
        except ConfigInvalid as error:
            return f"(no usable URL: {error.message})"

    @property
    def catalog_url_source(self) -> str:
        """Where the database URL comes from: "$ARCHIVER_CATALOG_URL", the path of a file, or "catalog.url"."""
        if os.environ.get(CATALOG_URL_ENVIRONMENT, "").strip():
            return f"${CATALOG_URL_ENVIRONMENT}"
        return str(self.catalog.url_file or "catalog.url")

    def _raw_catalog_url(self) -> str:
        if url := os.environ.get(CATALOG_URL_ENVIRONMENT, "").strip():
            return url
        if (file := self.catalog.url_file) is None:
            return self.catalog.url
        return _text_of(file, "catalog.url_file")


def _text_of(file: Path, key: str) -> str:
    """The one line that a file with a secret holds. Raises ConfigInvalid."""
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigInvalid(path=file, problem=f"{key} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(path=file, problem=f"{key} is not UTF-8 text") from None


def redact_url(url: str) -> str:
    """A database URL fit to be printed: passwords, also those given as query parameters, become ***."""
    # Imported here: SQLAlchemy costs a quarter of a second, which `archiver --help` should not pay.
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "(not a database URL)"
    hidden = {key: "***" for key in parsed.query if "password" in key.lower()}
    return parsed.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")


def _url_problem(url: str) -> str | None:
    """What is wrong with a database URL, in words that hold nothing of it."""
    if _PLAIN_SQLITE.fullmatch(url):
        return None  # the usual one, judged without SQLAlchemy, which `archiver status` has no time to import
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        return "the catalog's URL is not a database URL, as sqlite:////var/lib/archiver/catalog.db or postgresql://host/name"
    backend = parsed.get_backend_name()
    if backend not in ("sqlite", "postgresql"):
        return "the catalog lives in SQLite or PostgreSQL: sqlite:////absolute/path or postgresql://user@host/name"
    if backend == "sqlite" and not (parsed.database or "").startswith("/"):
        return "the catalog's path must be absolute: sqlite:////var/lib/archiver/catalog.db, with four slashes"
    return None


def config_path(given: Path | None = None) -> Path:
    """The file that will be read: --config, else $ARCHIVER_CONFIG, else ~/.config (if it is there), else /etc."""
    if given is not None:
        return given
    if named := os.environ.get(ENVIRONMENT):
        return Path(named)
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "archiver" / "config.toml"
    return home if home.exists() else SYSTEM_CONFIG


def load(path: Path) -> Settings:
    """Read and validate one TOML file.

    Raises ConfigMissing, or ConfigInvalid whose `problems` are all there are, each with the key it concerns.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigMissing(path=path) from None
    except OSError as error:
        raise ConfigInvalid(path=path, problem=f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(path=path, problem="is not UTF-8 text") from None
    return parse(text, path)


def parse(text: str, path: Path) -> Settings:
    """Validate TOML text, and that its tiers lie apart on this machine; `path` names it in errors.

    Raises ConfigInvalid, as `load` does.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigInvalid(path=path, problem=f"is not TOML: {error}") from None
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        problems = all_problems(error, raw, Settings)
    else:
        problems = shared_folders([(tier.name, tier.path) for tier in settings.tier if tier.kind == "local"])
        if not problems:
            return settings
    raise ConfigInvalid(path=path, problem="; ".join(problems), problems=tuple(problems))
