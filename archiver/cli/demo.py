"""demo: everything at once, on copies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.output import Cell, Column, Output, human_ratio, printable, program, quoted
from archiver.cli.reporter import Reporter
from archiver.cli.verb import VerbCommand
from archiver.errors import EXIT_OK, EXIT_WARNINGS
from archiver.units import about_size

if TYPE_CHECKING:
    from archiver.demo import Demonstration, Specimen


@click.command(
    cls=VerbCommand,
    example="""
    archiver demo
    archiver demo ~/Pictures --count 20
    """,
)
@click.argument(
    "folder", metavar="[DIR]", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option(
    "--work",
    default=Path("archiver-demo"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Everything goes in there: copies, configuration, catalog, vault, contact sheet.",
)
@click.option(
    "--count", type=click.IntRange(1, 500), default=12, show_default=True, metavar="N", help="How many photographs."
)
@pass_invocation
def demo(invocation: Invocation, folder: Path | None, work: Path, count: int) -> int:
    """Try everything on copies of a few photographs.

    Copies photographs of DIR, or a few that come with scikit-image, archives the copies with the embedded weights
    whatever their age, recalls two of three and writes a contact sheet: original, placeholder and regenerated image
    side by side. Your own files are only read.
    """
    from archiver.demo import demonstrate

    with Reporter(invocation, "preparing") as reporter:
        made = demonstrate(work, folder, count, reporter, reporter.begin)
    invocation.output.json(made, "demo")
    if not invocation.as_json:
        _show(invocation.output, made)
    # One that the gate keeps is the gate at work; none released is a demo that showed nothing.
    return EXIT_OK if any(specimen.released for specimen in made.specimens) else EXIT_WARNINGS


def _show(output: Output, made: Demonstration) -> None:
    released = [(specimen, specimen.released) for specimen in made.specimens if specimen.released]
    before = sum(specimen.bytes_before for specimen, _ in released)
    after = sum(release.bytes_after for _, release in released)
    records = sum(release.record_bytes for _, release in released)
    output.table(
        [
            Column("photograph"),
            Column("made from", style="dim"),
            Column("original", number=True),
            Column("placeholder", number=True),
            Column("less", number=True),
            Column("record", number=True),
            Column("semantic", number=True),
            Column("now"),
        ],
        [_row(specimen) for specimen in made.specimens],
        title="Bytes on disk before and after",
        total=[
            f"{len(released)} released",
            "",
            about_size(before),
            about_size(after),
            human_ratio(before, after),
            about_size(records),
            "",
            "",
        ],
    )
    for path, reason in made.left_out.items():
        output.warn(f"{printable(str(path))} was left out: {printable(reason)}")
    output.text("A recalled image has its old length again, and its pixels are synthetic: look at the contact sheet.")
    output.text("The originals of the copies are held for 30 days; only then is their space free.")
    output.text()
    output.facts(
        [
            ("contact sheet", str(made.sheet_html)),
            ("", str(made.sheet_png)),
            ("photographs", str(made.photos)),
            ("configuration", str(made.config)),
        ]
    )
    output.text()
    output.text("Try next:")
    for words in ("status", *_examples(released[0][0].path if released else None), "doctor"):
        output.text(f"  {program()} --config {quoted(made.config)} {words}")


def _examples(path: Path | None) -> tuple[str, ...]:
    return () if path is None else tuple(f"{verb} {quoted(path)}" for verb in ("status", "record show", "undo"))


def _row(specimen: Specimen) -> list[Cell]:
    release, record = specimen.released, specimen.outcomes.get("record")
    fidelity = record.fidelity if record else None
    return [
        specimen.name,
        specimen.made,
        about_size(specimen.bytes_before),
        about_size(release.bytes_after) if release else "",
        human_ratio(specimen.bytes_before, release.bytes_after) if release else "",
        f"{release.record_bytes} B" if release else "",
        f"{fidelity.semantic:.2f}" if fidelity else "",
        "recalled" if specimen.recalled else "released" if release else f"stays: {specimen.reason}",
    ]
