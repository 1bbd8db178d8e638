"""What reading costs where released files are watched. Needs root; makes its own ext4 disks, and leaves nothing behind.

    python benchmarks/recall.py hot [--files N] [--rounds R] [--events E]  resident files: watched over unwatched
    python benchmarks/recall.py trip [--files N] [--json]                  kernel -> archiver-recall -> desk and back
    python benchmarks/recall.py latency [--files N] [--width W] [--on DIR] recalls by the real desk, beside the decode
    python benchmarks/recall.py marks [--folders N] [--files N] [--json]   memory: a mark a folder, or one a filesystem

`hot` reads photographs of 3 MiB on two disks from the page cache, turn by turn, after each was read once; one disk is
watched (by reads, by opens, or as a comparison by inotify alone), and for every file the best round counts. Whole files
are read by one call, as Python and Pillow do, in chunks of 128 KiB, as `cat` does, and in blocks of 4 KiB: what a watch
costs, it costs for every call. `opens` opens and closes them, `disk` is chunks of files that are not in the page cache.
The bar is 0.99. `trip` reads resident files for the first time, and placeholders that a desk answers for at once,
without filling them: what a recall takes over its decode and its write. `latency` has photographs recalled, one after
the other, by archiver-recall and the daemon's desk as they run, with weights that mean nothing; with --on they lie in a
new folder of DIR, and its filesystem is watched: a loop device writes everything twice. `marks` drops the kernel's
caches of inodes and names to see what marks keep in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from archiver.access import fanotify
from archiver.access.client import RecallClient
from archiver.access.protocol import Ask, How
from archiver.formats import Envelope, Format, Kind, Metadata, SourceFacts, build_placeholder
from archiver.tiers.inotify import Inotify, Mask

SIZE = 3 << 20  # bytes of a file: a photograph
BLOCK = 4096
# A reader is a process of its own: this one is the desk, and let through.
READER = """
import os, sys, time
def by(size, path):
    buffer = bytearray(size)
    file = os.open(path, os.O_RDONLY)
    while os.readv(file, [buffer]): pass
    os.close(file)
def whole(path): by(os.stat(path).st_size, path)
def chunks(path): by(131072, path)
def blocks(path): by(4096, path)
def disk(path): chunks(path)
def opens(path):
    for _ in range(100): os.close(os.open(path, os.O_RDONLY))
def timed(act, path):
    if act is disk:
        file = os.open(path, os.O_RDONLY)
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)
    began = time.perf_counter()
    act(path)
    return time.perf_counter() - began
def first(path):
    file = os.open(path, os.O_RDONLY)
    began = time.perf_counter()
    os.pread(file, 1, 0)
    taken = time.perf_counter() - began
    os.close(file)
    return taken
for line in sys.stdin:
    act, *paths = line.split()
    if act == 'first':
        print(*map(first, paths), flush=True)
    else:
        print(*(timed(globals()[act], path) for path in paths), flush=True)
"""
SERVICE = (
    "import sys; from pathlib import Path; from archiver.access.supervisor import serve; "
    "from archiver.access.terms import Terms; from archiver.access.protocol import How; "
    "sys.exit(serve(Path(sys.argv[1]), Terms(deadline=30.0, hows=(How[sys.argv[2]],)), []))"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the result."""

    what: str
    value: float
    unit: str


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@contextmanager
def disk(work: Path, name: str, size: str = "4G", inodes: int = 0) -> Iterator[Path]:
    image, mount = work / f"{name}.img", work / name
    run("truncate", "-s", size, image)
    run("mkfs.ext4", "-q", "-F", *(["-N", str(inodes)] if inodes else []), image)
    mount.mkdir()
    run("mount", "-o", "loop", image, mount)
    try:
        yield mount
    finally:
        run("umount", "--lazy", mount)


