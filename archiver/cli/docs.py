"""`python -m archiver.cli.docs > docs/cli.md`: the reference, written from the verbs themselves."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator

import click

from archiver.cli.main import VERBS, cli
from archiver.cli.verb import VerbCommand

_HEAD = """\
# Commands

Written by `python -m archiver.cli.docs`; a test keeps it current.

Every command takes these options, before or after its name:

"""


def reference() -> str:
    """All of docs/cli.md."""
    context = click.Context(cli, info_name="archiver")
    parts = [_HEAD + "\n".join(_options(cli, context)) + "\n"]
    for title, verbs in VERBS.items():
        parts.append(f"## {title}\n")
        for verb in verbs:
            command = cli.get_command(context, verb.name)
            assert command is not None
            parts += _command(command, click.Context(command, info_name=verb.name, parent=context))
    return "\n".join(parts)


def _command(command: click.Command, context: click.Context) -> Iterator[str]:
    usage = " ".join(command.collect_usage_pieces(context)).replace("[OPTIONS]", "").split()
    yield f"### {context.command_path}\n"
    yield inspect.cleandoc(command.help or "") + "\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from _command(inner, click.Context(inner, info_name=name, parent=context))
        return
    yield f"`{' '.join([context.command_path, '[OPTIONS]', *usage])}`\n"
    if options := list(_options(command, context)):
        yield "\n".join(options) + "\n"
    if isinstance(command, VerbCommand) and command.example:
        yield "\n".join(["```sh", *(line.strip() for line in command.example.strip().splitlines()), "```"]) + "\n"


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    common = {name for parameter in cli.params for name in parameter.opts} if command is not cli else {"--version"}
    for parameter in command.params:
        shown = parameter.get_help_record(context) if isinstance(parameter, click.Option) else None
        if shown is not None and not common & set(parameter.opts):
            yield f"* `{shown[0]}`: {shown[1]}"


if __name__ == "__main__":
    sys.stdout.write(reference())
