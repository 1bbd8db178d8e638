"""The two things that `archiver-recall` needs of systemd beyond the journal: notifications and its descriptor store.

See sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds_with_names(3). The socket is non-blocking: the service
manager itself may wait for a reader's answer.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

_FIRST = 3  # SD_LISTEN_FDS_START


def notify(state: str, descriptors: Sequence[int] = ()) -> None:
    """Tell the service manager; nothing where there is none, or where it does not listen (any more, or just now)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as manager:
            manager.sendmsg([state.encode()], rights, 0, address)
    except OSError:
        # What is lost is a beat of the watchdog, or the watches when this process dies: no reason to die for it.
        return


def store(name: str, descriptor: int) -> None:
    """Have a descriptor kept for the next process of this service."""
    notify(f"FDSTORE=1\nFDNAME={name}", [descriptor])


def stored() -> dict[str, int]:
    """What was kept for us, by name. The environment no longer says so afterwards."""
    count, process = os.environ.pop("LISTEN_FDS", ""), os.environ.pop("LISTEN_PID", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count or process != str(os.getpid()):
        return {}
    found: dict[str, int] = {}
    for number in range(int(count)):
        os.set_inheritable(_FIRST + number, False)
        found[names[number]] = _FIRST + number
    return found
