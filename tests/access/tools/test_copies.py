"""A placeholder that any program has copied elsewhere, unwatched, is recalled there: the copy carries its record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures_fs import need_programs, run

from archiver.catalog.rows import State
from archiver.config import load
from archiver.formats import Kind
from archiver.lifecycle.opening import open_site
from tests.access.released import Released, kind_in, open_folder
from tests.access.tools.table import COPIERS, PROGRAMS
from tests.cli.installation import call
from tests.lifecycle.conftest import row_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def elsewhere(tier: Released) -> Iterator[Path]:
    """A tier of an installation that knows nothing, with a copy of one placeholder by every program, all recalled."""
    need_programs(*PROGRAMS)
    with open_folder() as folder, open_folder() as work:
        root = folder / "photos"
        root.mkdir()
        for name, tool in COPIERS.items():
            (work / name).mkdir()
            run("cp", "--preserve=timestamps", tier.root / "wide.jpg", work / f"{name}.jpg")
            copy = tool(work / f"{name}.jpg", work / name)
            assert kind_in(copy) is Kind.PLACEHOLDER, name
            (root / f"{name}.jpg").write_bytes(copy)
        config = folder / "archiver.toml"
        text = tier.config.read_text().replace(str(tier.config.parent), str(folder)).replace(str(tier.root), str(root))
        config.write_text(text)
        call("--config", config, "db", "upgrade").ok()
        call("--config", config, "rebuild").ok()
        call("--config", config, "recall", root).ok()
        yield root


@pytest.mark.parametrize("tool", COPIERS)
def test_a_copy_of_a_placeholder_is_recalled_where_it_is(elsewhere: Path, tier: Released, tool: str) -> None:
    image = (elsewhere / f"{tool}.jpg").read_bytes()
    assert kind_in(image) is Kind.GENERATED
    assert image == (elsewhere / "cat.jpg").read_bytes(), "one record, one image"
    assert len(image) == (tier.root / "wide.jpg").stat().st_size


def test_a_copy_of_a_generated_image_is_known_and_never_encoded(elsewhere: Path) -> None:
    run("cp", elsewhere / "cat.jpg", elsewhere / "again.jpg")
    config = elsewhere.parent / "archiver.toml"
    call("--config", config, "rebuild").ok()
    with open_site(load(config)) as site:
        assert row_of(site, elsewhere / "again.jpg").state is State.RECALLED


def test_a_copy_that_has_no_more_than_the_first_block_is_recalled_as_well(elsewhere: Path) -> None:
    image = (elsewhere / "cat.jpg").read_bytes()
    torn = elsewhere / "torn.jpg"
    torn.write_bytes(image[:4096].ljust(len(image), b"\0"))
    config = elsewhere.parent / "archiver.toml"
    call("--config", config, "rebuild").ok()
    assert kind_in(torn.read_bytes()) is Kind.PLACEHOLDER
    call("--config", config, "recall", torn).ok()
    assert torn.read_bytes() == image
