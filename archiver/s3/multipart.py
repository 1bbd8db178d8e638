"""Objects that are written in parts, and whole or not at all."""

from __future__ import annotations

import hashlib
import io
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from botocore.exceptions import BotoCoreError, ClientError

from archiver.s3.failures import retries_of, status_of
from archiver.s3.stream import as_header, md5_of

_LOG = logging.getLogger("archiver.s3.multipart")
PART = 16 << 20
COPIED_PART = 1 << 30
_MOST_PARTS = 10_000


def upload(
    client: Any, at: Mapping[str, str], file: BinaryIO, arguments: Mapping[str, Any], condition: Mapping[str, str]
) -> Mapping[str, Any]:
    """Send a file in parts; the condition is the server's to check when they are put together."""
    with _upload(client, at, arguments) as upload_id:
        parts: list[dict[str, Any]] = []
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        length = max(PART, -(-size // _MOST_PARTS))
        while chunk := file.read(length):
            md5 = as_header(md5_of(io.BytesIO(chunk)))
            sent = client.upload_part(**at, UploadId=upload_id, PartNumber=len(parts) + 1, Body=chunk, ContentMD5=md5)
            parts.append({"PartNumber": len(parts) + 1, "ETag": sent["ETag"]})
        return _complete(client, at, upload_id, parts, condition)


def copy(
    client: Any,
    origin: Mapping[str, str],
    etag: str,
    size: int,
    at: Mapping[str, str],
    arguments: Mapping[str, Any],
    condition: Mapping[str, str],
) -> Mapping[str, Any]:
    """Have the server put an object together from parts of another, which must still have that ETag."""
    with _upload(client, at, arguments) as upload_id:
        parts: list[dict[str, Any]] = []
        for start in range(0, size, COPIED_PART):
            copied = client.upload_part_copy(
                **at,
                UploadId=upload_id,
                PartNumber=len(parts) + 1,
                CopySource=dict(origin),
                CopySourceIfMatch=f'"{etag}"',
                CopySourceRange=f"bytes={start}-{min(start + COPIED_PART, size) - 1}",
            )
            parts.append({"PartNumber": len(parts) + 1, "ETag": copied["CopyPartResult"]["ETag"]})
        return _complete(client, at, upload_id, parts, condition)


def _complete(
    client: Any, at: Mapping[str, str], upload_id: str, parts: list[dict[str, Any]], condition: Mapping[str, str]
) -> Mapping[str, Any]:
    try:
        answer: Mapping[str, Any] = client.complete_multipart_upload(
            **at, UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition
        )
    except ClientError as error:
        if not (retries_of(error) and status_of(error) in (404, 409, 412)):
            raise
        # An earlier sending may have been obeyed, and only its answer lost: then the object is this one.
        found: Mapping[str, Any] = client.head_object(**at)
        if found["ETag"].strip('"') != _etag_of(parts):
            raise
        return found
    return answer


def _etag_of(parts: list[dict[str, Any]]) -> str:
    """The ETag of what was put together, where those of its parts are their MD5s; else one that no object has."""
    try:
        digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
    except ValueError:
        return ""
    return f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"


@contextmanager
def _upload(client: Any, at: Mapping[str, str], arguments: Mapping[str, Any]) -> Iterator[str]:
    """An upload under way; where it does not come to its end, its parts are thrown away."""
    upload_id = client.create_multipart_upload(**at, **arguments)["UploadId"]
    try:
        yield upload_id
    except BaseException:
        try:
            client.abort_multipart_upload(**at, UploadId=upload_id)
        except (BotoCoreError, ClientError) as error:  # what failed before it is what matters
            _LOG.warning("parts of %s/%s may be left in the bucket: %s", at["Bucket"], at["Key"], error)
        raise
