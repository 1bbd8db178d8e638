"""The tables, as SQLAlchemy declares them; migrations/ makes them, with the triggers that guard them.

Columns that most rows leave empty are NULL, small numbers stay small: a million images have to fit in 400 bytes each,
all in.
"""

from __future__ import annotations

import os
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import TypeDecorator

_TOP = 1 << 63


class RawPath(TypeDecorator[str]):
    """A path or name as the kernel's bytes; any name that Linux allows comes back as it went in."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | bytes | None, _dialect: Dialect) -> bytes | None:
        return None if value is None else os.fsencode(value)

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> str | None:
        return None if value is None else os.fsdecode(bytes(value))


class Unsigned64(TypeDecorator[int]):
    """An inode number: 64 bits without a sign, which neither database has."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: int | None, _dialect: Dialect) -> int | None:
        return None if value is None else signed64(value)

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> int | None:
        return None if value is None else value % (2 * _TOP)


class Thousandths(TypeDecorator[float]):
    """A measure kept to three places, as a whole number: two or three bytes instead of eight."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: float | None, _dialect: Dialect) -> int | None:
        return None if value is None else round(value * 1000)

    def process_result_value(self, value: Any | None, _dialect: Dialect) -> float | None:
        return None if value is None else value / 1000


def signed64(value: int) -> int:
    """An unsigned 64-bit number as the signed one with the same bits."""
    return value if value < _TOP else value - 2 * _TOP


Id = BigInteger().with_variant(Integer, "sqlite")
_NEVER_REUSED = {"sqlite_autoincrement": True}  # audit rows name files and records that may be forgotten


class Base(DeclarativeBase):
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


class Tier(Base):
    """A place that holds images, with the counters of what its holding area and its larger placeholders hold."""

    __tablename__ = "tier"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
    kind: Mapped[str] = mapped_column(Text)
    root: Mapped[str] = mapped_column(RawPath)
    identity: Mapped[str] = mapped_column(Text)
    reachable: Mapped[bool] = mapped_column(Boolean)
    first_scan_done_at: Mapped[int | None] = mapped_column(BigInteger)
    last_scan_at: Mapped[int | None] = mapped_column(BigInteger)
    held_files: Mapped[int] = mapped_column(BigInteger)
    held_bytes: Mapped[int] = mapped_column(BigInteger)
    behind_bytes: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))

    __table_args__ = (CheckConstraint("held_files >= 0 AND held_bytes >= 0", name="held"),)


class Directory(Base):
    """A directory of a tier; one that vanished stays, not present, for the files that are still told of."""

    __tablename__ = "directory"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    tier_id: Mapped[int] = mapped_column(Id, ForeignKey("tier.id"))
    parent_id: Mapped[int | None] = mapped_column(Id, ForeignKey("directory.id"))
    path: Mapped[str] = mapped_column(RawPath)
    present: Mapped[bool] = mapped_column(Boolean)
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary)

    __table_args__ = (UniqueConstraint("tier_id", "path"), Index(None, "parent_id"), _NEVER_REUSED)


class File(Base):
    """A tracked file. `tier_id` repeats its directory's, so that one tier's candidates lie together in the index."""

    __tablename__ = "file"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    directory_id: Mapped[int] = mapped_column(Id, ForeignKey("directory.id"))
    tier_id: Mapped[int] = mapped_column(Id)  # the directory's foreign key vouches for it
    name: Mapped[str] = mapped_column(RawPath)
    state: Mapped[int] = mapped_column(SmallInteger)
    size: Mapped[int] = mapped_column(BigInteger)
    mtime_ns: Mapped[int] = mapped_column(BigInteger)
    inode: Mapped[int] = mapped_column(Unsigned64)
    accessed_at: Mapped[int] = mapped_column(BigInteger)
    record_id: Mapped[int | None] = mapped_column(
        Id
    )  # a trigger checks it: a foreign key would need an index to be deleted by
    refusal: Mapped[str | None] = mapped_column(Text)
    behind: Mapped[int | None] = mapped_column(BigInteger)  # bytes on disk behind a placeholder's block, where any are

    __table_args__ = (
        UniqueConstraint("directory_id", "name"),
        # Released files wait for nothing but a recall: they cost no entry here.
        Index(
            "ix_file_candidate",
            "tier_id",
            "accessed_at",
            sqlite_where=text("state IN (1, 2, 4, 5)"),
            postgresql_where=text("state IN (1, 2, 4, 5)"),
        ),
        CheckConstraint("size >= 0 AND length(name) > 0", name="sane"),
        # In one, resident files first: it is looked at for every file of a first scan.
        CheckConstraint(
            "CASE state WHEN 1 THEN record_id IS NULL WHEN 6 THEN TRUE"
            " ELSE state BETWEEN 2 AND 5 AND record_id IS NOT NULL END",
            name="state",
        ),
        _NEVER_REUSED,
    )


class Record(Base):
    """A record, never rewritten, and what the original was; kept when its file is superseded."""

    __tablename__ = "record"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    file_id: Mapped[int] = mapped_column(Id, ForeignKey("file.id"), index=True)
    payload: Mapped[bytes] = mapped_column(LargeBinary)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    profile_id: Mapped[int] = mapped_column(Id, ForeignKey("profile.id"))
    rule_id: Mapped[int | None] = mapped_column(Id, ForeignKey("rule.id"))
    scheme: Mapped[int] = mapped_column(SmallInteger)
    created_at: Mapped[int] = mapped_column(BigInteger)
    format: Mapped[str] = mapped_column(Text)
    width: Mapped[int] = mapped_column(Integer)
    height: Mapped[int] = mapped_column(Integer)
    semantic: Mapped[float | None] = mapped_column(Thousandths)
    label_bce: Mapped[float | None] = mapped_column(Thousandths)
    colour: Mapped[float | None] = mapped_column(Thousandths)

    __table_args__ = (CheckConstraint("length(sha256) = 32 AND length(payload) > 0", name="whole"), _NEVER_REUSED)


class RecordMetadata(Base):
    """The file's own metadata, compressed; only where it has any."""

    __tablename__ = "metadata"

    record_id: Mapped[int] = mapped_column(Id, ForeignKey("record.id"), primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)


