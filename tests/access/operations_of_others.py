"""The part of the table that is about files of others, as `prepare` makes them; see operations.py."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from tests.access.operations import made, operation, outcome


def prepare(given: Path, uid: int, gid: int, group: int) -> None:
    """As root: files of others that user `uid`, in `gid` and `group`, may or may not touch."""
    given.mkdir()
    given.chmod(0o755)
    for name, owner, mode in (
        ("secret", (0, 0), 0o600),
        ("public", (0, 0), 0o644),
        ("group", (0, group), 0o660),
        ("own", (uid, gid), 0o600),
        ("suid", (0, group), 0o6770),
    ):
        os.chown(made(given / name, name.encode()), *owner)
        (given / name).chmod(mode)
    for name, owner, mode in (
        ("closed", (0, 0), 0o700),
        ("sticky", (0, 0), 0o1777),
        ("shared", (0, group), 0o2775),
        ("listed-not-entered", (0, 0), 0o744),
        ("entered-not-listed", (0, 0), 0o711),
    ):
        (given / name).mkdir()
        made(given / name / "f", b"inside", 0o644)
        os.chown(given / name, *owner)
        (given / name).chmod(mode)
    subprocess.run(["setfacl", "-m", f"u:{uid}:r", given / "secret-for-one"], check=True) if made(
        given / "secret-for-one", b"acl", 0o600
    ) else None


def _tries(path: Path) -> list[Any]:
    return [
        outcome(lambda: path.read_bytes().decode()),
        outcome(lambda: os.close(os.open(path, os.O_WRONLY))),
        outcome(lambda: path.chmod(0o666)),
        outcome(lambda: os.utime(path)),
        outcome(lambda: os.utime(path, ns=(1, 1))),
        outcome(lambda: os.setxattr(path, "user.x", b"1")),
        outcome(lambda: os.truncate(path, 2)),
        outcome(lambda: os.chown(path, os.getuid(), -1)),
    ]


@operation
def given_files_of_others(d: Path) -> Any:
    return {name: _tries(d / name) for name in ("secret", "public", "group", "own", "secret-for-one")}


@operation
def given_folders_of_others(d: Path) -> Any:
    told = {}
    for name in ("closed", "sticky", "shared", "listed-not-entered", "entered-not-listed"):
        folder = d / name
        told[name] = [
            outcome(lambda folder=folder: sorted(os.listdir(folder))),
            outcome(lambda folder=folder: (folder / "f").read_bytes().decode()),
            outcome(lambda folder=folder: bool(made(folder / "new"))),
            outcome(lambda folder=folder: (folder / "sub").mkdir()),
            outcome(lambda folder=folder: os.rename(folder / "f", folder / "g")),
            outcome(lambda folder=folder: os.unlink(folder / "f")),
            outcome(lambda folder=folder: os.link(d / "public", folder / "hard")),
        ]
    return told


@operation
def given_set_id_bits_fall_on_a_write(d: Path) -> Any:
    with (d / "suid").open("r+b") as file:
        file.write(b"W")
    return oct((d / "suid").stat().st_mode)
