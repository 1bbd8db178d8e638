"""The queue before the networks: order, company, deadlines, bounds, and what happens when memory or a device fails.

The networks are the real ones with random weights; a gate before them decides when a call may begin.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Any

import numpy as np
import pytest
import torch

from archiver.codec.record import Record, Scheme
from archiver.decoder.embedded import EmbeddedBackend
from archiver.decoder.engine import Priority
from archiver.decoder.networks import LocalRunner
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.service import LINGER, DecodeService
from archiver.decoder.work import Decode, DeviceLost, Work, WorkerDied
from archiver.errors import DeadlineMissed, DecoderBusy, DecoderFailed, RecordCorrupt
from tests.decoder.conftest import Small

SECONDS = 60  # that nothing here takes; a test that waits so long has failed


class Gate(LocalRunner):
    """The real runner, whose calls begin when the gate is open; remembers what each call was asked."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.open = threading.Event()
        self.reached = threading.Semaphore(0)  # released by every call that stands before the gate
        self.unloaded = threading.Event()
        self.calls: list[list[int]] = []  # the seeds of each call's records

    def run(self, works: Sequence[Work]) -> list[Any]:
        self.calls.append([work.record.seed for work in works if isinstance(work, Decode)])
        self.reached.release()
        assert self.open.wait(SECONDS)
        return super().run(works)

    def unload(self) -> None:
        super().unload()
        self.unloaded.set()


@contextmanager
def gated(
    small: Small, *, batch: int = 1, limit: int = 100, idle: float | None = None, threads: int = 1
) -> Iterator[tuple[QueuedEngine, Gate]]:
    gate = Gate(small.vault, device="cpu", batch=batch, threads=threads)
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(gate, limit=limit, idle=idle))
    try:
        yield engine, gate
    finally:
        gate.open.set()
        engine.close()


def seeds(records: Sequence[Record]) -> list[int]:
    return [record.seed for record in records]


# -- order -------------------------------------------------------------------------------------------------------------


def test_a_reader_goes_before_all_bulk_work_that_waits(small: Small) -> None:
    first, *rest = small.records
    with gated(small) as (engine, gate):
        futures = engine.submit([first], Priority.BULK)
        assert gate.reached.acquire(timeout=SECONDS)  # its call has begun: nothing can overtake it
        futures += engine.submit(rest[:4], Priority.BULK)
        futures += engine.submit(rest[4:], Priority.INTERACTIVE)
        gate.open.set()
        for future in futures:
            future.result(SECONDS)
        assert [seed for call in gate.calls for seed in call] == seeds([first, *rest[4:], *rest[:4]])


def test_many_threads_get_each_their_own_picture(small: Small) -> None:
    with gated(small, threads=2) as (engine, gate), ThreadPoolExecutor(50) as readers:
        gate.open.set()
        asked = [number % len(small.records) for number in range(50)]

        def read(number: int) -> Any:
            priority = Priority.INTERACTIVE if number % 2 else Priority.BULK
            return engine.decode([small.records[number]], priority=priority, deadline=monotonic() + SECONDS)[0]

        for number, pixels in zip(asked, readers.map(read, asked), strict=True):
            assert np.array_equal(pixels, small.pictures[number])


# -- company -----------------------------------------------------------------------------------------------------------


def test_records_of_one_shape_are_decoded_together_and_others_are_not(small: Small) -> None:
    *alike, other = small.records[:5]
    other = replace(other, steering=replace(other.steering, guidance=3.0))
    with gated(small, batch=4) as (engine, gate):
        futures = engine.submit([alike[0], other, *alike[1:]], Priority.BULK)
        gate.open.set()
        for future in futures:
            future.result(SECONDS)
        assert gate.calls == [seeds(alike), [other.seed]]


def test_in_batches_too_a_record_gives_the_same_bytes_whatever_travels_with_it(small: Small) -> None:
    with gated(small, batch=4) as (engine, gate):
        gate.open.set()
        together = engine.decode(small.records[:4])
        alone = [engine.decode([record])[0] for record in small.records[:4]]
        turned = engine.decode(small.records[3::-1])[::-1]
        others = [engine.decode([small.records[7], record, small.records[6]])[1] for record in small.records[:4]]
        for pictures in zip(together, alone, turned, others, strict=True):
            assert all(np.array_equal(pictures[0], picture) for picture in pictures)
        # Another batch size may change last bits, and so it is part of the device's name.
        assert engine.device.endswith("batch 4")
        for picture, one in zip(together, small.pictures, strict=False):
            assert np.abs(picture.astype(int) - one).max() <= 2


