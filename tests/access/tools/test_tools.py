"""What people use to look at, copy and serve photographs gets the image of a released file, on every filesystem."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from archiver.formats import Kind
from tests.access.released import kind_in
from tests.access.tools.conftest import FILESYSTEMS, Disks, name_for
from tests.access.tools.servers import ganesha, samba
from tests.access.tools.table import COPIERS, READERS, run

pytestmark = pytest.mark.root

# It asks for holes before it reads, and where the kernel and not FUSE answers, a placeholder has one. It has the first
# block of the generated image then, and with it the record.
_KEEPS_THE_FIRST_BLOCK = {("fanotify", "tar -S")}


@pytest.mark.parametrize("tool", COPIERS)
@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_a_copy_is_the_generated_image_or_has_its_record(
    way: str, seen: Path, disks: Disks, filesystem: str, tool: str, tmp_path: Path
) -> None:
    copy = COPIERS[tool](seen / filesystem / name_for(way, tool), tmp_path)
    truth = disks.truth.read_bytes()
    if (way, tool) in _KEEPS_THE_FIRST_BLOCK:
        assert kind_in(copy) is Kind.GENERATED
        assert copy == truth[:4096].ljust(len(truth), b"\0")
    else:
        assert copy == truth


@pytest.mark.parametrize("tool", READERS)
@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_a_program_shows_the_generated_image(
    way: str, seen: Path, disks: Disks, filesystem: str, tool: str, tmp_path: Path
) -> None:
    assert READERS[tool](seen / filesystem / name_for(way, tool), tmp_path) == READERS[tool](disks.truth, tmp_path)


@pytest.fixture(scope="module")
def smb_port(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with samba(seen, tmp_path_factory.mktemp("samba")) as port:
        yield port


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_a_samba_client_gets_the_generated_image(
    way: str, smb_port: int, disks: Disks, filesystem: str, tmp_path: Path
) -> None:
    get = f'get "{filesystem}/{name_for(way, "smb")}" {tmp_path}/copy'
    run("smbclient", "//127.0.0.1/photos", "-N", "-p", str(smb_port), "-c", get)
    assert (tmp_path / "copy").read_bytes() == disks.truth.read_bytes()


@pytest.fixture(scope="module")
def nfs_port(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with ganesha([seen / name for name in FILESYSTEMS], tmp_path_factory.mktemp("ganesha")) as port:
        yield port


@pytest.mark.parametrize("filesystem", FILESYSTEMS)
def test_an_nfs_client_gets_the_generated_image(way: str, nfs_port: int, disks: Disks, filesystem: str) -> None:
    address = f"nfs://127.0.0.1/{filesystem}/{name_for(way, 'nfs')}?version=4&nfsport={nfs_port}"
    assert run("nfs-cat", address) == disks.truth.read_bytes()
