"""A tier whose photographs are all released, described by a configuration file that other processes can be given."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from archiver import formats
from archiver.catalog.schema import upgrade
from archiver.config import Settings, load
from archiver.formats import Kind
from archiver.lifecycle.archive import archive
from archiver.lifecycle.opening import open_site
from archiver.lifecycle.outcome import Result
from tests.lifecycle.conftest import fill_with_photographs, scan_all

_CONFIG = """
[catalog]
url = "sqlite:///{state}/catalog.db"
[vault]
path = "{vault}"
[model]
profile = "random-7"
preset = "draft"
threads = 1
[release]
min_free = 0
[recall]
socket = "{state}/recall.sock"
per_hour = "none"
{recall}
[[tier]]
name = "photos"
path = "{root}"
[[rule]]
name = "all"
scheme = "sgc"
min_size = 0
unused_for = "0s"
unchanged_for = "0s"
gate = {{ semantic = -1.0, label_bce = "none", colour = "none" }}
"""


@dataclass(frozen=True, slots=True)
class Released:
    """config: the file. root: the tier. names: what was released, relative to it."""

    config: Path
    root: Path
    names: tuple[str, ...]

    @property
    def settings(self) -> Settings:
        return load(self.config)

    def configured(self, name: str, recall: str) -> Path:
        """Another configuration of the same tier, with more in [recall]."""
        config = self.config.with_name(name)
        config.write_text(self.config.read_text().replace('per_hour = "none"', f'per_hour = "none"\n{recall}'))
        return config


@contextmanager
def open_folder() -> Iterator[Path]:
    """A scratch folder that any user may come to; pytest keeps its own to the user that runs it."""
    with tempfile.TemporaryDirectory(prefix="archiver-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


def release_photographs(state: Path, root: Path, vault: Path, recall: str = "") -> Released:
    """Eight photographs in `root`, recorded and released; everything of ours but the tier's area is in `state`."""
    root.mkdir(exist_ok=True)
    state.mkdir(exist_ok=True)
    names = fill_with_photographs(root)
    config = state / "archiver.toml"
    config.write_text(_CONFIG.format(state=state, vault=vault, root=root, recall=recall))
    released = Released(config, root, tuple(map(str, names)))
    upgrade(released.settings.catalog_url)
    with open_site(released.settings) as site:
        scan_all(site)
        tally = archive(site, paths=[root])
        assert tally.count("release", Result.DONE) == len(names), tally
    return released


def kind_of(path: Path) -> Kind | None:
    """What stands at a path; reads it (through whatever it is seen through)."""
    return kind_in(path.read_bytes())


def kind_in(content: bytes) -> Kind | None:
    envelope = formats.read_envelope(BytesIO(content))
    return None if envelope is None else envelope.kind
