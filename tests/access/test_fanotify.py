"""The binding of fanotify, and each fact about the kernel that reading released files stands on."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fixtures_fs import Disk, run, unavailable
from hypothesis import given
from hypothesis import strategies as st

from archiver.access import fanotify
from archiver.access.fanotify import Event, EventsMalformed
from archiver.access.protocol import DENIALS, How
from tests.access.watching import READ, until, waits

PAGE = 4096

# -- parsing -----------------------------------------------------------------------------------------------------------


def packed(event: Event, records: bytes = b"") -> bytes:
    """As the kernel writes it."""
    if event.pidfd != -1:
        records = struct.pack("=BBHi", 4, 0, 8, event.pidfd) + records
    return struct.pack("=IBBHQii", 24 + len(records), 3, 0, 24, event.mask, event.fd, event.pid) + records


def record(kind: int, body: bytes) -> bytes:
    return struct.pack("=BBH", kind, 0, 4 + len(body)) + body


descriptors = st.integers(-200, 2**31 - 1)
events = st.builds(Event, descriptors, descriptors, st.integers(0, 2**64 - 1), st.integers(-1, 2**31 - 1))
ranges = st.binary(max_size=20).map(lambda body: record(6, body))


@given(st.lists(st.tuples(events, st.lists(ranges, max_size=3).map(b"".join)), max_size=5))
def test_what_the_kernel_writes_is_read_and_ranges_are_passed_over(written: list[tuple[Event, bytes]]) -> None:
    data = b"".join(packed(event, records) for event, records in written)
    assert list(fanotify.parse(data)) == [event for event, _ in written]


@given(st.binary(max_size=200), st.lists(events, max_size=3))
def test_anything_else_is_refused_and_never_read_beyond_its_end(noise: bytes, before: list[Event]) -> None:
    data = b"".join(map(packed, before)) + noise
    try:
        found = list(fanotify.parse(data))
    except EventsMalformed:
        return
    assert found[: len(before)] == before


@given(events, st.data())
def test_an_event_that_is_cut_short_is_refused(event: Event, data: st.DataObject) -> None:
    whole = packed(event, record(6, bytes(20)))
    with pytest.raises(EventsMalformed):
        list(fanotify.parse(whole[: data.draw(st.integers(1, len(whole) - 1))]))


def test_an_answer_only_names_what_the_kernel_takes() -> None:
    assert fanotify.response(0) == 1
    assert {fanotify.response(number) for number in range(1, 200)} == {2 | number << 24 for number in DENIALS}


# -- the kernel --------------------------------------------------------------------------------------------------------


@dataclass
class Group:
    """A group and what it has seen; `answer` says what readers get."""

    fd: int
    answer: Callable[[Event], int] = lambda _: 0
    seen: list[Event] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def serve(self) -> None:
        while not self.stop.is_set():
            for event in fanotify.read_events(self.fd):
                self.seen.append(event)
                for descriptor in (event.fd, event.pidfd):
                    if descriptor >= 0:
                        os.close(descriptor)
                if event.fd >= 0:
                    fanotify.respond(self.fd, event.fd, self.answer(event))
            self.stop.wait(0.001)

    def count(self, act: Callable[[], object]) -> int:
        """How many events an act raises."""
        before = len(self.seen)
        act()
        return len(self.seen) - before


@contextmanager
def opened(directory: Path) -> Iterator[int]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def served(fd: int) -> tuple[Group, threading.Thread]:
    """A group that is answered for in a thread, until its `stop` is set."""
    made = Group(fd)
    thread = threading.Thread(target=made.serve)
    thread.start()
    return made, thread


@pytest.fixture
def disk(make_disk: Callable[..., Disk]) -> Path:
    return make_disk().path


@pytest.fixture
def group(disk: Path) -> Iterator[Group]:
    """A group that watches the disk's filesystem and answers in a thread."""
    try:
        made = Group(fanotify.open_group())
    except OSError as error:
        unavailable(f"fanotify: {error.strerror}")
    with opened(disk) as root:
        try:
            fanotify.watch(made.fd, root, How.READ)
        except OSError as error:
            unavailable(f"FAN_PRE_ACCESS: {error.strerror}")
    made, thread = served(made.fd)
    yield made
    made.stop.set()
    thread.join()
    os.close(made.fd)


