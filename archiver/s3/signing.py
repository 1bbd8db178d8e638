"""Who may read through the gateway: AWS Signature Version 4, in headers or in a presigned URL, or a bearer token.

A signature is checked by making it again with botocore's own signer, over what the request says is signed, and compared
in constant time. Source: AWS, "Authenticating Requests (AWS Signature Version 4)", Amazon S3 API Reference.
"""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, unquote_plus, unquote_to_bytes

from botocore.auth import EMPTY_SHA256_HASH, UNSIGNED_PAYLOAD, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from archiver.errors import ConfigInvalid
from archiver.s3.answers import Refusal

ALGORITHM = "AWS4-HMAC-SHA256"
SKEW_SECONDS = 15 * 60.0
LONGEST_SECONDS = 7 * 24 * 3600  # that a presigned URL may be good for
_MOST_SIGNED = 64  # headers
_CREDENTIAL = re.compile(r"([^/\s]{1,128})/(\d{8})/([a-z0-9-]{1,64})/s3/aws4_request", re.ASCII)
_HEADER = re.compile(
    rf"{ALGORITHM}\s+Credential=([^,\s]+)\s*,\s*SignedHeaders=([^,\s]+)\s*,\s*Signature=([0-9a-f]{{64}})\s*"
)
_KEY_LINE = re.compile(r"([!-.0-~]{3,128})\s+([!-~]{16,128})")  # no slash in an access key: it ends it in a credential


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it came: path and query still encoded, names of headers in lower case."""

    method: str
    path: str
    query: str
    headers: Sequence[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The value of a header; several are joined as HTTP does. None where there is none."""
        found = [value for its, value in self.headers if its == name]
        return ", ".join(found) if found else None

    @property
    def parameters(self) -> list[tuple[str, str]]:
        """The query, decoded."""
        pairs = (part.partition("=") for part in self.query.split("&") if part)
        return [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]

    def parameter(self, name: str) -> str | None:
        """One parameter of the query. Raises Refusal where it is given twice."""
        found = [value for its, value in self.parameters if its == name]
        if len(found) > 1:
            raise Refusal("InvalidArgument", f"{name} is given twice")
        return found[0] if found else None


class _Claim(NamedTuple):
    """What a request says of its signature."""

    access_key: str
    region: str
    timestamp: str
    signed: tuple[str, ...]
    signature: str
    payload: str


class Guard:
    """Lets in whoever has one of the keys, or the token; everybody where there is neither."""

    def __init__(self, keys: Mapping[str, str], token: str | None, clock: Callable[[], float] = time.time) -> None:
        self._keys = dict(keys)
        self._token = None if token is None else token.encode()
        self._clock = clock

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return not self._keys and self._token is None

    def admit(self, asked: Asked) -> None:
        """Raises Refusal for whom it does not know."""
        if self.is_open:
            return
        authorization = asked.header("authorization") or ""
        if authorization.startswith("Bearer "):
            self._by_token(authorization.removeprefix("Bearer ").strip())
        elif authorization:
            self._by_signature(asked, self._from_header(asked, authorization))
        elif asked.parameter("X-Amz-Algorithm") is not None:
            self._by_signature(asked, self._from_query(asked))
        elif asked.parameter("AWSAccessKeyId") is not None:
            raise Refusal("InvalidRequest", f"use {ALGORITHM}: signatures of version 2 are not taken")
        else:
            raise Refusal("AccessDenied", "a signature or a token is needed")

    def _by_token(self, shown: str) -> None:
        if self._token is None or not hmac.compare_digest(shown.encode("latin-1", "replace"), self._token):
            raise Refusal("AccessDenied", "a wrong token")

    def _from_header(self, asked: Asked, authorization: str) -> _Claim:
        match = _HEADER.fullmatch(authorization)
        if match is None:
            raise Refusal("InvalidRequest", f"the Authorization header is neither {ALGORITHM} nor Bearer")
        timestamp = asked.header("x-amz-date") or ""
        when = _moment(timestamp)
        if abs(self._clock() - when) > SKEW_SECONDS:
            raise Refusal("RequestTimeTooSkewed", "the request's time and the gateway's are too far apart")
        # curl leaves it out; it is the hash of a body, and there is none.
        payload = asked.header("x-amz-content-sha256") or EMPTY_SHA256_HASH
        if not re.fullmatch(r"[0-9a-f]{64}|UNSIGNED-PAYLOAD", payload):
            raise Refusal("InvalidRequest", "x-amz-content-sha256 is none that a GET can have")
        return self._claim(match[1], match[2], match[3], timestamp, payload)

    def _from_query(self, asked: Asked) -> _Claim:
        given = {name: asked.parameter(f"X-Amz-{name}") or "" for name in ("Algorithm", "Date", "Expires")}
        if given["Algorithm"] != ALGORITHM or not re.fullmatch(r"[0-9]{1,6}", given["Expires"]):
            raise Refusal("InvalidArgument", "X-Amz-Algorithm or X-Amz-Expires makes no sense")
        since = self._clock() - _moment(given["Date"])
        if since < -SKEW_SECONDS:
            raise Refusal("AccessDenied", "the URL is not valid yet")
        if since > min(int(given["Expires"]), LONGEST_SECONDS):
            raise Refusal("AccessDenied", "the URL has expired")
        credential, signed, signature = (
            asked.parameter(f"X-Amz-{name}") or "" for name in ("Credential", "SignedHeaders", "Signature")
        )
        return self._claim(credential, signed, signature, given["Date"], UNSIGNED_PAYLOAD)

    def _claim(self, credential: str, signed: str, signature: str, timestamp: str, payload: str) -> _Claim:
        match = _CREDENTIAL.fullmatch(credential)
        if match is None or match[2] != timestamp[:8]:
            raise Refusal("InvalidRequest", "the credential is not KEY/DATE/REGION/s3/aws4_request, of the same day")
        names = tuple(signed.lower().split(";"))
        if "host" not in names or len(set(names)) < len(names) or len(names) > _MOST_SIGNED:
            raise Refusal("AccessDenied", "the signed headers must have host, and none twice")
        return _Claim(match[1], match[3], timestamp, names, signature, payload)

    def _by_signature(self, asked: Asked, claim: _Claim) -> None:
        unsigned = {name for name, _ in asked.headers if name.startswith("x-amz-")} - set(claim.signed)
        # As S3: what steers the answer must be signed; the hash of a body that there is not does not.
        if unsigned - {"x-amz-content-sha256"}:
            raise Refusal("AccessDenied", f"headers that must be signed were not: {', '.join(sorted(unsigned))}")
        secret = self._keys.get(claim.access_key)
        if secret is None:
            raise Refusal("InvalidAccessKeyId", "the access key is not known here")
        if not hmac.compare_digest(_signature(asked, claim, secret).encode(), claim.signature.encode()):
            raise Refusal("SignatureDoesNotMatch", "the signature is not the one that the secret key makes")


