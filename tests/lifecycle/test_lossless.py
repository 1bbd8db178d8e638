"""The lossless scheme: fewer bytes on disk, and every one of the original's comes back, whatever happens in between."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import pytest
from fixtures_fs import Disk
from PIL import Image

from archiver import formats, status
from archiver.catalog.rows import Act, State
from archiver.catalog.schema import upgrade
from archiver.checks import Check, Verdict
from archiver.config import Settings
from archiver.doctor import _vault
from archiver.errors import DiskFull, EnvelopeDamaged, TranscoderNotInstalled
from archiver.lifecycle import exact
from archiver.lifecycle.archive import archive
from archiver.lifecycle.arrows import ARROWS
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.lifecycle.verify import verify
from tests.lifecycle.conftest import LAX_GATE, fill_with_photographs, make_settings, row_of, scan_all
from tests.lifecycle.dying import run_and_kill, tracked_files
from tests.lifecycle.test_round_trip import Seen

FAR = datetime(2100, 1, 1, tzinfo=UTC)


def with_rule(settings: Settings, **rule: object) -> Settings:
    raw = settings.model_dump()
    raw["rule"] = [
        {"name": "exact", "min_size": 0, "unused_for": "0s", "unchanged_for": "0s", "gate": LAX_GATE, **rule},
    ]
    raw["tier"] = [{"name": tier.name, "path": str(tier.path)} for tier in settings.tier]
    return Settings.model_validate({key: raw[key] for key in ("catalog", "vault", "model", "release", "tier", "rule")})


@pytest.fixture
def settings(tmp_path: Path, tier_root: Path, random_vault: Path, settings: Settings) -> Settings:
    return with_rule(settings, scheme="lossless", formats=["jpeg"])


@pytest.fixture
def site(settings: Settings) -> Iterator[Site]:
    upgrade(settings.catalog_url)
    with open_site(settings) as opened:
        scan_all(opened)
        yield opened


@pytest.fixture
def jpegs(tier_root: Path) -> dict[Path, bytes]:
    found = [path for path in sorted(tier_root.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    assert len(found) == 5
    return {path: path.read_bytes() for path in found}


def on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def given_back(site: Site) -> int:
    (tier,) = status.tiers(site.settings)
    assert tier.given_back is not None
    return tier.given_back


def test_status_tells_what_the_disk_got_back(site: Site, jpegs: dict[Path, bytes]) -> None:
    archive(site)
    assert given_back(site) == 0, "the originals are held"
    expire(site, now=FAR)
    released = {path for path in jpegs if row_of(site, path).state is State.RELEASED}
    assert released
    assert given_back(site) == sum(len(jpegs[path]) - on_disk(path) for path in released)
    recall(site, [min(released)])
    assert given_back(site) == sum(len(jpegs[path]) - on_disk(path) for path in released - {min(released)})
    before = given_back(site)
    with open_site(replace_catalog(site.settings)) as rebuilt:
        scan_all(rebuilt)
        rebuild(rebuilt)
        assert given_back(rebuilt) == before


def replace_catalog(settings: Settings) -> Settings:
    """The same configuration with a catalog that knows nothing."""
    raw = settings.model_copy(
        update={"catalog": settings.catalog.model_copy(update={"url": f"{settings.catalog_url}2"})}
    )
    upgrade(raw.catalog_url)
    return raw


def test_a_file_is_released_without_loss_and_recalled_to_the_byte(site: Site, jpegs: dict[Path, bytes]) -> None:
    before = {path: (Seen.of(path), on_disk(path)) for path in jpegs}
    tally = archive(site)
    assert tally.count("release", Result.DONE) == len(jpegs), tally.reasons
    for path, original in jpegs.items():
        assert Seen.of(path) == before[path][0]
        assert 0.6 * before[path][1] < on_disk(path) < 0.95 * before[path][1]
        assert row_of(site, path).state is State.RELEASED
        placeholder = path.read_bytes()
        assert placeholder != original and len(placeholder) == len(original)
        Image.open(BytesIO(placeholder)).load()
        with path.open("rb") as file:
            assert len(formats.read_payload(file)) < len(original)
    inodes = {path: path.stat().st_ino for path in jpegs}

    tally = recall(site, list(jpegs))
    assert tally.count("recall", Result.DONE) == len(jpegs), tally.reasons
    for path, original in jpegs.items():
        assert path.read_bytes() == original  # and so nothing in it says that it is synthetic
        assert Seen.of(path) == before[path][0]
        assert path.stat().st_ino == inodes[path]
        assert row_of(site, path).state is State.RECORDED
        assert next(iter(site.catalog.audit_rows(limit=1))).act is Act.RECALLED
    assert not os.listdir(next(iter(jpegs)).parents[1] / ".archiver" / "journal")
    assert not os.listdir(site.tiers["photos"].holding_fd)  # the originals in their grace period are no longer needed

    tally = archive(site, paths=list(jpegs))
    assert tally.count("release", Result.DONE) == len(jpegs), tally.reasons
    assert tally.count("record", Result.DONE) == 0
    assert undo(site, list(jpegs)).count("undo", Result.DONE) == len(jpegs)
    assert {path: path.read_bytes() for path in jpegs} == jpegs
    assert site.catalog.recount() == []


def test_no_model_and_no_weights_are_needed(site: Site, jpegs: dict[Path, bytes]) -> None:
    archive(site)
    recall(site, list(jpegs))
    assert site._engine is None
    assert not any(use.live and not site.vault.holds(use.profile) for use in site.catalog.profiles())


def test_what_is_left_is_enough_when_grace_period_and_catalog_are_gone(
    site: Site, jpegs: dict[Path, bytes], tier_root: Path, settings: Settings, tmp_path: Path
) -> None:
    archive(site)
    assert expire(site, FAR).count("expire", Result.DONE) == len(jpegs)
    assert not os.listdir(site.tiers["photos"].holding_fd)
    site.catalog.dispose()
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    upgrade(settings.catalog_url)
    with open_site(settings) as again:
        assert rebuild(again).count("adopt", Result.DONE) == len(jpegs)
        assert verify(again, decode=True).count("verify", Result.DONE) == len(jpegs)
        assert recall(again, [tier_root]).count("recall", Result.DONE) == len(jpegs)
    assert {path: path.read_bytes() for path in jpegs} == jpegs


def test_other_formats_and_what_saves_nothing_stay_as_they_are(
    site: Site, jpegs: dict[Path, bytes], tier_root: Path, settings: Settings
) -> None:
    small = tier_root / "small.jpg"
    Image.effect_noise((48, 48), 90).save(small, quality=95)
    site.settings = with_rule(settings, scheme="lossless", min_size=0)
    scan_all(site)
    others = {path: path.read_bytes() for path in tier_root.glob("2019/?.*") if path not in jpegs}
    assert len(others) == 3
    archive(site)
    for path, original in {**others, small: small.read_bytes()}.items():
        assert path.read_bytes() == original
        assert row_of(site, path).state is State.RESIDENT
        assert row_of(site, path).refusal is not None


def test_damage_behind_the_placeholder_is_found_and_the_held_original_kept(
    site: Site, jpegs: dict[Path, bytes]
) -> None:
    archive(site)
    path, *_ = jpegs
    stat = path.stat()
    with path.open("r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 64)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with path.open("rb") as file, pytest.raises(EnvelopeDamaged):
        formats.read_payload(file)
    assert verify(site).count("verify", Result.FAILED) == 1
    assert expire(site, FAR).count("expire", Result.REFUSED) == 1
    damaged = path.read_bytes()
    assert recall(site, [path]).count("recall", Result.FAILED) == 1
    assert path.read_bytes() == damaged
    assert undo(site, [path]).count("undo", Result.DONE) == 1
    assert path.read_bytes() == jpegs[path]


RESTORE = [name for name in ARROWS if name.startswith("restore.")]
RELEASE = [name for name in ARROWS if name.startswith("release.")]


@pytest.mark.parametrize(
    ("arrow", "in_grace"),
    [(arrow, in_grace) for arrow in RESTORE for in_grace in (True, False)] + [(arrow, True) for arrow in RELEASE],
)
def test_a_kill_at_any_arrow_loses_no_byte(
    site: Site, jpegs: dict[Path, bytes], tier_root: Path, settings: Settings, arrow: str, in_grace: bool
) -> None:
    verb = "recall" if arrow in RESTORE else "archive"
    if verb == "recall":
        assert not run_and_kill(settings, *("archive",) if in_grace else ("archive", "expire"))
    assert run_and_kill(settings, verb, at=f"{arrow}:2")
    _whole(jpegs)
    with open_site(settings) as again:
        troubles: list[Outcome] = []
        reconcile(again, lambda outcome: troubles.append(outcome) if outcome.result is not Result.DONE else None)
        assert not troubles
        assert not os.listdir(again.tiers["photos"].journal_fd)
        scan_all(again)
        _whole(jpegs)
        held = {row.name for path in jpegs if (row := again.catalog.holding_for(row_of(again, path).id))}
        assert set(os.listdir(again.tiers["photos"].holding_fd)) == held
        assert again.catalog.recount(correct=False) == []
        recall(again, [tier_root])
    assert {path: path.read_bytes() for path in jpegs} == jpegs


def _whole(jpegs: dict[Path, bytes]) -> None:
    """Every file is its original, or a picture whose head is a whole placeholder's."""
    for path, original in jpegs.items():
        data = path.read_bytes()
        assert len(data) == len(original)
        if data != original:
            Image.open(BytesIO(data)).load()
            with path.open("rb") as file:
                envelope = formats.read_envelope(file)
            assert envelope is not None and envelope.source.sha256 == sha256(original).digest()