@pytest.fixture
def file(disk: Path) -> Path:
    path = disk / "file"
    path.write_bytes(b"contents" * 2048)
    return path


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-S", "-E", "-c", f"import os, sys, mmap, fcntl, socket\n{code}", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.root
@pytest.mark.parametrize(
    "code",
    [
        "os.pread(os.open(sys.argv[1], os.O_RDONLY), 1, 0)",
        "f = os.open(sys.argv[1], os.O_RDONLY); bytes(mmap.mmap(f, 4096, prot=mmap.PROT_READ)[:1])",
        "f = os.open(sys.argv[1], os.O_RDONLY); os.sendfile(os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT), f, 0, 9)",
        "f = os.open(sys.argv[1], os.O_RDONLY); "
        "os.copy_file_range(f, os.open(sys.argv[1] + '2', os.O_WRONLY | os.O_CREAT), 9)",
        "f = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT); os.preadv(f, [mmap.mmap(-1, 4096)], 0)",
        "os.write(os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND), b'1')",
        "os.truncate(sys.argv[1], 10)",
        "os.posix_fallocate(os.open(sys.argv[1], os.O_WRONLY), 0, 9)",
    ],
    ids=["read", "mmap", "sendfile", "copy_file_range", "O_DIRECT", "append", "truncate", "fallocate"],
)
def test_every_way_to_the_contents_raises_an_event(group: Group, file: Path, tmp_path: Path, code: str) -> None:
    def act() -> None:
        assert python(code, file, tmp_path / "copy").returncode == 0

    assert group.count(act) >= 1


@pytest.mark.root
def test_what_leaves_the_contents_alone_raises_none(group: Group, file: Path) -> None:
    def act() -> None:
        code = (
            "p = sys.argv[1]; f = os.open(p, os.O_RDONLY); os.stat(p); os.listxattr(p); os.lseek(f, 0, os.SEEK_DATA)\n"
            "os.rename(p, p + '2'); os.open(p + '2', os.O_RDWR | os.O_TRUNC); os.unlink(p + '2')"
        )
        assert python(code, file).stderr == ""

    assert group.count(act) == 0


@pytest.mark.root
def test_an_overlay_raises_events_for_its_layers_and_a_loop_device_none(
    group: Group, disk: Path, file: Path, tmp_path: Path
) -> None:
    device = run("losetup", "--find", "--show", "--read-only", file).strip()
    try:
        assert group.count(lambda: Path(device).read_bytes()) == 0
    finally:
        run("losetup", "--detach", device)
    over, empty = tmp_path / "over", tmp_path / "empty"
    over.mkdir()
    empty.mkdir()
    run("mount", "-t", "overlay", "-o", f"lowerdir={disk}:{empty}", "overlay", over)
    try:
        assert group.count(lambda: (over / file.name).read_bytes()) >= 1
    finally:
        run("umount", over)


@pytest.mark.root
def test_a_descriptor_raises_events_if_its_filesystem_was_watched_when_it_was_opened(disk: Path, file: Path) -> None:
    """So who has a file open when the first watch comes is never seen, and a release needs a lease."""
    fd = fanotify.open_group()
    code = "import os, sys; f = os.open(sys.argv[1], os.O_RDONLY); print(flush=True); input(); os.read(f, 1)"

    def reader() -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", code, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert started.stdout is not None
        assert started.stdout.readline() == b"\n"
        return started

    with reader() as before, opened(disk) as root:
        fanotify.watch(fd, root, How.READ)
        before.communicate(b"\n", timeout=10)
        assert before.returncode == 0
    with reader() as after, file.open("rb") as ignored:
        fanotify.ignore(fd, ignored.fileno(), How.READ)
        fanotify.forget(fd, ignored.fileno())
        assert after.stdin is not None
        after.stdin.write(b"\n")
        after.stdin.flush()
        until(lambda: waits(after.pid))
        os.close(fd)


