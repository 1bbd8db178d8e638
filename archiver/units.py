"""Durations and sizes as people write them: "180d", "64 KiB"; exact in both directions, and rounded for sentences."""

from __future__ import annotations

import re
from datetime import timedelta
from decimal import Decimal

_DURATION = re.compile(r"\s*(\d{1,12}(?:\.\d{1,6})?)\s*(s|m|h|d|w|y)\s*", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_SIZE = re.compile(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*(?:([KMGTP])(i?)B?|B)?\s*", re.ASCII | re.IGNORECASE)
_PREFIXES = "KMGTP"
_MICROSECOND = timedelta(microseconds=1)


def parse_duration(value: object) -> object:
    """Read "30d" as a timedelta; units s, m, h, d, w, y (365 days). A timedelta passes through.

    Raises ValueError for anything else: a bare number too, because 180 could mean days as well as seconds.
    """
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no duration: a number and one of s, m, h, d, w, y, as in '180d'")
    try:
        return int(Decimal(match[1]) * _SECONDS[match[2]] * 10**6) * _MICROSECOND
    except OverflowError:
        raise ValueError(f"{value!r} is longer than any clock can count") from None


def format_duration(value: timedelta) -> str:
    """Write a timedelta so that `parse_duration` gives it back exactly: "180d", "36h", "0.5s"."""
    for unit in "dhm":
        count, rest = divmod(value, timedelta(seconds=_SECONDS[unit]))
        if not rest and count:
            return f"{count}{unit}"
    return f"{(Decimal(value // _MICROSECOND) / 10**6).normalize():f}s"


def about_duration(value: timedelta) -> str:
    """Write a timedelta for a sentence, rounded down: "3 days", "1 hour"."""
    for unit, word in (("d", "day"), ("h", "hour"), ("m", "minute"), ("s", "second")):
        count = value // timedelta(seconds=_SECONDS[unit])
        if count or unit == "s":
            return counted(count, word)
    raise AssertionError("unreachable")


def counted(count: int, noun: str) -> str:
    """Write a number of things for a sentence: "1 image", "1,200 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def parse_size(value: object) -> object:
    """Read "64 KiB" as 65536; powers of 1024 with an i, of 1000 without. A whole number is bytes.

    Raises ValueError for anything else.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is no size: a number and a unit, as in '64 KiB' or '2 GB'")
    base = 1024 if match[3] else 1000
    return int(Decimal(match[1]) * base ** (_PREFIXES.index(match[2].upper()) + 1 if match[2] else 0))


def format_size(value: int) -> str:
    """Write a number of bytes so that `parse_size` gives it back exactly: "64 KiB", "2 GB"."""
    exact = [(value, "B")]
    for power, prefix in enumerate(_PREFIXES, start=1):
        exact += [
            (value // base**power, prefix + i) for base, i in ((1000, "B"), (1024, "iB")) if not value % base**power
        ]
    count, unit = min(exact, key=lambda pair: pair[0]) if value else (0, "B")
    return f"{count} {unit}"


def about_size(value: int) -> str:
    """Write a number of bytes for a sentence, three digits: "4.1 kB", "12.0 MB"."""
    size = float(value)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if abs(size) < (1000 if unit == "bytes" else 999.95) or unit == "TB":  # else it would be "1000.0 kB"
            break
        size /= 1000
    return f"{value} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
