"""Only who has a key or the token is let in, whatever a request claims; and who has one is, whatever they ask for."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import boto3
import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from hypothesis import given, settings
from hypothesis import strategies as st

from archiver.errors import ConfigInvalid
from archiver.s3.answers import Refusal
from archiver.s3.signing import LONGEST_SECONDS, SKEW_SECONDS, Asked, Guard, read_keys, read_token

KEY, SECRET = "AKIAEXAMPLE", "correct-horse-battery-staple"
TOKEN = "a-token-that-is-long-enough"
HOST = "gateway.example:8466"


def guard(now: float | None = None) -> Guard:
    return Guard({KEY: SECRET, "OTHER": "another-secret-key"}, TOKEN, clock=lambda: now or time.time())


def signed(path: str = "/photos/a.jpg", query: str = "", secret: str = SECRET, **headers: str) -> Asked:
    """A request as an SDK sends it."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    url = f"http://{HOST}{path}" + (f"?{query}" if query else "")
    request = AWSRequest("GET", url, {"Host": HOST, **given})
    S3SigV4Auth(Credentials(KEY, secret), "s3", "eu-central-1").add_auth(request)
    return Asked("GET", path, query, [(name.lower(), value) for name, value in request.headers.items()])


def presigned(key: str = "a.jpg", expires: int = 600, secret: str = SECRET, **asked: Any) -> Asked:
    client = boto3.client(
        "s3",
        endpoint_url=f"http://{HOST}",
        region_name="us-east-1",
        aws_access_key_id=KEY,
        aws_secret_access_key=secret,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    made = client.generate_presigned_url("get_object", {"Bucket": "photos", "Key": key, **asked}, ExpiresIn=expires)
    url = urlsplit(made)
    return Asked("GET", url.path, url.query, [("host", HOST)])


def refusal(asked: Asked, by: Guard | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        (by or guard()).admit(asked)
    assert SECRET not in str(caught.value)
    return caught.value.code


def with_header(asked: Asked, name: str, value: str) -> Asked:
    kept = [pair for pair in asked.headers if pair[0] != name]
    return Asked(asked.method, asked.path, asked.query, [*kept, (name, value)])


# -- let in ------------------------------------------------------------------------------------------------------------


def test_a_signed_request_is_let_in() -> None:
    guard().admit(signed())
    guard().admit(signed(range="bytes=0-9", x_amz_checksum_mode="ENABLED"))
    guard().admit(signed(query="list-type=2&prefix=a%2Fb&delimiter=%2F"))


def test_a_presigned_url_is_let_in_and_so_is_its_head() -> None:
    guard().admit(presigned())
    guard().admit(presigned(ResponseContentType="image/jpeg"))
    asked = presigned()
    assert refusal(Asked("HEAD", asked.path, asked.query, asked.headers)) == "SignatureDoesNotMatch"  # as S3 says


def test_a_token_is_let_in() -> None:
    guard().admit(Asked("GET", "/photos/a.jpg", "", [("authorization", f"Bearer {TOKEN}")]))


def test_headers_that_a_proxy_adds_change_nothing() -> None:
    guard().admit(with_header(signed(), "x-forwarded-for", "192.0.2.1"))
    guard().admit(with_header(presigned(), "user-agent", "a browser"))


def test_query_and_path_may_be_encoded_otherwise_than_they_were_signed() -> None:
    asked = signed(query="list-type=2&prefix=a%2Fb")
    guard().admit(Asked("GET", asked.path, "list-type=2&prefix=a/b", asked.headers))
    asked = signed("/photos/a%20b%28c%29.jpg")
    guard().admit(Asked("GET", "/photos/a%20b(c).jpg", "", asked.headers))


@settings(deadline=None, max_examples=50)  # making a client takes its time
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40))
def test_any_key_can_be_asked_for(key: str) -> None:
    guard().admit(signed(f"/photos/{quote(key, safe='/-_.~')}"))
    guard().admit(presigned(key))


# -- kept out ----------------------------------------------------------------------------------------------------------


def test_nobody_is_let_in_without_showing_anything() -> None:
    assert refusal(Asked("GET", "/photos/a.jpg", "", [("host", HOST)])) == "AccessDenied"


def test_a_wrong_secret_key_or_token_is_refused() -> None:
    assert refusal(signed(secret="not-the-secret-of-the-key")) == "SignatureDoesNotMatch"
    assert refusal(presigned(secret="not-the-secret-of-the-key")) == "SignatureDoesNotMatch"
    assert refusal(signed(), Guard({"OTHER": SECRET}, None)) == "InvalidAccessKeyId"
    for wrong in ("", TOKEN[:-1], TOKEN + "x", "caf\xe9"):
        assert refusal(Asked("GET", "/p/a", "", [("authorization", f"Bearer {wrong}")])) == "AccessDenied"
    # Where there is no token, none can be right.
    bearer = Asked("GET", "/p/a", "", [("authorization", "Bearer None")])
    assert refusal(bearer, Guard({KEY: SECRET}, None)) == "AccessDenied"


