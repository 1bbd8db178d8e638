"""train: a thin wrapper over the training command."""

from __future__ import annotations

from pathlib import Path

import click

from archiver.cli.invocation import EXIT_INTERRUPTED, Invocation, interruptible, pass_invocation
from archiver.cli.progress import training
from archiver.cli.verb import VerbCommand
from archiver.errors import TrainingNotInstalled
from archiver.models.profiles import PROFILE_FILE
from archiver.models.vault import PACKAGED


@click.command(
    cls=VerbCommand,
    example="""
    archiver train --data photos/ --out run/ --minutes 60
    archiver train --data photos/ --out run/ --stage denoiser --minutes 30
    archiver train --data photos/ --out run/ --start embedded-1 --device cuda
    """,
)
@click.option(
    "--data",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Folder of tar shards of photographs.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="Checkpoints, caches and the finished profile go here; a run that was stopped goes on from it.",
)
@click.option(
    "--stage",
    type=click.Choice(["all", "autoencoder", "features", "denoiser", "finish", "polish", "export"]),
    default="all",
    show_default=True,
    help="One stage, or all in their order.",
)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Training time.")
@click.option("--steps", type=click.IntRange(min=1), help="Training steps of a stage.")
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same run.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads (default: all).")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where to train; auto is the GPU if there is one.",
)
@click.option("--batch", type=click.IntRange(min=1), metavar="N", help="Samples a step (default: by stage and device).")
@click.option(
    "--start",
    metavar="PROFILE",
    help="Begin a new run from these weights: a profile of the package, or the folder of one.",
)
@pass_invocation
def train(
    invocation: Invocation,
    data: Path,
    out: Path,
    stage: str,
    minutes: float | None,
    steps: int | None,
    seed: int,
    threads: int | None,
    device: str,
    batch: int | None,
    start: str | None,
) -> int:
    """Train a stage of the embedded profile.

    Training can be stopped and resumed at any time, on the same kind of device or the other. With --json the log
    lines go to stderr and one object at the end to stdout.
    """
    if minutes is None and steps is None and stage in ("all", "autoencoder", "denoiser", "finish", "polish"):
        raise click.UsageError("training has no natural end: give --minutes or --steps")
    try:
        from archiver.training.run import train as run
    except ModuleNotFoundError as error:
        raise TrainingNotInstalled(missing=error.name) from None
    with interruptible(invocation, "step") as stop, training(invocation.output) as tell:
        run(
            data,
            out,
            stage=stage,
            minutes=minutes,
            steps=steps,
            seed=seed,
            threads=threads,
            device=device,
            batch=batch,
            start=None if start is None else _profile(start),
            tell=tell,
            stop=stop,
        )
    invocation.output.json({"type": "summary", "out": out, "stage": stage, "stopped": stop.is_set()})
    invocation.output.text(f"Stopped; the same command goes on: {out}" if stop.is_set() else f"Done: {out}")
    return EXIT_INTERRUPTED if stop.is_set() else 0


def _profile(name: str) -> Path:
    """The folder of a profile of the package by its name, or any."""
    for folder in (PACKAGED / name, Path(name)):
        if (folder / PROFILE_FILE).is_file():
            return folder
    raise click.BadParameter(f"{name} is no profile of the package, and no folder with one", param_hint="--start")
