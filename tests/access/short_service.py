"""`archiver-recall` with terms that suit a test: short_service.py SOCKET NAME=VALUE..., fields of Terms."""

from __future__ import annotations

import sys
from pathlib import Path

from archiver.access.protocol import How
from archiver.access.supervisor import serve
from archiver.access.terms import Terms

READ_AS = {
    "deadline": float,
    "reconnect": float,
    "farewell": float,
    "hung": float,
    "refuse": lambda value: value == "True",
    "hows": lambda value: tuple(How[name] for name in value.split("+")),
}

if __name__ == "__main__":
    given = (word.split("=") for word in sys.argv[2:])
    sys.exit(serve(Path(sys.argv[1]), Terms(**{name: READ_AS[name](value) for name, value in given}), []))
