"""Run acts in a process that dies at an arrow or at any moment, and look at what it leaves.

The processes are forked from a server that has imported everything and run nothing, so that one costs milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path

from PIL import Image

from archiver import formats
from archiver.catalog.rows import State
from archiver.config import Settings
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result, Tally
from archiver.lifecycle.rebuild import rebuild
from archiver.lifecycle.recall import recall
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.undo import undo
from archiver.tiers.scan import scan

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["tests.lifecycle.dying", "archiver.decoder.local", "archiver.models.embedded"])


def _expire_everything(site: Site, _root: Path) -> Tally:
    return expire(site, datetime(2100, 1, 1, tzinfo=UTC))


VERBS: dict[str, Callable[[Site, Path], Tally]] = {
    "archive": lambda site, root: archive(site),
    "recall": lambda site, root: recall(site, [root]),
    "undo": lambda site, root: undo(site, [root]),
    "expire": _expire_everything,
    "rebuild": lambda site, root: rebuild(site),
}


def _work(settings: Settings, verbs: tuple[str, ...], kill_at: str) -> None:
    os.environ["ARCHIVER_KILL_AT"] = kill_at
    with open_site(settings) as site:
        reconcile(site)
        for verb in verbs:
            VERBS[verb](site, settings.tier[0].path)


def run_and_kill(settings: Settings, *verbs: str, at: str = "", after: float | None = None) -> bool:
    """Run verbs in a process of their own, killed at an arrow or after some seconds; True when it was killed."""
    process = _SERVER.Process(target=_work, args=(settings, verbs, at))
    process.start()
    process.join(after)
    if process.is_alive():
        process.kill()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL), f"it died by itself: {process.exitcode}"
    return process.exitcode != 0


class Witness:
    """Knows every original, and says what is wrong with what it finds."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.originals = {path: path.read_bytes() for path in tracked_files(root)}
        self.mtimes = {path: path.stat().st_mtime_ns for path in self.originals}

    def look_right_after(self) -> None:
        """With the dead process's work just as it lies: every file is a whole picture of its full length."""
        for path, original in self.originals.items():
            data = path.read_bytes()
            assert len(data) == len(original), path
            if data != original:
                Image.open(BytesIO(data)).load()
                with path.open("rb") as file:
                    envelope = formats.read_envelope(file)
                assert envelope is not None, f"{path} is neither the original nor carries a record"
                assert envelope.source.sha256 == sha256(original).digest(), path

    def look_after_restart(self, settings: Settings, *, originals_kept: bool = True) -> dict[Path, State]:
        """After a start has settled everything: catalog and files agree, and within the grace period no original is
        lost.
        """
        with open_site(settings) as site:
            failures: list[Outcome] = []
            reconcile(site, lambda outcome: failures.append(outcome) if outcome.result is not Result.DONE else None)
            assert not failures
            assert not any(True for _ in os.scandir(site.tiers["photos"].journal_fd))
            for tier in site.tiers.values():
                scan(site.catalog, tier)
            self.look_right_after()
            states = {path: self._agrees(site, path, originals_kept) for path in self.originals}
            held = {row.name for path in self.originals if (row := site.catalog.holding_for(_id(site, path)))}
            present = set(os.listdir(site.tiers["photos"].holding_fd))
            # An expiry that died between the deletion and its note is noted by the next one.
            assert present == held if originals_kept else present <= held
            assert site.catalog.recount(correct=False) == []
        with closing(sqlite3.connect(settings.catalog_url.removeprefix("sqlite:///"))) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return states

    def _agrees(self, site: Site, path: Path, originals_kept: bool) -> State:
        located = site.locate(path)
        row = site.catalog.find(located.tier_id, located.relative)
        assert row is not None, path
        assert path.stat().st_mtime_ns == self.mtimes[path]
        with path.open("rb") as file:
            envelope = formats.read_envelope(file)
        if envelope is None:
            assert path.read_bytes() == self.originals[path]
            assert row.state in (State.RESIDENT, State.RECORDED), (path, row.state)
            return row.state
        assert row.state is (State.RELEASED if envelope.kind is formats.Kind.PLACEHOLDER else State.RECALLED), path
        assert row.record_id is not None
        assert site.catalog.record(row.record_id).payload == envelope.record
        held = site.catalog.holding_for(row.id)
        if originals_kept:
            assert held is not None, f"the original of {path} is not held"
            kept = self.root / ".archiver" / "holding" / held.name
            assert kept.read_bytes() == self.originals[path]
        return row.state


def _id(site: Site, path: Path) -> int:
    located = site.locate(path)
    row = site.catalog.find(located.tier_id, located.relative)
    assert row is not None
    return row.id


def tracked_files(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and ".archiver" not in path.parts)
