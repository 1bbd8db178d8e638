"""The networks in a process of their own. Ending it gives all memory back; its death costs nobody but itself.

The daemon starts `python -m archiver.decoder.worker FD` with one end of a socket pair as FD; pickled messages go both
ways (both ends are this program, started by it). The daemon's side never imports torch. The queue stays with the
daemon: the worker only gets the calls that are to be made now.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from archiver.decoder.work import Work, WorkerDied
from archiver.errors import ArchiverError, DecoderFailed, ModelsNotInstalled

if TYPE_CHECKING:
    from archiver.decoder.networks import Device, LocalRunner

_LOG = logging.getLogger("archiver.decoder")
WHERE = "in the worker process"
_GPU_BATCH = 8  # the most that a worker may answer to "what suits the device"
_SECONDS_TO_END = 5.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What the worker is started with: the arguments of `LocalRunner`."""

    vault: Path
    device: Device
    batch: int
    threads: int


@dataclass(frozen=True, slots=True)
class Facts:
    """How the worker's runner is placed at the moment."""

    device: str
    batch: int
    lanes: int
    loaded: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of the worker's runner."""

    number: int
    what: Literal["run", "shrink", "fall_back"]
    works: tuple[Work, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What came of a call. The answer number 0 comes without one, when the worker is ready."""

    number: int
    value: Any
    error: Exception | None
    facts: Facts | None


# -- the daemon's side -------------------------------------------------------------------------------------------------


class WorkerRunner:
    """`archiver.decoder.work.Runner` in a child process that is started when there is work."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._lock = threading.Lock()
        self._child: _Child | None = None
        most = 1 if setup.device == "cpu" else _GPU_BATCH
        self._facts = Facts("", setup.batch or most, 1, ())

    @property
    def device(self) -> str:
        """For the label of a generated image; "" before the first worker has told."""
        return self._facts.device

    @property
    def batch(self) -> int:
        """How many records one call decodes together."""
        return self._facts.batch

    @property
    def lanes(self) -> int:
        """How many calls may be under way at once."""
        return self._facts.lanes

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory, by name."""
        return self._facts.loaded

    @property
    def pid(self) -> int | None:
        """The worker's process, where there is one."""
        child = self._child
        return child.process.pid if child is not None and not child.dead else None

    def start(self) -> None:
        """Start the worker where none runs, and wait until it is ready.

        Raises ModelsNotInstalled, DecoderFailed.
        """
        with self._lock:
            if self._child is not None and not self._child.dead:
                return
            if self._child is not None:
                self._child.end()
            self._child = _Child(self._setup, self._hear)
            try:
                self._child.ready.result()
            except WorkerDied as error:
                raise DecoderFailed(where=WHERE, reason=f"it did not start: {error}") from error

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Do works of one company. Raises WorkerDied, and what `LocalRunner.run` raises."""
        results: list[Any] = self._call("run", tuple(works))
        return results

    def shrink(self) -> bool:
        """Decode half as many together from now on; False where it is one already."""
        return bool(self._call("shrink"))

    def fall_back(self) -> bool:
        """Leave a GPU that failed for the CPU; False on the CPU."""
        return bool(self._call("fall_back"))

    def unload(self) -> None:
        """End the worker."""
        with self._lock:
            child, self._child = self._child, None
            if child is not None:
                child.end()
                self._facts = Facts(self._facts.device, self._facts.batch, self._facts.lanes, ())

    def _call(self, what: Literal["run", "shrink", "fall_back"], works: tuple[Work, ...] = ()) -> Any:
        child = self._child
        if child is None:
            raise WorkerDied("it was ended")
        return child.call(what, works)

    def _hear(self, facts: Facts) -> None:
        self._facts = facts


class _Child:
    """One worker process and the calls that it has not answered."""

    def __init__(self, setup: Setup, hear: Callable[[Facts], None]) -> None:
        self.dead = False
        self.ready: Future[Any] = Future()
        self._pending: dict[int, Future[Any]] = {0: self.ready}
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._hear = hear
        ours, theirs = socket.socketpair()
        with theirs:
            self._connection = Connection(ours.detach())
            number = theirs.fileno()
            # It may run from a source tree that only this process was told of.
            path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
            self.process = subprocess.Popen(
                [sys.executable, "-m", "archiver.decoder.worker", str(number)],
                stdin=subprocess.DEVNULL,
                pass_fds=[number],
                env={**os.environ, "PYTHONPATH": path},
            )
        threading.Thread(target=self._listen, name="archiver-worker-answers", daemon=True).start()
        self._send(setup)

    def call(self, what: Literal["run", "shrink", "fall_back"], works: tuple[Work, ...]) -> Any:
        """Raises WorkerDied, and what the worker raised."""
        future: Future[Any] = Future()
        with self._lock:
            if self.dead:
                raise WorkerDied(self._end())
            number = next(self._numbers)
            self._pending[number] = future
            self._send(Call(number, what, works))
        return future.result()

    def end(self) -> None:
        """Kill it: it holds nothing but memory."""
        self.process.kill()
        self.process.wait()

    def _send(self, message: Setup | Call) -> None:
        try:
            self._connection.send(message)
        except OSError:
            return  # it has died, and `_listen` tells everybody who waits

    def _listen(self) -> None:
        while True:
            try:
                answer: Answer = self._connection.recv()
            except (EOFError, OSError):
                break
            except Exception:  # a defect, or another version's: the program was replaced under this one
                _LOG.exception("an answer of the decode worker cannot be read: it is ended")
                self.process.kill()
                break
            if answer.facts is not None:
                self._hear(answer.facts)
            future = self._pending.pop(answer.number)
            if answer.error is not None:
                future.set_exception(answer.error)
            else:
                future.set_result(answer.value)
        with self._lock:
            self.dead = True
            left, self._pending = self._pending, {}
            self._connection.close()
        how = self._end()
        for future in left.values():
            future.set_exception(WorkerDied(how))

    def _end(self) -> str:
        """How it ended, in words."""
        try:
            code = self.process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


# -- the worker's side -------------------------------------------------------------------------------------------------


def main(descriptor: int) -> None:
    """Answer calls until the other end hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the daemon's to understand
    connection = Connection(descriptor)
    sending = threading.Lock()

    def answer(number: int, value: Any, error: Exception | None, runner: LocalRunner | None) -> None:
        facts = None if runner is None else Facts(runner.device, runner.batch, runner.lanes, runner.loaded)
        with sending:
            connection.send(Answer(number, value, error, facts))

    setup: Setup = connection.recv()
    try:
        runner = _runner(setup)
    except ArchiverError as error:
        answer(0, None, error, None)
        return
    answer(0, None, None, runner)
    pool = ThreadPoolExecutor(max(setup.threads, runner.lanes))

    def do(call: Call) -> None:
        value, failure = None, None
        try:
            value = runner.run(call.works) if call.what == "run" else getattr(runner, call.what)()
        except Exception as error:
            failure = _sendable(error)
        try:
            answer(call.number, value, failure, runner)
        except Exception as error:  # it cannot be sent, or a lost device does not even tell its name
            try:
                answer(call.number, None, failure or _sendable(error), None)
            except Exception:
                os._exit(1)  # whoever asked waits until he is answered, and hears of this

    while True:
        try:
            call: Call = connection.recv()
        except (EOFError, OSError):
            os._exit(0)  # nobody wants what is still being decoded
        pool.submit(do, call)


def _runner(setup: Setup) -> LocalRunner:
    from archiver.models.vault import Vault

    try:
        from archiver.decoder.networks import LocalRunner
    except ImportError as error:
        raise ModelsNotInstalled(missing=error.name or error) from error
    return LocalRunner(Vault(setup.vault), device=setup.device, batch=setup.batch, threads=setup.threads)


def _sendable(error: Exception) -> Exception:
    """The failure without what only this process has."""
    if isinstance(error, ArchiverError) or type(error).__module__ == "archiver.decoder.work":
        return error
    import traceback

    traceback.print_exception(error)  # a defect: its trace goes where the worker's stderr goes
    return DecoderFailed(where=WHERE, reason=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    # Messages are pickled by the name of their module, which here is not "__main__".
    from archiver.decoder import worker

    worker.main(int(sys.argv[1]))
