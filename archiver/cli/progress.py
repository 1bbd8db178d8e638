"""How far a long look at many photographs has come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from archiver.cli.output import Output, printable


@contextmanager
def advancing(output: Output, doing: str, done: str, total: int) -> Iterator[Callable[[Path], None]]:
    """What is told of each photograph that is done: a bar on stderr where somebody looks at it, else a line each."""
    if output.as_json or not sys.stderr.isatty():
        yield lambda path: output.err.print(f"{done} {printable(str(path))}", soft_wrap=True)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=output.err, transient=True) as bar:
        task = bar.add_task(doing, total=total)
        yield lambda _path: bar.advance(task)
