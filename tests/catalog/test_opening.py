"""A catalog opens, or says what is wrong with it; one daemon serves it; the schema goes forward only."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from fixtures_catalog import CUT, Shelf, sql
from sqlalchemy import inspect

from archiver.catalog import Catalog, schema
from archiver.catalog.rows import SCHEMA, State
from archiver.catalog.store import open_engine
from archiver.catalog.tables import Base
from archiver.errors import (
    AnotherInstance,
    CatalogDowngrade,
    CatalogOutdated,
    CatalogTooNew,
    CatalogUnavailable,
    PostgresqlNotInstalled,
)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def blank_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database without a catalog: a file that does not exist, or a database without tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'new.db'}"
    server: Callable[[str], str] = request.getfixturevalue("postgresql_server")
    name = f"blank_{abs(hash(request.node.name))}"
    sql(server("postgres"), f"CREATE DATABASE {name}")
    return server(name)


# -- schema ------------------------------------------------------------------------------------------------------------


def test_the_migrations_make_the_tables_that_the_program_declares(blank_url: str) -> None:
    assert schema.upgrade(blank_url) == ""
    engine = open_engine(blank_url)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
        for name, table in Base.metadata.tables.items():
            declared = {str(check.name) for check in table.constraints if str(check.name).startswith("ck_")}
            assert {check["name"] for check in inspect(connection).get_check_constraints(name)} == declared
    engine.dispose()


def test_an_upgrade_from_nothing_can_be_used_and_done_again(blank_url: str) -> None:
    with Catalog.open(blank_url, create=True) as catalog:
        Shelf(catalog).bring("a.jpg", State.RELEASED)
    assert schema.current_revision(blank_url) == SCHEMA == schema.head_revision()
    assert schema.upgrade(blank_url) == SCHEMA
    with Catalog.open(blank_url, create=True) as catalog:
        assert Shelf(catalog)["a.jpg"].state is State.RELEASED


def test_what_an_earlier_program_kept_is_there_after_an_upgrade(blank_url: str) -> None:
    engine = open_engine(blank_url, create=True)
    with engine.connect().execution_options(archiver_write=True) as connection, connection.begin():
        command.upgrade(schema._config(connection), "0001")
        tier = "(id, name, kind, root, identity, reachable, held_files, held_bytes)"
        root = "x'2f'" if engine.dialect.name == "sqlite" else "'/'::bytea"
        connection.exec_driver_sql(f"INSERT INTO tier {tier} VALUES (1, 'nas', 'local', {root}, '', TRUE, 0, 0)")
    engine.dispose()
    with pytest.raises(CatalogOutdated):
        Catalog.open(blank_url)
    assert schema.upgrade(blank_url) == "0001"
    with Catalog.open(blank_url) as catalog:
        assert [(summary.tier.name, summary.behind_bytes) for summary in catalog.summary()] == [("nas", 0)]
        assert catalog.recount() == []


def test_a_database_without_the_schema_has_to_be_upgraded(blank_url: str) -> None:
    open_engine(blank_url, create=True).connect().close()
    with pytest.raises(CatalogOutdated) as raised:
        Catalog.open(blank_url)
    assert raised.value.facts["found"] == "none"
    assert raised.value.facts["wanted"] == SCHEMA


def test_a_catalog_of_a_newer_program_is_left_alone(catalog_url: str) -> None:
    with Catalog.open(catalog_url) as catalog, catalog._write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    try:
        with pytest.raises(CatalogTooNew):
            Catalog.open(catalog_url)
        with pytest.raises(CatalogTooNew):
            schema.upgrade(catalog_url)
        assert schema.current_revision(catalog_url) == "9999"
    finally:
        engine = open_engine(catalog_url)
        with engine.begin() as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{SCHEMA}'")
        engine.dispose()


def test_a_downgrade_is_refused(shelf: Shelf) -> None:
    shelf.bring("a.jpg", State.RELEASED)
    with pytest.raises(CatalogDowngrade), shelf.catalog._write() as connection:
        command.downgrade(schema._config(connection), "base")
    assert shelf["a.jpg"].state is State.RELEASED


def test_the_migrations_are_found_where_they_are_installed_and_in_a_checkout(tmp_path: Path) -> None:
    assert (schema.migrations_folder() / "env.py").is_file()
    package = tmp_path / "archiver"
    source = Path(schema.__file__).parents[1]
    package.symlink_to(source)
    installed = tmp_path / "installed" / "archiver"
    installed.mkdir(parents=True)
    for part in source.iterdir():
        (installed / part.name).symlink_to(part)
    if not (installed / "migrations").exists():
        (installed / "migrations").symlink_to(schema.migrations_folder())
    show = "import archiver.catalog.schema as s; print(s.migrations_folder(), s.head_revision())"
    told = subprocess.run(
        [sys.executable, "-c", show],
        cwd=installed.parent,
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(installed.parent)},
    )
    assert told.stdout.split() == [str(installed / "migrations"), SCHEMA]


# -- what cannot be opened ---------------------------------------------------------------------------------------------


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    with pytest.raises(CatalogUnavailable, match="no such file"):
        Catalog.open(f"sqlite:///{path}")
    assert not path.exists()


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CatalogUnavailable, match="unable to open"):
        Catalog.open(f"sqlite:///{tmp_path / 'none' / 'catalog.db'}", create=True)


@pytest.mark.parametrize("what", ["garbage", "truncated", "overwritten"])
def test_a_damaged_file_is_named_and_not_touched(sqlite_url: str, what: str) -> None:
    with Catalog.open(sqlite_url) as catalog:
        Shelf(catalog).add(*(f"{number}.jpg" for number in range(50)))
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    whole = path.read_bytes()
    damaged = {
        "garbage": b"not a database" * 1000,
        "truncated": whole[: len(whole) // 2],
        "overwritten": whole[:4096] + b"\xa5" * (len(whole) - 4096),
    }[what]
    path.write_bytes(damaged)
    with pytest.raises(CatalogUnavailable) as raised, Catalog.open(sqlite_url) as catalog:
        list(catalog.stream_files(None))
        catalog.summary()
        catalog.find(1, "49.jpg")
        catalog.recount(correct=False)
    assert str(path) in raised.value.message
    assert any(word in raised.value.message for word in ("malformed", "not a database", "disk image"))
    assert path.read_bytes() == damaged


def test_a_file_locked_by_another_program_is_named(sqlite_url: str) -> None:
    other = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"), isolation_level=None)
    with Catalog.open(sqlite_url, busy_seconds=0.05) as catalog:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(CatalogUnavailable, match="locked"):
            catalog.set_setting("a", "b")
        assert catalog.setting("a") is None  # readers go on
        other.execute("ROLLBACK")
        catalog.set_setting("a", "b")
    other.close()


@pytest.mark.postgresql
def test_a_row_locked_by_another_program_is_named(postgresql_url: str) -> None:
    with Catalog.open(postgresql_url, busy_seconds=0.05) as catalog, Catalog.open(postgresql_url) as other:
        row = Shelf(catalog).bring("a.jpg", State.RELEASED)
        with other._write() as connection:
            connection.exec_driver_sql("SELECT 1 FROM file FOR UPDATE")
            with pytest.raises(CatalogUnavailable, match="lock timeout"):
                catalog.mark_recalled(row.id, b"g" * 32, version=row.version)


def test_that_all_connections_are_in_use_is_named(catalog_url: str) -> None:
    with Catalog.open(catalog_url, busy_seconds=0.05) as catalog:
        with pytest.raises(CatalogUnavailable, match="in use"), ExitStack() as connections:
            for _ in range(100):
                connections.enter_context(catalog._read())
        assert catalog.setting("a") is None


@pytest.mark.postgresql
def test_a_server_that_went_away_is_named_and_one_that_came_back_is_used(postgresql_url: str) -> None:
    with Catalog.open(postgresql_url) as catalog:
        shelf = Shelf(catalog)
        with pytest.raises(CatalogUnavailable), catalog._change() as ledger:
            sql(postgresql_url, CUT)
            ledger.lock([1])
        shelf.add("a.jpg")
        assert shelf.counted() == {"resident": 1}


@pytest.mark.postgresql
def test_a_server_that_restarted_costs_nobody_who_comes_later_anything(postgresql_url: str) -> None:
    with Catalog.open(postgresql_url) as catalog:
        with ExitStack() as connections:
            for _ in range(5):  # which are kept for others
                connections.enter_context(catalog._read())
        sql(postgresql_url, CUT)
        with ExitStack() as connections:
            for _ in range(5):
                connection = connections.enter_context(catalog._read())
                assert connection.exec_driver_sql("SELECT 1").scalar() == 1


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://user:s3cret@127.0.0.1:1/none?connect_timeout=1",
        "postgresql+psycopg://user@127.0.0.1:1/none?password=s3cret",
        "mysql://user:s3cret@host/name",
        "postgresql://user:s3cret@host:not-a-port/name",
        "s3cret",
    ],
)
def test_a_password_is_never_printed(url: str) -> None:
    with pytest.raises(CatalogUnavailable) as raised:
        Catalog.open(url)
    error: BaseException | None = raised.value
    assert "s3cret" not in str(error)
    assert "s3cret" not in repr(raised.value.facts)


def test_only_a_sqlite_or_postgresql_catalog_in_a_file_or_on_a_server_is_opened() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "oracle://host/name"):
        with pytest.raises(CatalogUnavailable):
            Catalog.open(url, create=True)


def test_a_server_without_its_driver_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(PostgresqlNotInstalled, match="psycopg") as refused:
        Catalog.open("postgresql://archiver:hush@db.example/archiver")
    assert "hush" not in str(refused.value)


def test_commits_survive_a_power_cut(sqlite_catalog: Catalog) -> None:
    """The settings that promise it; what they do is SQLite's own, tested promise."""
    with sqlite_catalog._read() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1


