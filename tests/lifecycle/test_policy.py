"""Promises of the policy: the first rule that matches decides, pins win, and what cannot be told is left alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.catalog.rows import FileRow, Pin, State
from archiver.config import RuleSettings, Settings
from archiver.errors import FileVanished
from archiver.lifecycle.policy import (
    Action,
    Decision,
    Picture,
    Pins,
    Rule,
    Why,
    by_hand,
    compile_rules,
    conditions,
    decide,
)

NOW = datetime(2026, 7, 1, tzinfo=UTC)
DAY = 86400


def days_ago(days: float) -> int:
    return int(NOW.timestamp() - days * DAY)


def file(path: str = "DCIM/a.jpg", *, used: float = 400, changed: float = 800, **other: Any) -> FileRow:
    directory, _, name = path.rpartition("/")
    plain = FileRow(
        id=1,
        tier_id=1,
        directory=directory,
        name=name,
        state=State.RESIDENT,
        size=3_000_000,
        mtime_ns=days_ago(changed) * 10**9,
        inode=7,
        accessed_at=days_ago(used),
        record_id=None,
        refusal=None,
    )
    return replace(plain, **other)


def rules(*settings: dict[str, Any]) -> tuple[Rule, ...]:
    return tuple(Rule(RuleSettings(**{"name": f"r{number}", **one})) for number, one in enumerate(settings, start=1))


@dataclass
class Opened:
    """A probe that knows its answers and counts how often it was asked; None stands for a file that cannot be read."""

    words: frozenset[str] | None = frozenset()
    shape: Picture | None = None
    asked: int = 0

    def tags(self) -> frozenset[str]:
        self.asked += 1
        if self.words is None:
            raise FileVanished(path="a.jpg")
        return self.words

    def picture(self) -> Picture:
        self.asked += 1
        if self.shape is None:
            raise FileVanished(path="a.jpg")
        return self.shape


def judge(row: FileRow, *settings: dict[str, Any], pins: tuple[Pin, ...] = (), probe: Opened | None = None) -> Decision:
    return decide(row, rules(*settings), NOW, Pins(pins), probe)


# -- which rule --------------------------------------------------------------------------------------------------------


def test_the_first_rule_that_matches_decides() -> None:
    decision = judge(file(), {"include": ["other/**"]}, {"action": "record", "scheme": "cocli"}, {"action": "release"})
    assert decision.action is Action.RECORD
    assert decision.rule is not None
    assert (decision.rule.name, decision.rule.scheme) == ("r2", "cocli")


def test_a_keep_rule_ends_the_search() -> None:
    decision = judge(file(), {"action": "keep", "include": ["DCIM/"], "unused_for": "0s"}, {})
    assert (decision.action, decision.why) == (Action.KEEP, Why.KEPT)
    assert decision.reasons[0] == "rule r1 keeps it"


def test_a_file_that_no_rule_matches_is_left_alone_and_every_rule_says_why() -> None:
    decision = judge(file(used=3), {"include": ["x/"]}, {"unused_for": "180d"})
    assert (decision.action, decision.rule) == (Action.SKIP, None)
    assert decision.reasons == (
        "rule r1: its path matches nothing in include",
        "rule r2: it was opened 3 days ago, the rule waits for 180d",
    )
    assert decision.why is Why.USED, "counted by the rule that came nearest"
    assert judge(file()).why is Why.NO_RULE


def test_rules_are_for_their_tiers() -> None:
    text: dict[str, Any] = {
        "tier": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}],
        "rule": [{"name": "one", "tiers": ["b"]}, {"name": "all"}],
    }
    settings = Settings.model_validate(text)
    assert [rule.name for rule in compile_rules(settings, "a")] == ["all"]
    assert [rule.name for rule in compile_rules(settings, "b")] == ["one", "all"]


def test_a_match_says_why_in_sentences() -> None:
    decision = judge(file(), {})
    assert decision.action is Action.RELEASE
    assert decision.reasons == (
        "its path is included",
        "by its name it is jpeg",
        "it has 3.0 MB",
        "not changed for 800 days",
        "not opened for 400 days",
    )


# -- conditions --------------------------------------------------------------------------------------------------------

FAILING: list[tuple[dict[str, Any], FileRow, Why]] = [
    ({"include": ["Camera/**"]}, file(), Why.PATH),
    ({"exclude": ["*.jpg"]}, file(), Why.PATH),
    ({"formats": ["png"]}, file(), Why.FORMAT),
    ({}, file("notes.txt"), Why.FORMAT),
    ({}, file("movie.heic"), Why.FORMAT),
    ({}, file("jpg"), Why.FORMAT),
    ({"min_size": "3 MiB"}, file(), Why.SIZE),
    ({"max_size": "2 MB"}, file(), Why.SIZE),
    ({"unchanged_for": "900d"}, file(), Why.CHANGED),
    ({"unused_for": "401d"}, file(), Why.USED),
]


@pytest.mark.parametrize(("rule", "row", "why"), FAILING)
def test_each_condition_can_hold_a_file_back(rule: dict[str, Any], row: FileRow, why: Why) -> None:
    decision = judge(row, rule)
    assert (decision.action, decision.why) == (Action.SKIP, why)


def test_bounds_are_inclusive() -> None:
    exact = {"min_size": 3_000_000, "max_size": 3_000_000, "unused_for": "400d", "unchanged_for": "800d"}
    assert judge(file(), exact).action is Action.RELEASE


@pytest.mark.parametrize(
    "name", ["a.JPG", "a.jpeg", "a.png", "a.WebP", "a.tif", "a.TIFF", "b.x.jpe", os.fsdecode(b"\xff.jpg")]
)
def test_the_name_tells_the_format_at_first(name: str) -> None:
    assert judge(file(name), {}).action is Action.RELEASE


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_file_is_cold_exactly_when_both_waits_are_over(
    used: int, changed: int, unused_for: int, unchanged_for: int
) -> None:
    row = replace(file(), accessed_at=int(NOW.timestamp()) - used, mtime_ns=(int(NOW.timestamp()) - changed) * 10**9)
    waits = {"unused_for": timedelta(seconds=unused_for), "unchanged_for": timedelta(seconds=unchanged_for)}
    is_cold = used >= unused_for and changed >= unchanged_for
    assert (judge(row, waits).action is Action.RELEASE) == is_cold


@given(st.integers(1, 10**10))
def test_a_time_stamp_in_the_future_counts_as_just_now(ahead: int) -> None:
    for row in (
        replace(file(), accessed_at=int(NOW.timestamp()) + ahead),
        replace(file(), mtime_ns=(int(NOW.timestamp()) + ahead) * 10**9),
    ):
        decision = judge(row, {})
        assert decision.action is Action.SKIP
        assert "counts as just now" in decision.reasons[0]


def test_a_clock_that_fell_back_makes_nothing_cold() -> None:
    long_ago = datetime(1970, 1, 2, tzinfo=UTC)
    decision = decide(file(), rules({}), long_ago, Pins(()))
    assert decision.action is Action.SKIP
    assert "counts as just now" in decision.reasons[0]


# -- opening files -----------------------------------------------------------------------------------------------------


def test_a_file_is_opened_only_when_everything_else_holds() -> None:
    picky = {"tags": ["x"], "min_pixels": 1}
    for rule, row, _ in FAILING:
        probe = Opened()
        judge(row, {**rule, **picky}, probe=probe)
        assert probe.asked == 0
    pinned, probe = Pin(1, "DCIM", True), Opened()
    judge(file(), picky, pins=(pinned,), probe=probe)
    judge(file(refusal="corrupt"), picky, probe=probe)
    judge(file(), {}, probe=probe)
    assert probe.asked == 0


def test_tags_are_asked_before_the_header() -> None:
    probe = Opened(words=frozenset())
    assert judge(file(), {"tags": ["x"], "min_pixels": 1}, probe=probe).why is Why.TAGS
    assert probe.asked == 1


@pytest.mark.parametrize(
    ("words", "releases"),
    [
        ({"holiday"}, True),
        ({"holiday", "other"}, True),
        (set(), False),
        ({"Holiday"}, False),
        ({"holiday", "best"}, False),
    ],
)
def test_all_tags_must_be_there_and_none_of_the_unwanted(words: set[str], releases: bool) -> None:
    decision = judge(file(), {"tags": ["holiday"], "without_tags": ["best"]}, probe=Opened(words=frozenset(words)))
    assert (decision.action is Action.RELEASE) is releases
    assert decision.why is (Why.COLD if releases else Why.TAGS)


@pytest.mark.parametrize(
    ("limits", "releases"),
    [
        ({"min_pixels": 12_000_000}, True),
        ({"min_pixels": 12_000_001}, False),
        ({"max_pixels": 12_000_000}, True),
        ({"max_pixels": 11_999_999}, False),
    ],
)
def test_dimensions_are_those_of_the_header(limits: dict[str, int], releases: bool) -> None:
    decision = judge(file(), limits, probe=Opened(shape=Picture("jpeg", 4000, 3000)))
    assert (decision.action is Action.RELEASE) is releases
    assert "4000 x 3000" in decision.reasons[-1]


def test_an_opened_file_is_what_it_is_and_not_what_its_name_says() -> None:
    decision = judge(file("a.jpg"), {"formats": ["jpeg"], "min_pixels": 1}, probe=Opened(shape=Picture("png", 40, 30)))
    assert (decision.action, decision.why) == (Action.SKIP, Why.FORMAT)


def test_what_cannot_be_told_is_left_alone_even_if_a_later_rule_would_release_it() -> None:
    protect = {"action": "keep", "tags": ["best"]}
    for probe in (None, Opened(words=None)):
        decision = judge(file(), protect, {"action": "release"}, probe=probe)
        assert (decision.action, decision.why) == (Action.SKIP, Why.UNKNOWN)
    assert judge(file(), {"max_pixels": 9}, {}, probe=Opened()).why is Why.UNKNOWN
    assert judge(file(), protect, {}, probe=Opened()).action is Action.RELEASE


# -- pins, states, refusals --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pin", "covers"),
    [
        (Pin(1, "DCIM/a.jpg", False), True),
        (Pin(1, "DCIM", True), True),
        (Pin(1, "", True), True),
        (Pin(1, "DCIM", False), False),
        (Pin(1, "DCI", True), False),
        (Pin(1, "DCIM/a", True), False),
    ],
)
def test_pins_win_over_every_rule(pin: Pin, covers: bool) -> None:
    decision = judge(file(), {"action": "release", "unused_for": "0s"}, pins=(pin,))
    assert (decision.action is Action.KEEP) is covers
    assert (decision.why is Why.PINNED) is covers


names = st.text("ab", min_size=1, max_size=2)
paths = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(st.lists(st.tuples(paths | st.just(""), st.booleans())), paths)
def test_a_subtree_pin_covers_what_lies_below_it_and_nothing_else(pins: list[tuple[str, bool]], path: str) -> None:
    expected = any(
        path == pinned or (subtree and (pinned == "" or path.startswith(f"{pinned}/"))) for pinned, subtree in pins
    )
    found = Pins(Pin(1, pinned, subtree) for pinned, subtree in pins).covering(path)
    assert (found is not None) == expected


def test_a_refused_file_is_not_tried_again_until_it_changes() -> None:
    decision = judge(file(refusal="truncated or corrupt"), {})
    assert (decision.action, decision.why) == (Action.SKIP, Why.REFUSED)
    assert decision.reasons == ("truncated or corrupt; it is not tried again until it or its rule changes",)


@pytest.mark.parametrize(
    ("state", "released", "recorded"),
    [
        (State.RESIDENT, Action.RELEASE, Action.RECORD),
        (State.SUPERSEDED, Action.RELEASE, Action.RECORD),
        (State.RECORDED, Action.RELEASE, Action.SKIP),
        (State.RECALLED, Action.RELEASE, Action.SKIP),
        (State.RELEASED, Action.SKIP, Action.SKIP),
        (State.GONE, Action.SKIP, Action.SKIP),
    ],
)
def test_every_state_gets_what_is_left_to_do(state: State, released: Action, recorded: Action) -> None:
    row = file(state=state, record_id=None if state is State.RESIDENT else 5)
    assert judge(row, {"action": "release"}).action is released
    assert judge(row, {"action": "record"}).action is recorded


# -- by hand, and explanations -----------------------------------------------------------------------------------------


def test_a_file_named_by_hand_needs_no_age_but_keeps_its_rule() -> None:
    fresh = file(used=0, changed=0)
    decision = by_hand(fresh, rules({"include": ["x/"]}, {"scheme": "cocli"}))
    assert decision.action is Action.RELEASE
    assert decision.rule is not None
    assert decision.rule.scheme == "cocli"
    assert by_hand(file("odd.name"), rules({})).rule is None


@pytest.mark.parametrize("action", ["keep", "record"])
def test_a_rule_that_does_not_release_stands_also_by_hand(action: str) -> None:
    fresh = file(used=0, changed=0)
    assert by_hand(fresh, rules({"action": action}, {})).action is Action.RECORD
    unknown = by_hand(fresh, rules({"action": action, "tags": ["best"]}, {}))
    assert unknown.action is Action.RECORD, "it cannot be told whether the rule is for it"


def test_an_explanation_tells_every_condition_also_after_the_first_failure() -> None:
    rule = rules({"include": ["x/"], "min_size": "9 MB", "unused_for": "999d", "tags": ["x"], "min_pixels": 1})[0]
    probe = Opened(shape=Picture("jpeg", 10, 10))
    told = {condition.why: condition.holds for condition in conditions(rule, file(), NOW, probe)}
    assert told == {
        Why.PATH: False,
        Why.FORMAT: True,
        Why.SIZE: False,
        Why.CHANGED: True,
        Why.USED: False,
        Why.TAGS: False,
        Why.PIXELS: True,
    }