class _Again(S3SigV4Auth):  # type: ignore[misc]
    """botocore's signer, over the headers that the request says were signed."""

    def __init__(self, claim: _Claim, secret: str) -> None:
        super().__init__(Credentials(claim.access_key, secret), "s3", claim.region)
        self._claim = claim

    def headers_to_sign(self, request: AWSRequest) -> Any:
        found = HTTPHeaders()
        for name in self._claim.signed:
            found[name] = request.headers.get(name) or ""
        return found

    def payload(self, request: AWSRequest) -> str:  # noqa: ARG002
        return self._claim.payload


def _signature(asked: Asked, claim: _Claim, secret: str) -> str:
    """The signature that the secret makes of a request."""
    headers = {name: asked.header(name) or "" for name in claim.signed}
    request = AWSRequest(asked.method, f"http://gateway{canonical_path(asked.path)}", headers)
    request.params = [pair for pair in asked.parameters if pair[0] != "X-Amz-Signature"]
    request.context["timestamp"] = claim.timestamp
    signer = _Again(claim, secret)
    made: str = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    return made


def canonical_path(path: str) -> str:
    """A path as S3 signs it: every byte but letters, digits, "-._~" and "/" encoded, once."""
    return quote(unquote_to_bytes(path), safe="/-_.~")


def _moment(timestamp: str) -> float:
    try:
        if not re.fullmatch(r"\d{8}T\d{6}Z", timestamp, re.ASCII):
            raise ValueError(timestamp)
        return datetime.strptime(timestamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise Refusal("AccessDenied", "the date of the signature is missing, or none") from None


def read_keys(file: Path) -> dict[str, str]:
    """The keys of a file, "ACCESS_KEY SECRET_KEY" a line; empty lines and those from "#" on do not count.

    Raises ConfigInvalid, which names no key.
    """
    keys: dict[str, str] = {}
    for number, line in enumerate(_lines(file, "gateway.keys_file"), start=1):
        if not line or line.startswith("#"):
            continue
        match = _KEY_LINE.fullmatch(line)
        if match is None:
            raise ConfigInvalid(path=file, problem=f"line {number} is not ACCESS_KEY SECRET_KEY (16 signs or more)")
        if match[1] in keys:
            raise ConfigInvalid(path=file, problem=f"line {number} has an access key that was there before")
        keys[match[1]] = match[2]
    if not keys:
        raise ConfigInvalid(path=file, problem="it has no keys: nobody could read")
    return keys


def read_token(file: Path) -> str:
    """The token of a file. Raises ConfigInvalid where it is too short to keep anybody out."""
    lines = [line for line in _lines(file, "gateway.token_file") if line]
    if len(lines) != 1 or not re.fullmatch(r"[!-~]{16,512}", lines[0]):
        raise ConfigInvalid(path=file, problem="a token is one line of 16 to 512 letters, digits and signs")
    return lines[0]


def _lines(file: Path, key: str) -> list[str]:
    try:
        return [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise ConfigInvalid(path=file, problem=f"{key} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(path=file, problem=f"{key} is not UTF-8 text") from None
