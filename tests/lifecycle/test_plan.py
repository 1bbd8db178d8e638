"""Promises of the plan: it changes nothing at all, it streams coldest first, and it keeps to watermarks and caps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from inspect import isgenerator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from archiver.catalog import Catalog
from archiver.catalog.rows import Holding, NewRecord, Refused, State, held_name
from archiver.config import Settings
from archiver.errors import NotTracked, TierNotScanned, TierUnreachable
from archiver.formats import BLOCK
from archiver.lifecycle.plan import explain, forced, plan
from archiver.lifecycle.planned import PlannedAct, PlanSummary
from archiver.lifecycle.policy import Action, Why
from archiver.tiers.local import LocalTier
from archiver.tiers.scan import scan

NOW = datetime(2026, 7, 1, tzinfo=UTC)


@dataclass
class World:
    """A tier of real files and a real catalog, opened anew by every call."""

    root: Path
    url: str
    min_free: int | str = 0
    tier: dict[str, Any] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=lambda: [{"name": "cold", "min_size": 0}])

    @property
    def settings(self) -> Settings:
        tier = {"name": "photos", "path": str(self.root), **self.tier}
        release = {"min_free": self.min_free}
        return Settings.model_validate(
            {"catalog": {"url": self.url}, "release": release, "tier": [tier], "rule": self.rules}
        )

    def add(self, path: str, *, used: int = 400, changed: int = 800, size: int = 0, tags: str = "") -> Path:
        """A real picture (or, with `size`, a sparse file of that length) last used and changed so many days ago."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if size:
            with file.open("wb") as out:
                out.truncate(size)
        else:
            Image.effect_noise((160, 120), 90).save(file, format="JPEG")
        if tags:
            os.setxattr(file, "user.xdg.tags", tags.encode())
        os.utime(file, ((NOW - timedelta(days=used)).timestamp(), (NOW - timedelta(days=changed)).timestamp()))
        return file

    @contextmanager
    def open(self) -> Iterator[tuple[Catalog, LocalTier]]:
        tier = LocalTier(self.settings.tier[0])
        try:
            with Catalog.open(self.url) as catalog:
                yield catalog, tier
        finally:
            tier.close()

    def scan(self) -> None:
        with self.open() as (catalog, tier):
            scan(catalog, tier)

    def plan(self, limit: int | None = None) -> tuple[list[PlannedAct], PlanSummary]:
        summary = PlanSummary()
        with self.open() as (catalog, tier):
            return list(plan(catalog, tier, self.settings, NOW, limit, summary)), summary

    def names(self, limit: int | None = None) -> list[str]:
        return [act.file.name for act in self.plan(limit)[0]]


@pytest.fixture
def world(tmp_path: Path) -> World:
    (tmp_path / "photos").mkdir()
    made = World(tmp_path / "photos", f"sqlite:///{tmp_path}/catalog.db")
    Catalog.open(made.url, create=True).dispose()
    return made


# -- nothing changes ---------------------------------------------------------------------------------------------------


def fingerprint(path: Path) -> tuple[object, ...]:
    """All that could betray that somebody was here, taken without leaving a trace: stat first, then content."""
    stat = path.lstat()
    xattrs = {name: os.getxattr(path, name) for name in os.listxattr(path)}
    content = b""
    if path.is_file():
        fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
        with os.fdopen(fd, "rb") as file:
            content = file.read()
    times = (stat.st_atime_ns, stat.st_mtime_ns, stat.st_ctime_ns)
    return stat.st_ino, stat.st_size, stat.st_blocks, stat.st_mode, stat.st_nlink, times, xattrs, content


