"""Catalogs for every test: in a real SQLite file and in a real PostgreSQL server."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from archiver.catalog import Catalog
from archiver.catalog.rows import Act, AuditRow, DirectoryChange, FileRow, Found, Holding, NewRecord, State, held_name
from archiver.catalog.schema import upgrade
from archiver.catalog.tables import Base

CUT = (
    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
    " WHERE datname = 'catalog' AND pid <> pg_backend_pid()"
)
"""What a restart of the server does to everybody's sessions; returns when they have ended."""


@pytest.fixture(scope="session")
def _sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("catalog") / "template.db"
    upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture
def sqlite_url(tmp_path: Path, _sqlite_template: Path) -> str:
    """The URL of an empty catalog of the newest schema in a SQLite file of this test's own."""
    path = tmp_path / "catalog.db"
    shutil.copyfile(_sqlite_template, path)
    return f"sqlite:///{path}"


@pytest.fixture
def sqlite_catalog(sqlite_url: str) -> Iterator[Catalog]:
    """An empty catalog in a SQLite file."""
    with Catalog.open(sqlite_url) as catalog:
        yield catalog


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Callable[[str], str]]:
    """A PostgreSQL server of this session's own; call it with a database's name for its URL."""
    tools = _postgresql_tools()
    if tools is None:
        pytest.skip("no PostgreSQL server: apt-get install postgresql")
    # As root the server runs as its own user. A socket's path has to be short: it does not lie below pytest's folder.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if user == "postgres" and not _user_exists(user):
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    folder = Path(tempfile.mkdtemp(prefix="archiver-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)

    def run(tool: str, *arguments: str) -> None:
        as_user = {"user": user, "group": user, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run([tools / tool, *arguments], check=True, cwd=folder, stdout=subprocess.DEVNULL, **as_user)

    data = str(folder / "data")
    options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off -c full_page_writes=off"
    try:
        run("initdb", "-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
        yield lambda database: f"postgresql://postgres@/{database}?host={folder}"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def _postgresql_catalog(postgresql_server: Callable[[str], str]) -> str:
    sql(postgresql_server("postgres"), "CREATE DATABASE catalog")
    upgrade(postgresql_server("catalog"))
    return postgresql_server("catalog")


@pytest.fixture
def postgresql_url(_postgresql_catalog: str) -> str:
    """The URL of an empty catalog of the newest schema in a PostgreSQL database."""
    tables = ", ".join(table for table in Base.metadata.tables)
    sql(
        _postgresql_catalog,
        CUT,
        "SET session_replication_role = replica",  # past the trigger that keeps the audit
        f"TRUNCATE {tables} RESTART IDENTITY",
    )
    return _postgresql_catalog


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)])
def catalog_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty catalog, once in each database."""
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def catalog(catalog_url: str) -> Iterator[Catalog]:
    """An empty catalog, once in each database."""
    with Catalog.open(catalog_url) as catalog:
        yield catalog


def _postgresql_tools() -> Path | None:
    """Where the server's programs are; Debian keeps them off the PATH."""
    if found := shutil.which("pg_ctl"):
        return Path(found).parent
    return max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _user_exists(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def sql(url: str, *statements: str) -> None:
    """Run statements on a PostgreSQL server."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)  # type: ignore[call-overload]


def found(name: str | bytes, **facts: int) -> Found:
    """A file as the scan sees it."""
    facts = {"size": 1000, "mtime_ns": 1_500_000_000_123_456_789, "inode": 7, "accessed_at": 1_500_000_000} | facts
    return Found(os.fsencode(name), **facts)


def new_record(file: FileRow, **facts: Any) -> NewRecord:
    """A record of a file as it is, with a payload that is told apart by the file and its version."""
    told_apart = hashlib.sha256(repr((file.id, file.version)).encode()).digest()
    standard = {
        "file_id": file.id,
        "expected": file.version,
        "payload": told_apart * 2,
        "sha256": told_apart,
        "profile": b"profile1",
        "scheme": 1,
        "format": "jpeg",
        "width": 4000,
        "height": 3000,
    }
    return NewRecord(**standard | facts)


class Shelf:
    """A tier of a catalog, and short ways to bring a file of it into a state."""

    def __init__(self, catalog: Catalog, name: str = "nas") -> None:
        self.catalog = catalog
        self.id = catalog.ensure_tier(name, "local", f"/srv/{name}", "fs-1").id

    def add(self, *paths: str | bytes, **facts: int) -> list[FileRow]:
        """New resident files."""
        for path in paths:
            folder, _, name = os.fsencode(path).rpartition(b"/")
            self.catalog.apply_changes(self.id, [DirectoryChange(folder, new=[found(name, **facts)])])
        return [self[path] for path in paths]

    def __getitem__(self, path: str | bytes) -> FileRow:
        row = self.catalog.find(self.id, os.fsdecode(path))
        assert row is not None
        return row

    def see(self, path: str, **facts: int) -> FileRow:
        """A scan sees the file, as it was or changed."""
        row = self[path]
        as_it_was = row.version._asdict() | {"accessed_at": row.accessed_at}
        change = DirectoryChange(os.fsencode(row.directory), changed=[(row.id, found(row.name, **as_it_was | facts))])
        self.catalog.apply_changes(self.id, [change])
        return self[path]

    def lose(self, path: str) -> FileRow:
        """A scan does not see the file."""
        row = self[path]
        self.catalog.apply_changes(self.id, [DirectoryChange(os.fsencode(row.directory), missing=[row.id])])
        return self[path]

    def record(self, path: str, **facts: Any) -> FileRow:
        self.catalog.commit_records([new_record(self[path], **facts)])
        return self[path]

    def held(self, path: str, expires_at: int) -> Holding:
        """The original of a recorded file, as the holding area would have it."""
        row = self[path]
        assert row.record_id is not None
        return Holding(held_name(row.inode, self.catalog.record(row.record_id).sha256), row.size, expires_at)

    def release(self, path: str, *, expires_at: int | None = None) -> FileRow:
        """Release a recorded file, its original held where it `expires_at` a time."""
        row = self[path]
        assert row.record_id is not None
        holding = None if expires_at is None else self.held(path, expires_at)
        self.catalog.mark_released(
            row.id, row.record_id, version=row.version._replace(inode=row.inode + 1), holding=holding
        )
        return self[path]

    def recall(self, path: str) -> FileRow:
        self.catalog.mark_recalled(self[path].id, b"g" * 32, version=self[path].version)
        return self[path]

    def bring(self, path: str, state: State) -> FileRow:
        """A new file, brought into a state by the shortest legal way."""
        self.add(path)
        if state in (State.RECORDED, State.RELEASED, State.RECALLED, State.SUPERSEDED):
            self.record(path)
        if state in (State.RELEASED, State.RECALLED):
            self.release(path)
        if state is State.RECALLED:
            self.recall(path)
        if state is State.SUPERSEDED:
            self.see(path, size=2000)
        if state is State.GONE:
            self.lose(path)
        assert self[path].state is state
        return self[path]

    def told(self, path: str) -> list[AuditRow]:
        """What the audit tells of a path, newest first."""
        return list(self.catalog.audit_rows(tier_id=self.id, path=path))

    def acts(self, path: str) -> list[Act]:
        """What was done to a path, oldest first."""
        return [row.act for row in self.told(path)][::-1]

    def counted(self) -> dict[str, int]:
        """The counters that are not zero, proved against the rows."""
        assert self.catalog.recount(correct=False) == []
        (summary,) = self.catalog.summary()
        counted = {count.state.label: count.files for count in summary.states if count.files}
        return counted | ({"held": summary.held_files} if summary.held_files else {})


@pytest.fixture
def shelf(catalog: Catalog) -> Shelf:
    """A tier in an empty catalog, once in each database."""
    return Shelf(catalog)
