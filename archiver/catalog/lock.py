"""One daemon a catalog."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from archiver.catalog.store import Store, sqlite_path
from archiver.errors import AnotherInstance, CatalogUnavailable

_LOG = logging.getLogger("archiver.catalog")
_KEY = 0x617263686976  # "archiv"; advisory locks are told apart by number, within one database
_HOLDER = """ SELECT activity.application_name FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid) WHERE
lock.locktype = 'advisory' AND lock.granted AND lock.database = (SELECT oid FROM pg_database WHERE datname =
current_database()) AND (lock.classid::bigint << 32 | lock.objid::bigint) = %s"""


class InstanceLock(Store):
    """The lock that a daemon holds while it serves a catalog; the system takes it back however the process ends."""

    @contextmanager
    def instance_lock(self) -> Iterator[Callable[[], None]]:
        """Hold the catalog's lock. Raises AnotherInstance, naming the process that holds it.

        What it gives is to be called now and then: a PostgreSQL server takes the lock back when the session ends, be it
        by a restart of the server. Then it takes the lock again, and raises AnotherInstance where another daemon was
        faster, CatalogUnavailable where that cannot be known yet.
        """
        if self.is_sqlite:
            with _file_lock(sqlite_path(self._engine.url)):
                yield lambda: None
        else:
            session = _LockSession(lambda: self._connected(isolation_level="AUTOCOMMIT"))
            session.keep()
            try:
                yield session.keep
            finally:
                session.leave()


class _LockSession:
    """The session of a PostgreSQL server that holds the lock."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._connection: Connection | None = None

    def keep(self) -> None:
        """Take the lock, where the session does not live that has it."""
        if self._connection is not None:
            try:
                self._connection.exec_driver_sql("SELECT 1")
            except CatalogUnavailable as lost:
                _LOG.warning("the lock on the catalog was lost with its session: it is taken again (%s)", lost)
                self._connection.close()
                self._connection = None
            else:
                return
        connection = self._connect()
        try:
            _take_advisory_lock(connection)
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def leave(self) -> None:
        """Give the lock back. One that was lost is fine: why it was is told elsewhere."""
        if self._connection is None:
            return
        try:
            self._connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_KEY,))
        except CatalogUnavailable as lost:
            _LOG.warning("the lock on the catalog was lost before it was given back: %s", lost)
        finally:
            self._connection.close()


@contextmanager
def _file_lock(database: Path) -> Iterator[None]:
    path = database.with_name(database.name + ".lock")
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise CatalogUnavailable(url=f"sqlite:///{database}", reason=f"{path.name}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(fd, 64, 0).decode("ascii", "replace").strip()
            raise AnotherInstance(holder=holder or "it does not say which") from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"pid {os.getpid()}\n".encode(), 0)
        yield
        # The file stays: unlinking it would let two processes lock two files of one name.
    finally:
        os.close(fd)


def _take_advisory_lock(connection: Connection) -> None:
    if not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_KEY,)).scalar():
        holder = connection.exec_driver_sql(_HOLDER, (_KEY,)).scalar()
        raise AnotherInstance(holder=holder or "it has just stopped")
