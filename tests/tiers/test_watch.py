"""What changes between scans is in the catalog soon, what is read counts as used, and what is lost is scanned for."""

from __future__ import annotations

import logging
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fixtures_fs import Disk, run, unavailable

from archiver.catalog import Catalog
from archiver.catalog.rows import FileRow
from archiver.config import LocalTierSettings
from archiver.tiers import fileops, inotify
from archiver.tiers.agenda import Agenda, Due
from archiver.tiers.local import LocalTier
from archiver.tiers.report import ScanReport
from archiver.tiers.scan import Progress, scan
from archiver.tiers.watch import Timing, Watcher

Files = Callable[[], dict[str, FileRow]]
Put = Callable[..., Path]

QUICK = Timing(quiet=0.02, longest=0.2, reads=0.1, retry=0.1)
NEVER = 20.0  # seconds; a test that waits so long has failed


class Watched:
    """A watcher under way, and a way to wait for what it does."""

    def __init__(self, catalog: Catalog, tier: LocalTier) -> None:
        self.reports: queue.SimpleQueue[ScanReport] = queue.SimpleQueue()
        self.watcher = Watcher(catalog, tier, timing=QUICK, heard=self.reports.put)

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for scans until something holds."""
        while not holds():
            self.reports.get(timeout=NEVER)


@pytest.fixture
def watch(catalog: Catalog) -> Callable[..., object]:
    @contextmanager
    def watching(tier: LocalTier) -> Iterator[Watched]:
        watched = Watched(catalog, tier)
        watched.watcher.start()
        try:
            watched.reports.get(timeout=NEVER)  # the scan once all is watched
            yield watched
        finally:
            watched.watcher.stop()
        assert watched.watcher.alive

    return watching


def present(files: Files) -> set[str]:
    return {path for path, row in files().items() if row.state.label != "gone"}


# -- changes -----------------------------------------------------------------------------------------------------------


def test_files_that_come_change_move_and_go_are_followed(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched]
) -> None:
    put("2019/a.jpg")
    with watch(tier) as watched:
        assert present(files) == {"2019/a.jpg"}  # it has scanned once by itself
        put("2019/b.jpg")
        watched.until(lambda: present(files) == {"2019/a.jpg", "2019/b.jpg"})
        put("2019/b.jpg", b"longer than before")
        watched.until(lambda: files()["2019/b.jpg"].size == len(b"longer than before"))
        (tier.root / "2019/b.jpg").rename(tier.root / "c.jpg")
        watched.until(lambda: present(files) == {"2019/a.jpg", "c.jpg"})
        (tier.root / "c.jpg").unlink()
        watched.until(lambda: present(files) == {"2019/a.jpg"})
        os.utime(tier.root / "2019/a.jpg", (1_600_000_000, 1_600_000_000))
        watched.until(lambda: files()["2019/a.jpg"].mtime_ns == 1_600_000_000 * 10**9)


def test_whole_trees_that_come_move_and_go_are_followed(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched]
) -> None:
    put("a.jpg")
    with watch(tier) as watched:
        put("2019/summer/sea/b.jpg")
        watched.until(lambda: "2019/summer/sea/b.jpg" in present(files))
        put("2019/summer/sea/c.jpg")
        watched.until(lambda: "2019/summer/sea/c.jpg" in present(files))
        (tier.root / "2019/summer").rename(tier.root / "2020")
        watched.until(lambda: present(files) == {"a.jpg", "2020/sea/b.jpg", "2020/sea/c.jpg"})
        put("2020/sea/d.jpg")  # by its new name
        watched.until(lambda: "2020/sea/d.jpg" in present(files))
        run("rm", "-r", tier.root / "2020")
        watched.until(lambda: present(files) == {"a.jpg"})


def _behind(watched: Watched, monkeypatch: pytest.MonkeyPatch, put: Put, change: Callable[[], object]) -> None:
    """Change the tier while the watcher looks at nothing: it sees what has become of it before it is told how."""
    blocked, go_on = threading.Event(), threading.Event()
    read = inotify.Inotify.read

    def slow(self: inotify.Inotify) -> Iterator[inotify.Event]:
        blocked.set()
        assert go_on.wait(NEVER)
        return read(self)

    monkeypatch.setattr(inotify.Inotify, "read", slow)
    put("wake.jpg")
    assert blocked.wait(NEVER)
    change()
    go_on.set()


def test_a_folder_that_was_moved_into_a_new_one_is_watched_there(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("old/trip/sea/a.jpg")

    def move() -> None:
        (tier.root / "new").mkdir()
        (tier.root / "old/trip").rename(tier.root / "new/trip")

    with watch(tier) as watched:
        _behind(watched, monkeypatch, put, move)
        watched.until(lambda: present(files) == {"wake.jpg", "new/trip/sea/a.jpg"})
        put("new/trip/b.jpg")
        put("new/trip/sea/c.jpg")
        here = {"wake.jpg", "new/trip/sea/a.jpg", "new/trip/b.jpg", "new/trip/sea/c.jpg"}
        watched.until(lambda: present(files) == here)
        run("rm", "-r", tier.root / "new")
        watched.until(lambda: present(files) == {"wake.jpg"})


def test_folders_that_changed_places_are_watched_where_they_are(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    put("one/a.jpg")
    put("two/b.jpg")
    with watch(tier) as watched:
        _behind(watched, monkeypatch, put, lambda: fileops.exchange(tier.root_fd, "one", tier.root_fd, "two"))
        watched.until(lambda: present(files) == {"wake.jpg", "one/b.jpg", "two/a.jpg"})
        put("one/c.jpg")
        put("two/d.jpg")
        here = {"wake.jpg", "one/b.jpg", "two/a.jpg", "one/c.jpg", "two/d.jpg"}
        watched.until(lambda: present(files) == here)


def test_what_was_moved_out_of_the_tier_is_watched_no_longer(
    catalog: Catalog, folder: Path, put: Put, watch: Callable[..., Watched]
) -> None:
    put("tier/2019/sub/a.jpg")
    tier = LocalTier(LocalTierSettings(name="photos", path=folder / "tier"))
    with watch(tier) as watched:
        (folder / "tier/2019").rename(folder / "outside")
        assert watched.reports.get(timeout=NEVER).changes.gone == 1
        put("outside/sub/b.jpg")
        put("tier/c.jpg")
        assert watched.reports.get(timeout=NEVER).changes.new == 1
        assert watched.reports.empty()
    tier.close()


def test_only_images_and_folders_wake_it(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched], tmp_path: Path
) -> None:
    put("a.jpg")
    tier = LocalTier(LocalTierSettings(name="photos", path=tier.root, exclude=("@eaDir/",)))
    (tier.root / "@eaDir").mkdir()
    with watch(tier) as watched:
        put("notes.txt")
        put("@eaDir/thumb.jpg")
        os.close(fileops.open_file(tier.holding_fd, "held.jpg", os.O_WRONLY | os.O_CREAT))
        put("b.jpg")
        report = watched.reports.get(timeout=NEVER)
        assert (report.directories, report.changes.new) == (1, 1)
        assert watched.reports.empty()
    tier.close()
    assert present(files) == {"a.jpg", "b.jpg"}


def test_a_directory_is_scanned_once_it_is_quiet_but_not_later_than_that() -> None:
    agenda = Agenda(Timing(quiet=0.05, longest=0.15, reads=60, retry=60))
    stop = threading.Event()

    def keep_changing() -> None:
        while not stop.wait(0.01):
            agenda.changed("busy")

    agenda.changed("busy")
    agenda.changed("quiet")
    thread = threading.Thread(target=keep_changing)
    thread.start()
    try:
        assert agenda.wait() == Due(changed=["quiet"])
        assert agenda.wait() == Due(changed=["busy"])  # however often it changes
    finally:
        stop.set()
        thread.join()


def test_what_could_not_be_done_is_put_back_and_a_full_scan_covers_the_rest() -> None:
    agenda = Agenda(Timing(quiet=0, longest=0, reads=60, retry=0))
    agenda.changed("2019")
    due = agenda.wait()
    assert due == Due(changed=["2019"])
    agenda.put_back(due)
    assert agenda.wait() == due
    agenda.read("2020")
    agenda.put_back(Due(changed=["2019"]))
    agenda.everything()
    assert agenda.wait() == Due(everything=True, changed=["2019"], read=["2020"])
    agenda.close()
    assert agenda.wait() is None


# -- reads -------------------------------------------------------------------------------------------------------------


def test_a_file_that_is_read_counts_as_used_now(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched]
) -> None:
    path = put("2019/a.jpg", mtime=1_500_000_000)
    put("2019/b.jpg", mtime=1_500_000_000)
    with watch(tier) as watched:
        assert path.read_bytes()
        watched.until(lambda: files()["2019/a.jpg"].accessed_at > 1_600_000_000)
        assert files()["2019/b.jpg"].accessed_at == 1_500_000_000
        assert (tier.root / "2019/b.jpg").read_bytes()  # it listens again after the scan
        watched.until(lambda: files()["2019/b.jpg"].accessed_at > 1_600_000_000)


def test_our_own_reads_are_no_use_of_a_file(
    tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched]
) -> None:
    put("a.jpg", mtime=1_500_000_000)
    with watch(tier) as watched:
        fd = fileops.open_file(tier.root_fd, "a.jpg")
        assert os.read(fd, 100)
        os.close(fd)
        watched.reports.get(timeout=NEVER)  # the scan that the event led to
        assert files()["a.jpg"].accessed_at == 1_500_000_000


def test_under_noatime_every_read_is_an_event_but_our_own(
    catalog: Catalog, make_disk: Callable[..., Disk], watch: Callable[..., Watched]
) -> None:
    disk = make_disk(options="noatime")
    for name in ("ours.jpg", "theirs.jpg"):
        (disk.path / name).write_bytes(b"photograph")
        os.utime(disk.path / name, (1_500_000_000, 1_500_000_000))
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    with watch(tier) as watched:
        with tier.own_reads.of("ours.jpg"):
            assert (disk.path / "ours.jpg").read_bytes()
        assert (disk.path / "theirs.jpg").read_bytes()
        (disk.path / "later.jpg").touch()  # its event comes after those of the reads
        used = {row.path: row.accessed_at for row in catalog.stream_files(None)}
        while used.get("theirs.jpg", 0) < 1_600_000_000:
            (disk.path / "later.jpg").touch()
            watched.reports.get(timeout=NEVER)
            used = {row.path: row.accessed_at for row in catalog.stream_files(None)}
        assert used["ours.jpg"] == 1_500_000_000
    tier.close()


# -- what may go wrong -------------------------------------------------------------------------------------------------


def test_lost_events_lead_to_a_scan_of_the_whole_tier(
    tier: LocalTier,
    files: Files,
    put: Put,
    watch: Callable[..., Watched],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    put("2019/a.jpg")
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    blocked, go_on = threading.Event(), threading.Event()
    read = inotify.Inotify.read

    def slow(self: inotify.Inotify) -> Iterator[inotify.Event]:
        blocked.set()
        go_on.wait(NEVER)
        return read(self)

    with watch(tier) as watched:
        monkeypatch.setattr(inotify.Inotify, "read", slow)
        put("2019/b.jpg")
        assert blocked.wait(NEVER)
        for _ in range(most // 2 + 10):  # two files in turn: equal events in a row are told once
            os.utime(tier.root / "2019/a.jpg")
            os.utime(tier.root / "2019/b.jpg")
        put("2020/lost.jpg")
        go_on.set()
        watched.until(lambda: "2020/lost.jpg" in present(files))
        put("2020/found.jpg")  # and what came while events were lost is watched, too
        watched.until(lambda: "2020/found.jpg" in present(files))
    assert "more changes than the kernel could queue" in caplog.text


LIMITED = """
import logging, queue, sys
from pathlib import Path
from archiver.catalog import Catalog
from archiver.config import LocalTierSettings
from archiver.tiers.local import LocalTier
from archiver.tiers.watch import Timing, Watcher

