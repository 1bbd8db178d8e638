"""Buckets and objects."""

from __future__ import annotations

from archiver.errors.base import ArchiverError
from archiver.errors.keeping import FileModified
from archiver.errors.setup import TierUnreachable
from archiver.errors.system import FileVanished


class BucketUnreachable(TierUnreachable):
    """tier {tier} cannot be reached: {reason}"""

    exit_code = 4
    hint = "Nothing was changed: what cannot be reached is never read as deleted. `archiver doctor` tries it."


class ObjectChanged(FileModified):
    """{path} is no longer the object that was expected there"""

    exit_code = 5
    hint = "Somebody wrote to it meanwhile. It is treated as a new original; nothing of it was changed."


class ObjectMissing(FileVanished):
    """{path} is not there"""

    exit_code = 7
    hint = "It was deleted meanwhile; the next scan sees it."


class ObjectLocked(ArchiverError):
    """{path} is locked: {reason}"""

    exit_code = 1
    hint = "Objects under retention or a legal hold are never touched."


class ObjectArchived(ArchiverError):
    """{path} is in storage class {storage_class}, which cannot be read"""

    exit_code = 1
    hint = "It stays as it is. Restore it on the server first, or leave it there: a record needs one look at the image."


class ObjectMarked(ArchiverError):
    """{path} says that archiver wrote it, and archiver did not"""

    exit_code = 1
    hint = "A tool kept the metadata of what it wrote over. Take off what begins with `archiver-` to have it archived."


class ObjectRefused(ArchiverError):
    """{path}: the server refused it: {reason}"""

    exit_code = 7
    hint = "The object stays as it is. docs/s3.md lists the rights that archiver needs."


class ConditionIgnored(ArchiverError):
    """tier {tier}: its server cannot write on condition (If-Match)"""

    exit_code = 4
    hint = "Without it an object that changes meanwhile could be overwritten: nothing is released. Turn on versioning."


class InventoryUnusable(ArchiverError):
    """inventory {path}: {problem}"""

    exit_code = 4
    hint = 'Without `inventory` the bucket is listed. Parquet needs pip install "archiver[inventory]".'


class ObjectsNotInstalled(ArchiverError):
    """buckets need boto3, which is not installed"""

    exit_code = 7
    hint = "pip install 'archiver[s3]'"
