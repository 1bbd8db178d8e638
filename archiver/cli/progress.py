"""How far long work has come: a look at many photographs, a training."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from archiver.cli.output import Output, printable

if TYPE_CHECKING:
    from rich.progress import TaskID

_SHOWN = ("total", "psnr", "held_out", "held_out_meaning")  # of what training measures


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


@contextmanager
def training(output: Output) -> Iterator[Callable[[str, float, dict[str, float]], None]]:
    """What is told of each stage's progress: bars on stderr where somebody looks at them, else the lines of the log."""
    if output.as_json or not sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
        yield lambda _stage, _share, _measured: None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[lately]}", style="dim"),
    )
    tasks: dict[str, TaskID] = {}
    with Progress(*columns, console=output.err) as bars:

        def tell(stage: str, share: float, measured: dict[str, float]) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0, lately="")
            bars.update(tasks[stage], completed=share)
            if measured:
                lately = "  ".join(f"{key} {measured[key]:.3f}" for key in _SHOWN if key in measured)
                bars.update(tasks[stage], lately=lately)

        yield tell
