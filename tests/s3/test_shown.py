"""Conditions and ranges: what a browser or an SDK asks for is what the same server would have given it before."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archiver.s3.answers import Refusal
from archiver.s3.objects import Headers, ObjectInfo
from archiver.s3.shown import Shown, Wanted, header_value, wanted
from archiver.s3.signing import Asked

MODIFIED = datetime(2019, 7, 14, 10, 20, 30, tzinfo=UTC)
THEN, BEFORE, AFTER = (f"Sun, 14 Jul 2019 10:20:{second} GMT" for second in (30, 29, 31))
ETAG = '"d41d8cd98f00b204e9800998ecf8427e"'


def shown(size: int = 1000) -> Shown:
    return Shown(ETAG.strip('"'), size, MODIFIED, Headers(), {})


def get(of: Shown | None = None, **headers: str) -> Wanted:
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return wanted(Asked("GET", "/b/k", "", given), of or shown())


def refused(of: Shown | None = None, **headers: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        get(of, **headers)
    return caught.value


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"if_match": ETAG}, 200),
        ({"if_match": ETAG.strip('"')}, 200),
        ({"if_match": f'"other", {ETAG}'}, 200),
        ({"if_match": "*"}, 200),
        ({"if_match": '"other"'}, 412),
        ({"if_match": f"W/{ETAG}"}, 412),
        ({"if_none_match": ETAG}, 304),
        ({"if_none_match": f"W/{ETAG}"}, 304),
        ({"if_none_match": "*"}, 304),
        ({"if_none_match": '"other"'}, 200),
        ({"if_modified_since": THEN}, 304),
        ({"if_modified_since": AFTER}, 304),
        ({"if_modified_since": BEFORE}, 200),
        ({"if_unmodified_since": THEN}, 200),
        ({"if_unmodified_since": BEFORE}, 412),
        ({"if_none_match": '"other"', "if_modified_since": AFTER}, 200),  # the tag decides
        ({"if_match": ETAG, "if_unmodified_since": BEFORE}, 200),
        ({"if_match": '"other"', "if_none_match": ETAG}, 412),
        ({"if_modified_since": "yesterday"}, 200),
        ({"if_modified_since": "Sun, 99 Jul 2019 99:99:99 GMT"}, 200),
        ({"range": "bytes=0-9", "if_range": ETAG}, 206),
        ({"range": "bytes=0-9", "if_range": '"other"'}, 200),
        ({"range": "bytes=0-9", "if_range": f"W/{ETAG}"}, 200),
        ({"range": "bytes=0-9", "if_range": THEN}, 206),
        ({"range": "bytes=0-9", "if_range": BEFORE}, 200),
        ({"range": "bytes=0-9", "if_none_match": ETAG}, 304),
    ],
)
def test_conditions_are_those_of_http(headers: dict[str, str], status: int) -> None:
    if status == 412:
        assert refused(**headers).status == status
    else:
        assert get(**headers).status == status


@pytest.mark.parametrize(
    "text", ["bytes=0-9,20-29", "bytes=-", "bytes=9-0", "items=0-9", "bytes 0-9", "bytes=a-b", "", "bytes=1-2-3"]
)
def test_what_is_no_single_range_gets_the_whole(text: str) -> None:
    assert get(range=text) == Wanted(200, 0, 999)


@given(st.integers(0, 400), st.one_of(st.none(), st.integers(0, 500)), st.one_of(st.none(), st.integers(0, 500)))
def test_a_range_is_that_part_of_the_whole(size: int, first: int | None, last: int | None) -> None:
    body = bytes(number % 251 for number in range(size))
    text = f"bytes={'' if first is None else first}-{'' if last is None else last}"
    if first is not None:
        part = body[first:] if last is None else body[first : last + 1]
    else:
        part = body[-last:] if last else b""
    if (first is None and last is None) or (first is not None and last is not None and last < first):
        assert get(shown(size), range=text) == Wanted(200, 0, size - 1)
    elif not part:
        answer = refused(shown(size), range=text)
        assert (answer.status, answer.headers) == (416, {"Content-Range": f"bytes */{size}"})
    else:
        found = get(shown(size), range=text)
        assert found.status == 206
        assert body[found.first : found.last + 1] == part
        assert found.length == len(part)


def info(size: int = 4096, **metadata: str) -> ObjectInfo:
    ours = {f"archiver-{name}": value for name, value in metadata.items()}
    return ObjectInfo(
        "k", "aa", size, 1_700_000_000 * 10**9, headers=Headers("image/png"), metadata={"by": "me", **ours}
    )


def of(size: int = 4096, **changes: Any) -> dict[str, str]:
    marks = {
        "kind": "placeholder",
        "etag": "dd-2",
        "length": "9000",
        "modified": "2019-07-14T10:20:30+00:00",
        **changes,
    }
    return Shown.of(info(size, **marks)).as_headers()


def test_a_released_or_recalled_object_is_shown_as_its_original_and_labelled() -> None:
    released, recalled = of(), of(9000, kind="generated")
    assert released == recalled
    assert released == {
        "Accept-Ranges": "bytes",
        "Content-Type": "image/png",
        "ETag": '"dd-2"',
        "Last-Modified": THEN,
        "x-amz-meta-by": "me",
        "x-archiver-synthetic": "trainedAlgorithmicMedia",
    }
    assert Shown.of(info(kind="placeholder", etag="dd", length="9000", modified="2019-07-14T10:20:30Z")).size == 9000


def test_the_time_of_a_mark_is_told_in_gmt() -> None:
    assert of(modified="2019-07-14T12:20:30+02:00")["Last-Modified"] == THEN
    with pytest.raises(ValueError, match="9999"):
        of(modified="9999-12-31T23:59:59-14:00")


def test_any_other_object_is_shown_as_it_is() -> None:
    headers = Shown.of(info()).as_headers()
    assert headers["ETag"] == '"aa"'
    assert "x-archiver-synthetic" not in headers


@pytest.mark.parametrize("name", ["etag", "length", "modified"])
def test_marks_that_make_no_sense_are_no_facts(name: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        marks = {"kind": "placeholder", "etag": "dd", "length": "9", "modified": "2019-07-14T10:20:30+00:00"}
        del marks[name]
        Shown.of(info(**marks))


def test_metadata_of_any_language_fits_into_a_header() -> None:
    assert header_value("caf\xe9") == "caf\xe9"
    assert header_value("a\r\nX-Evil: 1") == "a X-Evil: 1"
    assert header_value("写真").startswith("=?utf-8?")
    header_value("写真" * 500).encode("latin-1")
