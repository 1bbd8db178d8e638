"""Alembic's entry: runs the revisions on the connection that archiver.catalog.schema hands over."""

from alembic import context

from archiver.catalog.tables import Base

connection = context.config.attributes.get("connection")
if connection is None:
    raise SystemExit("run `archiver db upgrade`: it knows the catalog's URL and hands over a connection")
context.configure(connection=connection, target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