def test_a_lone_reader_waits_for_company_no_longer_than_the_linger(small: Small) -> None:
    with gated(small, batch=8) as (engine, gate):
        gate.open.set()
        engine.decode(small.records[:1])  # loads
        for record in small.records:
            engine.decode([record], priority=Priority.INTERACTIVE)
        stats = engine.stats()
        assert stats.calls == 1 + len(small.records)
        assert stats.waited < LINGER + 1  # the mean; what is over is this machine's own delay


def test_a_corrupt_record_is_refused_before_it_meets_others(small: Small) -> None:
    corrupt = replace(small.records[0], sections=())
    with gated(small, batch=4) as (engine, gate):
        gate.open.set()
        with pytest.raises(RecordCorrupt):
            engine.decode([small.records[1], corrupt])
        assert gate.calls == []


# -- deadlines, cancellation, bounds -----------------------------------------------------------------------------------


def test_what_is_late_is_told_in_time_and_never_decoded(small: Small) -> None:
    with gated(small) as (engine, gate):
        running = engine.submit(small.records[:1], Priority.BULK)
        assert gate.reached.acquire(timeout=SECONDS)
        with pytest.raises(DeadlineMissed, match="in this process"):
            engine.decode(small.records[1:2], priority=Priority.INTERACTIVE, deadline=monotonic() + 0.05)
        (late,) = engine.submit(small.records[2:3], Priority.INTERACTIVE, monotonic() - 1)
        gate.open.set()
        running[0].result(SECONDS)
        with pytest.raises(DeadlineMissed):
            late.result(SECONDS)
        engine.decode(small.records[3:4])
        assert [seed for call in gate.calls for seed in call] == seeds([small.records[0], small.records[3]])
        assert engine.stats().missed == 1


def test_cancelled_work_is_dropped(small: Small) -> None:
    with gated(small) as (engine, gate):
        futures = engine.submit(small.records[:4], Priority.BULK)
        assert gate.reached.acquire(timeout=SECONDS)
        assert not futures[0].cancel()  # it has begun
        assert futures[1].cancel() and futures[2].cancel()
        gate.open.set()
        assert np.array_equal(futures[3].result(SECONDS).pixels, small.pictures[3])
        assert [seed for call in gate.calls for seed in call] == seeds([small.records[0], small.records[3]])


def test_a_full_queue_refuses_readers_by_name_and_keeps_bulk_work_waiting(small: Small) -> None:
    with gated(small, limit=2) as (engine, gate), ThreadPoolExecutor(1) as caller:
        engine.submit(small.records[:1], Priority.BULK)
        assert gate.reached.acquire(timeout=SECONDS)
        readers = engine.submit(small.records[1:3], Priority.INTERACTIVE)
        with pytest.raises(DecoderBusy, match="2 records"):
            engine.decode(small.records[3:4], priority=Priority.INTERACTIVE)
        engine.submit(small.records[3:5], Priority.BULK)  # bulk work has room of its own
        with pytest.raises(DecoderBusy):
            engine.submit(small.records[5:6], Priority.BULK)
        patient = caller.submit(engine.decode, small.records[5:6])
        readers[0].cancel()  # frees a place
        engine.submit(small.records[6:7], Priority.INTERACTIVE)
        gate.open.set()
        assert np.array_equal(patient.result(SECONDS)[0], small.pictures[5])
        assert engine.stats().refused == 2


def test_a_closed_engine_lets_nobody_wait(small: Small) -> None:
    with gated(small) as (engine, gate), ThreadPoolExecutor(2) as callers:
        running = callers.submit(engine.decode, small.records[:1])
        assert gate.reached.acquire(timeout=SECONDS)
        waiting = engine.submit(small.records[1:2], Priority.BULK)
        closing = callers.submit(engine.close)
        with pytest.raises(CancelledError):
            waiting[0].result(SECONDS)
        gate.open.set()
        closing.result(SECONDS)
        assert np.array_equal(running.result(SECONDS)[0], small.pictures[0])
        with pytest.raises(DecoderFailed, match="closed"):
            engine.decode(small.records[:1])


