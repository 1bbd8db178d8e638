"""A tier of released photographs for all tests of reading them; tests/access/released.py says what it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_fs import enter_private_mounts, need_root

from tests.access.released import Released, open_folder, release_photographs
from tests.access.watching import site
from tests.lifecycle.conftest import random_vault

__all__ = ["random_vault", "site"]

_RULES = """
[[recall.rule]]
name = "indexers"
process = ["indexer"]
action = "placeholder"
[[recall.rule]]
name = "nosy"
process = ["nosy"]
action = "refuse"
errno = "EBUSY"
"""


@pytest.fixture(scope="session")
def tier(random_vault: Path) -> Iterator[Released]:
    """Released photographs that any user may come to. Tests share it: each says which file it recalls."""
    need_root()
    enter_private_mounts()
    with open_folder() as folder:
        released = release_photographs(folder / "state", folder / "photos", random_vault, _RULES)
        (released.root / "resident.txt").write_text("as ever")
        yield released
