"""The decode service: a bounded queue with priorities before the networks, wherever those are. Imports no torch.

    submit -> waiting, by priority -> a lane takes the first job and its company -> networks -> futures

A lane is a thread that does one call of the networks after the other; there are as many as the networks can use at
once: one a core on a CPU, where every record is decoded alone, one on a GPU, where batches keep it busy. Lanes end when
nothing waits, so that an idle service costs nothing but the weights, and these go too after `idle` seconds.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from time import monotonic
from typing import Any

from archiver.decoder.engine import Priority
from archiver.decoder.work import (
    DeviceLost,
    Job,
    OutOfMemory,
    Runner,
    Waiting,
    Work,
    WorkerDied,
    company,
)
from archiver.errors import ArchiverError, DeadlineMissed, DecoderBusy, DecoderFailed

_LOG = logging.getLogger("archiver.decoder")
LINGER = 0.004  # seconds that a call waits for company; a lone reader notices less
_MOST_LANES = 256
_CLOSE_SECONDS = 30.0  # that closing waits for what runs


@dataclass(frozen=True, slots=True)
class Stats:
    """What a service is doing and has done since it began. Times in seconds.

    done: pictures decoded, encoded and measured. calls: runs of the networks that they took. waited: mean time of a
    finished job between submission and its start.
    """

    device: str
    batch: int
    lanes: int
    loaded: tuple[str, ...]
    interactive_waiting: int
    bulk_waiting: int
    running: int
    done: int
    calls: int
    failed: int
    dropped: int
    missed: int
    refused: int
    waited: float
    out_of_memory: int
    fallbacks: int
    deaths: int
    unloads: int


@dataclass(slots=True)
class _Counts:
    running: int = 0
    done: int = 0
    calls: int = 0
    failed: int = 0
    dropped: int = 0
    missed: int = 0
    refused: int = 0
    waited: float = 0.0
    out_of_memory: int = 0
    fallbacks: int = 0
    deaths: int = 0
    unloads: int = 0


class DecodeService:
    """Takes work from any number of threads and does it in order of priority.

    limit: how many jobs of each priority may wait. idle: seconds after which the networks are unloaded, None for never.
    where: names the decoder in failures.
    """

    def __init__(
        self, runner: Runner, *, limit: int = 1024, idle: float | None = None, where: str = "in this process"
    ) -> None:
        self.where = where
        self._runner = runner
        self._limit = limit
        self._idle = idle
        self._condition = threading.Condition()
        self._waiting = Waiting()
        self._counts = _Counts()
        self._lanes = 0  # at work
        self._closed = False
        self._timer: threading.Timer | None = None
        # Its threads are joined when the interpreter ends: none is cut off within torch.
        self._pool = ThreadPoolExecutor(_MOST_LANES, "archiver-decode")

    @property
    def device(self) -> str:
        """What does the arithmetic, for the label of a generated image. Raises DecoderFailed, ModelsNotInstalled."""
        if not self._runner.device:
            self._runner.start()
        return self._runner.device

    def submit(
        self, works: Sequence[Work], priority: Priority, deadline: float | None = None, *, wait: bool = False
    ) -> list[Future[Any]]:
        """Queue works; all of them or none. Cancelling a future drops what has not begun.

        wait: for room until the deadline, instead of refusing. Raises DecoderBusy, DeadlineMissed, RecordCorrupt,
        DecoderFailed (closed).
        """
        batches = self._runner.batch > 1
        jobs = [Job(work, priority, deadline, company(work) if batches else None) for work in works]
        with self._condition:
            self._admit(len(jobs), priority, deadline, wait)
            self._waiting.add(jobs)
            self._wake()
        return [job.future for job in jobs]

    def stats(self) -> Stats:
        """A snapshot."""
        with self._condition:
            runner, counts = self._runner, self._counts
            return Stats(
                device=runner.device,
                batch=runner.batch,
                lanes=runner.lanes,
                loaded=runner.loaded,
                interactive_waiting=self._waiting.count(Priority.INTERACTIVE),
                bulk_waiting=self._waiting.count(Priority.BULK),
                **{**asdict(counts), "waited": counts.waited / max(1, counts.done)},
            )

    def close(self, seconds: float = _CLOSE_SECONDS) -> None:
        """Drop what waits, finish what runs, unload. What still runs after so many seconds is given up: a worker that
        does it is ended, and a thread of this process, which nothing can end, is left to itself.
        """
        with self._condition:
            self._closed = True
            self._stop_timer()
            for job in self._waiting.clear():
                job.future.cancel()
            self._condition.notify_all()
            if not self._condition.wait_for(lambda: not self._lanes, seconds) and self._counts.running:
                _LOG.warning("closed while %d pictures were being made: they are given up", self._counts.running)
        self._pool.shutdown(wait=False)
        self._runner.unload()

    # -- coming in; called with the condition held ---------------------------------------------------------------------

    def _admit(self, number: int, priority: Priority, deadline: float | None, wait: bool) -> None:
        while not self._closed:
            waiting = self._waiting.count(priority)
            if not waiting or waiting + number <= self._limit:
                return
            left = None if deadline is None else deadline - monotonic()
            if not wait or (left is not None and left <= 0):
                self._counts.refused += number
                raise DecoderBusy(where=self.where, waiting=waiting)
            self._condition.wait(left)
        raise DecoderFailed(where=self.where, reason="it was closed")

    def _wake(self) -> None:
        """Start the lanes that the waiting jobs can use."""
        self._stop_timer()
        for _ in range(min(self._runner.lanes - self._lanes, len(self._waiting))):
            self._lanes += 1
            self._pool.submit(self._lane)
        self._condition.notify_all()  # a lane may be waiting for company

    # -- lanes ---------------------------------------------------------------------------------------------------------

    def _lane(self) -> None:
        """Work until nothing waits."""
        while True:
            try:
                if not self._closed:  # or a worker that was ended would be started again
                    self._runner.start()
            except Exception as error:
                self._give_up(error)
                return
            with self._condition:
                self._wake()  # only a started device says how many lanes it can use
            if not (jobs := self._take()):
                return
            self._run(jobs)

    def _give_up(self, error: Exception) -> None:
        """Nothing can be done here: all that waits is told why."""
        with self._condition:
            self._lanes -= 1
            jobs = self._waiting.clear()
            self._counts.failed += len(jobs)
            self._condition.notify_all()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(self._told(error))

    def _take(self) -> list[Job]:
        """The next call's jobs, marked as running; none when the lane is to end."""
        with self._condition:
            while len(self._waiting) and not self._closed and self._lanes <= max(1, self._runner.lanes):
                most = self._runner.batch
                jobs = self._waiting.next(most)
                left = jobs[0].since + LINGER - monotonic()
                if jobs[0].company is not None and len(jobs) < most and left > 0:
                    self._condition.wait(left)
                    continue
                self._waiting.take(jobs)
                self._condition.notify_all()  # there is room
                if begun := [job for job in jobs if self._begins(job)]:
                    self._counts.running += len(begun)
                    return begun
            self._lanes -= 1
            self._condition.notify_all()  # whoever closes waits for the last lane
            if not self._lanes and not self._closed and self._idle is not None:
                self._start_timer(self._idle)
            return []

    def _begins(self, job: Job) -> bool:
        """Whether a job is still wanted; if so it can no longer be cancelled."""
        if job.future.running():  # it was put back
            return True
        if not job.future.set_running_or_notify_cancel():
            self._counts.dropped += 1
            return False
        now = monotonic()
        if job.deadline is not None and job.deadline <= now:
            self._counts.missed += 1
            job.future.set_exception(DeadlineMissed(where=self.where, seconds=f"{now - job.since:.1f}"))
            return False
        self._counts.waited += now - job.since
        return True

    def _run(self, jobs: list[Job]) -> None:
        """One call of the networks. Never raises: a lane that ended here would keep its jobs and its place for ever."""
        try:
            results = self._runner.run([job.work for job in jobs])
            done = list(zip(jobs, results, strict=True))
        except Exception as error:
            self._after(jobs, error)
        else:
            self._count(jobs, done=len(jobs))
            for job, result in done:
                job.future.set_result(result)

    # -- when it does not go well --------------------------------------------------------------------------------------

    def _after(self, jobs: list[Job], error: Exception) -> None:
        try:
            match error:
                case OutOfMemory():
                    self._after_out_of_memory(jobs, error)
                case DeviceLost():
                    self._after_device_lost(jobs, error)
                case WorkerDied():
                    self._after_death(jobs, error)
                case _:
                    self._after_failure(jobs, error)
        except WorkerDied as death:  # as it was asked to shrink or to fall back: what has too little memory is killed
            self._after_death(jobs, death)
        except Exception as defect:
            _LOG.exception("the failure of %d pictures (%s) could not be dealt with", len(jobs), error)
            self._fail(jobs, defect)

    def _after_out_of_memory(self, jobs: list[Job], error: OutOfMemory) -> None:
        self._counts.out_of_memory += 1
        if len(jobs) > 1 and self._runner.batch < len(jobs):
            self._again(jobs)  # another lane has shrunk the batch meanwhile
        elif self._runner.shrink():
            device, batch = self._runner.device, self._runner.batch
            _LOG.warning("out of memory on %s: %d records together from now on", device, batch)
            self._again(jobs)
        else:
            self._after_device_lost(jobs, error)

    def _after_device_lost(self, jobs: list[Job], error: OutOfMemory | DeviceLost) -> None:
        device = self._runner.device
        if not self._runner.fall_back():
            self._fail(jobs, error)
            return
        self._counts.fallbacks += 1
        _LOG.warning("%s failed (%s): decoding on the CPU from now on", device, error)
        self._again(jobs)

    def _after_death(self, jobs: list[Job], error: WorkerDied) -> None:
        self._counts.deaths += 1
        _LOG.warning("the decode worker ended: %s; %d pictures in its hands", error, len(jobs))
        for job in jobs:
            job.deaths += 1
        self._again([job for job in jobs if job.deaths == 1])
        self._fail([job for job in jobs if job.deaths > 1], error)

    def _after_failure(self, jobs: list[Job], error: Exception) -> None:
        if len(jobs) == 1:
            self._fail(jobs, error)
            return
        for job in jobs:  # whoever it was, the others shall not suffer
            job.company = None
        self._again(jobs)

    def _again(self, jobs: list[Job]) -> None:
        with self._condition:
            self._counts.running -= len(jobs)
            self._waiting.put_back(jobs)
            if not self._closed:
                self._wake()
                return
            self._waiting.clear()
        for job in jobs:
            job.future.set_exception(DecoderFailed(where=self.where, reason="it was closed"))

    def _fail(self, jobs: list[Job], error: Exception) -> None:
        self._count(jobs, failed=len(jobs))
        for job in jobs:
            job.future.set_exception(self._told(error))

    def _count(self, jobs: Sequence[Job], *, done: int = 0, failed: int = 0) -> None:
        with self._condition:
            self._counts.running -= len(jobs)
            self._counts.calls += 1
            self._counts.done += done
            self._counts.failed += failed

    def _told(self, error: Exception) -> Exception:
        """What the caller is told: what concerns a record as it is, what concerns the decoder by its name."""
        if isinstance(error, ArchiverError):
            return error
        if isinstance(error, OutOfMemory | DeviceLost | WorkerDied | OSError):
            return DecoderFailed(where=self.where, reason=error)
        return error  # a defect

    # -- idleness ------------------------------------------------------------------------------------------------------

    def _start_timer(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._unload_if_idle)
        self._timer.daemon = True
        self._timer.start()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _unload_if_idle(self) -> None:
        with self._condition:
            if self._lanes or len(self._waiting) or self._closed:
                return
            self._counts.unloads += 1
            self._runner.unload()