class StuckWorker(Gate):
    """As a worker that never answers, and whose calls end when it is ended."""

    starts = 0

    def start(self) -> None:
        self.starts += 1

    def run(self, works: Sequence[Work]) -> list[Any]:
        super().run(works)
        raise WorkerDied("signal SIGKILL")

    def unload(self) -> None:
        super().unload()
        self.open.set()


def test_closing_waits_no_longer_than_it_may_and_ends_the_worker(small: Small) -> None:
    runner = StuckWorker(small.vault, device="cpu")
    service = DecodeService(runner)
    (stuck,) = QueuedEngine(small.vault, small.profile, "quick", service).submit(small.records[:1], Priority.BULK)
    assert runner.reached.acquire(timeout=SECONDS)
    service.close(0.1)
    with pytest.raises(DecoderFailed, match="closed"):
        stuck.result(SECONDS)
    assert (runner.starts, service.stats().running) == (1, 0)  # no other worker was started for it


# -- memory and devices ------------------------------------------------------------------------------------------------


def _limit_memory(gate: Gate, small: Small, most: int, error: Exception) -> None:
    """Let the real denoiser fail for more than `most` records together, as a device with little memory does."""

    def check(_network: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs[0].shape[0] > 2 * most:  # with and without the condition
            raise error

    backend = gate._backend(small.profile.key)
    assert isinstance(backend, EmbeddedBackend)
    backend.networks.denoiser.register_forward_pre_hook(check)


def test_out_of_memory_halves_the_batch_for_good_and_nobody_notices(small: Small) -> None:
    with gated(small, batch=8) as (engine, gate):
        _limit_memory(gate, small, 2, torch.OutOfMemoryError("CUDA out of memory"))
        gate.open.set()
        generated = engine.generate(small.records)
        assert gate.calls == [seeds(small.records), seeds(small.records)[:4]] + [
            seeds(small.records)[start : start + 2] for start in range(0, 8, 2)
        ]
        assert {one.device for one in generated} == {engine.device}
        assert engine.device.endswith("batch 2")
        engine.decode(small.records)
        assert engine.stats().out_of_memory == 2  # it remembers


def test_too_little_memory_for_one_record_is_named(small: Small) -> None:
    with gated(small, batch=2) as (engine, gate):
        _limit_memory(gate, small, 0, torch.OutOfMemoryError("CUDA out of memory"))
        gate.open.set()
        with pytest.raises(DecoderFailed, match="out of memory"):
            engine.decode(small.records[:2])


def test_a_device_that_fails_is_named_where_there_is_no_other(small: Small) -> None:
    with gated(small) as (engine, gate):
        _limit_memory(gate, small, 0, torch.AcceleratorError("CUDA error: an illegal memory access"))
        gate.open.set()
        with pytest.raises(DecoderFailed, match="illegal memory access"):
            engine.decode(small.records[:1])


class FailingDevice(Gate):
    """As on a GPU that breaks at its first call: the real networks answer after the fall back."""

    broken = True

    @property
    def device(self) -> str:
        return "a broken device" if self.broken else super().device

    def run(self, works: Sequence[Work]) -> list[Any]:
        if self.broken:
            raise DeviceLost("CUDA error: unspecified launch failure")
        return super().run(works)

    def fall_back(self) -> bool:
        was, self.broken = self.broken, False
        return was


def test_after_a_device_failed_the_cpu_goes_on_and_the_label_says_so(small: Small) -> None:
    runner = FailingDevice(small.vault, device="cpu")
    runner.open.set()
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(runner))
    try:
        for one, picture in zip(engine.generate(small.records[:3]), small.pictures, strict=False):
            assert np.array_equal(one.pixels, picture)
            assert one.device.startswith("cpu, torch ")
        assert engine.stats().fallbacks == 1
    finally:
        engine.close()


class FailingFallBack(FailingDevice):
    """Whose worker, asked to fall back for the first time, fails too."""

    def __init__(self, *args: Any, failure: Exception, **options: Any) -> None:
        super().__init__(*args, **options)
        self.failure: Exception | None = failure

    def fall_back(self) -> bool:
        failure, self.failure = self.failure, None
        if failure is not None:
            raise failure
        return super().fall_back()


