"""What becomes of a failure of boto3: one of archiver's own, that says whether the tier or one object is meant."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from archiver.errors import (
    ArchiverError,
    BucketUnreachable,
    ObjectArchived,
    ObjectChanged,
    ObjectMissing,
    ObjectRefused,
    PermissionRefused,
)
from archiver.s3.address import ObjectUrl

# An answer that is about one object; of any other the tier as a whole could not be asked.
_MISSING = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NoSuchUpload"})
_CHANGED = frozenset({"412", "PreconditionFailed", "ConditionalRequestConflict"})
_DENIED = frozenset({"403", "AccessDenied", "Forbidden"})
_TRANSIENT = frozenset({"SlowDown", "RequestTimeout", "ServiceUnavailable", "InternalError", "Throttling", "429"})
_IDENTITY = frozenset(
    {
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidToken",
        "NoSuchBucket",
        "PermanentRedirect",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
    }
)


@contextmanager
def asking(tier: str, url: ObjectUrl) -> Iterator[None]:
    """Raise what a request about `url` failed with as one of archiver's errors."""
    try:
        yield
    except ClientError as error:
        raise translate(error, tier, url) from error
    except ParamValidationError as error:  # never sent: user metadata that is not ASCII, which some servers give out
        raise ObjectRefused(path=url, reason=_one_line(error)) from error
    except (BotoCoreError, HTTPError, ConnectionError, TimeoutError) as error:
        raise BucketUnreachable(tier=tier, reason=_one_line(error)) from error
    except KeyError as error:
        raise BucketUnreachable(tier=tier, reason=f"{url}: no answer of an S3 server: it lacks {error}") from error
    except (ResponseParserError, ValueError) as error:
        raise BucketUnreachable(tier=tier, reason=f"{url}: no answer of an S3 server: {_one_line(error)}") from error


def translate(error: ClientError, tier: str, url: ObjectUrl) -> ArchiverError:
    """What a server's refusal means."""
    code, status, said = code_of(error), status_of(error), _said(error)
    if code in _IDENTITY or code in _TRANSIENT or status >= 500 or status == 429:
        return BucketUnreachable(tier=tier, reason=f"{url}: {said}")
    if code in _MISSING:
        return ObjectMissing(path=url)
    if code in _CHANGED or status == 412:
        return ObjectChanged(path=url)
    if code == "InvalidObjectState":
        return ObjectArchived(path=url, storage_class="an archive")
    if code in _DENIED:
        return PermissionRefused(path=url, reason=said)
    return ObjectRefused(path=url, reason=said)


def code_of(error: ClientError) -> str:
    """The server's own word for it: "NoSuchKey", or the status where there is no body (HEAD)."""
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    """The HTTP status."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def retries_of(error: ClientError) -> int:
    """How often the request had been sent before this answer: its first sending may have been obeyed."""
    return int(error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _said(error: ClientError) -> str:
    message = " ".join(str(error.response.get("Error", {}).get("Message", "")).split())
    return f"{code_of(error)} ({message})" if message else code_of(error)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
