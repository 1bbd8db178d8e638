"""The configuration as text: what is in force, what a new installation starts with, and advice on a valid one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from archiver.config import CatalogSettings, S3TierSettings, Section, Settings, TierSettings, parse
from archiver.config_problems import sections_in
from archiver.errors import ConfigInvalid
from archiver.s3.address import ObjectUrl
from archiver.units import format_duration, format_size, parse_size


def render(settings: Settings) -> str:
    """TOML of every key in force, defaults marked; no secret is in it, else it reads back as the same settings."""
    lines: list[str] = []
    for name in Settings.model_fields:
        value = getattr(settings, name)
        if name == "catalog":
            lines += ["", "[catalog]", *_catalog_keys(settings)]
        else:
            lines += _tables(name, value)
    return "\n".join(lines[1:]) + "\n"


def _tables(name: str, value: Section | tuple[Section, ...]) -> Iterator[str]:
    """A section, and what is repeated in it; or every entry of a repeated one."""
    for entry in value if isinstance(value, tuple) else (value,):
        yield from ("", f"[[{name}]]" if isinstance(value, tuple) else f"[{name}]", *_keys(entry))
        for inner in type(entry).model_fields:
            if is_repeated(entry, inner):
                yield from _tables(f"{name}.{inner}", getattr(entry, inner))


def is_repeated(section: Section | type[Section], name: str) -> bool:
    """Whether a key of a section stands for [[tables]]."""
    kind = section if isinstance(section, type) else type(section)
    annotation = kind.model_fields[name].annotation
    return get_origin(annotation) is tuple and bool(sections_in(annotation))


def default_config(data_dir: Path, tiers: Sequence[Path | ObjectUrl], endpoint: str = "") -> str:
    """The short configuration that `archiver init` writes: catalog and vault below `data_dir`, one rule for every tier.

    Buckets are those of the server at `endpoint`, "" for AWS. Raises ConfigInvalid where these folders and buckets make
    no valid configuration: relative, overlapping, or not UTF-8.
    """
    from sqlalchemy.engine import URL  # costs a quarter of a second, which commands without a catalog should not pay

    url = URL.create("sqlite", database=str(data_dir / "catalog.db")).render_as_string(hide_password=False)
    names = _tier_names(tiers)
    text = _NEW.format(
        url=_quoted(url),
        vault=_quoted(str(data_dir / "vault")),
        tiers="\n".join(_new_tier(name, place, endpoint) for name, place in zip(names, tiers, strict=True)),
    )
    parse(text, Path("the new configuration"))
    return text


def example() -> str:
    """config.example.toml, as shipped: every key, its default and what it does."""
    shipped = resources.files("archiver") / "config.example.toml"
    if shipped.is_file():
        return shipped.read_text(encoding="utf-8")
    return (Path(__file__).parent.parent / "config.example.toml").read_text(encoding="utf-8")  # a source tree


def advice(settings: Settings, path: Path) -> Iterator[str]:
    """What is allowed but seldom meant, one sentence each, for `archiver config check`."""
    if not settings.tier:
        yield "no [[tier]]: nothing is watched"
    for tier in settings.tier:
        yield from (f"tier {tier.name!r}: {sentence}" for sentence in _tier_advice(settings, tier))
    if settings.release.grace == timedelta(0):
        yield "release.grace is 0s: an original is gone the moment it is released, beyond `archiver undo`"
    secret = settings.catalog.url_file or path
    holds_password = settings.catalog.url_file is not None or "***" in settings.redacted_url
    if holds_password and secret.exists() and secret.stat().st_mode & 0o077:
        yield f"{secret} can hold the catalog's password and others may read it: chmod 600"
    for key in (settings.decoder.token_file, settings.decoder.key_file):
        if key is not None and key.exists() and key.stat().st_mode & 0o077:
            yield f"{key} lets whoever reads it decode, or pose as the decoder, and others may read it: chmod 600"
    for key in (settings.gateway.keys_file, settings.gateway.token_file, settings.gateway.key_file):
        if key is not None and key.exists() and key.stat().st_mode & 0o077:
            yield f"{key} lets whoever reads it read every bucket, or pose as the gateway, and others may: chmod 600"
    if (settings.decoder.url or "").startswith("http://"):
        yield f"{settings.decoder.url}: token, records and pictures travel in the clear"


def _tier_advice(settings: Settings, tier: TierSettings) -> Iterator[str]:
    if not any(rule.action != "keep" for rule in settings.rule if not rule.tiers or tier.name in rule.tiers):
        yield "no rule releases or records anything on it"
    if isinstance(tier, S3TierSettings):
        if tier.endpoint.startswith("http://"):
            yield f"{tier.endpoint}: images travel in the clear"
        file = tier.credentials_file
        if file is not None and file.exists() and file.stat().st_mode & 0o077:
            yield f"{file} holds the key to the bucket and others may read it: chmod 600"
    elif not tier.path.is_dir():
        yield f"{tier.path} is not a folder now; until it is there the tier is unreachable"


def _catalog_keys(settings: Settings) -> Iterator[str]:
    field = CatalogSettings.model_fields["url"]
    if (source := settings.catalog_url_source) == "catalog.url":
        yield _line("url", field, settings.redacted_url, given="url" in settings.catalog.model_fields_set)
    else:
        yield f"# {settings.redacted_url}, from {source}"
    if settings.catalog.url_file is not None:
        yield f"url_file = {_quoted(str(settings.catalog.url_file))}"


def _keys(section: Section) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        if not is_repeated(section, name):
            yield _line(name, field, getattr(section, name), given=name in section.model_fields_set)


def _line(name: str, field: FieldInfo, value: object, *, given: bool) -> str:
    return f"{name} = {_toml(value, field)}" + ("" if given else "  # default")


def _toml(value: object, field: FieldInfo) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, timedelta):
        return _quoted(format_duration(value))
    if isinstance(value, int) and _is_size(field.annotation, field.metadata):
        return _quoted(format_size(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, tuple):
        return f"[{', '.join(_quoted(str(entry)) for entry in value)}]"
    if isinstance(value, Section):
        return f"{{ {', '.join(f'{k} = {_toml(getattr(value, k), f)}' for k, f in type(value).model_fields.items())} }}"
    return _quoted(str(value))


def _is_size(annotation: Any, metadata: Sequence[object]) -> bool:
    if any(getattr(entry, "func", None) is parse_size for entry in metadata):
        return True
    return any(_is_size(inner, getattr(inner, "__metadata__", ())) for inner in get_args(annotation))


def _quoted(text: str) -> str:
    """A TOML basic string. Raises ConfigInvalid for what TOML cannot hold: a file name that is not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ConfigInvalid(path=text.encode("utf-8", "replace").decode(), problem="its name is not UTF-8") from None
    # JSON's escapes are TOML's, but TOML wants DEL escaped, too.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _new_tier(name: str, place: Path | ObjectUrl, endpoint: str) -> str:
    if isinstance(place, Path):
        given = {"path": str(place)}
    else:
        given = {"kind": "s3", "bucket": place.bucket, "prefix": place.key, "endpoint": endpoint}
    keys = {"name": name} | {key: value for key, value in given.items() if value}
    return "[[tier]]\n" + "".join(f"{key} = {_quoted(value)}\n" for key, value in keys.items())


