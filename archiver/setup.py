"""First steps: a starting configuration, an empty catalog and a vault with the embedded weights in it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from archiver.config import SYSTEM_CONFIG, S3TierSettings, Settings, config_path, load, parse
from archiver.config_text import default_config
from archiver.errors import ConfigExists, ConfigMissing, TierUnreachable
from archiver.s3.address import ObjectUrl
from archiver.s3.tier import S3Tier


@dataclass(frozen=True, slots=True)
class Initialised:
    """What `init` found or made."""

    config: Path
    config_written: bool
    catalog: str
    vault: Path
    profile: str
    tiers: tuple[tuple[str, str], ...]


def initialise(
    given: Path | None, roots: Sequence[Path | ObjectUrl], state: Path | None, endpoint: str = ""
) -> Initialised:
    """Write a configuration for the folders and buckets `roots` where there is none, then create what it names where
    that is missing.

    Safe to run again. Raises ConfigExists (folders were named, but there is a configuration already), ConfigMissing
    (neither), TierUnreachable, OSError.
    """
    config = _target(given)
    written = not config.exists()
    if not written and roots:
        raise ConfigExists(path=config)
    if written:
        if not roots:
            raise ConfigMissing(path=config)
        write_config(config, starting_config(roots, state or _default_state(), endpoint))
    settings = load(config)
    create(settings)
    return Initialised(
        config=config,
        config_written=written,
        catalog=settings.redacted_url,
        vault=settings.vault.path,
        profile=settings.model.profile,
        tiers=tuple((tier.name, tier.root) for tier in settings.tier),
    )


def create(settings: Settings) -> None:
    """Create catalog and vault where they are missing and bring the embedded weights into the vault."""
    from archiver.catalog.schema import upgrade
    from archiver.models.vault import Vault

    if settings.catalog_url.startswith("sqlite"):
        _database_path(settings.catalog_url).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    upgrade(settings.catalog_url)
    Vault(settings.vault.path).install_embedded()


def starting_config(roots: Sequence[Path | ObjectUrl], state: Path, endpoint: str = "") -> str:
    """The text of a configuration with one tier a folder or bucket, and one cautious rule.

    Raises TierUnreachable for what is no folder and for a bucket that cannot be asked, ConfigInvalid for those that
    make no valid configuration.
    """
    places: list[Path | ObjectUrl] = []
    for root in roots:
        if isinstance(root, Path) and not root.is_dir():
            raise TierUnreachable(tier=root.name, reason=f"{root} is not a folder")
        places.append(root.resolve() if isinstance(root, Path) else root)
    text = default_config(state.absolute(), places, endpoint)
    for settings in parse(text, Path("the new configuration")).tier:
        if isinstance(settings, S3TierSettings):
            with closing(S3Tier(settings)) as tier:
                tier.check()
    return text


def write_config(path: Path, text: str) -> None:
    """Write a new configuration, never over another one. Raises ConfigExists, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigExists(path=path) from None


def _database_path(url: str) -> Path:
    from sqlalchemy.engine import make_url

    return Path(make_url(url).database or "")


def _target(given: Path | None) -> Path:
    """Where the configuration is or will be: a user other than root has no business in /etc."""
    path = config_path(given)
    if path == SYSTEM_CONFIG and os.geteuid() != 0 and not path.exists():
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "archiver" / "config.toml"
    return path


def _default_state() -> Path:
    if os.geteuid() == 0:
        return Path("/var/lib/archiver")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "archiver"