class Reader:
    """A process that reads and takes the time."""

    def __init__(self, cleanup: ExitStack) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        cleanup.callback(self._process.wait)
        assert self._process.stdin is not None
        cleanup.callback(self._process.stdin.close)

    def ask(self, act: str, paths: list[Path]) -> list[float]:
        """Seconds for every file."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{act} {' '.join(map(str, paths))}\n")
        self._process.stdin.flush()
        return [float(word) for word in self._process.stdout.readline().split()]


class Desk:
    """Answers everybody at once."""

    def __init__(self, how: How) -> None:
        self.client: RecallClient
        self._how = how

    def asked(self, ask: Ask, fd: int, pidfd: int | None) -> None:
        for descriptor in (fd, pidfd):
            if descriptor is not None:
                os.close(descriptor)
        self.client.answer(ask.id)

    def withdrawn(self, id: int) -> None:
        raise RuntimeError(f"question {id} took too long")

    def watched(self, name: str, how: How, errno: int) -> None:
        if how is not self._how:
            raise RuntimeError(f"{name}: {how.name}, {os.strerror(errno)}")


@contextmanager
def serving(work: Path, how: How = How.READ) -> Iterator[Path]:
    """archiver-recall, at this socket."""
    socket = work / "run" / "recall.sock"
    socket.parent.mkdir()
    service = subprocess.Popen([sys.executable, "-c", SERVICE, str(socket), how.name], stderr=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield socket
    finally:
        service.terminate()
        service.wait()


@contextmanager
def watching(work: Path, root: Path, how: How = How.READ) -> Iterator[None]:
    """archiver-recall watches a disk, and this process is its desk."""
    desk = Desk(how)
    with serving(work, how) as socket, RecallClient(socket, desk) as client:
        desk.client = client
        while not client.connected:
            time.sleep(0.05)
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        client.watch(root.name, descriptor)
        client.forget(descriptor)  # comes back after the watch is there
        yield
        os.close(descriptor)


@contextmanager
def noticing(root: Path) -> Iterator[None]:
    """inotify waits for new files in a folder; of files that are read there it knows nothing."""
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    with closing(Inotify()) as inotify:
        inotify.watch(descriptor, Mask.CREATE)
        os.close(descriptor)
        yield


def hot(work: Path, options: argparse.Namespace, cleanup: ExitStack) -> list[Figure]:
    content = np.random.default_rng(1).bytes(SIZE)
    disks = {name: cleanup.enter_context(disk(work, name)) for name in ("watched", "unwatched")}
    files = {name: [root / f"{number}" for number in range(options.files)] for name, root in disks.items()}
    for path in (path for paths in files.values() for path in paths):
        path.write_bytes(content)
    watched = disks["watched"]
    by_inotify = options.events == "inotify"
    cleanup.enter_context(noticing(watched) if by_inotify else watching(work, watched, How[options.events.upper()]))
    reader = Reader(cleanup)
    figures = []
    os.sync()
    for act in ("whole", "chunks", "blocks", "opens", "disk"):
        best = {name: [float("inf")] * options.files for name in disks}
        for _ in range(options.rounds + 1):  # the first round is also the files' first
            for name, paths in files.items():
                best[name] = list(map(min, best[name], reader.ask(act, paths)))
        amount, unit = (0.1, "thousands/s") if act == "opens" else (SIZE / 1e6, "MB/s")
        speed = {name: amount * options.files / sum(times) for name, times in best.items()}
        figures += [Figure(f"{act}, {name}", value, unit) for name, value in speed.items()]
        figures.append(Figure(f"{act}, watched over unwatched", speed["watched"] / speed["unwatched"], "bar 0.99"))
    return figures


def trip(work: Path, options: argparse.Namespace, cleanup: ExitStack) -> list[Figure]:
    root = cleanup.enter_context(disk(work, "tier"))
    facts = SourceFacts(Format.JPEG, SIZE, bytes(32), 640, 480, 1, "RGB", 0, 1)
    envelope = Envelope(Kind.PLACEHOLDER, bytes(200), facts)
    head = build_placeholder(envelope, Metadata(Format.JPEG), np.zeros((12, 16, 3), np.uint8))
    cold, fresh = ([root / f"{kind}{number}" for number in range(options.files)] for kind in ("cold", "fresh"))
    for path in cold:
        with path.open("wb") as file:
            file.write(head.ljust(BLOCK, b"\0"))
            file.truncate(SIZE)
    for path in fresh:
        path.write_bytes(bytes(range(1, 256)) * 20)
    reader = Reader(cleanup)
    unwatched = reader.ask("first", fresh)
    cleanup.enter_context(watching(work, root))
    figures = []
    for what, times in (
        ("read, nobody watches", unwatched),
        ("first read of a resident file", reader.ask("first", fresh)),
        ("second read of a resident file", reader.ask("first", fresh)),
        ("placeholder, through the desk", reader.ask("first", cold)),
    ):
        percentiles = np.percentile(np.array(times) * 1e6, [50, 99])
        figures += [
            Figure(f"{what}, {name}", float(value), "us")
            for name, value in zip(("median", "99th percentile"), percentiles, strict=True)
        ]
    return figures


def latency(work: Path, options: argparse.Namespace, cleanup: ExitStack) -> list[Figure]:
    from recall_latency import latencies, released  # beside this file; imports the models

    if options.on is None:
        root = cleanup.enter_context(disk(work, "tier"))
    else:
        root = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="archiver-bench-", dir=options.on)))
    site, paths = released(work, root, options, cleanup)
    cleanup.enter_context(serving(work))
    reader = Reader(cleanup)
    figures = []
    for what, times in latencies(site, paths, lambda path: reader.ask("first", [path])[0], cleanup):
        percentiles = np.percentile(np.array(times) * 1e3, [50, 99])
        figures += [
            Figure(f"{what}, {name}", float(value), "ms")
            for name, value in zip(("median", "99th percentile"), percentiles, strict=True)
        ]
    return figures


def marks(work: Path, options: argparse.Namespace, cleanup: ExitStack) -> list[Figure]:
    root = cleanup.enter_context(disk(work, "tier", inodes=2 * (options.folders + options.files)))
    folders = [root / f"{number}" for number in range(options.folders)]
    for number, folder in enumerate(folders):
        folder.mkdir()
        for each in range(options.files // options.folders):
            (folder / f"{number}.{each}").write_bytes(b"resident" * 600)
    figures = []

    def kept(what: str, act: Callable[[int], None]) -> None:
        group = fanotify.open_group()
        before, began = slab(), time.perf_counter()
        act(group)
        taken, full = time.perf_counter() - began, slab()
        Path("/proc/sys/vm/drop_caches").write_text("2")
        figures.extend(
            [
                Figure(f"{what}: time to set up or to read all", taken, "s"),
                Figure(f"{what}: marks, and inodes and names pinned by them", (slab() - before) / 1e6, "MB"),
                Figure(f"{what}: the same before the kernel wants memory back", (full - before) / 1e6, "MB"),
            ]
        )
        os.close(group)

    def every_folder(group: int) -> None:
        for folder in folders:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fanotify.watch_children(group, descriptor, How.READ)
            os.close(descriptor)

    def one(group: int) -> None:
        descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        fanotify.watch(group, descriptor, How.READ)
        os.close(descriptor)
        for folder in folders:
            for path in folder.iterdir():
                descriptor = os.open(path, os.O_RDONLY)
                fanotify.ignore(group, descriptor, How.READ)
                os.close(descriptor)

    Path("/proc/sys/vm/drop_caches").write_text("2")
    kept(f"a mark for each of {options.folders} folders", every_folder)
    kept(f"one mark, and an ignore mark for each of {options.files} hot files", one)
    return figures


def slab() -> int:
    """Bytes that the kernel has in objects of the kinds that marks and what they pin are made of."""
    total = 0
    for line in Path("/proc/slabinfo").read_text(encoding="ascii").splitlines()[2:]:
        name, active, _, size, *_ = line.split()
        if name in ("fanotify_mark", "fsnotify_mark_connector", "ext4_inode_cache", "dentry"):
            total += int(active) * int(size)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    numbers: dict[str, tuple[Callable[..., list[Figure]], dict[str, int]]] = {
        "hot": (hot, {"files": 16, "rounds": 150}),
        "trip": (trip, {"files": 500}),
        "latency": (latency, {"files": 100, "width": 1600}),
        "marks": (marks, {"folders": 10_000, "files": 50_000}),
    }
    for verb, (_, defaults) in numbers.items():
        sub = verbs.add_parser(verb)
        for name, default in defaults.items():
            sub.add_argument(f"--{name}", type=int, default=default)
        sub.add_argument("--json", action="store_true")
        if verb == "latency":
            sub.add_argument("--on", type=Path, metavar="DIR", help="where the photographs lie, not on a loop device")
        if verb == "hot":
            sub.add_argument("--events", choices=("read", "open", "inotify"), default="read", help="what is watched")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archiver-bench-") as name, ExitStack() as cleanup:
        figures = numbers[options.verb][0](Path(name), options, cleanup)
    show(figures, options.json)


def show(figures: list[Figure], as_json: bool) -> None:
    if as_json:
        print(json.dumps([asdict(figure) for figure in figures]))
        return
    table = Table("what", "value", "unit")
    for figure in figures:
        table.add_row(figure.what, f"{figure.value:,.3f}", figure.unit)
    Console().print(table)


if __name__ == "__main__":
    main()
