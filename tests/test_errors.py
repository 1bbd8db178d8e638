"""Promises of the failures that users meet."""

from __future__ import annotations

from collections.abc import Iterator

from archiver import errors


def classes(of: type[errors.ArchiverError] = errors.ArchiverError) -> Iterator[type[errors.ArchiverError]]:
    yield of
    for one in of.__subclasses__():
        yield from classes(one)


def test_a_hint_is_true_of_every_failure_of_its_kind() -> None:
    """Facts are filled into messages alone: in a hint they would be shown as the braces that they stand in."""
    assert [one.__name__ for one in classes() if "{" in one.hint] == []
