"""`python -m archiver.training`: train without the rest of the program."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from pathlib import Path

from archiver.errors import ArchiverError
from archiver.training.run import Stage, train

log = logging.getLogger(__name__)


def main() -> None:
    """Parse the command line and run `train`."""
    parser = argparse.ArgumentParser(prog="python -m archiver.training", description=inspect.getdoc(train))
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("data", type=Path, help="folder of tar shards of WebP photographs")
    parser.add_argument("out", type=Path, help="folder for checkpoints, cached features and the journal")
    parser.add_argument("--stage", choices=["all", *Stage], default="all")
    parser.add_argument("--minutes", type=float, help="training time of a stage (of both networks together for all)")
    parser.add_argument("--steps", type=int, help="training steps of a stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--long-side", type=int, default=256, help="working size in pixels")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--batch", type=int, help="samples a step (default: by stage and device)")
    parser.add_argument("--start", type=Path, help="folder of the profile from whose weights a new run begins")
    parser.add_argument("--weights", type=Path, help="where export writes the profile (default: OUT/profile)")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    arguments = parser.parse_args()
    unlimited = arguments.minutes is None and arguments.steps is None
    if unlimited and arguments.stage in ("all", "autoencoder", "denoiser", "finish", "polish"):
        parser.error("training has no natural end: give --minutes or --steps")
    try:
        train(**vars(arguments))
    except ArchiverError as error:
        log.error("%s\n%s", error.message, error.hint)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
