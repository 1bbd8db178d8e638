"""Who gets what: rules by process, cgroup, user, path and tier; the first one that matches decides."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from archiver.config import RecallSettings
from archiver.decoder.engine import Priority
from archiver.desk.asker import Asker
from archiver.desk.history import Ending
from archiver.desk.rules import Action, Rules, Ruling
from archiver.lifecycle.site import Site
from tests.desk.conftest import Gate, ask, desk_of

ASKER = Asker(7, "tracker-miner-f", "/usr/libexec/tracker-miner-fs-3", "/user.slice/user-1000.slice/app.scope", 33, 33)


def judged(
    asker: Asker = ASKER, tier: str | None = "photos", path: str | None = "2019/a.jpg", **rule: object
) -> Action:
    settings = RecallSettings.model_validate({"rule": [{"name": "it", "action": "refuse", **rule}]})
    return Rules(settings).judge(asker, tier, path).action


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"process": ["tracker-*"]},
        {"process": ["tracker-miner-fs"]},  # longer than the name that the kernel keeps
        {"process": ["tracker-miner-fs-3"]},
        {"process": ["/usr/libexec/*"]},
        {"process": ["other", "tracker-*"]},
        {"cgroup": ["/user.slice/*"]},
        {"cgroup": ["*/app.scope"]},
        {"user": ["33"]},
        {"tiers": ["photos"]},
        {"include": ["2019/**"]},
        {"include": ["*.jpg"], "exclude": ["2020/**"]},
        {"process": ["tracker-*"], "user": ["33"], "tiers": ["photos"], "cgroup": ["*"]},
    ],
)
def test_a_rule_matches_where_all_its_conditions_hold(rule: dict[str, object]) -> None:
    assert judged(**rule) is Action.REFUSE


@pytest.mark.parametrize(
    "rule",
    [
        {"process": ["racker-*"]},
        {"process": ["Tracker-*"]},
        {"process": ["/usr/bin/*"]},
        {"cgroup": ["/system.slice/*"]},
        {"user": ["3", "333"]},
        {"tiers": ["albums"]},
        {"include": ["2020/**"]},
        {"exclude": ["2019/**"]},
        {"process": ["tracker-*"], "user": ["0"]},
    ],
)
def test_a_rule_does_not_match_where_one_condition_fails(rule: dict[str, object]) -> None:
    if "tiers" in rule:
        assert Rules(RecallSettings.model_validate({"rule": [{"name": "it", **rule}]})).judge(
            ASKER, "photos", "2019/a.jpg"
        ) == Ruling(Action.RECALL)
    assert judged(**rule) is Action.RECALL


def test_what_is_not_known_of_a_reader_or_a_file_matches_no_condition() -> None:
    unknown = Asker(0)
    for rule in ({"process": ["*"]}, {"cgroup": ["*"]}, {"user": ["-1"]}):
        assert judged(unknown, **rule) is Action.RECALL
    assert judged(tier=None, path=None, tiers=["photos"]) is Action.RECALL
    assert judged(tier=None, path=None, include=["*.jpg"]) is Action.RECALL
    assert judged(unknown, None, None) is Action.REFUSE


def test_the_first_rule_that_matches_decides() -> None:
    rules = [
        {"name": "backup", "process": ["rsync"], "action": "refuse", "errno": "EBUSY"},
        {"name": "server", "process": ["smbd", "rsync"], "priority": "bulk"},
        {"name": "rest", "action": "placeholder"},
    ]
    judge = Rules(RecallSettings.model_validate({"rule": rules})).judge
    assert judge(Asker(1, "rsync"), None, None) == Ruling(
        Action.REFUSE, Priority.INTERACTIVE, errno.EBUSY, rule="backup"
    )
    assert judge(Asker(1, "smbd"), None, None) == Ruling(Action.RECALL, Priority.BULK, rule="server")
    assert judge(Asker(1, "cat"), None, None).action is Action.PLACEHOLDER


def test_a_process_is_known_by_what_the_kernel_says_of_it() -> None:
    me = Asker.of(os.getpid())
    assert (me.pid, me.uid, me.gid) == (os.getpid(), os.geteuid(), os.getegid())
    assert me.exe == str(Path(sys.executable).resolve())
    assert me.comm == Path("/proc/self/comm").read_text().strip()
    assert me.cgroup in Path("/proc/self/cgroup").read_text()
    other = subprocess.Popen(["sleep", "60"])
    try:
        assert Asker.of(other.pid).exe.endswith(("sleep", "coreutils", "busybox"))
    finally:
        other.kill()
        other.wait()
    assert Asker.of(other.pid) == Asker(other.pid)
    assert str(Asker.of(0)) == "a process of another namespace"


def test_a_rule_can_give_the_placeholder_or_refuse_without_a_decode(site: Site, released: list[Path]) -> None:
    gate = Gate(site)
    before = released[0].read_bytes()
    rules = [
        {"name": "indexers", "process": ["updatedb"], "action": "placeholder"},
        {"name": "thieves", "process": ["curl"], "action": "refuse", "errno": "EIO"},
    ]
    with desk_of(site, rule=rules) as desk:
        placeholder = ask(desk, released[0], Asker(1, "updatedb")).verdict()
        refused = ask(desk, released[0], Asker(1, "curl")).verdict()
        assert (placeholder.errno, placeholder.ending) == (0, Ending.PLACEHOLDER)
        assert (refused.errno, refused.ending) == (errno.EIO, Ending.REFUSED)
        assert desk.report().refused == 1
    assert gate.decodes == 0
    assert released[0].read_bytes() == before


def test_what_another_installation_is_at_work_on_is_not_recalled(site: Site, released: list[Path]) -> None:
    gate = Gate(site)
    area = released[0].parent / "other" / ".archiver" / "holding"
    area.mkdir(parents=True)
    part = Path(shutil.copy(released[0], area / "0-0.part"))
    with desk_of(site, on_failure="error") as desk:
        verdict = ask(desk, part).verdict()
    assert (verdict.errno, verdict.ending) == (0, Ending.PLACEHOLDER)
    assert gate.decodes == 0


def test_where_only_the_command_recalls_readers_get_the_placeholder(site: Site, released: list[Path]) -> None:
    gate = Gate(site)
    with desk_of(site, mode="managed", on_failure="error") as desk:
        assert ask(desk, released[0]).verdict().errno == 0
    assert gate.decodes == 0
