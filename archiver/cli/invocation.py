"""What every verb gets: the options given before or after it, the settings they name, and where to print."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from archiver.cli.output import Output

if TYPE_CHECKING:
    from archiver.config import Settings

EXIT_INTERRUPTED = 130


@dataclass
class Invocation:
    """One run of the program."""

    config: Path | None = None
    as_json: bool = False
    verbose: int = 0
    stop: Event = field(default_factory=Event)

    @cached_property
    def output(self) -> Output:
        return Output(as_json=self.as_json)

    @cached_property
    def config_path(self) -> Path:
        from archiver.config import config_path

        return config_path(self.config)

    @cached_property
    def settings(self) -> Settings:
        """The validated configuration. Raises ConfigMissing or ConfigInvalid."""
        from archiver.config import load

        return load(self.config_path)


pass_invocation = click.make_pass_decorator(Invocation, ensure=True)


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(Invocation), name, value)

    return callback


def common_options() -> list[click.Option]:
    """What the program takes and every verb takes too, so that the place in the line does not matter."""
    return [
        click.Option(
            ["--config", "config"],
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            expose_value=False,
            callback=_remember("config"),
            help="The configuration; else $ARCHIVER_CONFIG, ~/.config/archiver/config.toml, /etc/archiver/config.toml.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember("as_json"),
            help="Print JSON on stdout: one object, or one a line as things happen.",
        ),
        click.Option(
            ["-v", "--verbose", "verbose"],
            count=True,
            expose_value=False,
            callback=_remember("verbose"),
            help="Say more; twice shows where an error came from.",
        ),
    ]


@contextmanager
def interruptible(invocation: Invocation, what: str = "file") -> Iterator[Event]:
    """The first Ctrl-C (or SIGTERM) lets `what` is in hand be finished; the second one ends the program at once."""
    came: SimpleQueue[bool] = SimpleQueue()
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        came.put(True)

    def pass_on() -> None:
        # Not the handler: it runs between two steps of the main thread, which may hold the Event's lock just then.
        if came.get():
            invocation.stop.set()
            sys.stderr.write(f"\nstopping after the {what} in hand; once more to stop at once\n")

    messenger = Thread(target=pass_on, name="interrupts", daemon=True)
    messenger.start()
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield invocation.stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        came.put(False)
        messenger.join()
