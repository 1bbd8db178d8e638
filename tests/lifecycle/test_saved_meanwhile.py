"""What a user saves while an act is under way is theirs: by renaming over the file, in place, or by its attributes."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import pytest

from archiver.catalog import Catalog
from archiver.catalog.rows import State
from archiver.errors import CatalogUnavailable
from archiver.lifecycle import fill as filling
from archiver.lifecycle import overwrite
from archiver.lifecycle import release as releasing
from archiver.lifecycle import rerelease as rereleasing
from archiver.lifecycle import undo as undoing
from archiver.lifecycle.archive import archive
from archiver.lifecycle.journal import Intent
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.subject import OpenFile
from archiver.lifecycle.undo import undo
from archiver.tiers.local import LocalTier
from tests.lifecycle.conftest import photograph, row_of, scan_all

Patch = pytest.MonkeyPatch


def saved() -> bytes:
    """Another photograph, as an editor writes it."""
    out = io.BytesIO()
    photograph(77).save(out, "JPEG", quality=80)
    return out.getvalue()


def save_by_rename(path: Path) -> None:
    """As rsync, exiftool, darktable and Syncthing do."""
    temporary = path.with_name(".save")
    temporary.write_bytes(saved())
    temporary.rename(path)


def at(patch: Patch, module: ModuleType, point: str, do: Callable[[], object]) -> list[str]:
    """Do it when an act passes an arrow for the first time; the list says whether it did."""
    passed: list[str] = []

    def arrow(name: str) -> None:
        if name == point and not passed:
            passed.append(name)
            do()

    patch.setattr(module, "arrow", arrow)
    return passed


def tier_of(site: Site) -> LocalTier:
    (tier,) = site.local_tiers
    return tier


def held(site: Site) -> list[str]:
    return os.listdir(tier_of(site).holding_fd)


def heard() -> tuple[list[Outcome], Callable[[Outcome], None]]:
    outcomes: list[Outcome] = []
    return outcomes, outcomes.append


@pytest.mark.parametrize("point", ["journalled", "placeholder_written", "leased"])
def test_a_file_saved_by_rename_while_it_is_released_stays(
    site: Site, tier_root: Path, monkeypatch: Patch, point: str
) -> None:
    path = tier_root / "wide.jpg"
    passed = at(monkeypatch, releasing, f"release.{point}", lambda: save_by_rename(path))
    outcomes, listen = heard()
    archive(site, paths=[path], listener=listen)
    assert passed and outcomes[-1].result is Result.REFUSED
    assert path.read_bytes() == saved()
    assert held(site) == []


def test_a_file_saved_at_the_very_exchange_is_given_back(site: Site, tier_root: Path, monkeypatch: Patch) -> None:
    path = tier_root / "wide.jpg"
    exchange, calls = releasing.fileops.exchange, []

    def saved_just_before(*names: int | str) -> None:
        if not calls:
            save_by_rename(path)
        calls.append(names)
        exchange(*names)  # type: ignore[arg-type]

    monkeypatch.setattr(releasing.fileops, "exchange", saved_just_before)
    archive(site, paths=[path])
    assert len(calls) == 2, "there and back"
    assert path.read_bytes() == saved()
    assert held(site) == []


@pytest.mark.parametrize("stands", ["placeholder", "nothing", "another", "another's placeholder"])
def test_settling_deletes_nothing_but_placeholders(
    site: Site, tier_root: Path, monkeypatch: Patch, stands: str
) -> None:
    """The process died between an exchange that took what somebody had just saved, and the way back."""
    path, tier = tier_root / "wide.jpg", tier_of(site)
    contents = {"another": path.read_bytes(), "placeholder": _placeholder(site, path)}
    contents["another's placeholder"] = _placeholder(site, tier_root / "2019" / "b.JPG")
    undo(site, [path])
    with monkeypatch.context() as patch, pytest.raises(_Died):
        patch.setattr(releasing, "_exchange", _dies)
        archive(site, paths=[path])
    (entry,) = os.listdir(tier.journal_fd)
    intent = json.loads((tier_root / ".archiver/journal" / entry).read_text())
    taken = tier_root / ".archiver/holding" / intent["held"]
    taken.write_bytes(saved())
    path.unlink()
    if stands in contents:
        path.write_bytes(contents[stands])
    outcomes, listen = heard()
    reconcile(site, listen)
    (outcome,) = outcomes
    assert outcome.result is Result.DONE
    if stands.startswith("another"):
        assert path.read_bytes() == contents[stands]
        assert taken.read_bytes() == saved()
        assert intent["held"] in outcome.reason
    else:
        assert path.read_bytes() == saved()
        assert not taken.exists()


class _Died(BaseException):
    pass


def _dies(*_: object) -> int:
    raise _Died


def _placeholder(site: Site, path: Path) -> bytes:
    archive(site, paths=[path])
    assert row_of(site, path).state is State.RELEASED
    return path.read_bytes()


def test_a_file_saved_by_rename_while_it_is_undone_stays(site: Site, tier_root: Path, monkeypatch: Patch) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()
    archive(site, paths=[path])
    at(monkeypatch, undoing, "undo.journalled", lambda: save_by_rename(path))
    outcomes, listen = heard()
    undo(site, [path], listener=listen)
    assert outcomes[-1].result is Result.FAILED
    assert path.read_bytes() == saved()
    (name,) = held(site)
    assert (tier_root / ".archiver/holding" / name).read_bytes() == original


@pytest.mark.parametrize("point", ["journalled", "tail_written"])
def test_a_recall_leaves_what_was_saved_in_place(site: Site, tier_root: Path, monkeypatch: Patch, point: str) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    module = filling if point == "journalled" else overwrite
    passed = at(monkeypatch, module, f"recall.{point}", lambda: path.write_bytes(saved()))
    outcomes, listen = heard()
    recall(site, [path], listener=listen)
    assert passed and outcomes[-1].result is Result.FAILED
    assert path.read_bytes() == saved()
    scan_all(site)
    assert row_of(site, path).state is State.SUPERSEDED


def test_an_edit_that_keeps_length_and_time_is_not_released_again(
    site: Site, tier_root: Path, monkeypatch: Patch
) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    recall(site, [path])

    def edit() -> None:
        was = path.stat()
        with path.open("r+b") as file:
            file.seek(-1000, os.SEEK_END)
            file.write(b"edited" * 20)
        os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))

    passed = at(monkeypatch, rereleasing, "rerelease.journalled", edit)
    archive(site, paths=[path])
    assert passed and b"edited" * 20 in path.read_bytes()


def test_an_old_entry_is_not_settled_while_another_act_is_under_way(
    site: Site, tier_root: Path, monkeypatch: Patch
) -> None:
    path, tier = tier_root / "wide.jpg", tier_of(site)
    archive(site, paths=[path])
    row = row_of(site, path)
    assert row.record_id is not None
    stale = Intent("rerelease", row.path, row.record_id, row.inode, rule="all")
    entry = asdict(stale) | {"path": os.fsencode(stale.path).hex()}
    (tier_root / ".archiver/journal" / stale.name).write_text(json.dumps(entry))
    outcomes, listen = heard()
    at(monkeypatch, overwrite, "recall.tail_written", lambda: reconcile(site, listen))
    recall(site, [path])
    assert [outcome.result for outcome in outcomes] == [Result.SKIPPED]
    assert row_of(site, path).state is State.RECALLED
    before = path.read_bytes()
    reconcile(site, listen)
    assert outcomes[-1].result is Result.DONE
    assert path.read_bytes() == before
    assert os.listdir(tier.journal_fd) == []


@pytest.mark.parametrize("meanwhile", ["recalled", "saved"])
def test_a_release_that_the_catalog_heard_of_late_is_what_stands_there(
    site: Site, tier_root: Path, monkeypatch: Patch, meanwhile: str
) -> None:
    path = tier_root / "wide.jpg"
    original = path.read_bytes()

    def unavailable(*_: object, **__: object) -> None:
        raise CatalogUnavailable(url="sqlite", reason="database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "mark_released", unavailable)
        archive(site, paths=[path])
    assert held(site) != []
    if meanwhile == "saved":
        save_by_rename(path)
    else:
        _recall_without_catalog(site, path)
    reconcile(site)
    row = row_of(site, path)
    assert row.state is (State.SUPERSEDED if meanwhile == "saved" else State.RECALLED)
    assert site.catalog.holding_for(row.id) is not None
    to = tier_root.parent / "to"
    to.mkdir()
    undo(site, [path], to=to)
    assert (to / path.name).read_bytes() == original


def _recall_without_catalog(site: Site, path: Path) -> None:
    with path.open("r+b") as file:
        opened = OpenFile(path, file.fileno(), os.fstat(file.fileno()))
        carried = filling.carried_by(opened)
        (generated,) = site.engine.generate([carried.record])
        filling.fill_unlisted(site, opened, carried, generated)


def test_attributes_set_during_a_release_are_not_lost(site: Site, tier_root: Path, monkeypatch: Patch) -> None:
    path = tier_root / "wide.jpg"
    path.chmod(0o644)
    at(monkeypatch, releasing, "release.placeholder_written", lambda: path.chmod(0o600))
    archive(site, paths=[path])
    assert path.stat().st_mode & 0o777 == 0o600
    assert row_of(site, path).state is State.RECORDED


def test_an_undone_file_has_the_attributes_that_its_placeholder_was_given(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    path.chmod(0o644)
    original, mtime = path.read_bytes(), path.stat().st_mtime_ns
    archive(site, paths=[path])
    path.chmod(0o600)
    os.setxattr(path, "user.xdg.tags", b"private")
    undo(site, [path])
    assert path.read_bytes() == original
    assert path.stat().st_mode & 0o777 == 0o600
    assert os.getxattr(path, "user.xdg.tags") == b"private"
    assert path.stat().st_mtime_ns == mtime


def test_an_entry_that_cannot_be_read_holds_no_other_up(site: Site, tier_root: Path) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    row = row_of(site, path)
    assert row.record_id is not None
    good = Intent("recall", row.path, row.record_id, row.inode)
    journal = tier_root / ".archiver/journal"
    (journal / "0-release").write_text('{"act": "rele')
    (journal / "1-move").write_text(json.dumps(asdict(good) | {"act": "move", "path": b"wide.jpg".hex()}))
    (journal / good.name).write_text(json.dumps(asdict(good) | {"path": os.fsencode(good.path).hex()}))
    outcomes, listen = heard()
    reconcile(site, listen)
    assert [outcome.result for outcome in outcomes] == [Result.FAILED, Result.FAILED, Result.DONE]
    assert sorted(os.listdir(journal)) == ["0-release", "1-move"]


def test_a_copy_of_an_original_that_could_not_be_finished_is_not_left(
    site: Site, tier_root: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    path, to = tier_root / "wide.jpg", tmp_path / "to"
    to.mkdir()
    original = path.read_bytes()
    archive(site, paths=[path])

    def full(_source: object, target: io.BufferedWriter) -> None:
        target.write(original[:10_000])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(undoing.shutil, "copyfileobj", full)
        undo(site, [path], to=to)
    assert list(to.iterdir()) == []
    undo(site, [path], to=to)
    assert (to / "wide.jpg").read_bytes() == original


def test_what_is_saved_where_an_original_is_being_put_back_stays(
    site: Site, tier_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tier_root / "wide.jpg"
    archive(site, paths=[path])
    path.unlink()
    originals = held(site)
    passed = at(monkeypatch, undoing, "undo.journalled", lambda: path.write_bytes(saved()))
    outcomes: list[Outcome] = []
    undo(site, [path], listener=outcomes.append)
    assert passed
    assert [outcome.error.message for outcome in outcomes if outcome.error] == [
        f"{path} was changed since it was released"
    ]
    assert path.read_bytes() == saved()
    assert held(site) == originals
