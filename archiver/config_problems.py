"""What is wrong with a configuration, all of it at once and in words that help.

Values are left out (any of them may be a password in the wrong place) unless a check of ours put them in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from archiver.mounts import location


def all_problems(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Every problem of the parsed TOML `raw` that `model` refused with `error`, one sentence each."""
    problems = [_explain(problem, raw, model) for problem in error.errors(include_url=False) if problem["loc"]]
    # Where an entry is wrong in itself pydantic compares no further; a reader wants to hear everything at once.
    return problems + _disagreements_in(raw)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tier lies: a folder, or a bucket and prefix; `shown` is what a user is told."""

    path: PurePosixPath
    shown: str

    @classmethod
    def of(cls, tier: dict[str, Any]) -> Place | None:
        """From a [[tier]], validated or not; None where it cannot be told."""
        if tier.get("kind") == "s3":
            bucket, prefix, endpoint = (tier.get(key, "") for key in ("bucket", "prefix", "endpoint"))
            if not (bucket and all(isinstance(part, str) for part in (bucket, prefix, endpoint))):
                return None
            server = re.sub(r"^https?://", "", endpoint.rstrip("/").lower())
            return cls(PurePosixPath("s3:", server or "aws", bucket, prefix.strip("/")), f"s3://{bucket}/{prefix}")
        path = str(tier.get("path"))
        return cls(PurePosixPath(path), path) if path.startswith("/") else None

    def overlaps(self, other: Place) -> bool:
        """Whether one lies in the other."""
        return self.path.is_relative_to(other.path) or other.path.is_relative_to(self.path)


def disagreements(
    tiers: Sequence[tuple[str, Place | None]],
    rules: Sequence[tuple[str, Sequence[str]]],
    recall_rules: Sequence[tuple[str, Sequence[str]]] = (),
) -> list[str]:
    """What tiers (name, place) and both kinds of rules (name, tiers), each valid alone, get wrong together."""
    problems = []
    names = [name for name, _ in tiers]
    named = (
        ("tiers", names),
        ("rules", [name for name, _ in rules]),
        ("recall rules", [name for name, _ in recall_rules]),
    )
    for what, seen in named:
        problems += [f"two {what} have the name {name!r}" for name in sorted(set(seen)) if seen.count(name) > 1]
    for rule, wanted in (*rules, *recall_rules):
        problems += [
            f"rule {rule!r} names tier {name!r}, which is not configured" for name in wanted if name not in names
        ]
    for (one, first), (other, second) in combinations(tiers, 2):
        if first and second and first.overlaps(second):
            problems.append(f"tiers {one!r} and {other!r} overlap: {first.shown} and {second.shown}")
    return problems


def shared_folders(tiers: Sequence[tuple[str, Path]]) -> list[str]:
    """Which tiers (name, folder) are one folder, or one lies in the other, by a symbolic link or a bind mount.

    The pins and rules of one would protect nothing from the other.
    """
    if len(tiers) < 2:
        return []  # every command comes here: a disk is asked where it is only to be compared
    places = [(name, path, location(path)) for name, path in tiers]
    return [
        f"tiers {one!r} and {other!r} overlap: {first} and {second} are one folder, or one lies in the other"
        for (one, first, here), (other, second, there) in combinations(places, 2)
        if here.is_relative_to(there) or there.is_relative_to(here)
    ]


def _disagreements_in(raw: dict[str, Any]) -> list[str]:
    """As `disagreements`, from unvalidated TOML: what has not even the right type is left out."""
    tiers = [(tier["name"], Place.of(tier)) for tier in _tables(raw, "tier") if isinstance(tier.get("name"), str)]
    recall = raw.get("recall")
    return disagreements(tiers, _rules_in(raw), _rules_in(recall) if isinstance(recall, dict) else ())


def _rules_in(raw: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Name and tiers of every [[rule]] of a section."""
    rules = [(rule["name"], rule.get("tiers")) for rule in _tables(raw, "rule") if isinstance(rule.get("name"), str)]
    return [
        (name, [tier for tier in wanted if isinstance(tier, str)] if isinstance(wanted, list) else [])
        for name, wanted in rules
    ]


def _tables(raw: dict[str, Any], key: str) -> list[dict[str, Any]]:
    entries = raw.get(key)
    return [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []


def _explain(problem: Any, raw: dict[str, Any], model: type[BaseModel]) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    entry, key = _place(location, raw)
    if problem["type"] == "extra_forbidden":
        return f"{entry}unknown key {key}{_suggestion(location, model)}"
    if problem["type"] == "missing":
        return f"{entry}{key} is missing"
    if problem["type"] == "tuple_type" and isinstance(problem["input"], dict):
        return f"{key}: write [[{key}]], in double brackets, for each of them"
    message: str = problem["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if problem["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        near = difflib.get_close_matches(str(problem["input"]), known, n=1, cutoff=0.5)
        message += f" (did you mean {near[0]!r}?)" if near else ""
    return f"{entry}{key}: {message}" if key else f"{entry}{message}"


def _place(location: tuple[str | int, ...], raw: dict[str, Any]) -> tuple[str, str]:
    """("tier", 0, "path") -> ('tier "photos": ', "path"), or ("tier 1: ", "path") where it has no name."""
    if len(location) < 2 or not isinstance(location[1], int):
        return "", ".".join(str(part) for part in location)
    kind, position, *rest = location
    if kind == "tier":
        rest = rest[1:]  # pydantic names the kind of tier, which is no key
    entry = raw[str(kind)][position]
    name = entry.get("name") if isinstance(entry, dict) else None
    shown = f'{kind} "{name}": ' if isinstance(name, str) else f"{kind} {int(position) + 1}: "
    return shown, ".".join(str(part) for part in rest)


def _suggestion(location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    """The nearest known key: of the same section, else of any other."""
    *section, key = (str(part) for part in location if not isinstance(part, int))
    sections = dict(known_sections(model))
    here = list(sections.get(".".join(section), model).model_fields)
    titles = {title: re.sub(r"^tier\..*", "tier", title) for title in sections if title}
    elsewhere = {name: f"[{shown}] {name}" for title, shown in titles.items() for name in sections[title].model_fields}
    if key in elsewhere:
        return f" (did you mean {elsewhere[key]}?)"
    if near := difflib.get_close_matches(key, here, n=1, cutoff=0.5):
        return f" (did you mean {near[0]}?)"
    if near := difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8):
        return f" (did you mean {elsewhere[near[0]]}?)"
    return f" (known here: {', '.join(here)})"


def known_sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of the settings with its dotted name: "" for the top, "catalog", "rule", "rule.gate" ...

    Where it comes in several kinds, one for each: "tier.local", "tier.s3".
    """
    yield prefix, model
    for name, field in model.model_fields.items():
        title = f"{prefix}.{name}" if prefix else name
        inner = sections_in(field.annotation)
        for section in inner:
            kind = f".{section.model_fields['kind'].default}" if len(inner) > 1 else ""
            yield from known_sections(section, title + kind)


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The sections that a key may hold, however deep in its type they are named."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in sections_in(part)]