@pytest.mark.root
def test_when_the_group_closes_who_waits_goes_on(disk: Path, file: Path) -> None:
    fd = fanotify.open_group()
    with opened(disk) as root:
        fanotify.watch(fd, root, How.READ)
    command = [sys.executable, "-S", "-E", "-c", READ, str(file)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as seen, subprocess.Popen(command) as unseen:
        until(lambda: waits(seen.pid))
        (event, *_) = fanotify.read_events(fd)
        until(lambda: waits(unseen.pid))
        for descriptor in (fd, event.fd, event.pidfd):
            os.close(descriptor)
        assert seen.communicate(timeout=10)[0] == file.read_bytes()


@pytest.mark.root
def test_another_process_answers_by_number_alone_and_the_dead_are_answered_for_too(disk: Path, file: Path) -> None:
    fd = fanotify.open_group()
    with opened(disk) as root:
        fanotify.watch(fd, root, How.READ)
    code = "print(len(os.read(os.open(sys.argv[1], os.O_RDONLY), 9)))"
    with subprocess.Popen([sys.executable, "-c", f"import os, sys\n{code}", str(file)]) as reader:
        until(lambda: waits(reader.pid))
        (event,) = fanotify.read_events(fd)
        assert event.pid == reader.pid
        os.close(event.fd)
        child = os.fork()
        if child == 0:
            os._exit(not fanotify.respond(fd, event.fd))
        assert os.waitpid(child, 0)[1] == 0
        assert reader.wait(10) == 0
    with subprocess.Popen([sys.executable, "-c", f"import os, sys\n{code}", str(file)]) as reader:
        until(lambda: waits(reader.pid))
        (event,) = fanotify.read_events(fd)
        reader.send_signal(signal.SIGKILL)
        reader.wait(10)
        assert fanotify.respond(fd, event.fd)
        assert not fanotify.respond(fd, event.fd)
    os.close(fd)


@pytest.mark.root
@pytest.mark.parametrize("number", sorted(DENIALS))
def test_a_refusal_reaches_the_reader_as_it_is(group: Group, file: Path, number: int) -> None:
    group.answer = lambda _: number
    done = python("try: os.pread(os.open(sys.argv[1], 0), 1, 0)\nexcept OSError as error: print(error.errno)", file)
    assert done.stdout == f"{number}\n"


@pytest.mark.root
def test_the_kernel_would_leave_a_reader_hanging_for_any_other_number(disk: Path, file: Path) -> None:
    fd = fanotify.open_group()
    with opened(disk) as root:
        fanotify.watch(fd, root, How.READ)
    with subprocess.Popen([sys.executable, "-c", READ, str(file)], stdout=subprocess.DEVNULL) as reader:
        until(lambda: waits(reader.pid))
        (event,) = fanotify.read_events(fd)
        with pytest.raises(OSError) as caught:
            os.write(fd, struct.pack("=iI", event.fd, 2 | errno.ENOENT << 24))
        assert caught.value.errno == errno.EINVAL
        assert waits(reader.pid)
        assert fanotify.respond(fd, event.fd, errno.ENOENT)  # as EIO
        assert reader.wait(10) == 1
    os.close(fd)


@pytest.mark.root
def test_an_ignored_file_stays_silent_when_it_is_changed_and_speaks_when_the_mark_is_taken_back(
    group: Group, file: Path
) -> None:
    def read() -> None:
        assert python("os.pread(os.open(sys.argv[1], 0), 1, 0)", file).returncode == 0

    assert group.count(read) == 1
    with file.open("rb") as opened_file:
        fanotify.ignore(group.fd, opened_file.fileno(), How.READ)
        assert group.count(read) == 0
        assert group.count(lambda: python("os.pwrite(os.open(sys.argv[1], 1), b'1', 0)", file)) == 0
        assert group.count(read) == 0
        fanotify.forget(group.fd, opened_file.fileno())
        assert group.count(read) == 1
        fanotify.forget(group.fd, opened_file.fileno())  # that there is nothing to forget is no failure


@pytest.mark.root
def test_where_only_opens_are_seen_a_file_is_ignored_and_forgotten_as_well(tmp_path: Path) -> None:
    run("mount", "-t", "tmpfs", "none", tmp_path)
    try:
        (tmp_path / "file").write_bytes(b"contents")
        fd = fanotify.open_group()
        group, thread = served(fd)
        with opened(tmp_path) as root, (tmp_path / "file").open("rb") as opened_file:
            fanotify.watch(fd, root, How.OPEN)
            assert group.count(lambda: python(READ, tmp_path / "file")) == 1
            fanotify.ignore(fd, opened_file.fileno(), How.OPEN)
            assert group.count(lambda: python(READ, tmp_path / "file")) == 0
            fanotify.forget(fd, opened_file.fileno())
            assert group.count(lambda: python(READ, tmp_path / "file")) == 1
            with pytest.raises(OSError) as caught:
                fanotify.ignore(fd, opened_file.fileno(), How.READ)
            assert caught.value.errno == errno.EOPNOTSUPP
        group.stop.set()
        thread.join()
        os.close(fd)
    finally:
        run("umount", "--lazy", tmp_path)


@pytest.mark.root
def test_a_file_under_a_lease_refuses_its_holder_unless_it_was_ignored_before(group: Group, file: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGIO, signal.SIG_IGN); f = os.open(sys.argv[1], os.O_RDWR)\n"
        "if sys.argv[2] == 'first': os.pread(f, 1, 0)\n"
        "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "try: os.pread(f, 1, 0); print(fcntl.fcntl(f, fcntl.F_GETLEASE) == fcntl.F_WRLCK)\n"
        "except OSError as error: print(error.errno, fcntl.fcntl(f, fcntl.F_GETLEASE) == fcntl.F_WRLCK)"
    )
    assert python(code, file, "not").stdout == f"{errno.EPERM} False\n"
    with file.open("rb") as opened_file:
        fanotify.ignore(group.fd, opened_file.fileno(), How.READ)
    assert python(code, file, "first").stdout == "True\n"


