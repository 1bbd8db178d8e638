"""The daemon: start order, schedule, signals and systemd; the only place that wires the parts together.

    lock the catalog -> settle what a crash left -> answer readers of released files -> tell systemd READY
    -> scan, watch, archive, expire, verify on schedule

The recall desk has threads of its own, for a reader waits for it. Every job runs in the one scheduler thread pool, one
at a time on a tier's files (they would only fight over the disk and the model), and every job looks at the stop event
between two files, so a stop never waits longer than one batch.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from archiver import config, logs
from archiver.config import Settings
from archiver.desk.service import DeskService
from archiver.errors import AnotherInstance, ArchiverError, CatalogUnavailable, from_os_error
from archiver.lifecycle.archive import archive
from archiver.lifecycle.expire import expire
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Outcome, Result, Tally
from archiver.lifecycle.rebuild import adopt_moved
from archiver.lifecycle.reconcile import reconcile
from archiver.lifecycle.site import Site
from archiver.lifecycle.verify import verify
from archiver.notify import Notifier
from archiver.steady import Steadiness
from archiver.tiers.local import LocalTier
from archiver.tiers.protocol import Tier
from archiver.tiers.report import ScanReport
from archiver.tiers.scan import scan
from archiver.tiers.watch import Watcher
from archiver.units import counted

_LOG = logging.getLogger("archiver.daemon")
_FIRST_RUN = timedelta(seconds=1)  # after the start; afterwards the intervals of the configuration hold
_MOVE = timedelta(hours=1)  # between the looks at a file's old and new folder


def run(settings: Settings, path: Path | None = None) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads `path` again.

    Raises AnotherInstance, CatalogUnavailable, CatalogOutdated; anything that concerns one tier or one file is logged
    and outlived.
    """
    logs.configure(settings.log)
    signals = _Signals()
    notifier = Notifier()
    steadiness = Steadiness()  # through every reload
    with signals.installed():
        while True:
            with open_site(settings) as site, site.catalog.instance_lock() as keep_lock:
                _serve(_Jobs(site, steadiness), signals, notifier, keep_lock)
            # Cleared before anything is looked at: a signal that comes from here on wakes the next round.
            signals.clear()
            if signals.stop.is_set():
                return
            settings = _reload(settings, path)
            logs.configure(settings.log)