@pytest.mark.parametrize("failure", [WorkerDied("signal SIGKILL"), ZeroDivisionError("a defect")])
def test_a_failure_that_cannot_be_dealt_with_costs_its_job_at_most_and_never_the_lane(
    small: Small, failure: Exception
) -> None:
    runner = FailingFallBack(small.vault, device="cpu", failure=failure)
    runner.open.set()
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(runner))
    try:
        (first,) = engine.submit(small.records[:1], Priority.BULK)
        if isinstance(failure, WorkerDied):  # a death like any other: it is tried once more
            assert np.array_equal(first.result(SECONDS).pixels, small.pictures[0])
        else:
            with pytest.raises(ZeroDivisionError):
                first.result(SECONDS)
        (second,) = engine.submit(small.records[1:2], Priority.INTERACTIVE)
        assert np.array_equal(second.result(SECONDS).pixels, small.pictures[1])
        assert engine.stats().running == 0
    finally:
        engine.close()


def test_one_record_s_failure_is_its_own(small: Small) -> None:
    """Whatever goes wrong in a call of several, those that had no part in it get their pictures."""
    bad = small.records[2].seed

    class Picky(Gate):
        def run(self, works: Sequence[Work]) -> list[Any]:
            super().run(works)
            if any(isinstance(work, Decode) and work.record.seed == bad for work in works):
                raise ZeroDivisionError("a defect")
            return super().run(works)

    runner = Picky(small.vault, device="cpu", batch=4)
    runner.open.set()
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(runner))
    try:
        futures = engine.submit(small.records[:4], Priority.BULK)
        with pytest.raises(ZeroDivisionError):
            futures[2].result(SECONDS)
        for number in (0, 1, 3):
            assert np.abs(futures[number].result(SECONDS).pixels.astype(int) - small.pictures[number]).max() <= 2
    finally:
        engine.close()


class DyingWorker(Gate):
    """As a worker that dies in the middle of some calls; what it answers in between is real."""

    def __init__(self, *args: Any, deadly: int, deaths: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.deadly, self.deaths = deadly, deaths  # the seed that kills it, and how often
        self.open.set()

    def run(self, works: Sequence[Work]) -> list[Any]:
        results = super().run(works)
        if self.deaths and self.calls[-1] == [self.deadly]:
            self.deaths -= 1
            raise WorkerDied("signal SIGKILL")
        return results


@pytest.mark.parametrize("deaths", [1, 2])
def test_work_is_tried_once_more_when_its_worker_died_and_what_only_waited_loses_nothing(
    small: Small, deaths: int
) -> None:
    runner = DyingWorker(small.vault, device="cpu", deadly=small.records[0].seed, deaths=deaths)
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(runner, where="in the worker process"))
    try:
        deadly, other = engine.submit(small.records[:2], Priority.BULK)
        assert np.array_equal(other.result(SECONDS).pixels, small.pictures[1])
        if deaths == 1:
            assert np.array_equal(deadly.result(SECONDS).pixels, small.pictures[0])
        else:
            with pytest.raises(DecoderFailed, match="worker process failed: signal SIGKILL"):
                deadly.result(SECONDS)
    finally:
        engine.close()


# -- loading -----------------------------------------------------------------------------------------------------------


def test_each_network_is_loaded_when_it_is_needed_and_not_before(small: Small) -> None:
    with gated(small) as (engine, gate):
        gate.open.set()
        assert engine.stats().loaded == ()
        engine.encode(small.originals[:1], Scheme.SGC)
        assert engine.stats().loaded == ("random-5/semantics",)
    with gated(small) as (engine, gate):
        gate.open.set()
        engine.decode(small.records[:1])
        assert set(engine.stats().loaded) == {"random-5/autoencoder", "random-5/denoiser"}


def test_the_weights_leave_memory_when_idle_and_come_back(small: Small) -> None:
    with gated(small, idle=0.05) as (engine, gate):
        gate.open.set()
        for round_ in range(2):
            (pixels,) = engine.decode(small.records[:1])
            assert np.array_equal(pixels, small.pictures[0])
            assert gate.unloaded.wait(SECONDS)
            gate.unloaded.clear()
            assert engine.stats().loaded == ()
            assert engine.stats().unloads == round_ + 1


def test_a_cuda_device_that_is_not_there_is_named(small: Small) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(DecoderFailed, match="CUDA"):
        LocalRunner(small.vault, device="cuda")
