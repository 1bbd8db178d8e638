"""What is wrong with a configuration, all of it at once and in words that help.

Values are left out (any of them may be a password in the wrong place) unless a check of ours put them in.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError


def all_problems(error: ValidationError, raw: dict[str, Any], model: type[BaseModel]) -> list[str]:
    """Every problem of the parsed TOML `raw` that `model` refused with `error`, one sentence each."""
    problems = [_explain(problem, raw, model) for problem in error.errors(include_url=False) if problem["loc"]]
    # Where an entry is wrong in itself pydantic compares no further; a reader wants to hear everything at once.
    return problems + _disagreements_in(raw)


def disagreements(
    tiers: Sequence[tuple[str, Path | None]],
    rules: Sequence[tuple[str, Sequence[str]]],
    recall_rules: Sequence[tuple[str, Sequence[str]]] = (),
) -> list[str]:
    """What tiers (name, path) and both kinds of rules (name, tiers), each valid alone, get wrong together."""
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
    for (one, path), (other, second) in combinations(tiers, 2):
        if path and second and (path.is_relative_to(second) or second.is_relative_to(path)):
            problems.append(f"tiers {one!r} and {other!r} overlap: {path} and {second}")
    return problems


def _disagreements_in(raw: dict[str, Any]) -> list[str]:
    """As `disagreements`, from unvalidated TOML: what has not even the right type is left out."""
    tiers = [(tier["name"], tier.get("path")) for tier in _tables(raw, "tier") if isinstance(tier.get("name"), str)]
    recall = raw.get("recall")
    return disagreements(
        [(name, Path(path) if isinstance(path, str) and path.startswith("/") else None) for name, path in tiers],
        _rules_in(raw),
        _rules_in(recall) if isinstance(recall, dict) else (),
    )


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
    entry = raw[str(kind)][position]
    name = entry.get("name") if isinstance(entry, dict) else None
    shown = f'{kind} "{name}": ' if isinstance(name, str) else f"{kind} {int(position) + 1}: "
    return shown, ".".join(str(part) for part in rest)


def _suggestion(location: tuple[str | int, ...], model: type[BaseModel]) -> str:
    """The nearest known key: of the same section, else of any other."""
    *section, key = (str(part) for part in location if not isinstance(part, int))
    sections = dict(known_sections(model))
    here = list(sections.get(".".join(section), model).model_fields)
    if near := difflib.get_close_matches(key, here, n=1, cutoff=0.5):
        return f" (did you mean {near[0]}?)"
    elsewhere = {name: f"[{title}] {name}" for title, part in sections.items() if title for name in part.model_fields}
    if near := difflib.get_close_matches(key, elsewhere, n=1, cutoff=0.8):
        return f" (did you mean {elsewhere[near[0]]}?)"
    return f" (known here: {', '.join(here)})"


def known_sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every section of the settings with its dotted name: "" for the top, "catalog", "rule", "rule.gate" ..."""
    yield prefix, model
    for name, field in model.model_fields.items():
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from known_sections(inner, f"{prefix}.{name}" if prefix else name)
