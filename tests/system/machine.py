"""A machine with a real systemd: systemd-nspawn over an overlay of this one's root.

What is installed here is installed there; what it writes is gone with it. It has no network but loopback.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fixtures_fs import run

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "systemd"
TIER = "/srv/photographs"
BOOT_SECONDS = 60
_ENTER_GROUPS = 'for group in $GROUPS_TO_ENTER; do echo $$ > "$group/cgroup.procs"; done; exec "$@"'
_CGROUP_ROOT = Path("/sys/fs/cgroup")


@dataclass(slots=True)
class Machine:
    """One booted machine; `boot` makes it.

    root: its filesystem, as seen from outside.
    """

    name: str
    leader: int
    nspawn: subprocess.Popen[bytes]
    _cleanup: ExitStack = field(repr=False)

    @property
    def root(self) -> Path:
        return Path(f"/proc/{self.leader}/root")

    # -- acting in it --------------------------------------------------------------------------------------------------

    def command(self, *command: str | Path) -> list[str]:
        """The command line that runs a command in the machine, for subprocess."""
        enter = [
            "nsenter",
            "--target",
            str(self.leader),
            "--mount",
            "--uts",
            "--ipc",
            "--net",
            "--pid",
            "--root",
            "--wd",
        ]
        return [*enter, *map(str, command)]

    def run(self, *command: str | Path, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command as root in the machine. Raises RuntimeError with its output if it fails."""
        done = subprocess.run(
            self.command(*command),
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode != 0:
            line = shlex.join(map(str, command))
            raise RuntimeError(f"{line}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str | Path, text: str) -> None:
        """Put a file into the machine, and the folders above it."""
        there = self.root / str(path).lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text, encoding="utf-8")

    # -- looking at it -------------------------------------------------------------------------------------------------

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).stdout.strip()

    def main_pid(self, unit: str) -> int:
        """The main process of a service, as the machine numbers it; 0 if there is none."""
        return int(self.show(unit, "MainPID"))

    def journal(self, *options: str) -> list[dict[str, object]]:
        """The entries of the journal, oldest first."""
        return [json.loads(line) for line in self.run("journalctl", "-o", "json", *options).stdout.splitlines()]

    @contextmanager
    def expect(self, unit: str, *texts: str, timeout: int = 60) -> Iterator[None]:
        """Until the journal has messages about (or of) the unit that contain these texts, in this order, written after
        the block was entered. Raises AssertionError with what it has instead."""
        cursor = self.run("journalctl", "-n0", "--show-cursor").stdout.rpartition("-- cursor: ")[2].strip()
        yield
        # `-n all`, for -f shows only the last ten by itself.
        limited = ["timeout", str(timeout), "journalctl", "-f", "-n", "all", "-o", "json"]
        follow = self.command(*limited, f"--after-cursor={cursor}", f"--unit={unit}")
        seen, wanted = [], list(texts)
        with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as journal:
            assert journal.stdout is not None
            for line in journal.stdout:
                seen.append(str(json.loads(line)["MESSAGE"]))
                if wanted[0] in seen[-1]:
                    del wanted[0]
                if not wanted:
                    journal.kill()
                    return
        raise AssertionError(f"{unit}: no {wanted[0]!r} in the journal within {timeout} s:\n" + "\n".join(seen[-40:]))

    # -- its end -------------------------------------------------------------------------------------------------------

    def poweroff(self) -> None:
        """Shut it down in order, and take it away."""
        self.run("systemctl", "poweroff", check=False)
        self.nspawn.wait(timeout=BOOT_SECONDS)
        self.close()

    def close(self) -> None:
        """Take it away whatever it does."""
        self._cleanup.close()


