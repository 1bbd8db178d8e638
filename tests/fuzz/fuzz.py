"""Fuzz a parser, guided by coverage (https://github.com/google/atheris), from the project's folder:

    nice python tests/fuzz/fuzz.py record -runs=1000000

Targets: record, sections, envelope, container, events (tests/fuzz/targets.py). What follows the target goes to
libFuzzer. An input that breaks a promise is left as crash-*; make it a seed of its target when it is mended.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))
with atheris.instrument_imports(include=["archiver"]):
    from tests.fuzz.targets import TARGETS, seeds


def main() -> None:
    name = sys.argv[1]
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(seeds(name)):
            Path(corpus, f"seed-{number}").write_bytes(seed)
        limits = ["-max_len=4096", "-rss_limit_mb=1024", "-timeout=10"]
        atheris.Setup([sys.argv[0], corpus, *limits, *sys.argv[2:]], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
