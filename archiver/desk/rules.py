"""What becomes of a reader: the first [[recall.rule]] that matches decides."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from fnmatch import fnmatchcase
from pathlib import PurePosixPath

from archiver.config import RecallRuleSettings, RecallSettings, compile_patterns, path_matches
from archiver.decoder.engine import Priority
from archiver.desk.asker import Asker

_COMM_LENGTH = 15  # bytes of a process's name that the kernel keeps
_PRIORITIES = {"interactive": Priority.INTERACTIVE, "bulk": Priority.BULK}


class Action(StrEnum):
    """What a rule says."""

    RECALL = "recall"
    PLACEHOLDER = "placeholder"  # the reader gets the blurred picture
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of one reader. `rule`: the name of the rule that decided, "" where none did."""

    action: Action
    priority: Priority = Priority.INTERACTIVE
    errno: int = 0
    rule: str = ""


class Rules:
    """The rules of a configuration, compiled."""

    def __init__(self, settings: RecallSettings) -> None:
        self._managed = settings.mode == "managed"
        self._rules = [_Rule(rule) for rule in settings.rule]

    def judge(self, asker: Asker, tier: str | None, path: str | None) -> Ruling:
        """`tier` and `path` (relative to it) are None for a file that lies in no tier."""
        if self._managed:
            return Ruling(Action.PLACEHOLDER, rule="mode = managed")
        matching = (rule.ruling for rule in self._rules if rule.matches(asker, tier, path))
        return next(matching, Ruling(Action.RECALL))


class _Rule:
    def __init__(self, settings: RecallRuleSettings) -> None:
        self._settings = settings
        self._everywhere = settings.include == ("**",) and not settings.exclude
        self._include = compile_patterns(settings.include)
        self._exclude = compile_patterns(settings.exclude)
        self.ruling = Ruling(
            Action(settings.action),
            _PRIORITIES[settings.priority],
            getattr(errno, settings.errno) if settings.action == "refuse" else 0,
            settings.name,
        )

    def matches(self, asker: Asker, tier: str | None, path: str | None) -> bool:
        """Whether every condition holds. What is not known of a reader or a file matches no condition."""
        wanted = self._settings
        return (
            (not wanted.process or any(_is_process(asker, pattern) for pattern in wanted.process))
            and (not wanted.cgroup or _is_like(asker.cgroup, wanted.cgroup))
            and (not wanted.user or (asker.uid >= 0 and bool({asker.user, str(asker.uid)} & set(wanted.user))))
            and (not wanted.tiers or tier in wanted.tiers)
            and (self._everywhere or (path is not None and self._lies_inside(path)))
        )

    def _lies_inside(self, path: str) -> bool:
        return path_matches(self._include, path) and not path_matches(self._exclude, path)


def _is_process(asker: Asker, pattern: str) -> bool:
    if "/" in pattern:
        return fnmatchcase(asker.exe, pattern)
    if len(asker.comm) == _COMM_LENGTH and pattern[:_COMM_LENGTH] == asker.comm:
        return True
    return any(_is_like(name, [pattern]) for name in (asker.comm, PurePosixPath(asker.exe).name))


def _is_like(text: str, patterns: Sequence[str]) -> bool:
    return bool(text) and any(fnmatchcase(text, pattern) for pattern in patterns)
