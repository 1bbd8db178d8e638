"""Acts that a user asks for after a crash, with no daemon that would have settled what it left."""

from __future__ import annotations

import os

import pytest

from archiver.lifecycle import overwrite
from archiver.lifecycle import release as releasing
from tests.cli.installation import Installation, photograph


class Killed(BaseException):
    """Ends an act as a kill does: no handler of ours runs, the journal entry stays, its lock goes."""


def crash(place: Installation, patch: pytest.MonkeyPatch, verb: str, arrow: str) -> None:
    """Run a verb on rome.jpg and let it die at an arrow."""

    def die(name: str) -> None:
        if name == arrow:
            raise Killed

    with patch.context() as dying:
        for module in (overwrite, releasing):
            dying.setattr(module, "arrow", die)
        with pytest.raises(Killed):
            place.run(verb, place.photos / "rome.jpg")
    assert os.listdir(place.photos / ".archiver" / "journal")


@pytest.mark.parametrize(
    ("verb", "arrow"), [("archive", "release.exchanged"), ("recall", "recall.tail_written")], ids=["release", "recall"]
)
def test_undo_finds_the_original_before_anybody_reconciled(
    place: Installation, monkeypatch: pytest.MonkeyPatch, verb: str, arrow: str
) -> None:
    rome = place.photos / "rome.jpg"
    original = rome.read_bytes()
    place.run("scan").ok()
    if verb == "recall":
        place.run("archive", rome).ok()
    crash(place, monkeypatch, verb, arrow)
    lines = place.run("undo", "--json", rome).ok().lines
    assert [line["act"] for line in lines if line["type"] == "outcome"] == ["reconcile", "undo"]
    assert rome.read_bytes() == original
    assert not os.listdir(place.photos / ".archiver" / "journal")


def test_archive_goes_on_with_what_a_crash_left(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run("scan").ok()
    crash(place, monkeypatch, "archive", "release.exchanged")
    shown = place.run("archive", place.photos).ok().out
    assert "reconcile" in shown
    status = place.run("status", place.photos / "rome.jpg").ok().out
    assert "a placeholder" in status
    place.run("verify").ok()


def test_a_dry_run_settles_nothing(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    place.run("scan").ok()
    crash(place, monkeypatch, "archive", "release.exchanged")
    place.run("archive", "--dry-run").ok()
    assert os.listdir(place.photos / ".archiver" / "journal")


def test_what_a_crash_left_in_another_tier_is_left_there(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    other = place.config.parent / "other"
    photograph(other / "bergen.jpg", 7)
    place.config.write_text(place.config.read_text() + f'[[tier]]\nname = "other"\nkind = "local"\npath = "{other}"\n')
    place.run("scan").ok()
    crash(place, monkeypatch, "archive", "release.exchanged")
    lines = place.run("archive", "--json", other / "bergen.jpg").ok().lines
    assert "reconcile" not in {line["act"] for line in lines if line["type"] == "outcome"}
    assert os.listdir(place.photos / ".archiver" / "journal")
