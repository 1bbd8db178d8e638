"""The first catalog: tiers, files, records, what is held, and the audit.

The triggers are the last line of defence: whatever program writes to the database, a file only moves along the state
machine, a record is
never rewritten, a record that a file stands on is not deleted, and the audit only grows.
"""

import sqlalchemy as sa
from alembic import op

from archiver.errors import CatalogDowngrade

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

ILLEGAL = """NEW.state <> OLD.state AND NOT (
    OLD.state = 1 AND NEW.state IN (2, 6)
    OR OLD.state = 2 AND NEW.state IN (1, 3, 5, 6)
    OR OLD.state = 3 AND NEW.state IN (2, 4, 5, 6)
    OR OLD.state = 4 AND NEW.state IN (2, 3, 5, 6)
    OR OLD.state = 5 AND NEW.state IN (2, 6)
    OR OLD.state = 6 AND NEW.state IN (1, 2, 3, 4, 5))"""

# name, event, table, condition (on the row alone), lookup (in other tables), what is said
GUARDS = (
    ("file_begins_resident", "INSERT", "file", "NEW.state <> 1", None, "a file begins as resident"),
    ("file_state", "UPDATE OF state", "file", ILLEGAL, None, "illegal change of a file''s state"),
    (
        "file_record",
        "UPDATE OF record_id",
        "file",
        "NEW.record_id IS NOT NULL AND (OLD.record_id IS NULL OR NEW.record_id <> OLD.record_id)",
        "NOT EXISTS (SELECT 1 FROM record WHERE id = NEW.record_id AND file_id = NEW.id)",
        "a file''s record is one of its own",
    ),
    ("file_forgotten", "DELETE", "file", "OLD.state <> 6", None, "only a gone file is forgotten"),
    ("record_rewritten", "UPDATE", "record", None, None, "a record is never rewritten"),
    (
        "record_needed",
        "DELETE",
        "record",
        None,
        "EXISTS (SELECT 1 FROM file WHERE id = OLD.file_id AND record_id = OLD.id)",
        "a record is kept as long as its file stands on it",
    ),
    ("audit_changed", "UPDATE", "audit", None, None, "the audit is append-only"),
    ("audit_deleted", "DELETE", "audit", None, None, "the audit is append-only"),
)


