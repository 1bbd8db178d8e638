"""The fuzzer's targets hold on their seeds and on the seeds' near neighbours; `fuzz.py` goes on from there."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import TARGETS, seeds


@pytest.mark.parametrize("target", TARGETS)
def test_seeds_and_their_neighbours_break_nothing(target: str) -> None:
    rng = random.Random(target)
    for seed in seeds(target):
        TARGETS[target](seed)
        for _ in range(150):
            data = bytearray(seed)
            for _ in range(rng.randint(1, 4)):
                place = rng.randrange(len(data))
                match rng.randrange(3):
                    case 0:
                        data[place] = rng.randrange(256)
                    case 1:
                        del data[place:]
                    case _:
                        data[place:place] = rng.randbytes(rng.randint(1, 8))
                if not data:
                    break
            TARGETS[target](bytes(data))


@pytest.mark.parametrize("target", ["record", "envelope"])
def test_the_seeds_are_accepted_by_what_they_are_for(target: str) -> None:
    """Seeds that are refused at once would lead a fuzzer nowhere."""
    from archiver.codec.record import Record
    from archiver.formats.envelope import unseal

    for seed in seeds(target):
        assert Record.from_bytes(seed) if target == "record" else unseal(seed)