@pytest.mark.parametrize(
    ("path", "query"), [("/photos/b.jpg", ""), ("/photos/a.jpg/", ""), ("/photos/a.jpg", "versionId=1")]
)
def test_a_signature_is_for_one_request_alone(path: str, query: str) -> None:
    asked = signed()
    assert refusal(Asked("GET", path, query, asked.headers)) == "SignatureDoesNotMatch"
    assert refusal(Asked("PUT", asked.path, asked.query, asked.headers)) == "SignatureDoesNotMatch"
    asked = presigned()
    more = f"{asked.query}&{query}" if query else asked.query
    assert refusal(Asked("GET", path, more, asked.headers)) == "SignatureDoesNotMatch"


def test_a_signed_header_cannot_be_changed_and_an_unsigned_one_cannot_steer() -> None:
    assert refusal(with_header(signed(range="bytes=0-9"), "range", "bytes=0-99")) == "SignatureDoesNotMatch"
    assert refusal(with_header(signed(), "host", "elsewhere")) == "SignatureDoesNotMatch"
    assert refusal(with_header(signed(), "x-amz-security-token", "x")) == "AccessDenied"


def test_a_request_is_good_for_a_quarter_of_an_hour() -> None:
    now, asked = time.time(), signed()
    guard(now + SKEW_SECONDS - 60).admit(asked)
    assert refusal(asked, guard(now + SKEW_SECONDS + 60)) == "RequestTimeTooSkewed"
    assert refusal(asked, guard(now - SKEW_SECONDS - 60)) == "RequestTimeTooSkewed"


def test_a_presigned_url_expires() -> None:
    now, asked = time.time(), presigned(expires=600)
    guard(now + 590).admit(asked)
    assert refusal(asked, guard(now + 660)) == "AccessDenied"
    assert refusal(asked, guard(now - SKEW_SECONDS - 60)) == "AccessDenied"  # made by a clock far ahead
    forever = presigned(expires=LONGEST_SECONDS)
    guard(now + LONGEST_SECONDS - 60).admit(forever)
    longer = Asked("GET", forever.path, forever.query.replace("=604800", "=999999"), forever.headers)
    assert refusal(longer) == "SignatureDoesNotMatch"


def test_version_two_of_signatures_is_refused_by_name() -> None:
    asked = Asked("GET", "/photos/a.jpg", f"AWSAccessKeyId={KEY}&Signature=x&Expires=99999999999", [("host", HOST)])
    assert refusal(asked) == "InvalidRequest"


@settings(deadline=None, max_examples=50)  # making a client takes its time
@given(st.text(max_size=200))
def test_nothing_in_an_authorization_header_breaks_the_guard(text: str) -> None:
    refusal(with_header(signed(), "authorization", text))
    refusal(with_header(signed(), "authorization", f"AWS4-HMAC-SHA256 Credential={text}"))


@settings(deadline=None, max_examples=50)  # making a client takes its time
@given(st.lists(st.tuples(st.sampled_from(["Algorithm", "Date", "Expires", "Credential", "SignedHeaders", "Signature"]),
                          st.text(max_size=30)), min_size=1, max_size=8))  # fmt: skip
def test_nothing_in_a_query_breaks_the_guard(pairs: list[tuple[str, str]]) -> None:
    query = "&".join(f"X-Amz-{name}={quote(value)}" for name, value in pairs)
    refusal(Asked("GET", "/photos/a.jpg", query, [("host", HOST)]))
    refusal(Asked("GET", "/photos/a.jpg", f"{presigned().query}&{query}", [("host", HOST)]))


# -- files of keys -----------------------------------------------------------------------------------------------------


def test_keys_and_token_are_read_and_never_echoed(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the family\n\n{KEY} {SECRET}\nOTHER\tanother-secret-key\n")
    assert read_keys(file) == {KEY: SECRET, "OTHER": "another-secret-key"}
    file.write_text(TOKEN + "\n")
    assert read_token(file) == TOKEN
    for text in (f"{KEY}{SECRET}", f"{KEY} short", f"a/b {SECRET}", "", f"{KEY} {SECRET}\n{KEY} {SECRET}"):
        file.write_text(text)
        with pytest.raises(ConfigInvalid) as caught:
            read_keys(file)
        assert SECRET not in caught.value.message
    for text in ("short", "", f"{TOKEN}\n{TOKEN}"):
        file.write_text(text)
        with pytest.raises(ConfigInvalid):
            read_token(file)
    with pytest.raises(ConfigInvalid, match=r"gateway\.keys_file cannot be read"):
        read_keys(tmp_path / "none")


def test_without_keys_and_token_everybody_is_let_in() -> None:
    nobody = Guard({}, None)
    assert nobody.is_open
    nobody.admit(Asked("GET", "/photos/a.jpg", "", []))
