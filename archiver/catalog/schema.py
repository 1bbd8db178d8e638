"""The schema's revision, and bringing it up to date."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import archiver
from archiver.catalog.rows import SCHEMA
from archiver.catalog.store import open_engine
from archiver.config import redact_url
from archiver.errors import CatalogOutdated, CatalogTooNew


def upgrade(url: str, *, create: bool = True) -> str:
    """Bring the catalog at `url` to this program's schema, in one transaction; returns the revision it had before (""
    for none).

    With `create` a SQLite file is made where there is none. Raises CatalogUnavailable, CatalogTooNew.
    """
    engine = open_engine(url, create=create)
    try:
        with engine.connect().execution_options(archiver_write=True) as connection, connection.begin():
            if engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('archiver schema'))")
            before = stored_revision(connection)
            if before and before not in known_revisions():
                raise CatalogTooNew(url=redact_url(url), found=before, wanted=SCHEMA)
            command.upgrade(_config(connection), "head")
            return before
    finally:
        engine.dispose()


def head_revision() -> str:
    """The newest revision that migrations/ has."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def known_revisions() -> frozenset[str]:
    """Every revision that migrations/ has."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions())


def current_revision(url: str) -> str:
    """The revision of the catalog at `url`, "" where it has none. Raises CatalogUnavailable."""
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            return stored_revision(connection)
    finally:
        engine.dispose()


def stored_revision(connection: Connection) -> str:
    """The revision written in the database, "" where there is none."""
    return MigrationContext.configure(connection).get_current_revision() or ""


def require_current(engine: Engine) -> None:
    """Raises CatalogOutdated or CatalogTooNew where the database's schema is not this program's; CatalogUnavailable."""
    with engine.begin() as connection:
        found = stored_revision(connection)
    if found == SCHEMA:
        return
    url = redact_url(engine.url.render_as_string(hide_password=False))
    if found and found not in known_revisions():
        raise CatalogTooNew(url=url, found=found, wanted=SCHEMA)
    raise CatalogOutdated(url=url, found=found or "none", wanted=SCHEMA)


def migrations_folder() -> Path:
    """Where the migrations are: in the installed package, or beside it in a source checkout."""
    package = Path(archiver.__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


def _config(connection: Connection | None = None) -> Config:
    config = Config()
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
