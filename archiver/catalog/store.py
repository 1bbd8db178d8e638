"""Connections, transactions and what is said when the database cannot be used."""

from __future__ import annotations

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from archiver.config import redact_url
from archiver.errors import CatalogUnavailable, PostgresqlNotInstalled

PAGE = 1000
"""Rows that a stream fetches at a time."""

Clock = Callable[[], float]


class Store:
    """An engine and its transactions; the base of everything that asks the catalog."""

    def __init__(self, engine: Engine, clock: Clock = time.time) -> None:
        self._engine = engine
        self._clock = clock

    @property
    def is_sqlite(self) -> bool:
        return self._engine.dialect.name == "sqlite"

    @property
    def redacted_url(self) -> str:
        """The database's URL without a password."""
        return redact_url(self._engine.url.render_as_string(hide_password=False))

    def _now(self) -> int:
        return int(self._clock())

    @contextmanager
    def _read(self) -> Iterator[Connection]:
        """A transaction that only reads."""
        with self._connected() as connection, connection.begin():
            yield connection

    @contextmanager
    def _write(self) -> Iterator[Connection]:
        """A transaction that holds SQLite's write lock from its start, so that what it read is true when it commits."""
        with self._connected(archiver_write=True) as connection, connection.begin():
            yield connection

    def _connected(self, **options: Any) -> Connection:
        """A connection of the pool; to be closed."""
        try:
            return self._engine.connect().execution_options(**options)
        except PoolTimeout as error:
            reason = "all its connections have been in use for too long"
            raise CatalogUnavailable(url=self.redacted_url, reason=reason) from error


def open_engine(url: str, *, create: bool = False, busy_seconds: float = 30.0) -> Engine:
    """An engine for a SQLite or PostgreSQL URL; nothing is connected yet.

    `create` lets SQLite make the file. `busy_seconds`: how long to wait for another writer, or for a connection where
    all are in use. Raises CatalogUnavailable (PostgresqlNotInstalled).
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise CatalogUnavailable(url="(not a database URL)", reason="its URL cannot be read") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        engine = _sqlite_engine(parsed, create, busy_seconds)
    elif backend == "postgresql":
        engine = _postgresql_engine(parsed, busy_seconds)
    else:
        raise CatalogUnavailable(url=redact_url(url), reason="a catalog lives in SQLite or PostgreSQL")
    event.listen(engine, "handle_error", _name_the_failure)
    return engine


def sqlite_path(url: URL) -> Path:
    """The file of a SQLite URL. Raises CatalogUnavailable for one in memory."""
    if not url.database or url.database == ":memory:":
        raise CatalogUnavailable(url=redact_url(str(url)), reason="a catalog in memory would be lost")
    return Path(url.database)


def _sqlite_engine(url: URL, create: bool, busy_seconds: float) -> Engine:
    path = sqlite_path(url)
    if not create and not path.exists():
        raise CatalogUnavailable(url=redact_url(str(url)), reason="there is no such file")
    uri = f"file:{quote(os.fsencode(path))}?mode={'rwc' if create else 'rw'}"

    def connect() -> sqlite3.Connection:
        # Transactions are ours (isolation_level None): the driver would start them late and only for some statements.
        connection = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA cache_size = -16000")
        return connection

    engine = create_engine(url.set(drivername="sqlite+pysqlite"), creator=connect, pool_timeout=busy_seconds)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("archiver_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _postgresql_engine(url: URL, busy_seconds: float) -> Engine:
    try:
        return create_engine(
            url.set(drivername="postgresql+psycopg"),
            pool_pre_ping=True,
            pool_timeout=busy_seconds,
            connect_args={
                "application_name": f"archiver pid {os.getpid()} on {socket.gethostname()}"[:63],
                "connect_timeout": 10,
                "tcp_user_timeout": 30_000,  # milliseconds until a server that answers nothing at all counts as gone
                "options": f"-c lock_timeout={int(busy_seconds * 1000)} -c timezone=UTC",
            },
        )
    except ImportError as error:  # of psycopg, or of the libpq that it looks for
        raise PostgresqlNotInstalled(url=redact_url(str(url)), reason=str(error).partition("\n")[0]) from error


def _name_the_failure(context: ExceptionContext) -> None:
    """A broken constraint is a bug or a race and stays what it is; all else that the database says is named."""
    if context.is_pre_ping:
        return  # SQLAlchemy's own: it connects anew where the server has restarted since
    error: Any = context.sqlalchemy_exception or context.original_exception
    if isinstance(error, IntegrityError | ProgrammingError) or not isinstance(
        error, DBAPIError | sqlite3.DatabaseError
    ):
        return
    url = context.engine.url if context.engine is not None else None
    said = " ".join(str(context.original_exception).split()) or type(context.original_exception).__name__
    raise CatalogUnavailable(url=redact_url(url.render_as_string(False)) if url else "", reason=said)
