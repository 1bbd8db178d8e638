"""Real file servers on the loopback interface, on ports of their own, for as long as a test needs them."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fixtures_fs import need_programs

_PATIENCE = 60.0  # seconds

_SAMBA = """
[global]
server role = standalone server
smb ports = {port}
interfaces = 127.0.0.1/8
bind interfaces only = yes
map to guest = Bad User
load printers = no
disable spoolss = yes
log level = 0
{folders}
[photos]
path = {root}
read only = no
guest only = yes
force user = root
"""
_SAMBA_FOLDERS = ("private dir", "lock directory", "state directory", "cache directory", "pid directory", "ncalrpc dir")

_GANESHA = """
NFS_CORE_PARAM {{ NFS_Port = {port}; Protocols = 4; Bind_addr = 127.0.0.1; Enable_NLM = false; Enable_RQUOTA = false; }}
NFSV4 {{ Graceless = true; RecoveryRoot = "{state}"; Minor_Versions = 0, 1; }}
{exports}
"""
_EXPORT = """
EXPORT {{ Export_Id = {number}; Path = "{path}"; Pseudo = "/{name}"; Access_Type = RW; Squash = None;
          SecType = sys; Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }} }}
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def samba(root: Path, state: Path) -> Iterator[int]:
    """The port of an smbd that shares `root` as "photos", for anybody."""
    need_programs("smbd", "smbclient")
    port = free_port()
    folders = []
    for option in _SAMBA_FOLDERS:
        folder = state / option.replace(" ", "-")
        folder.mkdir(mode=0o755)
        folders.append(f"{option} = {folder}")
    config = state / "smb.conf"
    config.write_text(_SAMBA.format(port=port, root=root, folders="\n".join(folders)))
    command = ["smbd", "--foreground", "--no-process-group", "--debug-stdout", f"--configfile={config}"]
    with _running(command, port, state / "smbd.log"):
        yield port


@contextmanager
def ganesha(roots: Sequence[Path], state: Path) -> Iterator[int]:
    """The port of a user-space NFS 4 server that exports each folder under its name."""
    need_programs("ganesha.nfsd", "nfs-cat")
    port = free_port()
    exports = "".join(
        _EXPORT.format(number=number, path=root, name=root.name) for number, root in enumerate(roots, start=1)
    )
    config = state / "ganesha.conf"
    config.write_text(_GANESHA.format(port=port, state=state, exports=exports))
    log = state / "ganesha.log"
    with _running(["ganesha.nfsd", "-F", "-f", config, "-L", log, "-p", state / "pid"], port, log):
        yield port


@contextmanager
def _running(command: Sequence[str | Path], port: int, log: Path) -> Iterator[None]:
    with log.with_suffix(".out").open("w") as output:
        # A session of its own: smbd ends its whole process group when it ends.
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _listens(port):
            if server.poll() is not None or time.monotonic() > deadline:
                told = [path.read_text() for path in (log, log.with_suffix(".out")) if path.exists()]
                raise RuntimeError(f"{command[0]} does not serve: {told}")
            time.sleep(0.05)
        yield
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
