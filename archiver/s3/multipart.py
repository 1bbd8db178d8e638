"""Objects that are written in parts, and whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, BinaryIO

from archiver.s3.stream import as_header, md5_of

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
    answer: Mapping[str, Any] = client.complete_multipart_upload(
        **at, UploadId=upload_id, MultipartUpload={"Parts": parts}, **condition
    )
    return answer


@contextmanager
def _upload(client: Any, at: Mapping[str, str], arguments: Mapping[str, Any]) -> Iterator[str]:
    """An upload under way; where it does not come to its end, its parts are thrown away."""
    upload_id = client.create_multipart_upload(**at, **arguments)["UploadId"]
    try:
        yield upload_id
    except BaseException:
        client.abort_multipart_upload(**at, UploadId=upload_id)
        raise
