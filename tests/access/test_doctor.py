"""What the doctor says of recall on read."""

from __future__ import annotations

from pathlib import Path

import pytest
from fixtures_fs import MIB, enter_private_mounts, need_root, run

from archiver import doctor
from archiver.access.protocol import How
from archiver.access.supervisor import terms_of
from archiver.checks import Verdict
from archiver.config import LocalTierSettings, Settings
from archiver.tiers.local import LocalTier
from tests.access.watching import Site

pytestmark = pytest.mark.root


def finding(root: Path, events: str = "auto") -> doctor.Check:
    tier = LocalTier(LocalTierSettings(name="tier", path=root))
    try:
        return doctor._recall_on_read("tier", tier, events)
    finally:
        tier.close()


def test_it_says_of_each_tier_by_what_its_readers_are_seen(site: Site) -> None:
    seen = finding(site.disk)
    assert (seen.verdict, seen.finding) == (Verdict.OK, "recall on read: when a file is read (FAN_PRE_ACCESS)")
    memory = finding(Path("/dev/shm"))
    assert (memory.verdict, memory.finding) == (
        Verdict.WARNING,
        "recall on read: when a file is opened (FAN_OPEN_PERM)",
    )


def test_opens_are_what_counts_where_the_configuration_says_so(site: Site) -> None:
    settings = Settings.model_validate({"recall": {"events": "open"}})
    assert terms_of(settings).hows == (How.OPEN,)
    assert terms_of(Settings()).hows == (How.READ, How.OPEN)
    seen = finding(site.disk, "open")
    assert (seen.verdict, seen.finding) == (
        Verdict.OK,
        "recall on read: when a file is opened, as [recall] events says",
    )


@pytest.mark.parametrize(("options", "verdict"), [(["-N", "64"], Verdict.WARNING), ([], Verdict.OK)])
def test_it_says_where_no_placeholder_finds_an_inode(tmp_path: Path, options: list[str], verdict: Verdict) -> None:
    """Bytes are free there, and yet every release would fail."""
    need_root()
    enter_private_mounts()
    image, folder = tmp_path / "image", tmp_path / "disk"
    folder.mkdir()
    run("truncate", "-s", str(512 * MIB), image)
    run("mkfs.ext4", "-q", "-F", *options, image)
    run("mount", "-o", "loop", image, folder)
    tier = LocalTier(LocalTierSettings(name="tier", path=folder))
    try:
        seen = doctor._space("tier", Settings(), tier)
    finally:
        tier.close()
        run("umount", folder)
    assert seen.verdict is verdict
    assert ("more files" in seen.finding) is (verdict is Verdict.WARNING)


def test_it_says_whether_anybody_lets_readers_wait(site: Site) -> None:
    settings = Settings.model_validate({"recall": {"socket": str(site.socket)}})
    assert [check.verdict for check in doctor._recall_service(settings)] == [Verdict.WARNING]
    site.start()
    assert [check.verdict for check in doctor._recall_service(settings)] == [Verdict.OK]


@pytest.mark.parametrize(("mode", "refuse"), [("transparent", True), ("managed", False)])
def test_readers_are_refused_only_where_they_would_have_had_an_image(mode: str, refuse: bool) -> None:
    settings = Settings.model_validate({"recall": {"mode": mode, "on_failure": "error"}})
    assert terms_of(settings).refuse is refuse
