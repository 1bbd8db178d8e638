"""One booted machine for the tests of this folder, with a tier on a disk of its own."""

from __future__ import annotations

import stat
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from fixtures_fs import MIB, enter_private_mounts, need_programs, need_root, run

from tests.system.machine import DROPINS, PACKAGE, RECALL_DROPINS, TIER, UNITS, Machine, boot, python_folders

# What a container does without, and archiver-recall needs: fanotify counts only with the first user namespace's root.
WATCHING = ["--capability=all", "--system-call-filter=fanotify_init fanotify_mark open_by_handle_at"]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the unit and the user of the package installed, and an ext4 tier at /srv/photographs."""
    need_root()
    need_programs("systemd-nspawn", "systemctl", "nsenter", "setpriv", "mkfs.ext4")
    enter_private_mounts()
    folder = tmp_path_factory.mktemp("machine")
    disk = folder / "tier"
    disk.mkdir()
    run("truncate", "-s", str(1024 * MIB), folder / "tier.img")
    run("mkfs.ext4", "-q", "-F", folder / "tier.img")
    run("mount", "-o", "loop", folder / "tier.img", disk)
    try:
        machine = boot(folder, bind={disk: TIER}, visible=python_folders(), options=WATCHING)
        try:
            install(machine)
            yield machine
        finally:
            machine.close()
    finally:
        run("umount", "--lazy", disk)


def install(machine: Machine) -> None:
    """The steps of docs/operations.md, but for pip: the package is there already."""
    prefix = "/opt/archiver"
    sysusers = f"{prefix}/lib/sysusers.d/archiver.conf"
    units = [f"{prefix}/lib/systemd/system/{name}.service" for name in ("archiver", "archiver-recall")]
    for unit in units:
        machine.write(unit, (UNITS / Path(unit).name).read_text(encoding="utf-8"))
    machine.write(sysusers, (UNITS / "archiver.sysusers").read_text(encoding="utf-8"))
    # The very package that these tests import, wherever it lies.
    for program, module in {"archiver": "archiver", "archiver-recall": "archiver.access.supervisor"}.items():
        start = f'PYTHONPATH={PACKAGE} exec {sys.executable} -m {module} "$@"'
        machine.write(f"/usr/local/bin/{program}", f"#!/bin/sh\n{start}\n")
        machine.run("chmod", "0755", f"/usr/local/bin/{program}")
    machine.run("systemd-sysusers", sysusers)
    machine.write(f"{DROPINS}/tiers.conf", f"[Service]\nReadWritePaths=-{TIER}\n")
    # This checkout may lie in /tmp, and PrivateTmp= would hide it, or in a folder of root's, closed to others.
    shown = python_folders()
    for folder in (DROPINS, RECALL_DROPINS):
        machine.write(f"{folder}/checkout.conf", f"[Service]\nBindReadOnlyPaths={' '.join(map(str, shown))}\n")
    closed = {parent for folder in shown for parent in folder.parents if not parent.stat().st_mode & stat.S_IXOTH}
    machine.run("chmod", "o+x", "/", *closed)
    machine.run("systemctl", "enable", *units)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The machine's journal goes with a failure, for the machine itself does not outlive the test."""
    report = yield
    machine = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(machine, Machine) and machine.nspawn.poll() is None:
        report.sections.append(
            ("journal", machine.run("journalctl", "--unit=archiver*", "-n60", "--no-hostname").stdout)
        )
    return report