class Held(Base):
    """An original in its tier's holding area. By record: a file written to and released again may have two.

    Its name there is made of its inode and its record's hash, so the inode is enough.
    """

    __tablename__ = "holding"

    record_id: Mapped[int] = mapped_column(Id, ForeignKey("record.id"), primary_key=True, autoincrement=False)
    inode: Mapped[int] = mapped_column(Unsigned64, index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    expires_at: Mapped[int] = mapped_column(BigInteger)


class Recalled(Base):
    """The hash of the generated bytes that were put in place of a placeholder."""

    __tablename__ = "recalled"

    file_id: Mapped[int] = mapped_column(Id, ForeignKey("file.id"), primary_key=True, autoincrement=False)
    sha256: Mapped[bytes] = mapped_column(LargeBinary)
    at: Mapped[int] = mapped_column(BigInteger)


class Gone(Base):
    """Since when a gone file is gone, and what it was, for when it comes back."""

    __tablename__ = "gone"

    file_id: Mapped[int] = mapped_column(Id, ForeignKey("file.id"), primary_key=True, autoincrement=False)
    was: Mapped[int] = mapped_column(SmallInteger)
    at: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("was BETWEEN 1 AND 5", name="was"),)


class Pinned(Base):
    """A path that is never released."""

    __tablename__ = "pin"

    tier_id: Mapped[int] = mapped_column(Id, ForeignKey("tier.id"), primary_key=True)
    path: Mapped[str] = mapped_column(RawPath, primary_key=True)
    subtree: Mapped[bool] = mapped_column(Boolean)


class Counter(Base):
    """Files and bytes by tier and state, moved in the transaction that moves the files."""

    __tablename__ = "counter"

    tier_id: Mapped[int] = mapped_column(Id, ForeignKey("tier.id"), primary_key=True)
    state: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    files: Mapped[int] = mapped_column(BigInteger)
    bytes: Mapped[int] = mapped_column(BigInteger)

    __table_args__ = (CheckConstraint("files >= 0 AND bytes >= 0", name="counted"),)


class Rule(Base):
    """Names of rules, so that a million rows hold a number each."""

    __tablename__ = "rule"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)


class Profile(Base):
    """Fingerprints of model profiles that records need."""

    __tablename__ = "profile"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, unique=True)


class Audit(Base):
    """Every act; append-only by trigger. `path` only where no file row can tell it."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Id, primary_key=True)
    at: Mapped[int] = mapped_column(BigInteger)
    act: Mapped[int] = mapped_column(SmallInteger)
    tier_id: Mapped[int | None] = mapped_column(Id, ForeignKey("tier.id"))
    file_id: Mapped[int | None] = mapped_column(Id)
    record_id: Mapped[int | None] = mapped_column(Id)
    rule_id: Mapped[int | None] = mapped_column(Id, ForeignKey("rule.id"))
    path: Mapped[str | None] = mapped_column(RawPath)
    detail: Mapped[str | None] = mapped_column(Text)

    __table_args__ = (
        Index(
            "ix_audit_file_id",
            "file_id",
            sqlite_where=text("file_id IS NOT NULL"),
            postgresql_where=text("file_id IS NOT NULL"),
        ),
        Index(
            "ix_audit_path", "path", sqlite_where=text("path IS NOT NULL"), postgresql_where=text("path IS NOT NULL")
        ),
        _NEVER_REUSED,
    )


class Setting(Base):
    """Small facts that outlive a process, such as when a job last succeeded."""

    __tablename__ = "setting"

    key: Mapped[str] = mapped_column(Text, primary_key=True)
    value: Mapped[str] = mapped_column(Text)
