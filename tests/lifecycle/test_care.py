"""Verify, rebuild, adopt, expire, undo: what keeps an archive trustworthy for years."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Barrier, Event
from typing import BinaryIO

import numpy as np
import pytest

from archiver import formats
from archiver.catalog.rows import State
from archiver.catalog.schema import upgrade
from archiver.codec import label_map
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme, Section, SectionKind
from archiver.config import Settings
from archiver.errors import FileBusy, FileModified, HeldOriginalDamaged, PlaceholderDamaged, WeightsDamaged
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from archiver.models.vault import Vault
from tests.lifecycle.conftest import photograph, row_of, scan_all
from tests.lifecycle.dying import tracked_files

PATIENCE = 60  # seconds


def test_verify_names_a_damaged_placeholder_and_a_damaged_original(site: Site, tier_root: Path) -> None:
    archive(site)
    assert verify(site, decode=True).exit_code == 0
    placeholder, other = tier_root / "wide.jpg", tier_root / "2019" / "a.jpg"
    stat = placeholder.stat()
    record_id = row_of(site, placeholder).record_id
    assert record_id is not None
    with placeholder.open("r+b") as file:
        file.seek(placeholder.read_bytes().index(site.catalog.record(record_id).payload) + 30)
        file.write(b"rot")
    os.utime(placeholder, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    held = site.catalog.holding_for(row_of(site, other).id)
    assert held is not None
    original = tier_root / ".archiver" / "holding" / held.name
    original.write_bytes(original.read_bytes()[:-1] + b"x")
    outcomes: list[Outcome] = []
    tally = verify(site, listener=outcomes.append)
    assert tally.count("verify", Result.FAILED) == 2
    failures = {outcome.path: type(outcome.error) for outcome in outcomes if outcome.result is Result.FAILED}
    assert failures[other] is HeldOriginalDamaged
    assert placeholder in failures


def test_verify_goes_on_where_it_was_stopped(site: Site, tier_root: Path) -> None:
    archive(site)
    stop = Event()
    seen: list[Path] = []

    def stop_soon(outcome: Outcome) -> None:
        seen.append(outcome.path)
        if len(seen) == 3:
            stop.set()

    verify(site, listener=stop_soon, stop=stop)
    verify(site, listener=lambda outcome: seen.append(outcome.path))
    assert len(seen) == len(set(seen)) == len(tracked_files(tier_root))


def test_a_stopped_archive_finishes_what_the_model_has_and_begins_nothing_more(
    settings: Settings, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(settings.catalog_url)
    alone = settings.model_copy(update={"model": settings.model.model_copy(update={"batch": 1})})
    stop, both_busy = Event(), Barrier(2)  # there are two threads for the model
    with open_site(alone) as site:
        scan_all(site)
        encode = site.engine.encode

        def encode_and_stop(pictures: Sequence[Picture], scheme: Scheme) -> list[Record]:
            both_busy.wait(PATIENCE)  # so that pictures have been read for later
            stop.set()
            return encode(pictures, scheme)

        monkeypatch.setattr(site.engine, "encode", encode_and_stop)
        assert archive(site, stop=stop).count("release", Result.DONE) == 2
        states = [row_of(site, path).state for path in tracked_files(tier_root)]
    assert (states.count(State.RELEASED), states.count(State.RESIDENT)) == (2, len(states) - 2)


@pytest.mark.parametrize("act", ["undo", "expire"])
def test_undo_and_expire_end_behind_the_file_in_hand_when_asked_to(site: Site, tier_root: Path, act: str) -> None:
    archive(site)
    holding, stop = tier_root / ".archiver" / "holding", Event()
    held = len(list(holding.iterdir()))

    def stop_soon(_outcome: Outcome) -> None:
        stop.set()

    if act == "undo":
        tally = undo(site, [tier_root], listener=stop_soon, stop=stop)
    else:
        tally = expire(site, datetime.now(UTC) + timedelta(days=31), listener=stop_soon, stop=stop)
    assert tally.counts.total() == tally.count(act, Result.DONE) == 1
    assert len(list(holding.iterdir())) == held - 1


def test_undo_refuses_a_damaged_original_and_leaves_the_placeholder(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    held = site.catalog.holding_for(row_of(site, path).id)
    assert held is not None
    original = tier_root / ".archiver" / "holding" / held.name
    original.write_bytes(original.read_bytes()[:-1] + b"x")
    placeholder = path.read_bytes()
    outcomes: list[Outcome] = []
    undo(site, [path], listener=outcomes.append)
    assert isinstance(outcomes[0].error, HeldOriginalDamaged)
    assert path.read_bytes() == placeholder


def test_undo_does_not_overwrite_what_a_user_wrote(site: Site, tier_root: Path, tmp_path: Path) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    photograph(77).save(path)
    new = path.read_bytes()
    for rescan in (False, True):
        if rescan:
            scan_all(site)
        outcomes: list[Outcome] = []
        undo(site, [path], listener=outcomes.append)
        assert isinstance(outcomes[0].error, FileModified)
        assert path.read_bytes() == new
    rescued = tmp_path / "rescued"
    rescued.mkdir()
    undo(site, [path], to=rescued)
    assert (rescued / "wide.jpg").read_bytes() == original
    (rescued / "wide.jpg").write_bytes(b"something of the user's")
    assert undo(site, [path], to=rescued).count("undo", Result.FAILED) == 1
    assert (rescued / "wide.jpg").read_bytes() == b"something of the user's"


def test_a_copy_of_a_private_original_is_never_anybody_elses_to_read(
    site: Site, tier_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, copy, copied = tier_root / "wide.jpg", tmp_path / "wide.jpg", shutil.copyfileobj
    path.chmod(0o640)
    scan_all(site)
    archive(site, paths=[path])
    modes: list[int] = []

    def look(source: BinaryIO, target: BinaryIO) -> None:
        modes.append(copy.stat().st_mode & 0o777)
        copied(source, target)

    monkeypatch.setattr("archiver.lifecycle.undo.shutil.copyfileobj", look)
    before = os.umask(0o022)
    try:
        assert undo(site, [path], to=tmp_path).count("undo", Result.DONE) == 1
    finally:
        os.umask(before)
    assert (modes, copy.stat().st_mode & 0o777) == ([0o600], 0o640)


def test_undo_brings_a_deleted_file_back(site: Site, tier_root: Path) -> None:
    path = tier_root / "2019" / "summer" / "c.jpeg"
    original, stat = path.read_bytes(), path.stat()
    archive(site, paths=[path])
    shutil.rmtree(path.parent)
    scan_all(site)
    assert row_of(site, path).state is State.GONE
    assert undo(site, [path]).count("undo", Result.DONE) == 1
    assert path.read_bytes() == original
    assert path.stat().st_mtime_ns == stat.st_mtime_ns
    assert row_of(site, path).state is State.RECORDED


def test_a_moved_placeholder_is_known_again_with_its_held_original(site: Site, tier_root: Path) -> None:
    path, moved = tier_root / "wide.jpg", tier_root / "2019" / "renamed.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    path.rename(moved)
    scan_all(site)
    archive(site, paths=[moved])
    assert row_of(site, moved).state is State.RELEASED
    assert recall(site, [moved]).count("recall", Result.DONE) == 1
    assert undo(site, [moved]).count("undo", Result.DONE) == 1
    assert moved.read_bytes() == original
    assert not os.listdir(tier_root / ".archiver" / "holding")
    assert site.catalog.recount(correct=False) == []


def test_a_copied_placeholder_is_never_encoded_but_can_be_recalled(site: Site, tier_root: Path) -> None:
    path, copy = tier_root / "wide.jpg", tier_root / "copy.jpg"
    archive(site, paths=[path])
    shutil.copy2(path, copy)
    scan_all(site)
    tally = archive(site, paths=[copy])
    assert tally.count("record", Result.DONE) == 0
    assert row_of(site, copy).state is State.RELEASED
    recall(site, [path, copy])
    assert path.read_bytes() == copy.read_bytes()
    # The held original still belongs to the file that it was taken from.
    assert undo(site, [path]).count("undo", Result.DONE) == 1
    assert undo(site, [copy]).count("undo", Result.DONE) == 0


def test_a_copied_generated_image_is_never_encoded(site: Site, tier_root: Path) -> None:
    path, copy = tier_root / "wide.jpg", tier_root / "copy.jpg"
    archive(site, paths=[path])
    recall(site, [path])
    shutil.copy2(path, copy)
    scan_all(site)
    assert archive(site, paths=[copy]).count("record", Result.DONE) == 0
    assert row_of(site, copy).state is State.RECALLED


def test_what_is_released_and_named_again_is_skipped(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    assert archive(site, paths=[path]).counts == {("release", Result.SKIPPED): 1}


def test_a_recalled_file_is_not_cold(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    rule = site.settings.rule[0].model_copy(update={"unused_for": timedelta(days=10)})
    site.settings = site.settings.model_copy(update={"rule": (rule,)})
    archive(site)
    assert row_of(site, path).state is State.RELEASED
    recall(site, [path])
    archive(site)
    assert row_of(site, path).state is State.RECALLED


def test_expire_deletes_only_what_is_due_and_whole(site: Site, tier_root: Path) -> None:
    archive(site)
    now = datetime.now(UTC)
    assert expire(site, now).counts.total() == 0
    held = site.catalog.holding_for(row_of(site, tier_root / "wide.jpg").id)
    assert held is not None
    original = tier_root / ".archiver" / "holding" / held.name
    with original.open("ab") as file:
        file.write(b"somebody still had it open")
    tally = expire(site, now + timedelta(days=31))
    assert tally.count("expire", Result.DONE) == len(tracked_files(tier_root)) - 1
    assert tally.count("expire", Result.REFUSED) == 1
    assert os.listdir(original.parent) == [held.name]


def test_an_original_that_was_written_to_is_not_taken_for_one_that_was_released_again(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(site.catalog, "_clock", lambda: time.time() - 60)
        archive(site, paths=[tier_root / "wide.jpg"])
    held = site.catalog.holding_for(row_of(site, tier_root / "wide.jpg").id)
    assert held is not None
    with (tier_root / ".archiver" / "holding" / held.name).open("ab") as file:
        file.write(b"somebody still had it open")
    tally = expire(site, datetime.now(UTC) + timedelta(days=31))
    assert tally.counts == {("expire", Result.REFUSED): 1}
    assert site.catalog.holding_for(held.file_id) == held


def test_expire_keeps_the_original_when_the_placeholder_is_damaged(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    stat = path.stat()
    with path.open("r+b") as file:
        file.write(bytes(4096))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    outcomes: list[Outcome] = []
    expire(site, datetime.now(UTC) + timedelta(days=31), listener=outcomes.append)
    assert isinstance(outcomes[0].error, PlaceholderDamaged)
    assert len(os.listdir(tier_root / ".archiver" / "holding")) == 1


@pytest.mark.parametrize("how", ["rotten", "cut short"])
def test_expire_keeps_the_original_when_its_weights_are_damaged(
    site: Site, tier_root: Path, tmp_path: Path, how: str
) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    shutil.copytree(site.vault.path, tmp_path / "damaged", symlinks=True)
    whole, site.vault = site.vault, Vault(tmp_path / "damaged")
    weights = max((tmp_path / "damaged" / "objects").iterdir(), key=lambda file: file.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.truncate(1000) if how == "cut short" else file.write(b"rot")
    outcomes: list[Outcome] = []
    expire(site, datetime.now(UTC) + timedelta(days=31), listener=outcomes.append)
    assert isinstance(outcomes[0].error, WeightsDamaged)
    assert len(os.listdir(tier_root / ".archiver" / "holding")) == 1
    site.vault = whole
    assert expire(site, datetime.now(UTC) + timedelta(days=31)).counts == {("expire", Result.DONE): 1}


def test_without_grace_nothing_is_released_while_its_weights_are_damaged(
    site: Site, tier_root: Path, tmp_path: Path
) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    undo(site, [path])
    original = path.read_bytes()
    release = site.settings.release.model_copy(update={"grace": timedelta(0)})
    site.settings = site.settings.model_copy(update={"release": release})
    shutil.copytree(site.vault.path, tmp_path / "damaged", symlinks=True)
    whole, site.vault = site.vault, Vault(tmp_path / "damaged")
    weights = max((tmp_path / "damaged" / "objects").iterdir(), key=lambda file: file.stat().st_size)
    weights.chmod(0o644)
    with weights.open("r+b") as file:
        file.write(b"rot")
    outcomes: list[Outcome] = []
    archive(site, paths=[path], listener=outcomes.append)
    assert [(type(outcome.error), outcome.result) for outcome in outcomes] == [(WeightsDamaged, Result.REFUSED)]
    assert path.read_bytes() == original
    site.vault = whole
    assert archive(site, paths=[path]).count("release", Result.DONE) == 1
    assert not os.listdir(tier_root / ".archiver" / "holding")


def test_expire_deletes_the_original_of_an_image_that_was_written_over(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    path.write_bytes((tier_root / "2019" / "a.jpg").read_bytes())
    scan_all(site)
    archive(site, paths=[path])
    assert len(os.listdir(tier_root / ".archiver" / "holding")) == 2
    assert expire(site, datetime.now(UTC) + timedelta(days=31)).count("expire", Result.DONE) == 2


def test_a_clock_that_is_behind_does_not_shorten_the_grace_period(
    site: Site, settings: Settings, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a machine without a battery, before it is told the time."""
    first, path = tier_root / "2019" / "a.jpg", tier_root / "wide.jpg"
    archive(site, paths=[first])
    real = time.time
    with monkeypatch.context() as patch, open_site(settings) as late:
        patch.setattr(time, "time", lambda: real() - timedelta(days=400).total_seconds())
        archive(late, paths=[path])
    assert row_of(site, path).state is State.RELEASED
    expire(site, datetime.now(UTC))
    assert site.catalog.holding_for(row_of(site, path).id) is not None


