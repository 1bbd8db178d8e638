"""The program: which verbs there are, and what a failure looks like.

A verb's module is imported only when that verb runs, so that `archiver --help` and `archiver status` start at once.
Hence the one-line helps stand here; a test keeps them the same as those of the verbs themselves.
"""

from __future__ import annotations

import difflib
import importlib
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import click

from archiver import __version__
from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, common_options
from archiver.errors import ArchiverError, CatalogUnavailable, from_os_error

EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE, what a shell reports of a program whose reader went away
EXIT_DEFECT = 70


@dataclass(frozen=True, slots=True)
class Verb:
    """Where a verb is and what `archiver --help` says of it."""

    name: str
    module: str
    help: str


VERBS: dict[str, tuple[Verb, ...]] = {
    "Start here": (
        Verb("demo", "demo", "Try everything on copies of a few photographs."),
        Verb("init", "setup", "Write a configuration, create the catalog and the vault."),
        Verb("config", "setup", "Check, show or locate the configuration."),
        Verb("scan", "scan", "Read the tiers and bring the catalog up to date."),
        Verb("plan", "scan", "Show what would be archived, why, and what it would save."),
        Verb("run", "daemon", "Run the daemon: scan, watch, archive, expire and verify."),
    ),
    "Images": (
        Verb("archive", "acts", "Record cold images and release their space."),
        Verb("recall", "acts", "Regenerate released images in place."),
        Verb("mount", "mount", "Show a folder at another place, where reading a released file recalls it."),
        Verb("undo", "acts", "Bring original bytes back within the grace period."),
        Verb("pin", "pins", "Never archive a file or folder."),
        Verb("unpin", "pins", "Take a pin away."),
        Verb("pins", "pins", "List the pins."),
    ),
    "Looking": (
        Verb("status", "status", "Show tiers and their states, or everything about files."),
        Verb("recalls", "recalls", "Follow recalls by readers as they happen."),
        Verb("record", "record", "Show what a semantic record holds."),
        Verb("audit", "audit", "List every act: what, when, by which rule."),
    ),
    "Care": (
        Verb("doctor", "care", "Check weights, catalog, tiers, disk and clock."),
        Verb("verify", "care", "Prove that records, placeholders and held originals are whole."),
        Verb("expire", "care", "Unlink held originals whose grace period is over."),
        Verb("reconcile", "care", "Finish or take back what a crash left."),
        Verb("rebuild", "care", "Build the catalog anew from placeholders alone."),
        Verb("db", "setup", "Upgrade the catalog's schema or show its version."),
    ),
    "Buckets": (Verb("s3", "s3", "Have buckets tell of their objects, listen to them, and serve their images."),),
    "Models": (
        Verb("models", "models", "Pull, accept, verify, export, import or remove profiles."),
        Verb("decoder", "decoder", "Decode for other hosts, or show where records are decoded."),
        Verb("train", "train", "Train a stage of the embedded profile."),
        Verb("bench", "bench", "Measure how good regenerated pictures are."),
    ),
}


class _ReaderGone(Exception):
    """What read stdout has ended."""


@contextmanager
def _named_reader_gone() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise _ReaderGone from error  # click would make it an exit code of 1, which means something else here


class Program(click.Group):
    """The verbs, loaded when used; failures become one line, a hint and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [verb.name for verbs in VERBS.values() for verb in verbs]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        for verbs in VERBS.values():
            for verb in verbs:
                if verb.name == cmd_name:
                    module = importlib.import_module(f"archiver.cli.{verb.module}")
                    command: click.Command = getattr(module, verb.name)
                    return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(verb.name, verb.help) for verb in verbs])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"No such command {args[0]!r}." + (f" Did you mean {near[0]!r}?" if near else ""))
        return super().resolve_command(ctx, args)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:  # prints the help
        with _named_reader_gone():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _named_reader_gone():
            return super().invoke(ctx)

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run and exit with the documented code."""
        _stand_in_for_closed_streams()
        if isinstance(sys.stdout, io.TextIOWrapper):
            # A file's name may hold what the terminal's encoding does not: it is shown by its number, as on stderr.
            sys.stdout.reconfigure(errors="backslashreplace")
        invocation = Invocation()
        words = (args[0] if args else extra.get("args")) or sys.argv[1:]
        given = {"prog_name": "archiver", **extra, "standalone_mode": False, "obj": invocation}
        sys.exit(_guarded(lambda: super(Program, self).main(*args, **given), invocation, words))


def _stand_in_for_closed_streams() -> None:
    """Where stdin, stdout or stderr was closed (`>&-`), the next file that is opened would get its number, and what a
    library prints would be written into a photograph."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free: this one
            setattr(sys, name, open(number, "r" if name == "stdin" else "w", closefd=False))  # noqa: SIM115


def _guarded(run: Callable[[], object], invocation: Invocation, words: Sequence[str]) -> int:
    try:
        code = run()
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.ClickException as error:
        # A mistake that comes before --json ended the parsing there; a script still reads what it asked for.
        return _usage(error, as_json=invocation.as_json or "--json" in words)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_INTERRUPTED
    except (_ReaderGone, BrokenPipeError):
        # Python would complain once more when it flushes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except Exception as error:
        return _report(error, invocation)


def _usage(error: click.ClickException, *, as_json: bool) -> int:
    if as_json:
        failure = {"type": "error", "error": "Usage", "message": error.format_message(), "hint": "", "exit_code": 2}
        sys.stderr.write(json.dumps(failure) + "\n")
    else:
        error.show()
    return 2


def _report(error: Exception, invocation: Invocation) -> int:
    failure = foreseen(error)
    if failure is None:
        traceback.print_exception(error)
        sys.stderr.write("error: this is a defect in archiver; the lines above say where\n")
        return EXIT_DEFECT
    if invocation.verbose > 1:
        traceback.print_exception(error)
    invocation.output.error(failure)
    return failure.exit_code


def foreseen(error: Exception) -> ArchiverError | None:
    """The failure a user is told about; None for a defect."""
    if isinstance(error, ArchiverError):
        return error
    if isinstance(error, OSError):
        return from_os_error(error, _unnamed())
    # Not imported: most verbs run without it.
    if type(error).__module__.startswith("sqlalchemy."):
        return CatalogUnavailable(url="of this configuration", reason=str(error).splitlines()[0])
    return None


def _unnamed() -> str:
    """What an OSError speaks of that names no file."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return "the current folder"
    return "a system call"


@click.command(
    cls=Program,
    params=common_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Every verb has its own help with an example: archiver plan --help",
)
@click.version_option(__version__, prog_name="archiver", message="%(prog)s %(version)s")
def cli() -> None:
    """Cold storage for photographs.

    An image that nobody opens any more is replaced by a tiny placeholder that carries a semantic record of it, tens to
    hundreds of bytes. When it is wanted again, an image of the same meaning is generated. It is not the same image:
    pin what must stay exact.
    """


def main() -> NoReturn:
    """The console script."""
    cli()
    raise AssertionError("click's main does not return")
