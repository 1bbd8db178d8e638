"""A tier whose files are released, and readers that ask a desk for them as the kernel or a mount would."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from archiver.catalog.rows import State
from archiver.config import RecallSettings, Settings
from archiver.decoder.engine import Engine
from archiver.decoder.opening import open_engine
from archiver.desk.asker import Asker
from archiver.desk.desk import RecallDesk
from archiver.desk.jobs import Reader, Verdict
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.site import Site
from tests.access.watching import until
from tests.lifecycle.conftest import exif_bytes, make_settings, photograph, random_vault, row_of, scan_all
from tests.lifecycle.dying import tracked_files

__all__ = ["random_vault"]

PATIENCE = 120  # seconds until a verdict that must come is given up on


class Waiting:
    """A reader that waits for its verdict."""

    def __init__(self) -> None:
        self._came = threading.Event()
        self._verdicts: list[Verdict] = []
        self.reader: Reader | None = None

    def __call__(self, verdict: Verdict) -> None:
        self._verdicts.append(verdict)
        self._came.set()

    @property
    def answered(self) -> bool:
        return self._came.is_set()

    def verdict(self) -> Verdict:
        """The one verdict there must be."""
        assert self._came.wait(PATIENCE), "no verdict came"
        assert len(self._verdicts) == 1
        return self._verdicts[0]


def ask(
    desk: RecallDesk,
    path: Path,
    asker: Asker | None = None,
    pidfd: int | None = None,
    patience: float | None = None,
) -> Waiting:
    """Read a file as somebody: the desk gets a descriptor of its own, as from the kernel."""
    waiting = Waiting()
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    waiting.reader = desk.ask(fd, asker or Asker.of(os.getpid()), waiting, pidfd=pidfd, patience=patience)
    return waiting


def at_rest(desk: RecallDesk) -> RecallDesk:
    """The desk once it has told the catalog, too, of what its readers have long got."""
    until(lambda: not desk.report().files_under_way, PATIENCE)
    return desk


def with_recall(settings: Settings, **recall: object) -> Settings:
    """The same configuration with another [recall]."""
    return settings.model_copy(update={"recall": RecallSettings.model_validate(recall)})


@contextmanager
def desk_of(site: Site, **recall: object) -> Iterator[RecallDesk]:
    """A running desk."""
    site.settings = with_recall(site.settings, **recall)
    desk = RecallDesk(site)
    desk.start()
    try:
        yield desk
    finally:
        desk.stop()


@pytest.fixture
def tier_root(tmp_path: Path) -> Path:
    """Three small pictures of three formats: each test archives its own."""
    root = tmp_path / "photos"
    (root / "2019").mkdir(parents=True)
    photograph(1, (320, 240)).save(root / "2019/a.jpg", quality=92, exif=exif_bytes(6))
    photograph(2, (240, 160)).save(root / "2019/b.png")
    photograph(3, (320, 200)).save(root / "c.webp", quality=90)
    for path in tracked_files(root):
        os.utime(path, ns=(1_400_000_000_123_456_789, 1_300_000_000_987_654_321))
    return root


@pytest.fixture
def settings(tmp_path: Path, tier_root: Path, random_vault: Path) -> Settings:
    return make_settings(tmp_path, tier_root, random_vault)


@pytest.fixture(scope="session")
def engine(random_vault: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The model, loaded once for all tests."""
    with closing(open_engine(make_settings(tmp_path_factory.getbasetemp(), Path("/none"), random_vault))) as opened:
        yield opened


@pytest.fixture
def site(settings: Settings, engine: Engine) -> Iterator[Site]:
    from archiver.catalog.schema import upgrade

    upgrade(settings.catalog_url)
    with open_site(settings) as opened:
        opened._engine = engine
        scan_all(opened)
        try:
            yield opened
        finally:
            opened._engine = None  # which its end would close


@pytest.fixture
def released(site: Site, tier_root: Path) -> list[Path]:
    """Every file of the tier, released."""
    archive(site)
    paths = tracked_files(tier_root)
    assert {row_of(site, path).state for path in paths} == {State.RELEASED}
    return paths


class Gate:
    """The site's engine with a gate before it: decodes are counted, and held until it is opened."""

    def __init__(self, site: Site, *, is_open: bool = True) -> None:
        self._engine = site.engine
        self._open = threading.Event()
        self.reached = threading.Semaphore(0)
        self.decodes = 0
        self._lock = threading.Lock()
        if is_open:
            self._open.set()
        site._engine = self

    def open(self) -> None:
        self._open.set()

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def generate(self, records, **how):
        with self._lock:
            self.decodes += len(records)
        self.reached.release()
        assert self._open.wait(PATIENCE)
        return self._engine.generate(records, **how)
