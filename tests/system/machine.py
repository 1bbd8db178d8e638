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

import archiver

REPOSITORY = Path(__file__).parents[2]
UNITS = REPOSITORY / "systemd"
PACKAGE = Path(archiver.__file__).parents[1]
TIER = "/srv/photographs"
DROPINS = "/etc/systemd/system/archiver.service.d"
RECALL_DROPINS = "/etc/systemd/system/archiver-recall.service.d"
BOOT_SECONDS = 60
_CGROUPS = Path("/sys/fs/cgroup")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Nothing of what this machine would start at boot: no database, no web server.
_INIT = ["systemd.unit=basic.target"]


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
    def expect(self, unit: str, *texts: str, timeout: int = 120) -> Iterator[None]:
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
    folder: Path, *, bind: Mapping[Path, str] | None = None, visible: Iterable[Path] = (), options: Iterable[str] = ()
) -> Machine:
    """Start a machine and wait until its systemd has nothing left to start.

    folder: an empty one, for its overlay. bind: folders of this machine and where they are there. visible: folders that
    must be readable there as here, wherever they lie. options: more for systemd-nspawn. The caller is in a mount
    namespace of its own (fixtures_fs.enter_private_mounts). Raises RuntimeError with the console's last lines if it
    does not come up.
    """
    name = f"archiver-{uuid.uuid4().hex[:12]}"
    shares = [f"--bind={here}:{there}" for here, there in (bind or {}).items()]
    shares += [f"--bind-ro={path}" for path in _hidden(visible)]
    console = folder / "console"
    with ExitStack() as cleanup:
        root = _overlay(folder, cleanup)
        groups = _control_groups(name, cleanup)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready, console.open("wb") as output:
            ready.bind(f"\0{name}")
            nspawn = subprocess.Popen(
                [*_start(groups), *_nspawn(name, root), *shares, *options, *_INIT],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={"PATH": _PATH, "NOTIFY_SOCKET": f"@{name}"},
            )
            cleanup.callback(_kill, nspawn)
            try:
                _await_ready(ready)
                machine = Machine(name, _leader(nspawn), nspawn, cleanup)
                _require_running(machine)
            except (TimeoutError, RuntimeError) as error:
                raise RuntimeError(f"{error}\n{console.read_text(errors='replace')[-4000:]}") from error
        machine._cleanup = cleanup.pop_all()
    return machine


def _start(groups: Iterable[Path]) -> list[str]:
    """What starts systemd-nspawn: in its control groups, and in a process namespace that does not outlive its keeper,
    so that the kernel takes all of the machine away should this process be killed."""
    enter = "".join(f"echo $$ > {shlex.quote(str(group / 'cgroup.procs'))}; " for group in groups)
    keep = ["setpriv", "--pdeathsig", "SIGKILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return ["sh", "-c", enter + 'exec "$@"', "sh", *keep]


def _nspawn(name: str, root: Path) -> list[str]:
    # --register, --keep-unit: neither a machined nor a service manager is needed outside of it.
    where = [f"--machine={name}", f"--directory={root}", "--settings=no", "--register=no", "--keep-unit"]
    alone = ["--private-network", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
    return ["systemd-nspawn", "--boot", *where, *alone, "--console=pipe", "--notify-ready=yes"]


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
    hybrid = _CGROUPS / "unified"
    hierarchies = {"": hybrid if hybrid.is_dir() else _CGROUPS, "name=systemd": _CGROUPS / "systemd"}
    groups = []
    for line in Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines():
        _, controllers, own = line.split(":", 2)
        if controllers in hierarchies:
            groups.append(hierarchies[controllers] / own.lstrip("/") / name)
            groups[-1].mkdir()
            cleanup.callback(_remove_group, groups[-1])
    return groups


def _remove_group(group: Path) -> None:
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)


def _hidden(paths: Iterable[Path]) -> list[Path]:
    """Those folders that the overlay does not show: on other filesystems, or below what systemd mounts anew."""
    here = Path("/").stat().st_dev
    anew = (Path("/tmp"), Path("/run"))
    return [path for path in paths if path.stat().st_dev != here or any(path.is_relative_to(top) for top in anew)]


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


def _leader(nspawn: subprocess.Popen[bytes]) -> int:
    (keeper,) = _children(nspawn.pid)
    (leader,) = _children(keeper)
    return leader


def _require_running(machine: Machine) -> None:
    asked = machine.run("systemctl", "is-system-running", "--wait", check=False, timeout=BOOT_SECONDS)
    if (state := asked.stdout.strip()) != "running":
        failed = machine.run("systemctl", "--failed", "--no-legend", "--plain", check=False).stdout
        raise RuntimeError(f"the machine is {state}: {failed}")


def _children(process: int) -> list[int]:
    return list(map(int, Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()))


def _kill(nspawn: subprocess.Popen[bytes]) -> None:
    """The first process of a process namespace dies only after all the others, and what waits for it ends after it."""
    if nspawn.poll() is None:
        for first in _children(nspawn.pid):
            os.kill(first, signal.SIGKILL)
        nspawn.wait(timeout=BOOT_SECONDS)


def python_folders() -> list[Path]:
    """What a machine must see for this interpreter to run there."""
    return [Path(sys.prefix), Path(sys.base_prefix), PACKAGE, REPOSITORY]
