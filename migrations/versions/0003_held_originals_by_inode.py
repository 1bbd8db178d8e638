"""Held originals are found by their inode: every release and every adoption asks whose one is, and may ask a long list.

The list has a row for each release of a grace period; without an index each of them reads all the others.
"""

from alembic import op

from archiver.errors import CatalogDowngrade

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_holding_inode", "holding", ["inode"])


def downgrade() -> None:
    raise CatalogDowngrade(revision=revision)
