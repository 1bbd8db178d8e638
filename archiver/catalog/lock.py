"""One daemon a catalog."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from archiver.catalog.store import Store, sqlite_path
from archiver.errors import AnotherInstance, CatalogUnavailable

_KEY = 0x617263686976  # "archiv"; advisory locks are told apart by number, within one database
_HOLDER = """ SELECT activity.application_name FROM pg_locks AS lock JOIN pg_stat_activity AS activity USING (pid) WHERE
lock.locktype = 'advisory' AND lock.granted AND lock.database = (SELECT oid FROM pg_database WHERE datname =
current_database()) AND (lock.classid::bigint << 32 | lock.objid::bigint) = %s"""


class InstanceLock(Store):
    """The lock that a daemon holds while it serves a catalog; the system takes it back however the process ends."""

    @contextmanager
    def instance_lock(self) -> Iterator[None]:
        """Hold the catalog's lock. Raises AnotherInstance, naming the process that holds it."""
        if self.is_sqlite:
            with _file_lock(sqlite_path(self._engine.url)):
                yield
        else:
            with self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                _take_advisory_lock(connection)
                try:
                    yield
                finally:
                    connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_KEY,))


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
