"""Nothing is released that should not be, and what stands in the way is named."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import pytest

from archiver import formats
from archiver.catalog.rows import Act, State
from archiver.codec.picture import Picture
from archiver.config import Settings
from archiver.errors import (
    ArchiverError,
    CatalogUnavailable,
    DiskFull,
    FileModified,
    FileOpen,
    FileVanished,
    GateFailed,
    HardLinked,
    ImageRefused,
    InputOutputError,
    Pinned,
    ProfileUnknown,
    TierNotScanned,
    TierUnreachable,
)
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result, attempt
from archiver.lifecycle.plan import explain, plan
from archiver.lifecycle.policy import Why
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.models.vault import Vault
from tests.lifecycle.conftest import photograph, row_of, scan_all
from tests.lifecycle.dying import tracked_files


def refused(site: Site, path: Path) -> ArchiverError:
    """Archive one file, which must be left exactly as it was; the reason."""
    before = path.read_bytes(), path.stat()
    outcomes: list[Outcome] = []
    archive(site, paths=[path], listener=outcomes.append)
    assert outcomes[-1].result in (Result.REFUSED, Result.FAILED), outcomes
    assert path.read_bytes() == before[0]
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before[1].st_ino, before[1].st_mtime_ns)
    assert not os.listdir(site.tiers["photos"].holding_fd)
    assert not os.listdir(site.tiers["photos"].journal_fd)
    error = outcomes[-1].error
    assert error is not None
    return error


def test_release_refuses_an_open_file(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    with path.open("rb"):
        assert isinstance(refused(site, path), FileOpen)
    assert archive(site, paths=[path]).count("release", Result.DONE) == 1


def test_release_refuses_a_hard_linked_file(site: Site, tier_root: Path, tmp_path: Path) -> None:
    path = tier_root / "wide.jpg"
    (tmp_path / "other name.jpg").hardlink_to(path)
    scan_all(site)
    assert isinstance(refused(site, path), HardLinked)


def test_release_refuses_a_pinned_file_and_a_pinned_folder(site: Site, tier_root: Path) -> None:
    located = site.locate(tier_root / "wide.jpg")
    site.catalog.pin(located.tier_id, "wide.jpg")
    assert isinstance(refused(site, tier_root / "wide.jpg"), Pinned)
    site.catalog.pin(located.tier_id, "2019", subtree=True)
    assert isinstance(refused(site, tier_root / "2019/summer/c.jpeg"), Pinned)


def test_release_refuses_a_file_changed_since_the_scan(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    photograph(99).save(path)
    assert isinstance(refused(site, path), FileModified)


def test_release_refuses_content_changed_behind_an_unchanged_mtime(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    _record_only(site, path)
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"\x00" * 20)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert isinstance(refused(site, path), FileModified | ImageRefused)


def test_release_refuses_a_file_written_to_while_it_was_decoded(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Release decodes nothing: the hash alone says that the bytes are those that were proven whole and encoded."""
    path = tier_root / "wide.jpg"
    stat, load = path.stat(), formats.load_picture

    def load_and_swap(file: BinaryIO, inspection: formats.Inspection, *size: int) -> Picture:
        picture = load(file, inspection, *size)
        with path.open("r+b") as written:
            written.seek(-stat.st_size // 2, os.SEEK_END)
            written.write(b"\x15" * 500)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        return picture

    monkeypatch.setattr(formats, "load_picture", load_and_swap)
    outcomes: list[Outcome] = []
    archive(site, paths=[path], listener=outcomes.append)
    assert [(outcome.act, outcome.result) for outcome in outcomes] == [
        ("record", Result.DONE),
        ("release", Result.REFUSED),
    ]
    assert isinstance(outcomes[-1].error, FileModified)
    assert b"\x15" * 500 in path.read_bytes()
    assert not os.listdir(site.tiers["photos"].holding_fd)


def test_release_refuses_a_file_written_to_at_the_last_moment(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archiver.lifecycle import release as releasing

    path = tier_root / "wide.jpg"

    def touch(name: str) -> None:
        if name == "release.leased":
            os.utime(path)  # changes times without opening the file

    monkeypatch.setattr(releasing, "arrow", touch)
    outcomes: list[Outcome] = []
    archive(site, paths=[path], listener=outcomes.append)
    assert isinstance(outcomes[-1].error, FileModified)
    assert not os.listdir(site.tiers["photos"].holding_fd)


def test_release_refuses_what_falls_through_the_gate(site: Site, tier_root: Path) -> None:
    strict = site.settings.rule[0].gate.model_copy(update={"semantic": 1.0, "colour": 0.0})
    rule = site.settings.rule[0].model_copy(update={"gate": strict})
    site.settings = site.settings.model_copy(update={"rule": (rule,)})
    path = tier_root / "wide.jpg"
    assert isinstance(refused(site, path), GateFailed)
    row = row_of(site, path)
    assert (row.state, row.refusal) == (State.RESIDENT, "gate failed")
    # It is not tried again and again: only a change makes it a candidate anew.
    site.catalog.pin(row.tier_id, "2019", subtree=True)
    assert archive(site).counts.total() == 0


def test_what_a_stricter_gate_refused_is_tried_again_once_under_another(site: Site, tier_root: Path) -> None:
    lax = site.settings
    strict = lax.rule[0].gate.model_copy(update={"semantic": 1.0, "colour": 0.0})
    site.settings = lax.model_copy(update={"rule": (lax.rule[0].model_copy(update={"gate": strict}),)})
    assert archive(site).count("record", Result.REFUSED) == 8
    assert archive(site).counts.total() == 0, "what was refused once is not tried every hour"
    site.settings = lax
    (tier,) = site.local_tiers
    later = datetime.now(UTC)
    assert len(list(plan(site.catalog, tier, lax, later))) == 8
    assert explain(site.catalog, tier, lax, later, "wide.jpg").decision.why is Why.COLD
    assert row_of(site, tier_root / "wide.jpg").refusal == "gate failed", "who only looks changes nothing"
    assert archive(site).count("release", Result.DONE) == 8


def test_a_machine_with_other_rules_in_the_same_catalog_changes_nothing_about_refusals(
    site: Site, settings: Settings, tmp_path: Path
) -> None:
    lax = site.settings
    strict = lax.rule[0].gate.model_copy(update={"semantic": 1.0, "colour": 0.0})
    site.settings = lax.model_copy(update={"rule": (lax.rule[0].model_copy(update={"gate": strict}),)})
    assert archive(site).count("record", Result.REFUSED) == 8
    (tmp_path / "other").mkdir()
    photograph(9).save(tmp_path / "other" / "other.jpg", quality=90)
    tier = settings.tier[0].model_copy(update={"name": "other", "path": tmp_path / "other"})
    with open_site(settings.model_copy(update={"tier": (tier,)})) as elsewhere:
        scan_all(elsewhere)
        assert archive(elsewhere).count("release", Result.DONE) == 1
    assert archive(site).counts.total() == 0


def test_release_refuses_when_the_weights_are_not_in_the_vault(site: Site, tier_root: Path, tmp_path: Path) -> None:
    path = tier_root / "wide.jpg"
    _record_only(site, path)
    site.vault = Vault(tmp_path / "another vault")
    assert isinstance(refused(site, path), ProfileUnknown)


def test_a_second_release_refuses_when_the_weights_are_not_in_the_vault(
    site: Site, tier_root: Path, tmp_path: Path
) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    recall(site, [path])
    image = path.read_bytes()
    site.vault = Vault(tmp_path / "another vault")
    outcomes: list[Outcome] = []
    archive(site, paths=[path], listener=outcomes.append)
    assert [type(outcome.error) for outcome in outcomes] == [ProfileUnknown]
    assert path.read_bytes() == image
    assert row_of(site, path).state is State.RECALLED


def test_release_refuses_a_symbolic_link_in_the_place_of_a_folder(site: Site, tier_root: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (tier_root / "2019").rename(outside)
    (tier_root / "2019").symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    located = site.locate(tier_root / "wide.jpg")
    row = site.catalog.find(located.tier_id, "2019/a.jpg")
    assert row is not None
    from archiver.lifecycle.archive import Task, _load
    from archiver.lifecycle.plan import forced

    with pytest.raises((OSError, FileVanished)):
        _load(site, Task(located.tier, forced(row, "photos", site.settings)))
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before


def test_a_tier_is_left_alone_until_its_first_scan_is_complete(
    settings: object, tier_root: Path, tmp_path: Path, random_vault: Path
) -> None:
    from archiver.catalog.schema import upgrade
    from tests.lifecycle.conftest import make_settings

    fresh = make_settings(tmp_path, tier_root, random_vault)
    upgrade(fresh.catalog_url)
    with open_site(fresh) as site, pytest.raises(TierNotScanned):
        archive(site)


def test_missing_weights_end_the_run_and_are_named_once(site: Site, tier_root: Path) -> None:
    site.settings = site.settings.model_copy(
        update={"model": site.settings.model.model_copy(update={"profile": "no-such-profile"})}
    )
    before = {path: path.read_bytes() for path in tracked_files(tier_root)}
    with pytest.raises(ProfileUnknown):
        archive(site)
    assert {path: path.read_bytes() for path in before} == before


def test_one_bad_file_does_not_stop_the_others(site: Site, tier_root: Path) -> None:
    (tier_root / "broken.jpg").write_bytes((tier_root / "wide.jpg").read_bytes()[:9000])
    (tier_root / "empty.png").touch()
    (tier_root / "text.jpg").write_text("no picture at all " * 1000)
    good = [path for path in tracked_files(tier_root) if path.name not in ("broken.jpg", "empty.png", "text.jpg")]
    scan_all(site)
    outcomes: list[Outcome] = []
    tally = archive(site, listener=outcomes.append)
    assert tally.count("release", Result.DONE) == len(good)
    assert tally.exit_code == 1
    reasons = {outcome.path.name: outcome.reason for outcome in outcomes if outcome.result is Result.REFUSED}
    assert set(reasons) == {"broken.jpg", "empty.png", "text.jpg"}
    assert "truncated" in reasons["broken.jpg"]
    told = {row.path: row.detail for row in site.catalog.audit_rows() if row.act is Act.REFUSED}
    assert told["broken.jpg"] == reasons["broken.jpg"]


def _record_only(site: Site, path: Path) -> None:
    rule = site.settings.rule[0]
    settings = site.settings
    site.settings = settings.model_copy(update={"rule": (rule.model_copy(update={"action": "record"}),)})
    assert archive(site, paths=[path]).count("record", Result.DONE) == 1
    site.settings = settings
    assert row_of(site, path).state is State.RECORDED


@pytest.mark.parametrize(
    "broken",
    [
        CatalogUnavailable(url="sqlite:////c.db", reason="locked"),
        TierUnreachable(tier="photos", root="/p", reason="not mounted"),
        DiskFull(path="/p/a.jpg"),
        InputOutputError(path="/p/a.jpg", reason="Input/output error"),
    ],
)
def test_what_broke_meanwhile_is_a_failure_and_no_refusal(broken: ArchiverError) -> None:
    def act(error: ArchiverError) -> Outcome:
        raise error

    assert attempt(Path("/p/a.jpg"), "release", lambda: act(broken), otherwise=Result.REFUSED).result is Result.FAILED
    open_file = FileOpen(path="/p/a.jpg")
    assert (
        attempt(Path("/p/a.jpg"), "release", lambda: act(open_file), otherwise=Result.REFUSED).result is Result.REFUSED
    )