def _own_name(place: Path | ObjectUrl) -> str:
    if isinstance(place, Path):
        return place.name
    return place.key.rstrip("/").rpartition("/")[2] or place.bucket


def _tier_names(places: Sequence[Path | ObjectUrl]) -> list[str]:
    """A short distinct name for each folder or bucket, from its own name."""
    names: list[str] = []
    for place in places:
        base = re.sub(r"[^a-z0-9]+", "-", _own_name(place).lower()).strip("-")[:48] or "photos"
        name, count = base, 2
        while name in names:
            name, count = f"{base}-{count}", count + 1
        names.append(name)
    return names


_NEW = """\
# What the archiver watches, and when an image is cold. These are the keys most people change;
# config.example.toml (beside the installed package's modules) explains all of them. `archiver config check` validates
# this file, and `archiver plan` shows what it would do before anything is done.

[catalog]
url = {url}

[vault]
# Model weights. A record without its weights is noise: back this folder up.
path = {vault}

[release]
# How long `archiver undo` can bring the original bytes back. Space is freed when this time is over.
grace = "30d"

{tiers}
# The first rule that matches decides; a file that no rule matches is left alone.
[[rule]]
name = "cold"
# "release" gives the space back; "record" only records; "keep" leaves alone.
action = "release"
unused_for = "180d"
unchanged_for = "30d"
min_size = "64 KiB"
scheme = "sgc"
exclude = []
"""