def boot(
    folder: Path, *, bind: Mapping[Path, str] | None = None, read_only: Iterable[Path] = (), options: Iterable[str] = ()
) -> Machine:
    """Start a machine and wait until its systemd has nothing left to start.

    folder: an empty one, for its overlay. bind: folders of this machine and where they are there. read_only: folders
    that are there as here. options: more for systemd-nspawn. The caller is in a mount namespace of its own
    (fixtures_fs.enter_private_mounts). Raises RuntimeError with the console's last lines if it does not come up.
    """
    name = f"archiver-{uuid.uuid4().hex[:12]}"
    with ExitStack() as cleanup:
        root = _overlay(folder, cleanup)
        groups = _control_groups(name, cleanup)
        ready = cleanup.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(f"\0{name}")
        binds = [f"--bind={here}:{there}" for here, there in (bind or {}).items()]
        binds += [f"--bind-ro={path}" for path in _visible(read_only)]
        console = folder / "console"
        with console.open("wb") as output:
            nspawn = subprocess.Popen(
                [
                    *(
                        "sh",
                        "-c",
                        'for group in $GROUPS_TO_ENTER; do echo $$ > "$group/cgroup.procs"; done; exec "$@"',
                        "sh",
                    ),
                    # Should this process be killed, the kernel takes all of the machine away: it lives in a process
                    # namespace that does not outlive its keeper.
                    *("setpriv", "--pdeathsig", "SIGKILL"),
                    *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("systemd-nspawn", "--boot", f"--directory={root}", f"--machine={name}", "--settings=no"),
                    # Neither a machined nor a service manager is needed outside of it.
                    *("--register=no", "--keep-unit", "--notify-ready=yes"),
                    *(
                        "--console=pipe",
                        "--private-network",
                        "--link-journal=no",
                        "--resolv-conf=off",
                        "--timezone=off",
                    ),
                    *binds,
                    *options,
                    # Nothing of what this machine would start at boot: no database, no web server.
                    "systemd.unit=basic.target",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": _path(), "NOTIFY_SOCKET": f"@{name}", "GROUPS_TO_ENTER": " ".join(map(str, groups))},
            )
        cleanup.callback(_kill, nspawn)
        try:
            _await_ready(ready)
            (keeper,) = _children(nspawn.pid)
            (leader,) = _children(keeper)
            machine = Machine(name, leader, nspawn, cleanup)
            state = machine.run(
                "systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_SECONDS
            ).stdout.strip()
            if state != "running":
                failed = machine.run("systemctl", "--failed", "--no-legend", "--plain", check=False).stdout
                raise RuntimeError(f"the machine is {state}: {failed}")
        except (TimeoutError, RuntimeError, subprocess.TimeoutExpired) as error:
            raise RuntimeError(f"{error}\n{console.read_text(errors='replace')[-4000:]}") from error
        machine._cleanup = cleanup.pop_all()
    return machine


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()))


def _kill(nspawn: subprocess.Popen[bytes]) -> None:
    """The first process of a process namespace dies only after all the others, and what waits for it ends after it."""
    if nspawn.poll() is None:
        for first in _children(nspawn.pid):
            os.kill(first, signal.SIGKILL)
        nspawn.wait(timeout=BOOT_SECONDS)


def _overlay(folder: Path, cleanup: ExitStack) -> Path:
    scratch, root = folder / "scratch", folder / "root"
    scratch.mkdir()
    root.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=1g,mode=0755", "tmpfs", scratch)
    cleanup.callback(run, "umount", "--lazy", scratch)
    for name in ("upper", "work"):
        (scratch / name).mkdir()
    run("mount", "-t", "overlay", "-o", f"lowerdir=/,upperdir={scratch}/upper,workdir={scratch}/work", "overlay", root)
    cleanup.callback(run, "umount", "--lazy", root)
    return root


def _control_groups(name: str, cleanup: ExitStack) -> list[Path]:
    """A control group for the machine in each hierarchy that its systemd will manage, gone with all that runs in it."""
    groups = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, own = line.split(":", 2)
        mounted = {"": _unified(), "name=systemd": _CGROUP_ROOT / "systemd"}.get(controllers)
        if mounted is not None:
            groups.append(mounted / own.lstrip("/") / name)
            groups[-1].mkdir()
            cleanup.callback(_remove_group, groups[-1])
    return groups


def _unified() -> Path:
    hybrid = _CGROUP_ROOT / "unified"
    return hybrid if hybrid.is_dir() else _CGROUP_ROOT


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def _visible(paths: Iterable[Path]) -> list[Path]:
    """The folders without those inside others of them."""
    kept: list[Path] = []
    for path in sorted({path.resolve() for path in paths}):
        if not any(path.is_relative_to(other) for other in kept):
            kept.append(path)
    return kept


def _path() -> str:
    return os.pathsep.join(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"])


def _await_ready(notifications: socket.socket) -> None:
    """Until the machine's systemd says that it is up."""
    deadline = time.monotonic() + BOOT_SECONDS
    while True:
        notifications.settimeout(max(deadline - time.monotonic(), 0.001))
        facts = notifications.recv(4096).decode().splitlines()
        if "READY=1" in facts:
            return
        if "STOPPING=1" in facts:
            raise RuntimeError("systemd-nspawn gave up")


def python_folders() -> list[Path]:
    """What a machine must see for this interpreter to run there."""
    return [Path(sys.prefix), Path(sys.base_prefix), REPOSITORY]