def test_a_plan_and_an_explanation_change_nothing_at_all(world: World, tmp_path: Path) -> None:
    for number in range(4):
        world.add(f"{number}/a.jpg", tags="holiday, best")
    (world.root / "0/broken.jpg").write_bytes(b"\xff\xd8 no picture")
    os.utime(world.root / "0/broken.jpg", (0, 0))
    world.scan()
    # A rule that has to look into every file: at its tags and at its header.
    world.rules = [
        {"name": "picky", "min_size": 0, "tags": ["best"], "min_pixels": 4000},
        {"name": "all", "min_size": 0},
    ]
    paths = [world.root, *world.root.rglob("*")]
    catalog_file = tmp_path / "catalog.db"
    catalog_before = (catalog_file.read_bytes(), catalog_file.stat().st_mtime_ns)
    before = {path: fingerprint(path) for path in paths}
    assert before == {path: fingerprint(path) for path in paths}, "looking must not itself leave a trace"

    acts, summary = world.plan()
    with world.open() as (catalog, tier):
        explanation = explain(catalog, tier, world.settings, NOW, "0/a.jpg")

    assert [act.rule for act in acts].count("picky") == 4
    assert summary.files == len(acts)
    assert explanation.decision.action is Action.RELEASE
    assert {path: fingerprint(path) for path in paths} == before
    assert (catalog_file.read_bytes(), catalog_file.stat().st_mtime_ns) == catalog_before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["catalog.db", "photos"], (
        "no journal, no lock, no log is left"
    )
    assert sorted(world.root.rglob("*")) == sorted(paths[1:])


# -- what is planned ---------------------------------------------------------------------------------------------------


def test_the_coldest_comes_first_and_the_plan_is_a_stream(world: World) -> None:
    for days in (300, 900, 200, 600):
        world.add(f"{days}.jpg", used=days)
    world.add("170.jpg", used=170)
    world.scan()
    with world.open() as (catalog, tier):
        stream = plan(catalog, tier, world.settings, NOW)
        assert isgenerator(stream)
        assert next(stream).file.name == "900.jpg"
    assert world.names() == ["900.jpg", "600.jpg", "300.jpg", "200.jpg"]


def test_an_act_says_by_which_rule_how_and_why(world: World) -> None:
    world.rules = [
        {
            "name": "keepers",
            "action": "record",
            "include": ["best/"],
            "min_size": 0,
            "scheme": "g-coclico",
            "gate": {"semantic": 0.6},
        },
        {"name": "rest", "min_size": 0, "formats": ["jpeg"]},
    ]
    world.add("best/a.jpg", used=500)
    world.add("other/b.jpg")
    world.scan()
    (first, second), summary = world.plan()
    assert (first.rule, first.action, first.scheme, first.gate.semantic) == ("keepers", Action.RECORD, "g-coclico", 0.6)
    assert (second.rule, second.action, second.scheme) == ("rest", Action.RELEASE, "sgc")
    assert "not opened for 400 days" in second.reasons
    assert (second.accepts("jpeg"), second.accepts("png")) == (True, False)
    sizes = [(world.root / "best/a.jpg").stat().st_size, (world.root / "other/b.jpg").stat().st_size]
    lines = [(line.rule, line.files, line.bytes_now, line.bytes_after) for line in summary.lines]
    assert lines == [("keepers", 1, sizes[0], sizes[0]), ("rest", 1, sizes[1], BLOCK)]
    assert summary.saving == sizes[1] - BLOCK


def test_what_is_left_alone_is_counted_by_reason(world: World) -> None:
    world.rules = [
        {"name": "cold", "min_size": 0, "unused_for": "1d", "exclude": ["private/"], "without_tags": ["best"]}
    ]
    world.add("a.jpg")
    world.add("private/b.jpg")
    world.add("c.jpg", tags="best")
    world.add("pinned/d.jpg")
    world.add("e.jpg", used=2, changed=3)
    world.add("f.jpg")
    world.scan()
    with world.open() as (catalog, _):
        tier_id = catalog.tiers()[0].id
        catalog.pin(tier_id, "pinned", subtree=True)
        row = catalog.find(tier_id, "f.jpg")
        assert row is not None
        catalog.refuse([Refused(row.id, row.version, "truncated or corrupt")])
    acts, summary = world.plan()
    assert [act.file.path for act in acts] == ["a.jpg"]
    assert summary.skipped == {Why.PATH: 1, Why.TAGS: 1, Why.PINNED: 1, Why.CHANGED: 1, Why.REFUSED: 1}


def test_what_a_tier_excludes_is_left_alone_even_if_it_was_scanned_before(world: World) -> None:
    for path in ("a.jpg", "private/b.jpg", "private/shared/c.jpg"):
        world.add(path)
    world.scan()
    world.tier = {"exclude": ["private/**", "!private/shared/**"]}
    acts, summary = world.plan()
    assert sorted(act.file.name for act in acts) == ["a.jpg", "c.jpg"]
    assert summary.skipped == {Why.KEPT: 1}
    with world.open() as (catalog, _):
        row = catalog.find(catalog.tiers()[0].id, "private/b.jpg")
    assert row is not None
    assert forced(row, "photos", world.settings).action is Action.RECORD, "also when it is named by hand"