def test_a_record_that_its_networks_cannot_decode_keeps_no_other_from_being_recalled(
    site: Site, tier_root: Path
) -> None:
    good, bad = tier_root / "2019" / "a.jpg", tier_root / "2019" / "misfit.jpg"
    archive(site, paths=[good])
    with good.open("rb") as file:
        envelope, metadata = formats.read_envelope(file), formats.read_metadata(file)
    assert envelope is not None
    record = Record.from_bytes(envelope.record)
    (labels,) = (section for section in record.sections if section.kind is SectionKind.LABEL_MAP)
    shape = label_map.decode(labels.payload).shape
    strange = Section(SectionKind.LABEL_MAP, label_map.encode(np.full(shape, 200, np.uint8), 256))
    sections = tuple(strange if section is labels else section for section in record.sections)
    misfit = replace(envelope, record=replace(record, sections=sections).to_bytes())
    head = formats.build_placeholder(misfit, metadata, np.zeros((8, 8, 3), np.uint8))
    bad.write_bytes(head.ljust(envelope.source.length, b"\0"))
    assert rebuild(site).count("adopt", Result.DONE) == 1
    outcomes: list[Outcome] = []
    recall(site, [tier_root], listener=outcomes.append)
    assert {outcome.path: outcome.result for outcome in outcomes} == {good: Result.DONE, bad: Result.FAILED}
    assert "label 200 of" in next(outcome.reason for outcome in outcomes if outcome.path == bad)
    assert row_of(site, bad).state is State.RELEASED
    assert verify(site, decode=True, restart=True).count("verify", Result.FAILED) == 1


