"""What is seen of a run while it goes on, and its totals at the end; the same for every verb that acts on files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from threading import Event, Lock
from types import TracebackType

from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, interruptible
from archiver.cli.output import Column, Output, human_ratio, printable
from archiver.errors import ArchiverError
from archiver.lifecycle.outcome import Outcome, Result, Tally
from archiver.units import about_size

_STYLES = {Result.DONE: "green", Result.REFUSED: "yellow", Result.FAILED: "red", Result.SKIPPED: "dim"}


class Reporter:
    """A listener for one run: JSON lines, or a bar on a terminal and one line for each file that was not acted on.

    With -v every file gets its line. May be called from several threads.
    """

    def __init__(self, invocation: Invocation, what: str, total: int | None = None) -> None:
        self._output = invocation.output
        self._every = invocation.verbose > 0
        self._lock = Lock()
        self._progress = _progress(invocation.output)
        self._what = what
        self._tally = Tally()
        self._task = self._progress.add_task(what, total=total) if self._progress else None
        self._resources = ExitStack()
        self._hints: dict[type[ArchiverError], str] = {}

    def begin(self, what: str, total: int | None = None) -> None:
        """Start counting anew, for the next step of a longer run."""
        with self._lock:
            self._what, self._tally = what, Tally()
            if self._progress and self._task is not None:
                self._progress.reset(self._task, total=total, description=what)

    def __enter__(self) -> Reporter:
        if self._progress:
            self._resources.enter_context(self._progress)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def __call__(self, outcome: Outcome) -> None:
        with self._lock:
            if outcome.result is Result.FAILED and outcome.error is not None:
                self._hints.setdefault(type(outcome.error), outcome.error.hint)
            if self._progress and self._task is not None:
                self._tally.add(outcome)
                self._progress.update(self._task, advance=1, description=self._counts())
            if self._output.as_json:
                self._output.json(outcome, "outcome")
            elif self._every or outcome.result is not Result.DONE:
                self._print(outcome)

    def advise(self) -> None:
        """What to do about the files that failed, once for each kind of failure."""
        for hint in filter(None, self._hints.values()):
            self._output.text(f"hint: {hint}")

    def _counts(self) -> str:
        counts = (f"{act} {result} {count:,}" for (act, result), count in sorted(self._tally.counts.items()))
        return f"{self._what}: " + ", ".join(counts)

    def _print(self, outcome: Outcome) -> None:
        path = str(outcome.path)  # which most reasons begin with
        line = Text.assemble((f"{outcome.result:<8}", _STYLES[outcome.result]), printable(path))
        detail = outcome.reason.removeprefix(path).lstrip(": ") or _gain(outcome)
        line.append(f"  {outcome.act}" + (f": {printable(detail)}" if detail else ""), style="dim")
        # Only the bar's own console can print above it; where stdout goes elsewhere the two do not meet.
        console = self._progress.console if self._progress and sys.stdout.isatty() else self._output.out
        console.print(line, soft_wrap=True)


def _gain(outcome: Outcome) -> str:
    if outcome.act == "release" and outcome.bytes_before:
        return f"{about_size(outcome.bytes_before)} -> {about_size(outcome.bytes_after)}"
    return ""


def _progress(output: Output) -> Progress | None:
    """A bar on stderr where somebody looks at it."""
    if output.as_json or not sys.stderr.isatty():
        return None
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        console=output.err,
        transient=True,
    )


def report(invocation: Invocation, what: str, run: Callable[[Reporter, Event], Tally], total: int | None = None) -> int:
    """Run one act under a reporter, print its totals, return the exit code."""
    with interruptible(invocation) as stop, Reporter(invocation, what, total) as reporter:
        tally = run(reporter, stop)
    code = EXIT_INTERRUPTED if stop.is_set() else tally.exit_code
    summarise(invocation.output, tally, code)
    reporter.advise()
    return code


@dataclass(frozen=True, slots=True)
class _Summary:
    counts: Mapping[str, Mapping[str, int]]
    reasons: Mapping[str, int]
    bytes_before: int
    bytes_after: int
    exit_code: int


def _by_act(tally: Tally) -> dict[str, dict[str, int]]:
    return {act: {result: tally.count(act, result) for result in Result} for act, _ in tally.counts}


def summarise(output: Output, tally: Tally, exit_code: int) -> None:
    """The totals of a run that ends with `exit_code`."""
    if output.as_json:
        output.json(
            _Summary(_by_act(tally), tally.reasons, tally.bytes_before, tally.bytes_after, exit_code), "summary"
        )
        return
    acts = sorted({name for name, _ in tally.counts})
    if not acts:
        output.text("Nothing was done." if exit_code == EXIT_INTERRUPTED else "Nothing to do.")
        return
    columns = [Column("act"), *(Column(result.value, number=True) for result in Result)]
    output.table(columns, [[name, *(tally.count(name, result) or None for result in Result)] for name in acts])
    if tally.reasons:
        output.table(
            [Column("files", number=True), Column("why they stay as they are")],
            [[count, reason] for reason, count in tally.reasons.most_common(12)],
        )
    if tally.bytes_before and tally.bytes_after:
        ratio = human_ratio(tally.bytes_before, tally.bytes_after)
        output.text(
            f"On disk: {about_size(tally.bytes_before)} before, {about_size(tally.bytes_after)} after"
            + (f" ({ratio} less)" if ratio and tally.bytes_after < tally.bytes_before else "")
            + "."
        )
