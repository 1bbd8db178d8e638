"""One booted machine for the tests of this folder, with a tier on a disk of its own."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator

import pytest
from fixtures_fs import MIB, enter_private_mounts, need_programs, need_root, run
from machine import TIER, UNITS, Machine, boot, python_folders


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine with the unit and the user of the package installed, and an ext4 tier at /srv/photographs."""
    need_root()
    need_programs("systemd-nspawn", "systemctl", "nsenter", "setpriv", "mkfs.ext4")
    enter_private_mounts()
    folder = tmp_path_factory.mktemp("machine")
    disk = folder / "tier"
    disk.mkdir()
    run("truncate", "-s", str(256 * MIB), folder / "tier.img")
    run("mkfs.ext4", "-q", "-F", folder / "tier.img")
    run("mount", "-o", "loop", folder / "tier.img", disk)
    try:
        machine = boot(folder, bind={disk: TIER}, visible=python_folders())
        try:
            install(machine)
            yield machine
        finally:
            machine.close()
    finally:
        run("umount", "--lazy", disk)


def install(machine: Machine) -> None:
    """What docs/operations.md asks of an administrator, but for the packages: they are there already."""
    machine.write("/etc/systemd/system/archiver.service", (UNITS / "archiver.service").read_text(encoding="utf-8"))
    machine.write("/etc/sysusers.d/archiver.conf", (UNITS / "archiver.sysusers").read_text(encoding="utf-8"))
    machine.write("/etc/systemd/system/archiver.service.d/tiers.conf", f"[Service]\nReadWritePaths=-{TIER}\n")
    machine.write("/usr/local/bin/archiver", f'#!/bin/sh\nexec {sys.executable} -m archiver "$@"\n')
    machine.run("chmod", "0755", "/usr/local/bin/archiver")
    # This checkout may lie in /tmp, and PrivateTmp= would hide it.
    shown = " ".join(map(str, python_folders()))
    machine.write("/etc/systemd/system/archiver.service.d/checkout.conf", f"[Service]\nBindReadOnlyPaths={shown}\n")
    # Where this interpreter lies in a folder of root's: the unit starts it as another user.
    ancestors = {str(parent) for folder in python_folders() for parent in folder.parents}
    machine.run("chmod", "o+x", *sorted(ancestors))
    machine.run("systemd-sysusers", "/etc/sysusers.d/archiver.conf")
    machine.run("systemctl", "daemon-reload")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """The machine's journal goes with a failure, for the machine itself does not outlive the test."""
    report = yield
    machine = getattr(item, "funcargs", {}).get("machine")
    if report.failed and isinstance(machine, Machine) and machine.nspawn.poll() is None:
        report.sections.append(("journal", machine.run("journalctl", "-n", "60", "-o", "short-monotonic").stdout))
    return report
