"""A worker process gives what this process gives, costs this one no torch, and may die without harm."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from archiver.codec.record import Scheme
from archiver.decoder.engine import Priority
from archiver.decoder.networks import GPU_BATCH
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.service import DecodeService
from archiver.decoder.worker import WHERE, Setup, WorkerRunner
from archiver.errors import DecoderFailed, RecordCorrupt
from tests.decoder.conftest import Small

SECONDS = 120


class Watched(WorkerRunner):
    """The real one; tells when it has ended its worker, and can stop the worker's process before a call."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self.ended = threading.Event()
        self.kill_calls = 0  # so many calls to come lose their worker in the middle

    def run(self, works: Any) -> list[Any]:
        pid = self.pid
        if self.kill_calls and pid is not None:
            self.kill_calls -= 1
            os.kill(pid, signal.SIGSTOP)  # it takes the call and does nothing
            threading.Timer(0.2, os.kill, (pid, signal.SIGKILL)).start()
        return super().run(works)

    def unload(self) -> None:
        super().unload()
        self.ended.set()


@contextmanager
def worker(small: Small, *, idle: float | None = None) -> Iterator[tuple[QueuedEngine, Watched]]:
    runner = Watched(Setup(small.vault.path, "cpu", 0, 1))
    engine = QueuedEngine(small.vault, small.profile, "quick", DecodeService(runner, idle=idle, where=WHERE))
    try:
        yield engine, runner
    finally:
        engine.close()


def test_a_worker_gives_the_same_and_its_death_costs_one_retry(small: Small) -> None:
    with worker(small) as (engine, runner):
        assert runner.pid is None  # nothing to do yet
        assert engine.encode(small.originals[:2], Scheme.SGC) == small.records[:2]
        first = runner.pid
        for one, picture in zip(engine.generate(small.records[:2]), small.pictures, strict=False):
            assert np.array_equal(one.pixels, picture)
            assert one.device == f"cpu, torch {torch.__version__}"
        assert engine.measure(small.originals[:1], small.pictures[:1])[0].semantic <= 1
        with pytest.raises(RecordCorrupt):
            engine.decode([replace(small.records[0], sections=())])
        assert runner.pid == first

        runner.kill_calls = 1
        futures = engine.submit(small.records[:3], Priority.INTERACTIVE)
        for future, picture in zip(futures, small.pictures, strict=False):
            assert np.array_equal(future.result(SECONDS).pixels, picture)
        assert engine.stats().deaths == 1
        assert runner.pid != first


def test_an_idle_worker_is_ended(small: Small) -> None:
    with worker(small, idle=0.05) as (engine, runner):
        engine.decode(small.records[:1])
        assert runner.ended.wait(SECONDS)
        assert runner.pid is None


def test_a_worker_that_cannot_start_is_named(small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "torch.py").write_text("import os; os._exit(3)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with worker(small) as (engine, _), pytest.raises(DecoderFailed, match="did not start: exit code 3"):
        engine.decode(small.records[:1])


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("run = lambda self, works: [lambda: None]", "pickle"),  # it cannot be sent
        ("run = lambda self, works: [Unknown()]", "signal SIGKILL"),  # nor that be read: only the worker knows the type
        ("device = property(lambda self: 1 / 0 if self.loaded else 'a device')", "ZeroDivisionError"),
    ],
)
def test_a_call_whose_answer_cannot_be_told_ends_all_the_same(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, defect: str, told: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "from archiver.decoder.networks import LocalRunner\n"
        f"class Unknown: pass\nclass Defective: {defect}\n"
        "for name in {'run', 'device'} & set(vars(Defective)): setattr(LocalRunner, name, vars(Defective)[name])\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with worker(small) as (engine, _):
        (future,) = engine.submit(small.records[:1], Priority.BULK)
        with pytest.raises(DecoderFailed, match=told):
            future.result(SECONDS)


def test_the_process_that_has_a_worker_imports_no_torch_and_takes_it_along(small: Small) -> None:
    script = (
        "import sys; from archiver.config import Settings\n"
        "from archiver.codec.record import Record; from archiver.decoder.opening import open_engine\n"
        "model, decoder = {'profile': 'random-5'}, {'where': 'worker', 'device': 'cpu'}\n"
        "settings = {'vault': {'path': sys.argv[1]}, 'model': model, 'decoder': decoder}\n"
        "engine = open_engine(Settings.model_validate(settings))\n"
        "(pixels,) = engine.decode([Record.from_bytes(bytes.fromhex(sys.argv[2]))])\n"
        "print(pixels.tobytes().hex(), *{'torch', 'diffusers', 'safetensors'} & set(sys.modules))\n"
        "print(engine.service._runner.pid, flush=True); sys.stdin.read()\n"
    )
    record = small.records[0].to_bytes().hex()
    command = [sys.executable, "-c", script, small.vault.path, record]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pixels, *modules = process.stdout.readline().decode().split()
        assert bytes.fromhex(pixels) == small.pictures[0].tobytes()
        assert modules == []
        child = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        assert select.select([child], [], [], SECONDS)[0]  # readable: it has ended
        os.close(child)


def test_the_most_that_a_worker_may_batch_is_what_a_gpu_does(small: Small) -> None:
    assert WorkerRunner(Setup(small.vault.path, "auto", 0, 1)).batch == GPU_BATCH
    assert WorkerRunner(Setup(small.vault.path, "cpu", 0, 1)).batch == 1
