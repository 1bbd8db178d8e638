"""What is said where a tier is archived with another catalog than the one that is asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from archiver.errors import TierOfAnotherCatalog
from tests.cli.installation import Installation

HINT = TierOfAnotherCatalog.hint


@pytest.fixture
def second(place: Installation, tmp_path: Path) -> Installation:
    """Another installation on the same folder, of which the first has released everything."""
    place.run("scan").ok()
    place.run("archive", place.photos).ok()
    config = tmp_path / "second" / "archiver.toml"
    other = Installation(config, place.photos)
    other.run("init", place.photos, "--state", tmp_path / "second").ok()
    other.run("scan").ok()
    return other


def warnings(place: Installation) -> dict[str, str]:
    report = place.run("doctor", "--json").lines[0]
    return {check["finding"]: check["hint"] for check in report["checks"] if check["verdict"] == "warning"}


def test_every_verb_that_would_act_says_whose_the_tier_is(second: Installation) -> None:
    named = second.run("archive", second.photos)
    assert named.code == 4
    assert named.err.splitlines()[0] == "error: tier photos is archived with another catalog than this one"
    planned = second.run("plan")
    assert (planned.code, planned.err) == (named.code, named.err)
    ruled = second.run("archive")
    assert ruled.code == 1
    assert "tier of another catalog" in ruled.out
    assert warnings(second)["tier photos is archived with another catalog than this one"] == HINT


def test_rebuilding_ends_it_and_is_in_the_audit(place: Installation, second: Installation) -> None:
    second.run("rebuild").ok()
    assert "tier photos is archived with another catalog than this one" not in warnings(second)
    assert "tier photos is archived with another catalog than this one" in warnings(place)
    assert "accepted" in second.run("audit").ok().out
    second.run("undo", second.photos).ok()