def test_a_rule_without_tags_never_opens_a_file(world: World) -> None:
    world.add("a.jpg")
    world.scan()
    (world.root / "a.jpg").unlink()
    assert world.names() == ["a.jpg"], "the catalog was enough"
    world.rules[0]["tags"] = ["x"]
    acts, summary = world.plan()
    assert acts == []
    assert summary.skipped == {Why.UNKNOWN: 1}


def test_a_file_changed_since_the_scan_is_not_judged_by_its_new_content(world: World) -> None:
    world.rules[0]["min_pixels"] = 1
    file = world.add("a.jpg")
    world.scan()
    file.write_bytes(b"something else")
    assert world.plan()[1].skipped == {Why.UNKNOWN: 1}


def record(catalog: Catalog, path: str) -> int:
    """Make a record of a file durable, as the archive step does; the number of its row."""
    row = catalog.find(catalog.tiers()[0].id, path)
    assert row is not None
    new = NewRecord(row.id, row.version, b"payload", bytes(32), bytes(8), 1, "jpeg", 8000, 6000)
    assert catalog.commit_records([new]) != [None]
    return row.id


def test_a_recorded_file_is_released_by_what_its_record_says(world: World) -> None:
    world.rules = [{"name": "large", "min_size": 0, "min_pixels": 40_000_000}]
    world.add("a.jpg")
    world.scan()
    assert world.names() == [], "its header says 160 x 120"
    with world.open() as (catalog, _):
        record(catalog, "a.jpg")
    (act,), _ = world.plan()
    assert (act.file.state, act.action) == (State.RECORDED, Action.RELEASE)
    world.rules[0]["action"] = "record"
    assert world.plan()[1].skipped == {Why.RECORDED: 1}


def test_a_file_named_by_hand_gets_its_rule(world: World) -> None:
    world.rules = [{"name": "cold", "scheme": "cocli", "min_size": 0}]
    world.add("a.jpg", used=0, changed=0)
    world.scan()
    with world.open() as (catalog, _):
        row = catalog.find(catalog.tiers()[0].id, "a.jpg")
    assert row is not None
    assert world.names() == []
    act = forced(row, "photos", world.settings)
    assert (act.rule, act.scheme, act.action) == ("cold", "cocli", Action.RELEASE)
    assert forced(row, "elsewhere", Settings()).rule == "by-hand"


# -- caps and watermarks -----------------------------------------------------------------------------------------------


def test_a_sweep_keeps_to_its_caps(world: World) -> None:
    for number in range(6):
        world.add(f"{number}.jpg", used=900 - number, size=10_000)
    world.scan()
    assert world.names(limit=2) == ["0.jpg", "1.jpg"]
    world.tier = {"sweep_files": 4}
    assert len(world.names()) == 4
    assert len(world.names(limit=100)) == 4
    world.tier = {"sweep_bytes": 35_000}
    acts, summary = world.plan()
    assert (len(acts), summary.capped) == (3, True)
    world.tier = {}
    assert (len(world.names()), world.plan()[1].capped) == (6, False)


def test_a_file_larger_than_a_sweep_does_not_hold_up_the_others(world: World) -> None:
    world.add("huge.jpg", used=900, size=50_000)
    world.add("small.jpg", size=10_000)
    world.scan()
    world.tier = {"sweep_bytes": 20_000}
    acts, summary = world.plan()
    assert [act.file.name for act in acts] == ["small.jpg"]
    assert summary.skipped == {Why.SWEEP: 1}


MIB = 1 << 20


@pytest.fixture
def full_world(world: World, small_disk: Any) -> World:
    """Ten cold images of 1 MiB on a small filesystem of its own."""
    world.root = small_disk.path
    for number in range(10):
        file = world.add(f"{number}.jpg", used=900 - number)
        stat = file.stat()
        with file.open("ab") as out:
            out.write(bytes(MIB - stat.st_size))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    world.scan()
    return world


def watermarks(world: World, high: float, low: float) -> None:
    """Relative to how full it is: +0.1 is a tenth of the filesystem above."""
    with world.open() as (_, tier):
        used = tier.space().used_share
    world.tier = {"high_watermark": used + high, "low_watermark": used + low}


