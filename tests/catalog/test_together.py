"""Several programs change one PostgreSQL catalog at once: each waits for the other, and none is refused for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from fixtures_catalog import Shelf

from archiver.catalog import Catalog
from archiver.catalog.rows import Refused
from tests.access.watching import until

pytestmark = pytest.mark.postgresql

_WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'catalog' AND wait_event_type = 'Lock'"


@pytest.fixture
def shelf(postgresql_url: str) -> Iterator[Shelf]:
    with Catalog.open(postgresql_url) as catalog:
        yield Shelf(catalog)


@contextmanager
def waiting(url: str, act: Callable[[], Any]) -> Iterator[Future[Any]]:
    """An act that has come to wait for a lock of somebody else's."""
    with ThreadPoolExecutor(1) as threads, psycopg.connect(url, autocommit=True) as looking:
        result = threads.submit(act)
        until(lambda: looking.execute(_WAITING).fetchone() == (1,), 10)
        yield result


def test_a_recount_and_a_new_tier_wait_for_each_other(shelf: Shelf, postgresql_url: str) -> None:
    with psycopg.connect(postgresql_url) as other:
        other.execute("LOCK TABLE file, holding, counter IN SHARE ROW EXCLUSIVE MODE")  # a recount, half way
        with waiting(postgresql_url, lambda: shelf.catalog.ensure_tier("new", "local", "/srv/new")) as made:
            other.execute("LOCK TABLE tier IN SHARE ROW EXCLUSIVE MODE")
            other.commit()
            assert made.result().name == "new"
    assert shelf.catalog.recount() == []


def test_refusals_are_forgotten_in_the_order_in_which_everybody_locks_files(shelf: Shelf, postgresql_url: str) -> None:
    first, second = shelf.add("a.jpg", "b.jpg")
    for row in (second, first):  # which lie in this order in the table
        shelf.catalog.refuse([Refused(row.id, row.version, "small")])
    lock = "SELECT FROM file WHERE id = %s FOR UPDATE"
    with psycopg.connect(postgresql_url) as other:
        other.execute(lock, (first.id,))
        with waiting(postgresql_url, lambda: shelf.catalog.forget_refusals(shelf.id)) as forgotten:
            other.execute(lock, (second.id,))
            other.commit()
            forgotten.result()
    assert [shelf[name].refusal for name in ("a.jpg", "b.jpg")] == [None, None]
