"""How a verb is declared: its text, its example and the options that all verbs take."""

from __future__ import annotations

from typing import Any

import click

from archiver.cli.invocation import common_options


class VerbCommand(click.Command):
    """A command with the common options and an example at the end of its help."""

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()
        self.example = example

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if self.example:
            with formatter.section("Example"):
                for line in self.example.strip().splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line.strip()}\n")


class VerbGroup(click.Group):
    """A verb with verbs of its own."""

    command_class = VerbCommand

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += common_options()