@pytest.mark.root
def test_event_descriptors_for_writing_would_refuse_readers_of_read_only_mounts_and_running_programs(
    disk: Path, file: Path, tmp_path: Path
) -> None:
    """Why a group's descriptors are for reading only."""
    program, elsewhere = disk / "sleep", tmp_path / "elsewhere"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    elsewhere.mkdir()
    run("mount", "--bind", disk, elsewhere)
    try:
        run("mount", "-o", "remount,bind,ro", elsewhere)
        flags = fanotify.CLASS_PRE_CONTENT | fanotify.NONBLOCK | fanotify.REPORT_FD_ERROR | fanotify.CLOEXEC
        libc = ctypes.CDLL(None, use_errno=True)
        group = Group(libc.fanotify_init(flags, os.O_RDWR | os.O_CLOEXEC))
        with subprocess.Popen([program, "1000"]) as running, opened(disk) as root:
            fanotify.watch(group.fd, root, How.READ)
            thread = threading.Thread(target=group.serve)
            thread.start()
            refused = [python(READ, path).stderr for path in (elsewhere / file.name, program)]
            group.stop.set()
            thread.join()
            os.close(group.fd)
            running.kill()
    finally:
        run("umount", "--lazy", elsewhere)
    assert ["Operation not permitted" in complaint for complaint in refused] == [True, True]
    assert [event.fd for event in group.seen] == [-errno.EROFS, -errno.ETXTBSY]


@pytest.mark.root
def test_what_a_filesystem_can_raise_is_found_out_without_watching_it(disk: Path, file: Path) -> None:
    fd = fanotify.open_group()
    with opened(disk) as root, opened(Path("/dev/shm")) as memory:
        assert fanotify.ability(fd, root) is How.READ
        assert fanotify.ability(fd, memory) is How.OPEN
    assert python(READ, file).returncode == 0
    os.close(fd)


@pytest.mark.root
def test_watches_of_filesystems_are_taken_back_all_at_once(group: Group, file: Path) -> None:
    fanotify.unwatch_all(group.fd)
    assert group.count(lambda: python(READ, file)) == 0
