"""What the settings are made of: durations, sizes, names, patterns, each with its check."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pathspec import PathSpec
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from archiver.units import parse_duration, parse_size

Listed = TypeVar("Listed", bound=tuple[str, ...])


def absolute(path: Path) -> Path:
    """Refuse what depends on the folder the program was started in, or on who started it."""
    # The value is not named: a URL with a password, put where its file belongs, would be echoed.
    if not path.is_absolute():
        raise ValueError("must be an absolute path (~ and variables are not expanded)")
    if ".." in path.parts:
        raise ValueError("must not contain '..'")
    return path


def compile_patterns(patterns: Iterable[str]) -> PathSpec[Any]:
    """Patterns as in .gitignore, in order, the last one that matches decides ("!" takes back).

    Raises ValueError where one cannot be read.
    """
    try:
        return PathSpec.from_lines("gitignore", patterns)
    except re.error as error:
        raise ValueError(f"{error}") from None


def path_matches(patterns: PathSpec[Any], path: str) -> bool:
    """Whether a path, relative to its tier, matches; whatever Linux allows in a name is fine, `os.fsdecode`d."""
    # pathspec's expressions do not let "**" run over a line break, which a Linux file name may hold.
    return patterns.match_file(path.replace("\n", "\ufffd"))


def _readable_pattern(pattern: str) -> str:
    try:
        compiled = compile_patterns([pattern])
    except ValueError as error:
        raise ValueError(f"{pattern!r} is no path pattern: {error}") from None
    if not compiled.patterns or compiled.patterns[0].include is None:
        raise ValueError(f"{pattern!r} is no path pattern: it is empty or a comment")
    return pattern


def not_empty(entries: Listed) -> Listed:
    if not entries:
        raise ValueError("is empty: no file could match")
    return entries


def _within_a_century(value: timedelta) -> timedelta:
    # More would leave the calendar when it is added to or taken from a date.
    if not timedelta(0) <= value <= timedelta(days=36500):
        raise ValueError("must be between 0 and 100 years")
    return value


def _at_least_a_second(value: timedelta) -> timedelta:
    if value < timedelta(seconds=1):
        raise ValueError("must be at least a second: it is how often the daemon does this")
    return value


def none(value: object) -> object:
    """TOML has no null: the word "none" stands for a limit or floor that is not set."""
    return None if value == "none" else value


Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_within_a_century)]
Interval = Annotated[Duration, AfterValidator(_at_least_a_second)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0)]
OptionalSize = Annotated[Size | None, BeforeValidator(none)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Floor = Annotated[Annotated[float, Field(ge=0.0)] | None, BeforeValidator(none)]
AbsolutePath = Annotated[Path, AfterValidator(absolute)]
Patterns = tuple[Annotated[str, AfterValidator(_readable_pattern)], ...]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
NonEmpty = Annotated[str, Field(min_length=1)]
Tag = Annotated[str, Field(min_length=1, pattern=r"^[^,]*$")]
SchemeName = Literal["sgc", "cocli", "coclico", "g-coclico", "seacom", "seseco", "lossless"]
FormatName = Literal["jpeg", "png", "webp", "tiff"]


class Section(BaseModel):
    # Inputs stay out of error texts and tracebacks: any of them may be a password in the wrong place.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
