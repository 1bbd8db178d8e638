"""The vault keeps every profile whole, whatever comes and goes."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from archiver.codec.record import LinearGuidance, Sampler, Scheme, Steering
from archiver.errors import ProfileInUse, ProfileInvalid, ProfileUnknown, WeightsDamaged
from archiver.models.profiles import ProfileInfo, read_profile
from archiver.models.vault import Vault

SHARED = np.arange(1000, dtype=np.float32)


def make_profile(folder: Path, name: str, value: float, extra: str = "") -> Path:
    """A profile of two files, the second of which is the same in every profile."""
    folder.mkdir(parents=True)
    lines = [f'name = "{name}"', 'licence = "CC0-1.0"', "long_side = 256", "downscale = 16", "words = 32", extra]
    for file, tensor in (("own.safetensors", np.full(1000, value, np.float32)), ("shared.safetensors", SHARED)):
        save_file({"weights": tensor}, folder / file)
        digest = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        lines += ["[[files]]", f'name = "{file}"', f'sha256 = "{digest}"']
    (folder / "profile.toml").write_text("\n".join(lines))
    return folder


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


@pytest.fixture
def profile(tmp_path: Path, vault: Vault) -> ProfileInfo:
    return vault.import_directory(make_profile(tmp_path / "one", "embedded-1", 1.0))


def weights(vault: Vault, profile: ProfileInfo, name: str = "own.safetensors") -> Path:
    return (vault.directory(profile.key) / name).resolve()


def test_a_profile_is_found_by_what_a_record_names(vault: Vault, profile: ProfileInfo) -> None:
    assert len(profile.key) == 8
    assert vault.find(profile.key) == profile == vault.named("embedded-1") == vault.named(profile.fingerprint.hex())
    assert vault.list() == (profile,)
    assert vault.holds(profile.key)
    vault.require(profile.key)
    vault.verify(profile)
    with pytest.raises(ProfileUnknown, match="0101010101010101"):
        vault.find(b"\1" * 8)
    with pytest.raises(ProfileUnknown, match="nothing"):
        vault.named("nothing")
    assert not vault.holds(b"\1" * 8)


def test_the_packaged_profiles_are_installed_once(
    tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archiver.models.vault.PACKAGED", tmp_path / "weights")
    with pytest.raises(ProfileUnknown, match="weights"):
        vault.install_embedded()
    make_profile(tmp_path / "weights" / "embedded-1", "embedded-1", 1.0)
    make_profile(tmp_path / "weights" / "embedded-2", "embedded-2", 2.0)
    for _ in range(2):
        assert [profile.name for profile in vault.install_embedded()] == ["embedded-1", "embedded-2"]
        assert [profile.name for profile in vault.list()] == ["embedded-1", "embedded-2"]


def test_an_empty_vault_is_no_error(vault: Vault) -> None:
    assert vault.list() == ()
    assert not vault.holds(b"\1" * 8)


def test_an_upgrade_keeps_the_old_profile_beside_the_new_one(
    tmp_path: Path, vault: Vault, profile: ProfileInfo
) -> None:
    newer = vault.import_directory(make_profile(tmp_path / "two", "embedded-1", 2.0))
    assert newer.fingerprint != profile.fingerprint
    assert vault.list() == (profile, newer)
    assert vault.named("embedded-1") == newer
    assert vault.find(profile.key) == profile
    vault.verify(profile)
    # The file that both have is there once.
    assert len(list((vault.path / "objects").iterdir())) == 3


def test_importing_again_changes_nothing_and_heals_what_is_damaged(
    tmp_path: Path, vault: Vault, profile: ProfileInfo
) -> None:
    before = sorted(path.stat().st_ino for path in vault.path.rglob("*") if path.is_file())
    vault.import_directory(tmp_path / "one")
    assert sorted(path.stat().st_ino for path in vault.path.rglob("*") if path.is_file()) == before
    damaged = weights(vault, profile)
    damaged.chmod(0o644)
    damaged.write_bytes(b"rot")
    with pytest.raises(WeightsDamaged, match=r"own\.safetensors"):
        vault.verify(profile)
    vault.import_directory(tmp_path / "one")
    vault.verify(profile)


def test_importing_again_brings_the_presets_that_changed(tmp_path: Path, vault: Vault, profile: ProfileInfo) -> None:
    description = tmp_path / "one" / "profile.toml"
    description.write_text(
        f'{description.read_text()}\n[presets.slow.cocli]\nsampler = "ddim"\nsteps = 9\nguidance = 3.0\n'
    )
    again = vault.import_directory(tmp_path / "one")
    assert again.fingerprint == profile.fingerprint
    assert [(preset.name, preset.steering.steps) for preset in again.presets][-1] == ("slow", 9)
    assert vault.find(profile.key) == again
    vault.verify(again)
    assert not list((vault.path / "incoming").iterdir())


def test_missing_weights_are_noticed_without_reading(vault: Vault, profile: ProfileInfo) -> None:
    weights(vault, profile).unlink()
    assert not vault.holds(profile.key)
    with pytest.raises(WeightsDamaged, match=r"own\.safetensors"):
        vault.require(profile.key)


def test_weights_that_are_not_what_is_pinned_never_get_in(tmp_path: Path, vault: Vault) -> None:
    source = make_profile(tmp_path / "bad", "bad", 1.0)
    with (source / "own.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WeightsDamaged):
        vault.import_directory(source)
    assert vault.list() == ()


def test_a_profile_in_use_is_not_removed(vault: Vault, profile: ProfileInfo) -> None:
    with pytest.raises(ProfileInUse, match="3 live records"):
        vault.remove(profile, live_records=3)
    vault.verify(profile)


def test_removal_keeps_what_another_profile_shares(tmp_path: Path, vault: Vault, profile: ProfileInfo) -> None:
    other = vault.import_directory(make_profile(tmp_path / "two", "embedded-2", 2.0))
    vault.remove(profile, live_records=0)
    assert vault.list() == (other,)
    vault.verify(other)
    assert len(list((vault.path / "objects").iterdir())) == 2
    with pytest.raises(ProfileUnknown):
        vault.remove(profile, live_records=0)


def test_a_profile_travels_as_a_tar(tmp_path: Path, vault: Vault, profile: ProfileInfo) -> None:
    vault.export_tar(profile, tmp_path / "profile.tar")
    elsewhere = Vault(tmp_path / "elsewhere")
    assert elsewhere.import_tar(tmp_path / "profile.tar") == profile
    elsewhere.verify(profile)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_damaged_profile_is_not_exported(tmp_path: Path, vault: Vault, profile: ProfileInfo) -> None:
    weights(vault, profile).unlink()
    with pytest.raises(WeightsDamaged):
        vault.export_tar(profile, tmp_path / "profile.tar")
    assert not (tmp_path / "profile.tar").exists()


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", ".hidden", "folder/file"])
def test_a_hostile_tar_writes_nothing_outside(tmp_path: Path, vault: Vault, name: str) -> None:
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        member = tarfile.TarInfo(name)
        member.size = 4
        tar.addfile(member, io.BytesIO(b"evil"))
    with pytest.raises(ProfileInvalid, match="not part of a profile"):
        vault.import_tar(tmp_path / "evil.tar")
    assert not list(tmp_path.rglob("*escape*"))


def test_links_and_garbage_in_a_tar_are_refused(tmp_path: Path, vault: Vault) -> None:
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        member = tarfile.TarInfo("profile.toml")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    (tmp_path / "garbage.tar").write_bytes(os.urandom(2000))
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    for name in ("links.tar", "garbage.tar", "empty.tar"):
        with pytest.raises(ProfileInvalid):
            vault.import_tar(tmp_path / name)


def _gnu_sparse_header(name: str, size: int) -> bytes:
    """Of a file of zeros that takes nothing in the tar."""
    member = tarfile.TarInfo(name)
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"%011o\0" % size + b"%011o\0" % 0  # one piece, at the end and of no length
    header[483:495] = b"%011o\0" % size
    header[148:156] = b"%06o\0 " % sum(header[:148] + b" " * 8 + header[156:])
    return bytes(header)


@pytest.mark.parametrize("name", ["profile.sha256", "profile.toml", "own.safetensors"])
def test_a_tar_of_a_few_bytes_does_not_fill_the_disk(tmp_path: Path, vault: Vault, name: str) -> None:
    (tmp_path / "bomb.tar").write_bytes(_gnu_sparse_header(name, 8 << 20) + bytes(1024))
    with pytest.raises(ProfileInvalid, match="not part of a profile"):
        vault.import_tar(tmp_path / "bomb.tar")


def test_a_tar_with_a_description_without_end_is_refused(tmp_path: Path, vault: Vault) -> None:
    with tarfile.open(tmp_path / "long.tar", "w") as tar:
        member = tarfile.TarInfo("profile.sha256")
        member.size = (1 << 20) + 1
        tar.addfile(member, io.BytesIO(bytes(member.size)))
    with pytest.raises(ProfileInvalid, match="not part of a profile"):
        vault.import_tar(tmp_path / "long.tar")


def test_a_tar_whose_headers_hold_no_numbers_is_refused(tmp_path: Path, vault: Vault) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("own.safetensors")
        member.size, member.pax_headers = 512, sparse
        tar.addfile(member, io.BytesIO(b"many\n".ljust(512)))
    with pytest.raises(ProfileInvalid, match="many"):
        vault.import_tar(tmp_path / "odd.tar")


def test_what_a_crash_left_is_cleared_and_never_listed(tmp_path: Path, vault: Vault, profile: ProfileInfo) -> None:
    left = vault.path / "incoming" / "half"
    left.mkdir()
    (left / "profile.toml").write_text("half")
    assert vault.list() == (profile,)
    vault.import_directory(tmp_path / "one")
    assert not left.exists()


def test_a_killed_import_leaves_the_old_profiles_or_the_new_one_too(
    tmp_path: Path, vault: Vault, profile: ProfileInfo
) -> None:
    """The importing process is killed at each of its writes and renames in turn, until one import comes through."""
    source = make_profile(tmp_path / "two", "embedded-2", 2.0)
    script = (
        "import os, sys; from pathlib import Path; from archiver.models.vault import Vault\n"
        "left = int(sys.argv[3])\n"
        "def watch(event, _):\n"
        "    global left\n"
        "    if event in ('open', 'os.rename', 'os.symlink', 'os.mkdir'):\n"
        "        left -= 1\n"
        "        if left == 0: os._exit(9)\n"
        "sys.addaudithook(watch)\n"
        "Vault(Path(sys.argv[1])).import_directory(Path(sys.argv[2]))\n"
    )
    codes = []
    for arrow in range(1, 60, 3):
        codes.append(
            subprocess.run([sys.executable, "-c", script, vault.path, source, str(arrow)], check=False).returncode
        )
        for held in vault.list():
            vault.verify(held)
        assert profile in vault.list()
        if codes[-1] == 0:
            break
    assert codes[-1] == 0
    assert 9 in codes
    assert {info.name for info in vault.list()} == {"embedded-1", "embedded-2"}


def test_hostile_profiles_are_refused(tmp_path: Path) -> None:
    source = make_profile(tmp_path / "one", "embedded-1", 1.0)
    toml = (source / "profile.toml").read_text()
    for old, new in (
        ("own.safetensors", "../own.safetensors"),
        ("own.safetensors", "own.pickle"),
        ("own.safetensors", "shared.safetensors"),
        ('name = "embedded-1"', 'name = "../embedded"'),
        ("long_side = 256", 'long_side = "wide"'),
        ("long_side = 256", "long_side = inf"),
        ("long_side = 256", "long_side = 0"),
        ("downscale = 16", "downscale = 0"),
        ("words = 32", ""),
        ("words = 32", "words = 32\npresets.mine.sgc = { sampler = 'ddim', steps = 20, guidance = inf }"),
        ("words = 32", "words = 32\npresets.mine.sgc = { sampler = 'ddim', steps = 0, guidance = 2.0 }"),
        ("words = 32", "words = 32\nmore = " + "[" * 10_000),
        ("[[files]]", "[files"),
    ):
        (source / "profile.toml").write_text(toml.replace(old, new))
        with pytest.raises(ProfileInvalid):
            read_profile(source)


def test_a_profile_may_bring_its_own_schemes_and_presets(tmp_path: Path) -> None:
    extra = """
        schemes = ["sgc", "cocli"]
        [presets.quick.sgc]
        sampler = "dpm-solver"
        steps = 8
        guidance = 1.5
        start = 0.6
        linear = { strength = 0.5, cutoff = 0.2, pixel_steps = 2 }
    """
    profile = read_profile(make_profile(tmp_path / "one", "embedded-1", 1.0, extra))
    assert profile.schemes == (Scheme.SGC, Scheme.COCLI)
    (preset,) = profile.presets
    wanted = Steering(Sampler.DPM_SOLVER, 8, 1.5, 0.6, LinearGuidance(0.5, 0.2, 2)).rounded()
    assert (preset.name, preset.scheme, preset.steering) == ("quick", Scheme.SGC, wanted)