def test_the_doctor_says_whether_what_restores_them_is_there(
    site: Site, jpegs: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(site, paths=list(jpegs)[:2])
    (there,) = _said_of_lossless(site.settings)
    assert there.verdict is Verdict.OK and there.finding.startswith("2 live")
    monkeypatch.setattr("archiver.codec.lossless.is_installed", lambda: False)
    (missing,) = _said_of_lossless(site.settings)
    assert missing.verdict is Verdict.BROKEN and "archiver[lossless]" in missing.hint


def _said_of_lossless(settings: Settings) -> list[Check]:
    return [check for check in _vault(settings) if check.subject == "lossless records"]


def test_without_the_transcoder_nothing_is_touched_and_the_run_ends(
    site: Site, jpegs: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(TranscoderNotInstalled, match="imagecodecs"):
        archive(site)
    assert {path: path.read_bytes() for path in jpegs} == jpegs
    assert {row_of(site, path).state for path in jpegs} == {State.RESIDENT}


# -- the ladder --------------------------------------------------------------------------------------------------------


def test_what_falls_short_climbs_and_the_audit_tells_every_rung(
    site: Site, jpegs: dict[Path, bytes], tier_root: Path, settings: Settings
) -> None:
    gate = {"semantic": -1.0, "colour": 0.5}  # random weights never reach it
    site.settings = with_rule(settings, ladder=["cocli", "sgc", "lossless"], gate=gate)
    told: list[Outcome] = []
    tally = archive(site, listener=told.append)
    assert tally.count("release", Result.DONE) == len(jpegs), tally.reasons
    recorded = {outcome.path: outcome for outcome in told if outcome.act == "record"}
    for path in jpegs:
        rungs = recorded[path].rungs
        assert [rung.scheme for rung in rungs] == ["cocli", "sgc", "lossless"]
        assert all("colour error" in rung.shortfall for rung in rungs[:2]) and not rungs[2].shortfall
        fidelity = recorded[path].fidelity
        assert fidelity is not None and fidelity.semantic == 1
        (row,) = [
            row
            for row in site.catalog.audit_rows(
                tier_id=row_of(site, path).tier_id, path=str(path.relative_to(tier_root))
            )
            if row.act is Act.RECORDED
        ]
        assert row.detail.count("below the gate") == 2 and row.detail.endswith("passed")
    other = tier_root / "2019" / "d.png"  # no JPEG: it cannot reach the top, and stays
    assert recorded[other].result is Result.REFUSED
    assert row_of(site, other).refusal == "gate failed"
    recall(site, list(jpegs))
    assert {path: path.read_bytes() for path in jpegs} == jpegs


def test_what_passes_low_climbs_no_higher(site: Site, jpegs: dict[Path, bytes], settings: Settings) -> None:
    site.settings = with_rule(settings, ladder=["sgc", "lossless"], formats=["jpeg"])
    told: list[Outcome] = []
    archive(site, listener=told.append)
    schemes = {rung.scheme for outcome in told for rung in outcome.rungs}
    assert schemes == {"sgc"}
    assert all(on_disk(path) == 4096 for path in jpegs)


@pytest.mark.root
@pytest.mark.parametrize("grace", ["30d", "0s"])
def test_a_recall_onto_a_full_disk_loses_no_byte(
    small_disk: Disk, tmp_path: Path, random_vault: Path, grace: str
) -> None:
    fill_with_photographs(small_disk.path)
    made = make_settings(tmp_path / "state", small_disk.path, random_vault, grace=grace)
    (tmp_path / "state").mkdir()
    exactly = with_rule(made, scheme="lossless", formats=["jpeg"])
    upgrade(exactly.catalog_url)
    with open_site(exactly) as site:
        scan_all(site)
        originals = {path: path.read_bytes() for path in tracked_files(small_disk.path) if ".j" in path.name.lower()}
        assert archive(site).count("release", Result.DONE) == len(originals)
        before = {path: (path.read_bytes(), small_disk.extents(path)) for path in originals}
        kept = set(os.listdir(site.tiers["photos"].holding_fd))
        ballast = small_disk.fill(leave=64 * 1024)
        told: list[Outcome] = []
        recall(site, list(originals), listener=told.append)
        failed = [outcome for outcome in told if outcome.result is Result.FAILED]
        assert failed and all(isinstance(outcome.error, DiskFull) for outcome in failed)
        for outcome in failed:
            assert (outcome.path.read_bytes(), small_disk.extents(outcome.path)) == before[outcome.path]
        assert set(os.listdir(site.tiers["photos"].holding_fd)) <= kept
        assert not os.listdir(site.tiers["photos"].journal_fd)
        ballast.unlink()
        recall(site, list(originals))
        assert {path: path.read_bytes() for path in originals} == originals


def test_a_recall_leaves_what_was_saved_in_place(
    site: Site, jpegs: dict[Path, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, another = list(jpegs)[:2]
    archive(site, paths=[path])
    assert row_of(site, path).state is State.RELEASED

    def save(name: str) -> None:
        if name == "restore.copied":
            path.write_bytes(jpegs[another])

    monkeypatch.setattr(exact, "arrow", save)
    recall(site, [path])
    assert path.read_bytes() == jpegs[another]
