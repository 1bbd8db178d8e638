"""Whatever a program does on the mount has the same answer, the same error and the same result as on the folder."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_fs import enter_private_mounts, need_programs, need_root

from archiver.catalog.schema import upgrade
from tests.access import operations_on_names  # noqa: F401 - adds its part of the table
from tests.access.fuse_mount import Mount, mounted
from tests.access.operations import OPERATIONS, run_all, tree
from tests.access.operations_of_others import prepare
from tests.access.released import open_folder

_USER, _GROUP, _SHARED = 54321, 54322, 54323  # of nobody on this machine
_ROOT = (0, 0, ())
_SOMEBODY = (_USER, _GROUP, (_SHARED,))


@pytest.fixture(scope="module")
def mount() -> Iterator[Mount]:
    need_root()
    need_programs("setfacl", "getfacl")
    enter_private_mounts()
    with open_folder() as folder:
        (folder / "photos").mkdir()
        config = folder / "archiver.toml"
        config.write_text(
            f'[catalog]\nurl = "sqlite:///{folder}/catalog.db"\n[vault]\npath = "{folder}/vault"\n'
            f'[[tier]]\nname = "photos"\npath = "{folder}/photos"\n'
        )
        upgrade(f"sqlite:///{folder}/catalog.db")
        with mounted(config, folder / "photos", folder / "seen", "-o", "allow_other") as mount:
            yield mount


@pytest.fixture(scope="module")
def answers(mount: Mount) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """By who: what the plain folder answered, and what the mount did."""
    plain = mount.source.parent / "plain"
    plain.mkdir()
    found = {}
    for who, identity in (("root", _ROOT), ("somebody", _SOMEBODY)):
        pair = []
        for place, real in ((plain, plain), (mount.path, mount.source)):
            folder, given = real / who, real / f"{who}-given"
            folder.mkdir()
            os.chown(folder, identity[0], identity[1])
            prepare(given, _USER, _GROUP, _SHARED)
            pair.append(_as(identity, place / who, place / f"{who}-given"))
        found[who] = pair[0], pair[1]
    return found


def _as(identity: tuple[int, int, tuple[int, ...]], folder: Path, given: Path) -> dict[str, Any]:
    """The answers that a process of this user gets."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            uid, gid, groups = identity
            os.setgroups(groups)
            os.setgid(gid)
            os.setuid(uid)
            os.umask(0o022)
            with os.fdopen(writer, "w") as pipe:
                json.dump(run_all(folder, given), pipe)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the operations did not run to their end: {status}"
    told: dict[str, Any] = json.loads(text)
    return told


@pytest.mark.root
@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("who", ["root", "somebody"])
def test_the_mount_answers_as_the_folder_does(
    answers: dict[str, tuple[dict[str, Any], dict[str, Any]]], who: str, name: str
) -> None:
    plain, seen = answers[who]
    assert seen[name] == plain[name]


@pytest.mark.root
def test_both_folders_hold_the_same_in_the_end(mount: Mount, answers: dict[str, Any]) -> None:
    assert tree(mount.source) == tree(mount.source.parent / "plain")
