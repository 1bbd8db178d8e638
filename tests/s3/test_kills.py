"""Whatever step of an act on objects a process dies at, nothing is lost and nothing is half done."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest

from archiver import formats
from archiver.catalog.rows import State, held_name
from archiver.config import Settings
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.arrows import S3_ARROWS
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Tally
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.s3 import caring
from archiver.s3.address import held_number
from tests.fixtures_s3 import Bucket
from tests.lifecycle.conftest import random_vault
from tests.s3.world import World, keeper, make_world

__all__ = ["random_vault"]

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.s3.test_kills", "archiver.decoder.local", "archiver.models.embedded", "boto3"])

UNDONE = ("2019/a.jpg", "2019/d.png", "wide.webp")  # three of four
VERBS: dict[str, Callable[[Site], Tally]] = {
    "archive": lambda site: archive(site),
    "recall": lambda site: recall(site, [site.tiers["bucket"].where("")]),
    "undo": lambda site: undo(site, [site.tiers["bucket"].where("")]),
    "expire": lambda site: expire(site, datetime(2100, 1, 1, tzinfo=UTC)),
    "rebuild": lambda site: rebuild(site),
    "undo three": lambda site: undo(site, [site.tiers["bucket"].where(key) for key in UNDONE]),
    "compact": lambda site: _compact(site),
}
BEFORE = {  # what has to have happened for an arrow to be reached, the verb that reaches it, what it leads to
    "release": ((), "archive", State.RELEASED),
    "recall": (("archive",), "recall", State.RECALLED),
    "rerelease": (("archive", "recall"), "archive", State.RELEASED),
    "undo": (("archive",), "undo", State.RECORDED),
    "expire": (("archive",), "expire", State.RELEASED),
    "restore": (("archive",), "recall", State.RECORDED),  # of what is kept without loss
}


def _compact(site: Site) -> Tally:
    """At once, where the daemon waits for a day."""
    ground = keeper(site).ground
    ground.packs.look_again()
    tally = Tally()
    for pack in ground.packs.all():
        tally.add(caring.compact(ground, pack))
    return tally


def _work(settings: Settings, verbs: tuple[str, ...], kill_at: str, environment: dict[str, str]) -> None:
    os.environ.update(environment | {"ARCHIVER_KILL_AT": kill_at})
    with open_site(settings) as site:
        reconcile(site)
        for verb in verbs:
            VERBS[verb](site)


def run_and_kill(settings: Settings, *verbs: str, at: str = "") -> bool:
    """Run verbs in a process of their own, killed at an arrow; True when it was."""
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    process = _SERVER.Process(target=_work, args=(settings, verbs, at, environment))
    process.start()
    process.join(120)
    assert process.exitcode in (0, -signal.SIGKILL), f"it died by itself: {process.exitcode}"
    return process.exitcode != 0


def look(world: World, *, originals_kept: bool = True) -> set[State]:
    """After a start has settled everything: catalog and objects agree, and no original is lost."""
    with world.site() as site:
        assert world.ours("journal") == []
        for key, original in world.originals.items():
            row = world.row(site, key)
            kind = world.stands(key) if key in world.users() else Kind.PLACEHOLDER  # packed
            expected = {
                None: (State.RESIDENT, State.RECORDED),
                Kind.PLACEHOLDER: (State.RELEASED,),
                Kind.GENERATED: (State.RECALLED,),
            }[kind]
            assert row.state in expected, (key, row.state, kind)
            if kind is None:
                continue
            held = site.catalog.holding_for(row.id)
            if originals_kept:
                assert held is not None and row.record_id is not None
                digest = sha256(original).digest()
                found = keeper(site).ground.held.find(key, int(held.name.partition("-")[0], 16), digest)
                number = held_number(key, found.inode)
                assert held.name == held_name(number, digest) or "archiver-kind" in found.metadata
                with keeper(site).ground.held.opened(found, key, digest):
                    pass
            if row.state is State.RELEASED:
                keeper(site).ground.body(row).carried(formats.Kind.PLACEHOLDER)
        assert site.catalog.recount(correct=False) == []
        return set(world.states(site).values())


def arrows(*packed: str) -> list[str]:
    known = [name for name in S3_ARROWS if name.split(".")[1] in BEFORE and "restore" not in name]
    return [name for name in known if name != "s3.release.packed" or packed]


def dies_at(world: World, arrow: str) -> None:
    before, verb, after = BEFORE[arrow.split(".")[1]]
    with world.site():
        pass
    assert not run_and_kill(world.settings, *before)
    times = 1 if arrow in ("s3.release.journalled", "s3.release.packed") else 2  # so that one object is through already
    assert run_and_kill(world.settings, verb, at=f"{arrow}:{times}"), f"{arrow} was never passed"
    look(world, originals_kept=verb != "expire")
    assert not run_and_kill(world.settings, verb)
    assert look(world, originals_kept=verb != "expire") == {after}


@pytest.mark.parametrize("arrow", arrows())
def test_a_kill_at_any_arrow_loses_nothing(tmp_path: Path, bucket: Bucket, random_vault: Path, arrow: str) -> None:
    dies_at(make_world(tmp_path, bucket, random_vault, most=2), arrow)


@pytest.mark.parametrize("arrow", arrows("packed"))
def test_a_kill_at_any_arrow_loses_nothing_where_records_are_packed(
    tmp_path: Path, bucket: Bucket, random_vault: Path, arrow: str
) -> None:
    dies_at(make_world(tmp_path, bucket, random_vault, most=2, records="packed"), arrow)


@pytest.mark.parametrize("arrow", [name for name in S3_ARROWS if "restore" in name])
@pytest.mark.parametrize("records", ["in-place", "packed"])
def test_a_kill_loses_nothing_of_what_is_kept_without_loss(
    tmp_path: Path, bucket: Bucket, random_vault: Path, records: str, arrow: str
) -> None:
    pytest.importorskip("imagecodecs")
    world = make_world(tmp_path, bucket, random_vault, scheme="lossless", most=2, records=records)
    dies_at(world, arrow)
    assert {key: world.get(key) for key in world.originals} == world.originals


def test_a_kill_while_a_pack_is_written_anew_loses_no_record(
    tmp_path: Path, bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, bucket, random_vault, records="packed")
    with world.site():
        pass
    assert not run_and_kill(world.settings, "archive", "undo three")
    assert run_and_kill(world.settings, "compact", at="s3.compact.written")
    assert len(world.ours("packs")) == 2
    assert look(world) == {State.RECORDED, State.RELEASED}
    assert not run_and_kill(world.settings, "compact")
    assert len(world.ours("packs")) == 1
    assert look(world) == {State.RECORDED, State.RELEASED}
    assert not run_and_kill(world.settings, "undo")
    assert {key: world.get(key) for key in world.originals} == world.originals


@pytest.mark.parametrize("arrow", ["s3.release.placed", "s3.rerelease.placed", "s3.undo.placed", "s3.recall.placed"])
@pytest.mark.parametrize("records", ["in-place", "packed"])
def test_a_kill_loses_nothing_where_originals_are_held_as_versions(
    tmp_path: Path, versioned_bucket: Bucket, random_vault: Path, records: str, arrow: str
) -> None:
    dies_at(make_world(tmp_path, versioned_bucket, random_vault, most=2, records=records), arrow)


def test_a_kill_while_rebuilding_is_made_good_by_rebuilding_again(
    tmp_path: Path, bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, bucket, random_vault, most=2)
    with world.site():
        pass
    run_and_kill(world.settings, "archive")
    for leftover in tmp_path.glob("catalog.db*"):
        leftover.unlink()
    with world.site(scanned=False):
        pass
    assert run_and_kill(world.settings, "rebuild", at="rebuild.adopted:2")
    assert not run_and_kill(world.settings, "rebuild")
    assert look(world) == {State.RELEASED}
    assert not run_and_kill(world.settings, "undo")
    assert look(world) == {State.RECORDED}


def test_two_processes_that_archive_the_same_objects_lose_nothing(
    tmp_path: Path, bucket: Bucket, random_vault: Path
) -> None:
    world = make_world(tmp_path, bucket, random_vault)
    with world.site():
        pass
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    both = [_SERVER.Process(target=_work, args=(world.settings, ("archive",), "", environment)) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert look(world) == {State.RELEASED}
    assert not run_and_kill(world.settings, "undo")
    assert look(world) == {State.RECORDED}
