"""bench: measures of the product itself, on somebody's own photographs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, interruptible, pass_invocation
from archiver.cli.output import Column, Output, printable
from archiver.cli.progress import advancing
from archiver.cli.verb import VerbGroup
from archiver.errors import EXIT_OK, EXIT_WARNINGS, MeasuresNotInstalled, NothingToMeasure
from archiver.formats.folder import photographs

if TYPE_CHECKING:
    from archiver.quality.study import Report

_CODECS = ("jpeg", "jpeg2000", "webp", "avif", "jpeg-xl", "vvc")


def _several(_context: click.Context, _parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


@click.group(cls=VerbGroup)
def bench() -> None:
    """Measure how good regenerated pictures are."""


@bench.command(
    example="""
    archiver bench quality ~/Pictures --limit 24
    archiver bench quality photos --weights run/profile --codecs webp --out bench
    """
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--schemes", callback=_several, metavar="A,B", help="Only these schemes (default: all of the profile).")
@click.option("--codecs", callback=_several, metavar="A,B", help=f"Only these of {', '.join(_CODECS)}; none with ''.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="At most so many photographs, evenly spread.")
@click.option(
    "--out",
    default=Path("archiver-bench"),
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Results, plots and sheets go here; a run that was stopped goes on from it.",
)
@click.option("--whole", is_flag=True, help="Whole photographs of up to 1024 pixels, not 512x512 from the middle.")
@click.option("--preset", metavar="NAME", help="The preset (default: the configuration's).")
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="The profile in this folder rather than the configured one.",
)
@pass_invocation
def quality(
    invocation: Invocation,
    folder: Path,
    schemes: tuple[str, ...] | None,
    codecs: tuple[str, ...] | None,
    limit: int | None,
    out: Path,
    whole: bool,
    preset: str | None,
    weights: Path | None,
) -> int:
    """Compare regenerated pictures with those of classical codecs.

    Every scheme, and JPEG, JPEG 2000, WebP, AVIF, JPEG XL and VVC at the same bytes: the codecs may shrink a picture
    first and are given whatever size looks most like it to the judge. The judge of semantics is a network that codes
    nothing; columns with a star are judged by the coder's own. docs/benchmarks.md explains the measures.
    """
    try:
        from archiver.access.client import let_through
        from archiver.codec.record import Scheme
        from archiver.quality import study
        from archiver.quality.bench import Options
    except ModuleNotFoundError as error:
        raise MeasuresNotInstalled(missing=error.name) from None
    try:
        wanted = None if schemes is None else tuple(Scheme.parse(label) for label in schemes)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    if unknown := set(codecs or ()) - set(_CODECS):
        raise click.UsageError(f"no codec {', '.join(sorted(unknown))}: there are {', '.join(_CODECS)}")
    paths = photographs(folder, limit)
    if not paths:
        raise NothingToMeasure(path=folder)
    out.mkdir(parents=True, exist_ok=True)
    if weights is not None:
        settings = study.packaged_settings(weights, out / "vault", preset or "default")
    else:
        model = invocation.settings.model
        settings = invocation.settings.model_copy(
            update={"model": model.model_copy(update={"preset": preset or model.preset})}
        )
    options = Options(wanted, _CODECS if codecs is None else codecs, whole=whole, preset=settings.model.preset)
    told = advancing(invocation.output, "measuring", "measured", len(paths))
    # What was released is left out, and not recalled for this.
    with let_through(settings.recall.socket), interruptible(invocation) as stop, told as advance:
        report = study.study(paths, settings, options, out, stop, advance)
    invocation.output.json(report, "quality")
    if not invocation.as_json:
        _show(invocation.output, report)
    if stop.is_set():
        return EXIT_INTERRUPTED
    return EXIT_WARNINGS if report.left_out else EXIT_OK


def _show(output: Output, report: Report) -> None:
    from archiver.quality.study import COLUMNS, MARKED_COLUMNS, cells, in_order

    names = {"method", "held to"}
    output.table(
        [Column(title, number=title not in names) for title in (*COLUMNS, *MARKED_COLUMNS)],
        [cells(one) for one in in_order(report.summaries)],
        title=f"{report.pictures} photographs, profile {report.profile} ({report.fingerprint.hex()[:16]}), "
        f"preset {report.preset}: means, ± standard deviation over photographs",
    )
    output.text("semantics: cosine by EfficientNet-Lite2, which codes nothing. * judged by the coder's own network,")
    output.text("in the coder's favour. held to: bytes, a scheme's bytes on the same picture, or the lowest setting.")
    for path, reason in report.left_out.items():
        output.warn(f"{printable(str(path))} was left out: {printable(reason)}")
    output.facts(
        [("table", str(report.table)), ("plot", str(report.plot)), *(("sheet", str(s)) for s in report.sheets)]
    )