def test_a_tier_that_is_no_longer_configured_keeps_no_other_from_being_looked_after(
    site: Site, settings: Settings, tier_root: Path, tmp_path: Path
) -> None:
    archive(site)
    other = tmp_path / "other"
    other.mkdir()
    photograph(9).save(other / "later.jpg")
    (tier,) = settings.tier
    renamed = settings.model_copy(update={"tier": (tier.model_copy(update={"name": "other", "path": other}),)})
    with open_site(renamed) as changed:
        scan_all(changed)
        archive(changed)
        assert verify(changed).counts == {("verify", Result.DONE): 1}
        assert expire(changed, datetime.now(UTC) + timedelta(days=31)).counts == {("expire", Result.DONE): 1}
    assert len(os.listdir(tier_root / ".archiver" / "holding")) == len(tracked_files(tier_root))
    tally = expire(site, datetime.now(UTC) + timedelta(days=31))
    assert tally.count("expire", Result.DONE) == len(tracked_files(tier_root)), "named again, it is as it was"


def test_of_two_undos_of_a_deleted_file_the_second_leaves_it_to_the_first(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    path.unlink()
    second: list[Outcome] = []

    def undo_again(name: str) -> None:
        if name == "undo.journalled" and not second:
            undo(site, [path], listener=second.append)

    monkeypatch.setattr("archiver.lifecycle.undo.arrow", undo_again)
    assert undo(site, [path]).count("undo", Result.DONE) == 1
    assert isinstance(second[0].error, FileBusy)
    assert path.read_bytes() == original
    assert row_of(site, path).state is State.RECORDED
    monkeypatch.undo()
    assert undo(site, [path]).count("undo", Result.SKIPPED) == 1