def mebibytes(world: World, count: float) -> float:
    with world.open() as (_, tier):
        return count * MIB / tier.space().total


def test_below_the_high_watermark_nothing_is_released(full_world: World) -> None:
    watermarks(full_world, +0.01, 0.0)
    acts, summary = full_world.plan()
    assert (acts, summary.to_free) == ([], 0)
    full_world.rules.insert(0, {"name": "first", "action": "record", "include": ["3.jpg"], "min_size": 0})
    assert full_world.names() == ["3.jpg"], "recording frees nothing: it does not wait for a full disk"


def test_above_it_the_coldest_go_until_the_low_watermark(full_world: World) -> None:
    watermarks(full_world, -0.001, -mebibytes(full_world, 2.5))
    acts, summary = full_world.plan()
    assert [act.file.name for act in acts] == ["0.jpg", "1.jpg", "2.jpg"]
    assert not summary.capped
    assert summary.to_free is not None
    assert summary.saving - MIB < summary.to_free <= summary.saving


def test_held_originals_are_not_freed_twice(full_world: World) -> None:
    with full_world.open() as (catalog, _):
        for name in ("0.jpg", "1.jpg"):
            number = record(catalog, name)
            row = catalog.file(number)
            assert row.record_id is not None
            name_there = held_name(row.inode, catalog.record(row.record_id).sha256)
            held = Holding(name_there, MIB, int(NOW.timestamp()))
            catalog.mark_released(number, row.record_id, version=row.version, holding=held)
    watermarks(full_world, -mebibytes(full_world, 1.9), -mebibytes(full_world, 2.5))
    assert full_world.names() == [], "two are on their way out, and the tier is below its high watermark without them"
    watermarks(full_world, -mebibytes(full_world, 2.1), -mebibytes(full_world, 2.5))
    assert full_world.names() == ["2.jpg"], "half a MiB more is enough"


def test_nothing_is_released_where_placeholders_have_no_room(world: World) -> None:
    world.rules.insert(0, {"name": "first", "action": "record", "include": ["b.jpg"], "min_size": 0})
    world.add("a.jpg")
    world.add("b.jpg")
    world.scan()
    world.min_free = "1000000 TB"
    acts, summary = world.plan()
    assert [act.file.name for act in acts] == ["b.jpg"], "recording writes nothing to the tier"
    assert (summary.skipped, summary.has_room) == ({Why.ROOM: 1}, False)


# -- tiers that must not be acted upon ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ask", [plan, lambda *args: explain(*args, "a.jpg")], ids=["plan", "explain"])
def test_a_tier_is_left_alone_until_its_first_scan_is_complete(world: World, ask: Callable[..., Any]) -> None:
    world.add("a.jpg")
    with world.open() as (catalog, tier):
        with pytest.raises(TierNotScanned):
            ask(catalog, tier, world.settings, NOW)
        catalog.ensure_tier("photos", "local", str(world.root))
        with pytest.raises(TierNotScanned):
            ask(catalog, tier, world.settings, NOW)


def test_an_unreachable_tier_is_left_alone(world: World) -> None:
    world.add("a.jpg")
    world.scan()
    world.root.rename(world.root.with_name("elsewhere"))
    with pytest.raises(TierUnreachable):
        world.plan()
    world.root.mkdir()
    with pytest.raises(TierUnreachable):
        world.plan()


def test_an_explanation_holds_every_rule_against_the_file(world: World) -> None:
    world.rules = [
        {"name": "one", "include": ["x/"], "min_size": 0, "min_pixels": 10**9},
        {"name": "two", "unused_for": "999d", "min_size": 0},
    ]
    world.add("a.jpg")
    world.scan()
    with world.open() as (catalog, tier):
        told = explain(catalog, tier, world.settings, NOW, "a.jpg")
        failed = {verdict.rule.name: [c.why for c in verdict.conditions if not c.holds] for verdict in told.verdicts}
        assert failed == {"one": [Why.PATH, Why.PIXELS], "two": [Why.USED]}
        assert not any(verdict.matches for verdict in told.verdicts)
        assert told.decision.action is Action.SKIP
        with pytest.raises(NotTracked):
            explain(catalog, tier, world.settings, NOW, "b.jpg")
