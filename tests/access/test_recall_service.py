"""`archiver-recall` on a real disk: a reader of a released file gets the image, or the placeholder, and never waits for
nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fixtures_fs import run

from archiver.access.client import RecallClient
from tests.access.watching import Site, Talker, generated, outcome, placeholder, put_placeholder, until, waits

pytestmark = pytest.mark.root

ALL_AT_ONCE = """
import hashlib, pathlib, sys, threading
paths = sorted(pathlib.Path(sys.argv[1]).glob("*.jpg"))
together, found = threading.Barrier(len(paths)), {}
def read(path):
    together.wait()
    found[path] = hashlib.sha256(path.read_bytes()).digest()
threading.stack_size(1 << 18)
threads = [threading.Thread(target=read, args=(path,)) for path in paths]
for act in (threading.Thread.start, threading.Thread.join):
    for thread in threads:
        act(thread)
sys.stdout.buffer.write(b"".join(found[path] for path in paths))
"""


LEASED = """
import fcntl, os, signal, sys
file = os.open(sys.argv[1], os.O_RDONLY)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGIO])
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
print("leased")
signal.sigwait([signal.SIGIO])
print("wanted back")
input()
fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
input()
"""


def all_at_once(site: Site) -> subprocess.Popen[bytes]:
    """One thread for each file of the disk; says what each has read, in order."""
    command = [sys.executable, "-c", ALL_AT_ONCE, str(site.disk)]
    readers = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    site.cleanup.callback(readers.kill)
    return readers


def test_a_reader_of_a_released_file_gets_the_image_in_the_same_inode(site: Site) -> None:
    (path,) = site.released()
    before = path.stat()
    site.start()
    desk = site.desk()
    assert site.read(path) == generated()
    line = desk.expect("asked")
    assert line.endswith(f"READ {path} True")
    after = path.stat()
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)


def test_a_resident_file_raises_no_event_after_its_first_read_changed_or_not(site: Site) -> None:
    hot, cold = site.disk / "hot", site.disk / "cold"
    hot.write_bytes(b"hot" * 3000)
    cold.write_bytes(b"cold" * 3000)
    site.start()
    site.desk()
    site.read(hot)
    with site.stopped(site.responder()):
        assert site.read(hot) == b"hot" * 3000
        with hot.open("r+b") as file:
            file.write(b"changed")
        hot.write_bytes(b"anew" * 5000)
        assert site.read(hot) == b"anew" * 5000
        # And one that was never read shows that the others were watched at all.
        reader = site.reader(cold)
        until(lambda: waits(reader.pid))
    assert outcome(reader) == b"cold" * 3000


def test_a_recalled_file_raises_no_event_any_more(site: Site) -> None:
    (path,) = site.released()
    site.start()
    site.desk()
    site.read(path)
    with site.stopped(site.responder()):
        assert site.read(path) == generated()


def test_a_file_that_was_forgotten_is_recalled_again(site: Site) -> None:
    (path,) = site.released()
    site.start()
    desk = site.desk()
    assert site.read(path) == generated()
    desk.expect("asked")
    with RecallClient(site.socket) as tool, path.open("r+b", buffering=0) as file:
        file.write(placeholder())
        tool.forget(file.fileno())
        assert os.pread(file.fileno(), 10, 0) == placeholder()[:10]
    assert site.read(path) == generated()
    desk.expect("asked")


def test_archiver_itself_is_let_through(site: Site) -> None:
    (path,) = site.released()
    site.start()
    desk = site.desk()
    with RecallClient(site.socket) as tool:
        assert tool.connected
        assert path.read_bytes() == placeholder()
    assert desk.silent()
    assert site.read(path) == generated()


def test_the_same_process_is_a_reader_again_when_it_has_closed_its_connection(site: Site) -> None:
    (path,) = site.released()
    site.start()
    site.desk()
    with RecallClient(site.socket):
        pass
    until(lambda: path.read_bytes() == generated())


def test_a_stranger_is_turned_away(site: Site) -> None:
    service = site.start()
    site.socket.chmod(0o666)
    code = (
        "import os, socket; os.setuid(65534)\n"
        "peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); peer.connect('recall.sock')\n"
        "try: print(peer.recv(100))\n"
        "except ConnectionResetError: print(b'')"
    )
    # From within its folder: the way there is closed to others.
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=site.socket.parent, capture_output=True, text=True, check=True)
    assert done.stdout == "b''\n"
    service.expect("user 65534 was turned away")


def test_there_is_one_of_it(site: Site) -> None:
    site.start()
    second = Talker("tests/access/short_service.py", str(site.socket), "deadline=1", stream="stderr")
    second.expect("another archiver-recall listens")
    assert second.process.wait(10) != 0
    site.desk()


def test_there_is_one_desk_until_it_has_gone(site: Site) -> None:
    (path,) = site.released()
    service = site.start()
    first = site.desk("as-it-is")
    second = Talker("tests/access/answering_desk.py", str(site.socket), str(site.disk), "fill")
    site.cleanup.callback(second.kill)
    service.expect("is the desk")
    assert site.read(path) == placeholder()
    first.kill()
    second.expect("watched")
    assert site.read(path) == generated()


def test_a_reader_of_a_file_without_a_name_gets_the_image(site: Site) -> None:
    (path,) = site.released()
    site.start()
    site.desk()
    code = "import os, sys; f = open(sys.argv[1], 'rb', 0); os.unlink(sys.argv[1]); sys.stdout.buffer.write(f.read())"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=True)
    assert done.stdout == generated()


def test_a_tool_cannot_answer_for_the_desk(site: Site) -> None:
    from archiver.access import protocol

    service = site.start()
    with protocol.connection() as peer:
        peer.connect(str(site.socket))
        protocol.send(peer, protocol.Hello(protocol.Role.TOOL))
        assert protocol.receive(peer) == (protocol.Welcome(), [])
        protocol.send(peer, protocol.Answer(1))
        service.expect("Answer from a tool")
        assert peer.recv(10) == b""


def test_bind_mounts_renames_and_new_folders_are_watched(site: Site, tmp_path: Path) -> None:
    site.start()
    site.desk()
    elsewhere, below = tmp_path / "elsewhere", site.disk / "new" / "folder"
    elsewhere.mkdir()
    below.mkdir(parents=True)
    paths = site.released(3)
    run("mount", "--bind", "-o", "ro", site.disk, elsewhere)
    site.cleanup.callback(run, "umount", "--lazy", elsewhere)
    assert site.read(elsewhere / paths[0].name) == generated()
    assert site.read(paths[1].rename(below / "renamed")) == generated()
    assert site.read(put_placeholder(below / "made there")) == generated()


def test_a_reader_through_a_read_only_mount_is_shown_to_the_desk_by_the_tiers_own(site: Site, tmp_path: Path) -> None:
    (path,) = site.released()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    run("mount", "--bind", site.disk, elsewhere)
    site.cleanup.callback(run, "umount", "--lazy", elsewhere)
    run("mount", "-o", "remount,bind,ro", elsewhere)
    site.start()
    desk = site.desk()
    assert site.read(elsewhere / path.name) == generated()
    assert f"READ {path} " in desk.expect("asked")


@pytest.mark.parametrize("how", ["READ", "OPEN"])
def test_a_reader_of_a_leased_file_waits_for_the_lease_to_be_given_back(site: Site, how: str) -> None:
    path, other = site.released(2)
    holder = Talker("-c", LEASED, str(path))
    site.cleanup.callback(holder.kill)
    holder.expect("leased")
    site.start(hows=how)
    desk = site.desk(watched=how)
    reader = site.reader(path)
    holder.expect("wanted back")
    assert site.read(other) == generated()
    assert str(other) in desk.expect("asked")
    assert reader.poll() is None
    holder.say("give it back")
    assert outcome(reader) == generated()


def test_a_lease_that_is_not_given_back_keeps_its_reader_until_the_deadline(site: Site) -> None:
    (path,) = site.released()
    holder = Talker("-c", LEASED, str(path))
    site.cleanup.callback(holder.kill)
    holder.expect("leased")
    site.start(deadline=2.0)
    desk = site.desk()
    began = time.monotonic()
    assert site.read(path) == placeholder()
    assert time.monotonic() - began >= 2.0
    holder.expect("wanted back")
    assert desk.silent()


def test_a_program_that_ran_before_can_still_be_read_and_started(site: Site) -> None:
    program = site.disk / "sleep"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "1000"]) as running:
        site.start()
        site.desk()
        assert site.read(program) == Path("/bin/sleep").read_bytes()
        subprocess.run([program, "0"], check=True)
        running.kill()


def test_a_placeholder_being_copied_is_left_alone_and_recalled_when_it_is_whole(site: Site) -> None:
    site.start()
    desk = site.desk()
    path = site.disk / "restored.jpg"
    with path.open("wb", buffering=0) as file:
        for start in range(0, len(placeholder()), 1000):
            file.write(placeholder()[start : start + 1000])
    assert desk.silent()
    assert site.read(path) == generated()


@pytest.mark.parametrize(("refuse", "errno_expected"), [(False, None), (True, errno.EIO)])
def test_without_a_desk_a_reader_gets_the_placeholder_or_an_error_and_soon(
    site: Site, refuse: bool, errno_expected: int | None
) -> None:
    paths = site.released(2)
    service = site.start(refuse=refuse, reconnect=0.2)
    site.desk().kill()
    for path in paths:
        if errno_expected is None:
            assert site.read(path) == placeholder()
        else:
            with pytest.raises(OSError) as caught:
                site.read(path)
            assert caught.value.errno == errno_expected
        assert f"({path})" in service.expect("no desk has answered; without an image: process ")


def test_a_desk_that_does_not_answer_is_told_when_the_reader_has_gone_on(site: Site) -> None:
    (path,) = site.released()
    site.start(deadline=0.3)
    desk = site.desk("hold")
    assert site.read(path) == placeholder()
    id = desk.expect("asked").split()[1]
    desk.expect(f"withdrawn {id}")


@pytest.mark.parametrize("number", [errno.EIO, errno.EPERM, errno.EBUSY, errno.ENOSPC])
def test_the_desks_refusal_reaches_the_reader(site: Site, number: int) -> None:
    (path,) = site.released()
    site.start()
    site.desk(f"errno={number}")
    with pytest.raises(OSError) as caught:
        site.read(path)
    assert caught.value.errno == number


def test_a_refusal_that_the_kernel_does_not_know_is_an_input_output_error(site: Site) -> None:
    (path,) = site.released()
    site.start()
    site.desk(f"errno={errno.ENOENT}")
    with pytest.raises(OSError) as caught:
        site.read(path)
    assert caught.value.errno == errno.EIO


def test_a_reader_that_is_given_the_placeholder_is_not_asked_about_at_every_block(site: Site) -> None:
    (path,) = site.released()
    site.start()
    desk = site.desk("as-it-is")
    code = "import os, sys; f = os.open(sys.argv[1], 0); print(sum(1 for n in range(20) if os.read(f, 1000)))"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, stdout=subprocess.DEVNULL)
    desk.expect("asked")
    assert desk.silent()
    site.read(path)  # another process is another matter
    desk.expect("asked")


def test_a_desk_that_comes_back_is_asked_again_about_those_who_wait(site: Site) -> None:
    (path,) = site.released()
    site.start()
    first = site.desk("hold")
    reader = site.reader(path)
    id = first.expect("asked").split()[1]
    first.kill()
    second = site.desk()
    assert second.expect("asked").split()[1] == id
    assert outcome(reader) == generated()


def test_a_reader_that_is_killed_leaves_nothing_behind(site: Site) -> None:
    (path,) = site.released()
    site.start()
    desk = site.desk("hold")
    reader = site.reader(path)
    desk.expect("asked")
    reader.kill()
    reader.wait(10)
    desk.say("go")
    desk.expect("went")
    assert site.read(path) == generated()


def test_five_hundred_readers_at_once_all_get_their_image(site: Site) -> None:
    site.released(500)
    site.start()
    site.desk()
    assert outcome(all_at_once(site)) == hashlib.sha256(generated()).digest() * 500


@pytest.mark.parametrize("victim", ["responder", "supervisor", "desk"])
def test_a_hundred_readers_survive_every_kill(site: Site, victim: str) -> None:
    site.released(100)
    service = site.start(reconnect=0.3)
    desk = site.desk("hold")
    readers = all_at_once(site)
    for _ in range(100):
        desk.expect("asked")
    if victim == "desk":
        desk.kill()
    else:
        os.kill(site.responder() if victim == "responder" else service.process.pid, signal.SIGKILL)
    assert outcome(readers) == hashlib.sha256(placeholder()).digest() * 100


def test_when_the_responder_is_killed_its_readers_go_on_and_the_next_ones_are_served(site: Site) -> None:
    paths = site.released(10)
    service = site.start()
    desk = site.desk("hold")
    readers = [site.reader(path) for path in paths[:-1]]
    for _ in readers:
        desk.expect("asked")
    os.kill(site.responder(), signal.SIGKILL)
    assert {outcome(reader) for reader in readers} == {placeholder()}
    line = service.expect(f"{len(readers)} readers were answered for it, without an image")
    assert line.endswith(" and 1 more")
    assert any(f"process {reader.pid} (inode " in line for reader in readers)
    desk.expect("watched")
    reader = site.reader(paths[-1])
    desk.expect("asked")
    desk.say("go")
    assert outcome(reader) == generated()


def test_readers_that_wait_unseen_when_the_responder_is_killed_are_answered_by_the_next(site: Site) -> None:
    (path,) = site.released()
    site.start()
    site.desk()
    os.kill(site.responder(), signal.SIGSTOP)
    reader = site.reader(path)
    until(lambda: waits(reader.pid))
    os.kill(site.responder(), signal.SIGKILL)
    assert outcome(reader) == generated()


def test_a_responder_that_hangs_is_replaced(site: Site) -> None:
    (path,) = site.released()
    service = site.start(hung=1.5)
    site.desk()
    os.kill(site.responder(), signal.SIGSTOP)
    assert site.read(path) == generated()
    service.expect("hangs")


def test_when_the_supervisor_is_killed_everybody_goes_on_and_nobody_is_left(site: Site) -> None:
    paths = site.released(5)
    service = site.start()
    desk = site.desk("hold")
    readers = [site.reader(path) for path in paths]
    for _ in readers:
        desk.expect("asked")
    responder = site.responder()
    service.kill()
    assert {outcome(reader) for reader in readers} == {placeholder()}
    until(lambda: not Path(f"/proc/{responder}").exists())
    assert site.read(paths[0]) == placeholder()
    # Its successor finds everything as it was.
    site.start()
    desk.expect("watched")
    reader = site.reader(paths[1])
    desk.expect("asked")
    desk.say("go")
    assert outcome(reader) == generated()


def test_a_stop_waits_for_those_who_wait(site: Site) -> None:
    (path,) = site.released()
    service = site.start()
    desk = site.desk("hold")
    reader = site.reader(path)
    desk.expect("asked")
    service.process.terminate()
    desk.say("go")
    assert outcome(reader) == generated()
    assert service.process.wait(10) == 0


def test_a_stop_does_not_wait_for_ever(site: Site) -> None:
    (path,) = site.released()
    service = site.start(farewell=0.3)
    desk = site.desk("hold")
    reader = site.reader(path)
    desk.expect("asked")
    service.process.terminate()
    assert outcome(reader) == placeholder()
    assert service.process.wait(10) == 0


def test_where_reads_cannot_be_seen_opens_are(site: Site) -> None:
    (path,) = site.released()
    hot = site.disk / "hot"
    hot.write_bytes(b"hot" * 3000)
    site.start(hows="OPEN")
    desk = site.desk(watched="OPEN")
    assert site.read(path) == generated()
    assert f"OPEN {path} " in desk.expect("asked")
    site.read(hot)
    with site.stopped(site.responder()):
        assert site.read(hot) == b"hot" * 3000


def test_the_process_that_answers_has_neither_torch_nor_a_database(site: Site) -> None:
    code = "import sys, archiver.access.supervisor; print(sorted({'torch', 'sqlalchemy', 'numpy'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"


def test_a_packet_that_is_none_of_ours_costs_its_sender_the_connection_and_nobody_else(site: Site) -> None:
    (path,) = site.released()
    service = site.start()
    site.desk()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as peer:
        peer.connect(str(site.socket))
        peer.send(os.urandom(50))
        assert peer.recv(10) == b""
    service.expect("is given up")
    assert site.read(path) == generated()
