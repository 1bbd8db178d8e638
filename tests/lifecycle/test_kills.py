"""Record first, release later: whatever step a process dies at, nothing is lost and nothing is half done."""

from __future__ import annotations

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.config import Settings
from archiver.lifecycle.arrows import ARROWS
from archiver.lifecycle.site import Site
from tests.lifecycle.dying import Witness, run_and_kill

BEFORE = {  # what has to have happened for an arrow to be reached, and the verb that reaches it
    "record": ((), "archive"),
    "release": ((), "archive"),
    "recall": (("archive",), "recall"),
    "rerelease": (("archive", "recall"), "archive"),
    "undo": (("archive",), "undo"),
    "expire": (("archive",), "expire"),
}


@pytest.mark.parametrize("arrow", [name for name in ARROWS if name.partition(".")[0] in BEFORE])
def test_a_kill_at_any_arrow_loses_nothing(site: Site, tier_root: Path, settings: Settings, arrow: str) -> None:
    for name in ("2019/summer/c.jpeg", "2019/e.webp", "2019/f.tif", "wide.jpg"):
        (tier_root / name).unlink()  # four files are enough to have some before and some after the one that it dies at
    witness = Witness(tier_root)
    before, verb = BEFORE[arrow.partition(".")[0]]
    assert not run_and_kill(settings, *before)
    # Steps of single files are passed several times: die at the second, so that one file is through already.
    times = 1 if arrow in ("record.encoded", "record.gated", "record.committed", "recall.decoded") else 2
    assert run_and_kill(settings, verb, at=f"{arrow}:{times}"), f"{arrow} was never passed"
    witness.look_right_after()
    originals_kept = verb != "expire"
    witness.look_after_restart(settings, originals_kept=originals_kept)
    assert not run_and_kill(settings, verb)
    states = witness.look_after_restart(settings, originals_kept=originals_kept)
    expected = {"archive": State.RELEASED, "recall": State.RECALLED, "undo": State.RECORDED, "expire": State.RELEASED}
    assert set(states.values()) == {expected[verb]}


def test_a_kill_while_rebuilding_is_made_good_by_rebuilding_again(
    site: Site, tier_root: Path, settings: Settings, tmp_path: Path
) -> None:
    from archiver.catalog.schema import upgrade

    witness = Witness(tier_root)
    run_and_kill(settings, "archive")
    site.catalog.dispose()
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    upgrade(settings.catalog_url)
    assert run_and_kill(settings, "rebuild", at="rebuild.adopted:3")
    assert not run_and_kill(settings, "rebuild")
    states = witness.look_after_restart(settings)
    assert set(states.values()) == {State.RELEASED}
    assert not run_and_kill(settings, "undo")
    assert set(witness.look_after_restart(settings).values()) == {State.RECORDED}


def random_kills(settings: Settings, root: Path, count: int, seed: int) -> Counter[str]:
    """Kill `count` processes, half of them at a random arrow, half at a random moment; check after each."""
    rng = random.Random(seed)
    witness = Witness(root)
    killed: Counter[str] = Counter()
    while killed.total() < count:
        verbs = tuple(rng.choice(("archive", "recall", "undo")) for _ in range(4))
        if rng.random() < 0.5:
            arrow = rng.choice([name for name in ARROWS if not name.startswith(("rebuild", "restore", "expire"))])
            dead = run_and_kill(settings, *verbs, at=f"{arrow}:{rng.randint(1, 6)}")
        else:
            dead = run_and_kill(settings, *verbs, after=rng.uniform(0.05, 2.5))
        if dead:
            killed[verbs[0]] += 1
            witness.look_right_after()
            witness.look_after_restart(settings)
    return killed


@pytest.mark.timeout(900)
def test_two_hundred_random_kills_lose_nothing(site: Site, tier_root: Path, settings: Settings) -> None:
    # The seed is told by the test's name in a failure report: ARCHIVER_TEST_SEED repeats a run, but not its timing.
    seed = int(os.environ.get("ARCHIVER_TEST_SEED", "1"))
    assert random_kills(settings, tier_root, int(os.environ.get("ARCHIVER_TEST_KILLS", "200")), seed).total() >= 1


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_a_thousand_random_kills_lose_nothing(site: Site, tier_root: Path, settings: Settings) -> None:
    seed = int(os.environ.get("ARCHIVER_TEST_SEED", "2"))
    assert random_kills(settings, tier_root, 1000, seed).total() >= 1000