class _Signals:
    """What the process was asked to do, waited for by the main thread: a signal that sets no `stop` asks for a reload.

    Signals are handled between two steps of the main thread. Were it about to wait for an Event, the handler could not
    set that Event: the lock within would be taken, by the thread that has to return from the handler first. A
    SimpleQueue may be put to from anywhere.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()  # which is never waited for
        self._came: SimpleQueue[int] = SimpleQueue()

    def wait(self, seconds: float | None) -> bool:
        """Whether one came within this time."""
        try:
            self._came.get(timeout=seconds)
        except Empty:
            return False
        return True

    def clear(self) -> None:
        """Forget those that came until now."""
        while self.wait(0):
            pass

    @contextmanager
    def installed(self) -> Iterator[None]:
        heeded = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        before = {number: signal.signal(number, self._handle) for number in heeded}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self.stop.set()
        self._came.put(number)


def _serve(jobs: _Jobs, signals: _Signals, notifier: Notifier, keep_lock: Callable[[], None]) -> None:
    """Run the jobs until a signal. Raises AnotherInstance, where the lock was lost to another daemon."""
    site = jobs.site
    with ExitStack() as resources:
        jobs.settle()
        jobs.desk.start()
        desk = resources.enter_context(ExitStack())
        desk.callback(lambda: jobs.desk.stop(for_good=signals.stop.is_set()))
        scheduler = _scheduler(site.settings, jobs)
        resources.callback(scheduler.shutdown, wait=True)
        resources.callback(jobs.stop.set)  # runs before the shutdown: it waits for the job under way
        if site.settings.schedule.watch:
            for tier in site.local_tiers:
                resources.enter_context(jobs.watched(tier))
        scheduler.start()
        notifier.ready(f"watching {counted(len(site.tiers), 'tier')}")
        _LOG.info("started", extra={"tiers": len(site.tiers)})
        while not signals.wait(notifier.interval):
            # The main thread only waits, so the watchdog is fed on behalf of the scheduler: a dead scheduler starves
            # it.
            if scheduler.running and jobs.alive():
                notifier.watchdog()
            try:
                keep_lock()
            except CatalogUnavailable as error:
                _log_failure("the lock on the catalog", error)
            except AnotherInstance:
                notifier.stopping()
                _LOG.error("the lock on the catalog went to another daemon: stopping")
                raise
        if signals.stop.is_set():
            notifier.stopping()
            _LOG.info("stopping")
            # Before the job under way, whose decodes come after all that readers wait for. In a reload they are served
            # until the next desk takes them over.
            jobs.stop.set()
            desk.close()
        else:
            notifier.reloading()
            _LOG.info("reloading")


def _scheduler(settings: Settings, jobs: _Jobs) -> BackgroundScheduler:
    # One worker: jobs of one site share its disks and its model, and a queue of them is easier to explain than a race.
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        timezone=UTC,
    )
    start = datetime.now(UTC) + _FIRST_RUN
    schedule = settings.schedule
    for order, (job, interval) in enumerate(
        (
            (jobs.scan, schedule.scan),
            (jobs.expire, schedule.expire),
            (jobs.archive, schedule.archive),
            (jobs.verify, schedule.verify),
        )
    ):
        first = start + timedelta(milliseconds=order) if job != jobs.verify else start + interval
        scheduler.add_job(job, "interval", seconds=interval.total_seconds(), next_run_time=first, id=job.__name__)
    return scheduler


class _Jobs:
    """What the schedule runs.

    A job never raises: what goes wrong is logged with its hint, and the next run tries again.
    """

    def __init__(self, site: Site, steadiness: Steadiness) -> None:
        self.site = site
        self._steadiness = steadiness
        self.stop = threading.Event()
        self.desk = DeskService(site)
        self._watchers: dict[str, Watcher] = {}

    def alive(self) -> bool:
        """False once a watcher thread has died."""
        return all(watcher.alive for watcher in self._watchers.values())

    @contextmanager
    def watched(self, tier: LocalTier) -> Iterator[None]:
        """Watch one tier; where that is not possible the periodic scan has to do."""
        name, watcher = tier.name, Watcher(self.site.catalog, tier, heard=partial(self._follow_moves, tier))
        try:
            watcher.start()
        except (ArchiverError, OSError) as error:
            _log_failure(f"watch {name}", error)
            yield
            return
        self._watchers[name] = watcher
        try:
            yield
        finally:
            del self._watchers[name]
            watcher.stop()

    def scan(self) -> None:
        for name, tier in self.site.tiers.items():
            with self._surviving(f"scan {name}"):
                began = time.monotonic()
                report = scan(self.site.catalog, tier, stop=self.stop)
                _LOG.info("scan of %s: %s in %.1f s", name, report.summary(), time.monotonic() - began)
                self._follow_moves(tier, report)
        if not self.stop.is_set():
            self.desk.watch_tiers()  # those that could not be reached until now

    def _follow_moves(self, tier: Tier, report: ScanReport) -> None:
        """Adopt released files at their new place, whichever of the two folders was looked at last."""
        if report.changes.new or report.changes.gone:
            for outcome in adopt_moved(self.site, tier, int(time.time() - _MOVE.total_seconds())):
                self.hear(outcome)

    def settle(self) -> None:
        """Finish or take back what a crash left, or an act that the catalog was closed to."""
        self.log(reconcile(self.site, self.hear), "reconcile")

    def archive(self) -> None:
        with self._surviving("reconcile"):
            self.settle()
        for name in self.site.tiers:
            with self._surviving(f"archive {name}"):
                self.log(archive(self.site, tiers=[name], listener=self.hear, stop=self.stop), f"archive {name}")

    def expire(self) -> None:
        if self._steadiness.leapt():
            _LOG.warning("expire: the clock went ahead by more than an hour: no original is deleted for a day")
            return
        with self._surviving("expire"):
            self.log(expire(self.site, datetime.now(UTC), listener=self.hear, stop=self.stop), "expire")

    def verify(self) -> None:
        with self._surviving("verify"):
            rate = self.site.settings.schedule.verify_bytes_per_second
            self.log(verify(self.site, bytes_per_second=rate, listener=self.hear, stop=self.stop), "verify")

    def hear(self, outcome: Outcome) -> None:
        """One line a file: what was done at info, what was refused at info, what broke as a warning."""
        level = logging.WARNING if outcome.result is Result.FAILED else logging.INFO
        facts = {"act": outcome.act, "result": str(outcome.result), "file": str(outcome.path)}
        _LOG.log(level, "%s %s %s%s", outcome.act, outcome.result, outcome.path, _because(outcome), extra=facts)

    def log(self, tally: Tally, what: str) -> None:
        counts = ", ".join(f"{act} {result} {count}" for (act, result), count in sorted(tally.counts.items()))
        _LOG.info("%s: %s", what, counts or "nothing to do")

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ArchiverError, OSError) as error:
            _log_failure(what, error)
        except Exception:
            # A defect: the trace goes to the journal, and the other jobs go on.
            _LOG.exception("%s failed", what)


def _because(outcome: Outcome) -> str:
    return f": {outcome.reason}" if outcome.reason else ""


def _log_failure(what: str, error: ArchiverError | OSError) -> None:
    known = error if isinstance(error, ArchiverError) else from_os_error(error)
    _LOG.warning("%s: %s. %s", what, known.message, known.hint)


def _reload(settings: Settings, path: Path | None) -> Settings:
    """The configuration as it is now; the old one when the new one is wrong."""
    try:
        return config.load(config.config_path(path))
    except ArchiverError as error:
        _LOG.error("the configuration was not reloaded: %s", error.message)
        return settings
