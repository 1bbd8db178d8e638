"""Three filesystems with the same released photograph on each, many times, and two ways to read it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures_fs import MIB, enter_private_mounts, need_programs, need_root, run, unavailable

from archiver.config import load
from archiver.desk import client
from archiver.errors import DeskUnreachable
from archiver.formats import Kind
from tests.access.fuse_mount import mounted
from tests.access.released import Released, kind_of, open_folder
from tests.access.tools.table import COPIERS, PROGRAMS, READERS
from tests.cli.installation import call

_FORMATS = {
    "ext4": ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,nodiscard"),
    "xfs": ("mkfs.xfs", "-q", "-f", "-K"),
    "btrfs": ("mkfs.btrfs", "-q", "-f", "--nodiscard"),
}
FILESYSTEMS = tuple(_FORMATS)
WAYS = ("fuse", "fanotify")
SERVED = ("smb", "nfs")
_SIZE = 400 * MIB  # less would be no XFS; it is a sparse file
_PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Disks:
    """A tier on each filesystem. `truth` is the generated image that every released file is to become."""

    config: Path
    root: Path
    truth: Path
    scratch: Path


def name_for(way: str, tool: str) -> str:
    """The file that is there for one tool, so that nobody has read it before."""
    return f"{way} {tool.replace('/', '-')}.jpg"


@pytest.fixture(scope="session")
def disks(tier: Released) -> Iterator[Disks]:
    need_root()
    need_programs("mount", "losetup", *(command[0] for command in _FORMATS.values()), *PROGRAMS)
    enter_private_mounts()
    with open_folder() as folder, ExitStack() as cleanup:
        (folder / "disks").mkdir()
        text = tier.config.read_text().partition("[[tier]]")[0].replace(str(tier.config.parent), str(folder))
        for kind, command in _FORMATS.items():
            _mount(folder / f"{kind}.img", folder / "disks" / kind, command, cleanup)
            text += f'[[tier]]\nname = "{kind}"\npath = "{folder}/disks/{kind}"\n'
            for way in WAYS:
                for tool in (*COPIERS, *READERS, *SERVED):
                    run(
                        "cp",
                        "--preserve=timestamps",
                        tier.root / "wide.jpg",
                        folder / "disks" / kind / name_for(way, tool),
                    )
        truth = folder / "disks" / next(iter(_FORMATS)) / "truth.jpg"
        run("cp", "--preserve=timestamps", tier.root / "wide.jpg", truth)
        config = folder / "archiver.toml"
        config.write_text(text)
        call("--config", config, "db", "upgrade").ok()
        call("--config", config, "rebuild").ok()
        call("--config", config, "recall", truth).ok()
        assert kind_of(truth) is Kind.GENERATED
        yield Disks(config, folder / "disks", truth, folder)


def _mount(image: Path, where: Path, command: tuple[str, ...], cleanup: ExitStack) -> None:
    with image.open("xb") as file:
        file.truncate(_SIZE)
    run(*command, image)
    where.mkdir()
    run("mount", "-o", "loop", image, where)
    cleanup.callback(run, "umount", "--lazy", where)


@pytest.fixture(scope="session", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def seen(way: str, disks: Disks) -> Iterator[Path]:
    """Where released files are recalled by being read; one folder a filesystem."""
    if way == "fuse":
        with mounted(disks.config, disks.root, disks.scratch / "seen", "-o", "allow_other") as mount:
            yield mount.path
    else:
        with watched(disks.config):
            yield disks.root


@contextmanager
def watched(config: Path) -> Iterator[None]:
    """`archiver-recall` and the daemon, until every tier is watched."""
    serve = [sys.executable, "-c", "from archiver.access.supervisor import main; main()", "--config", config]
    daemon = [sys.executable, "-m", "archiver", "--config", config, "run"]
    with ExitStack() as cleanup:
        for command in (serve, daemon):
            process = subprocess.Popen(command, stderr=(config.parent / f"{len(command)}.log").open("w"))
            cleanup.callback(process.wait, 30)
            cleanup.callback(process.terminate)
        deadline = time.monotonic() + _PATIENCE
        problems = "the daemon does not answer"
        while problems:
            if time.monotonic() > deadline:
                unavailable(f"fanotify does not watch: {problems}")
            time.sleep(0.1)
            problems = _not_watched(load(config).recall.desk_socket)
        yield


def _not_watched(socket: Path) -> str:
    try:
        found = client.report(socket)
    except DeskUnreachable as error:
        return error.message
    if not found.responder or not found.watches:
        return "archiver-recall is not connected"
    return ", ".join(f"{watch.tier}: {watch.problem}" for watch in found.watches if watch.how == "nothing")