# -- one daemon --------------------------------------------------------------------------------------------------------


def _serve(url: str, held: Event, done: Event) -> None:
    with Catalog.open(url) as catalog, catalog.instance_lock():
        held.set()
        done.wait()


def test_a_second_daemon_is_told_who_holds_the_catalog(catalog_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    process = context.Process(target=_serve, args=(catalog_url, held, done))
    process.start()
    assert held.wait(60)
    with Catalog.open(catalog_url) as catalog:
        with pytest.raises(AnotherInstance, match=f"pid {process.pid}\\b"), catalog.instance_lock():
            pass
        catalog.set_setting("others", "may write")  # the lock is between daemons, not readers and writers
        process.kill()
        process.join()
        if catalog.is_sqlite:
            with catalog.instance_lock():
                pass


def test_the_lock_can_be_taken_again_once_it_is_given_back(catalog: Catalog) -> None:
    for _ in range(2):
        with (
            catalog.instance_lock(),
            pytest.raises(AnotherInstance, match=f"pid {os.getpid()}"),
            catalog.instance_lock(),
        ):
            pass


@pytest.mark.postgresql
def test_a_lock_that_was_lost_with_its_session_is_taken_again_unless_another_was_faster(postgresql_url: str) -> None:
    with Catalog.open(postgresql_url) as one, Catalog.open(postgresql_url) as two:
        with one.instance_lock() as keep:
            keep()
            sql(postgresql_url, CUT)
            with two.instance_lock(), pytest.raises(AnotherInstance):
                keep()
            keep()  # it has been given back
            with pytest.raises(AnotherInstance), two.instance_lock():
                pass
            sql(postgresql_url, CUT)
        with two.instance_lock():  # the first one ended without a word of the session
            pass
