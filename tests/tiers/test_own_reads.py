"""What this process reads itself is known for as long as events about it may come, and no longer."""

from __future__ import annotations

import pytest

from archiver.tiers import own_reads
from archiver.tiers.own_reads import OwnReads


def test_a_read_is_our_own_while_it_lasts_and_a_little_longer() -> None:
    reads = OwnReads()
    with reads.of("a.jpg"):
        assert "a.jpg" in reads and "b.jpg" not in reads
    assert "a.jpg" in reads


def test_reads_that_are_long_over_take_no_memory_even_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_reads, "_GRACE", -1.0)  # over at once
    reads = OwnReads()
    for number in range(1000):
        with reads.of(f"{number}.jpg"):
            pass
    assert len(reads._until) <= 1
    assert "999.jpg" not in reads
