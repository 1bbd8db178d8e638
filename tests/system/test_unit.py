"""The unit file as it is shipped, under a real systemd."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.machine import TIER, UNITS, Machine

pytestmark = pytest.mark.root

PROBE = Path(__file__).with_name("sandbox_probe.py")
EXPOSURE_BAR = 40  # systemd-analyze counts tenths: 4.0


@pytest.fixture
def photograph(machine: Machine) -> Iterator[str]:
    """A file of somebody else with ACL, xattr and setgid bit, in a folder closed to others."""
    folder = f"{TIER}/probe"
    path = f"{folder}/photograph.jpg"
    machine.run("install", "--directory", "--mode=0700", "--owner=1234", "--group=5678", folder)
    machine.write(path, "original")
    machine.run("chown", "1234:5678", path)
    machine.run("chmod", "2640", path)
    machine.run("setfacl", "-m", "u:4321:r", path)
    machine.run("setfattr", "-n", "user.rating", "-v", "5", path)
    yield path
    machine.run("rm", "-rf", folder)


@pytest.fixture
def report(machine: Machine, photograph: str) -> Iterator[dict[str, object]]:
    """What a program started in the daemon's place could do."""
    dropin = "/run/systemd/system/archiver.service.d/probe.conf"
    machine.write(dropin, f"[Service]\nExecStart=\nExecStart={sys.executable} {PROBE} {TIER}\nRestart=no\n")
    machine.run("systemctl", "daemon-reload")
    with machine.expect("archiver.service", '"lease"', "Deactivated successfully"):
        machine.run("systemctl", "start", "archiver")
    entries = machine.journal(
        "--unit=archiver.service", "--identifier=python", "--identifier=" + Path(sys.executable).name
    )
    yield json.loads(str(entries[-1]["MESSAGE"]))
    machine.run("rm", dropin)
    machine.run("systemctl", "daemon-reload")


def test_systemd_finds_nothing_wrong_with_the_unit(machine: Machine) -> None:
    done = machine.run("systemd-analyze", "verify", "archiver.service")
    assert done.stdout + done.stderr == ""


@pytest.mark.parametrize("unit", sorted(UNITS.glob("*.service")), ids=lambda unit: unit.name)
def test_the_exposure_of_every_unit_is_below_the_bar(unit: Path) -> None:
    subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", f"--threshold={EXPOSURE_BAR}", "--no-pager", str(unit)],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_the_exposure_of_the_loaded_unit_is_below_the_bar(machine: Machine) -> None:
    machine.run("systemd-analyze", "security", f"--threshold={EXPOSURE_BAR}", "--no-pager", "archiver.service")


def test_the_sandbox_lets_a_release_keep_everything_of_a_file_of_another_user(
    machine: Machine, report: dict[str, object]
) -> None:
    assert report["user"] == int(machine.run("id", "-u", "archiver").stdout)
    for act in ("lease", "read without atime", "stand in", "state"):
        assert report[act] == "ok", act
    assert report["kept"] is True


def test_the_sandbox_refuses_writes_outside_of_tiers_and_state(report: dict[str, object]) -> None:
    outside = {path: result for path, result in report.items() if path.startswith("/")}
    assert outside
    assert set(outside.values()) == {"Read-only file system"}