Path("/proc/sys/user/max_inotify_watches").write_text("2")
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
reports = queue.SimpleQueue()
root = Path(sys.argv[1])
with Catalog.open(sys.argv[2], create=True) as catalog:
    tier = LocalTier(LocalTierSettings(name="photos", path=root))
    watcher = Watcher(catalog, tier, timing=Timing(quiet=0), heard=reports.put)
    watcher.start()
    print(reports.get(timeout=20).changes.new, "new at first", flush=True)
    (root / "top.jpg").touch()
    print(reports.get(timeout=20).changes.new, "new then")
    watcher.stop()
"""


def test_a_watch_limit_is_named_with_its_setting_and_the_rest_goes_on(folder: Path, put: Put, tmp_path: Path) -> None:
    for path in ("tier/a/1.jpg", "tier/b/2.jpg", "tier/c/3.jpg"):
        put(path)
    try:
        run("unshare", "--user", "--map-root-user", "true")
    except RuntimeError as error:
        unavailable(f"user namespaces are not allowed: {error}")
    # A user namespace of its own has a limit of its own, so that nobody else runs into it.
    said = run(
        *("unshare", "--user", "--map-root-user", sys.executable, "-c", LIMITED, folder / "tier"),
        f"sqlite:///{tmp_path}/catalog.db",
    )
    warnings = [line for line in said.splitlines() if line.startswith("WARNING")]
    assert len(warnings) == 1
    assert "fs.inotify.max_user_watches is" in warnings[0] and "sysctl" in warnings[0]
    assert "3 new at first" in said and "1 new then" in said


def test_a_disk_that_goes_and_comes_is_watched_again(
    catalog: Catalog, make_disk: Callable[..., Disk], watch: Callable[..., Watched], caplog: pytest.LogCaptureFixture
) -> None:
    disk = make_disk()
    (disk.path / "a.jpg").touch()
    tier = LocalTier(LocalTierSettings(name="photos", path=disk.path))
    warned = threading.Event()

    class Hear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "cannot be reached" in record.getMessage():
                warned.set()

    logger, handler = logging.getLogger("archiver.watch"), Hear()
    logger.addHandler(handler)
    try:
        with watch(tier) as watched:
            tier.close()
            run("umount", disk.path)
            assert warned.wait(NEVER)
            assert [row.state.label for row in catalog.stream_files(None)] == ["resident"]
            run("mount", "-o", "loop", disk.image, disk.path)
            watched.reports.get(timeout=NEVER)
            (disk.path / "b.jpg").touch()
            watched.until(lambda: len(list(catalog.stream_files(None))) == 2)
    finally:
        logger.removeHandler(handler)
        tier.close()
    assert {row.state.label for row in catalog.stream_files(None)} == {"resident"}


def test_a_scan_that_runs_already_is_waited_for(
    catalog: Catalog, tier: LocalTier, files: Files, put: Put, watch: Callable[..., Watched]
) -> None:
    put("a/1.jpg")
    put("b/2.jpg")
    other = LocalTier(tier.settings)
    with watch(tier) as watched:
        changed = threading.Event()

        def meanwhile(at: Progress) -> None:
            if at.path == "b" and not changed.is_set():
                put("a/3.jpg")
                changed.set()
                assert watched.reports.empty()

        scan(catalog, other, progress=meanwhile)
        watched.until(lambda: "a/3.jpg" in present(files))
    other.close()


def test_stopping_ends_at_once_also_before_the_tier_was_there(catalog: Catalog, tmp_path: Path) -> None:
    watcher = Watcher(catalog, LocalTier(LocalTierSettings(name="photos", path=tmp_path / "missing")), timing=Timing())
    watcher.start()
    watcher.stop()
    assert watcher.alive
    Watcher(catalog, LocalTier(LocalTierSettings(name="photos", path=tmp_path))).stop()
