"""What placeholders take on disk beyond one block: those of files that are kept without loss take most of the file.

Of files released before, nothing is noted; they count as one block each, as they did.
"""

import sqlalchemy as sa
from alembic import op

from archiver.errors import CatalogDowngrade

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("file", sa.Column("behind", sa.BigInteger(), nullable=True))
    op.add_column("tier", sa.Column("behind_bytes", sa.BigInteger(), nullable=False, server_default=sa.text("0")))


def downgrade() -> None:
    raise CatalogDowngrade(revision=revision)