def upgrade() -> None:
    op.create_table(
        "profile",
        sa.Column("id", ID, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_profile"),
        sa.UniqueConstraint("fingerprint", name="uq_profile_fingerprint"),
    )
    op.create_table(
        "rule",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rule"),
        sa.UniqueConstraint("name", name="uq_rule_name"),
    )
    op.create_table(
        "setting",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_setting"),
    )
    op.create_table(
        "tier",
        sa.Column("id", ID, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("root", sa.LargeBinary(), nullable=False),
        sa.Column("identity", sa.Text(), nullable=False),
        sa.Column("reachable", sa.Boolean(), nullable=False),
        sa.Column("first_scan_done_at", sa.BigInteger(), nullable=True),
        sa.Column("last_scan_at", sa.BigInteger(), nullable=True),
        sa.Column("held_files", sa.BigInteger(), nullable=False),
        sa.Column("held_bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("held_files >= 0 AND held_bytes >= 0", name=op.f("ck_tier_held")),
        sa.PrimaryKeyConstraint("id", name="pk_tier"),
        sa.UniqueConstraint("name", name="uq_tier_name"),
    )
    op.create_table(
        "audit",
        sa.Column("id", ID, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("act", sa.SmallInteger(), nullable=False),
        sa.Column("tier_id", ID, nullable=True),
        sa.Column("file_id", ID, nullable=True),
        sa.Column("record_id", ID, nullable=True),
        sa.Column("rule_id", ID, nullable=True),
        sa.Column("path", sa.LargeBinary(), nullable=True),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["rule_id"], ["rule.id"], name="fk_audit_rule_id"),
        sa.ForeignKeyConstraint(["tier_id"], ["tier.id"], name="fk_audit_tier_id"),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_audit_file_id",
        "audit",
        ["file_id"],
        unique=False,
        sqlite_where=sa.text("file_id IS NOT NULL"),
        postgresql_where=sa.text("file_id IS NOT NULL"),
    )
    op.create_index(
        "ix_audit_path",
        "audit",
        ["path"],
        unique=False,
        sqlite_where=sa.text("path IS NOT NULL"),
        postgresql_where=sa.text("path IS NOT NULL"),
    )
    op.create_table(
        "counter",
        sa.Column("tier_id", ID, nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("files", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("files >= 0 AND bytes >= 0", name=op.f("ck_counter_counted")),
        sa.ForeignKeyConstraint(["tier_id"], ["tier.id"], name="fk_counter_tier_id"),
        sa.PrimaryKeyConstraint("tier_id", "state", name="pk_counter"),
    )
    op.create_table(
        "directory",
        sa.Column("id", ID, nullable=False),
        sa.Column("tier_id", ID, nullable=False),
        sa.Column("parent_id", ID, nullable=True),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("present", sa.Boolean(), nullable=False),
        sa.Column("fingerprint", sa.LargeBinary(), nullable=True),
        sa.ForeignKeyConstraint(["parent_id"], ["directory.id"], name="fk_directory_parent_id"),
        sa.ForeignKeyConstraint(["tier_id"], ["tier.id"], name="fk_directory_tier_id"),
        sa.PrimaryKeyConstraint("id", name="pk_directory"),
        sa.UniqueConstraint("tier_id", "path", name="uq_directory_tier_id_path"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_directory_parent_id", "directory", ["parent_id"], unique=False)
    op.create_table(
        "pin",
        sa.Column("tier_id", ID, nullable=False),
        sa.Column("path", sa.LargeBinary(), nullable=False),
        sa.Column("subtree", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["tier_id"], ["tier.id"], name="fk_pin_tier_id"),
        sa.PrimaryKeyConstraint("tier_id", "path", name="pk_pin"),
    )
    op.create_table(
        "file",
        sa.Column("id", ID, nullable=False),
        sa.Column("directory_id", ID, nullable=False),
        sa.Column("tier_id", ID, nullable=False),
        sa.Column("name", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("mtime_ns", sa.BigInteger(), nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("accessed_at", sa.BigInteger(), nullable=False),
        sa.Column("record_id", ID, nullable=True),
        sa.Column("refusal", sa.Text(), nullable=True),
        sa.CheckConstraint("size >= 0 AND length(name) > 0", name=op.f("ck_file_sane")),
        sa.CheckConstraint(
            "CASE state WHEN 1 THEN record_id IS NULL WHEN 6 THEN TRUE"
            " ELSE state BETWEEN 2 AND 5 AND record_id IS NOT NULL END",
            name=op.f("ck_file_state"),
        ),
        sa.ForeignKeyConstraint(["directory_id"], ["directory.id"], name="fk_file_directory_id"),
        sa.PrimaryKeyConstraint("id", name="pk_file"),
        sa.UniqueConstraint("directory_id", "name", name="uq_file_directory_id_name"),
        sqlite_autoincrement=True,
    )
    op.create_index(
        "ix_file_candidate",
        "file",
        ["tier_id", "accessed_at"],
        unique=False,
        sqlite_where=sa.text("state IN (1, 2, 4, 5)"),
        postgresql_where=sa.text("state IN (1, 2, 4, 5)"),
    )
    op.create_table(
        "gone",
        sa.Column("file_id", ID, autoincrement=False, nullable=False),
        sa.Column("was", sa.SmallInteger(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("was BETWEEN 1 AND 5", name=op.f("ck_gone_was")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name="fk_gone_file_id"),
        sa.PrimaryKeyConstraint("file_id", name="pk_gone"),
    )
    op.create_table(
        "recalled",
        sa.Column("file_id", ID, autoincrement=False, nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name="fk_recalled_file_id"),
        sa.PrimaryKeyConstraint("file_id", name="pk_recalled"),
    )
    op.create_table(
        "record",
        sa.Column("id", ID, nullable=False),
        sa.Column("file_id", ID, nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("sha256", sa.LargeBinary(), nullable=False),
        sa.Column("profile_id", ID, nullable=False),
        sa.Column("rule_id", ID, nullable=True),
        sa.Column("scheme", sa.SmallInteger(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("format", sa.Text(), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("semantic", sa.Integer(), nullable=True),
        sa.Column("label_bce", sa.Integer(), nullable=True),
        sa.Column("colour", sa.Integer(), nullable=True),
        sa.CheckConstraint("length(sha256) = 32 AND length(payload) > 0", name=op.f("ck_record_whole")),
        sa.ForeignKeyConstraint(["file_id"], ["file.id"], name="fk_record_file_id"),
        sa.ForeignKeyConstraint(["profile_id"], ["profile.id"], name="fk_record_profile_id"),
        sa.ForeignKeyConstraint(["rule_id"], ["rule.id"], name="fk_record_rule_id"),
        sa.PrimaryKeyConstraint("id", name="pk_record"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_record_file_id", "record", ["file_id"], unique=False)
    op.create_table(
        "holding",
        sa.Column("record_id", ID, autoincrement=False, nullable=False),
        sa.Column("inode", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_holding_record_id"),
        sa.PrimaryKeyConstraint("record_id", name="pk_holding"),
    )
    op.create_table(
        "metadata",
        sa.Column("record_id", ID, autoincrement=False, nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["record_id"], ["record.id"], name="fk_metadata_record_id"),
        sa.PrimaryKeyConstraint("record_id", name="pk_metadata"),
    )
    for guard in GUARDS:
        if op.get_bind().dialect.name == "sqlite":
            _guard_sqlite(*guard)
        else:
            _guard_postgresql(*guard)
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER audit_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_deleted()"
        )


def _guard_sqlite(name: str, event: str, table: str, condition: str | None, lookup: str | None, says: str) -> None:
    when = " AND ".join(f"({part})" for part in (condition, lookup) if part) or "1"
    op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} WHEN {when} BEGIN SELECT RAISE(ABORT, '{says}'); END")


def _guard_postgresql(name: str, event: str, table: str, condition: str | None, lookup: str | None, says: str) -> None:
    # A WHEN clause must not look into other tables; it keeps the function from being called for most rows.
    refuse = f"RAISE EXCEPTION '{says}' USING ERRCODE = 'check_violation';"
    if lookup:
        refuse = f"IF {lookup} THEN {refuse} END IF;"
    row = "OLD" if event == "DELETE" else "NEW"
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {refuse} RETURN {row}; END $$")
    when = f"WHEN ({condition})" if condition else ""
    op.execute(f"CREATE TRIGGER {name} BEFORE {event} ON {table} FOR EACH ROW {when} EXECUTE FUNCTION {name}()")


def downgrade() -> None:
    raise CatalogDowngrade(revision=revision)
