"""Console, tables, human sizes and JSON; the only module that decides how something looks.

Text goes to stdout for people. With --json every verb prints one JSON object, or one a line where it reports as it
goes; nothing else is then written to stdout. Progress and errors go to stderr.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum, IntEnum
from pathlib import PurePath

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from archiver.errors import ArchiverError
from archiver.s3.address import ObjectUrl

# A pipe has no width: wide enough that no table is cut, since what reads it may be grep.
_PIPE_WIDTH = 200

Cell = str | int | float | None


@dataclasses.dataclass(frozen=True, slots=True)
class Column:
    """One column of a table; `number` aligns right and never wraps."""

    title: str
    number: bool = False
    style: str = ""


class Output:
    """Where a verb prints. One object per run of the program."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.as_json = as_json
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def json(self, value: object, type_: str = "") -> None:
        """One JSON object on one line, nothing where --json was not asked for; `type` tells the lines of a stream
        apart."""
        if self.as_json:
            plain = jsonable(value)
            line = {"type": type_, **plain} if type_ and isinstance(plain, dict) else plain
            self.out.file.write(json.dumps(line, ensure_ascii=True) + "\n")
            self.out.file.flush()

    def text(self, line: str = "", style: str = "") -> None:
        """One line for people, `printable`: it may have a file's name in it."""
        if not self.as_json:
            self.out.print(Text(printable(line), style=style), soft_wrap=True)

    def table(
        self,
        columns: Sequence[Column],
        rows: Iterable[Sequence[Cell]],
        *,
        title: str = "",
        total: Sequence[Cell] | None = None,
    ) -> None:
        """A table for people; `total` is a last row set apart."""
        if self.as_json:
            return
        if title:  # not the table's own, which is folded to the width that the table happens to have
            self.text(title, style="bold")
        self.out.print(build_table(columns, rows, total=total))

    def facts(self, pairs: Iterable[tuple[str, Cell]], *, title: str = "") -> None:
        """Name and value, one pair a line; pairs without a value are left out."""
        if self.as_json:
            return
        if title:
            self.text(title, style="bold")
        shown = [(name, str(value)) for name, value in pairs if value not in (None, "")]
        width = max((len(name) for name, _ in shown), default=0)
        for name, value in shown:
            self.out.print(Text.assemble((f"  {name:<{width}}  ", "dim"), printable(value)), soft_wrap=True)

    @contextmanager
    def busy(self, what: str) -> Iterator[Callable[[str], None]]:
        """A spinner on stderr where somebody looks at it; what is yielded tells how far things are."""
        if self.as_json or not sys.stderr.isatty():
            yield lambda _progress: None
            return
        with self.err.status(Text(what)) as status:
            yield lambda progress: status.update(Text(f"{what}: {printable(progress)}"))

    def warn(self, line: str) -> None:
        """One line on stderr, shown with --json too."""
        self.err.print(Text.assemble(("warning: ", "yellow"), printable(line)), soft_wrap=True)

    def error(self, error: ArchiverError) -> None:
        """`error: message` and `hint: ...` on stderr; with --json the same as one JSON object there."""
        if self.as_json:
            self.err.file.write(json.dumps({"type": "error", **jsonable_error(error)}) + "\n")
            return
        self.err.print(Text.assemble(("error: ", "bold red"), printable(error.message)), soft_wrap=True)
        if error.hint:
            self.err.print(Text.assemble(("hint: ", "cyan"), error.hint), soft_wrap=True)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        raise  # rich would exit with 1, which means something else here


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def build_table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell]],
    *,
    total: Sequence[Cell] | None = None,
) -> Table:
    """The one look all tables share."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.number else "left",
            style=column.style,
            no_wrap=column.number,
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    if total is not None:
        table.add_section()
        table.add_row(*(_cell(cell) for cell in total), style="bold")
    return table


def _cell(value: Cell) -> Text:
    return Text("" if value is None else f"{value:,}" if isinstance(value, int) else printable(str(value)))


# -- values ------------------------------------------------------------------------------------------------------------


def human_ratio(before: int, after: int) -> str:
    """How many times smaller: 1000000, 4096 -> "244x"."""
    if not before or not after:
        return ""
    ratio = before / after
    return f"{ratio:,.0f}x" if ratio >= 10 else f"{ratio:.1f}x"


def human_time(moment: datetime | None) -> str:
    """Local time, minutes; "never" for None."""
    return "never" if moment is None else moment.astimezone().strftime("%Y-%m-%d %H:%M")


def quoted(path: PurePath) -> str:
    """A path as it can be pasted into a shell; relative to here where that is shorter."""
    text = os.fspath(path)
    relative = os.path.relpath(text)
    return shlex.quote(printable(relative if len(relative) < len(text) else text))


def program() -> str:
    """How this program was called, for commands that a user may paste."""
    called = sys.argv[0]
    return shlex.quote(called) if PurePath(called).name == "archiver" and os.sep in called else "archiver"


def printable(text: str) -> str:
    """Show control characters and undecodable bytes as escapes: a file's name may hold anything, terminals obey it."""
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    if 0xDC80 <= ord(char) <= 0xDCFF:  # what os.fsdecode makes of a byte that is no UTF-8
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()


def jsonable(value: object) -> object:
    """Dataclasses, paths, times and enums as plain JSON values.

    Times are ISO 8601 in UTC, spans are seconds, bytes are hex, paths are text in which a byte that is no UTF-8 is a
    lone surrogate (Python's `os.fsencode` gives the exact bytes back).
    """
    match value:
        case None | bool() | int() | float() | str() if not isinstance(value, Enum):
            return value
        case IntEnum():
            return getattr(value, "label", None) or value.name.lower().replace("_", "-")
        case Enum():
            return jsonable(value.value)
        case ArchiverError():
            return jsonable_error(value)
        case bytes():
            return value.hex()
        case PurePath() | ObjectUrl():
            return str(value)
        case datetime():
            return value.astimezone(UTC).isoformat()
        case timedelta():
            return value.total_seconds()
        case _:
            return _jsonable_container(value)


def _jsonable_container(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Counter | Mapping):
        return {_key(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Sequence | AbstractSet):
        return [jsonable(item) for item in value]
    return str(value)


def _key(key: object) -> str:
    return "/".join(_key(part) for part in key) if isinstance(key, tuple) else str(jsonable(key))


def jsonable_error(error: ArchiverError) -> dict[str, object]:
    """What a script needs to know of a failure."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }
