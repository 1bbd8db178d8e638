"""What all failures have in common."""

from __future__ import annotations

import re
from typing import ClassVar

EXIT_OK = 0
EXIT_WARNINGS = 1


_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


class ArchiverError(Exception):
    """{detail}"""

    exit_code: ClassVar[int] = 7
    hint: ClassVar[str] = ""

    def __init__(self, **facts: object) -> None:
        self.facts = facts
        template = (type(self).__doc__ or "").partition("\n")[0]
        super().__init__(template.format(**facts))

    @property
    def message(self) -> str:
        """The filled-in message, one line."""
        return str(self.args[0])

    @property
    def kind(self) -> str:
        """What sort of failure it is, in a word or two, the same for every file: "file open", "too small"."""
        return _WORDS.sub(" ", type(self).__name__).lower()

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.facts)


def _rebuild(cls: type[ArchiverError], facts: dict[str, object]) -> ArchiverError:
    return cls(**facts)
