"""A codebook learnt on somebody's pictures makes records shorter and pictures no other, and goes wherever its profile
goes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Event

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from archiver.cli.main import cli
from archiver.codec.codebook import Codebook
from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme, SectionKind
from archiver.decoder import learning
from archiver.decoder.local import LocalEngine
from archiver.errors import CodebookNotTaken, ProfileInvalid, RecordCorrupt, TooFewToLearnFrom, WeightsDamaged
from archiver.models.hub.codebooks import load_codebook, with_codebook
from archiver.models.hub.pulling import pin, pulled, unpin
from archiver.models.profiles import ProfileInfo
from archiver.models.vault import Vault
from tests.models.hub.conftest import Shelf

COUNT = 520


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of a hundred subjects in many colours, and a file that is none."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(1)
    subjects = rng.integers(0, 256, (100, 4, 8, 3))
    for number in range(COUNT):
        coarse = Image.fromarray(
            np.clip(subjects[number % 100] + rng.normal(0, 30, (4, 8, 3)), 0, 255).astype(np.uint8)
        )
        pixels = np.asarray(coarse.resize((128, 64))) + rng.normal(0, 12, (64, 128, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f"{number:03}.jpg", quality=95)
    (folder / "torn.jpg").write_bytes((folder / "000.jpg").read_bytes()[:3000])
    return folder


@pytest.fixture(scope="module")
def plain(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> tuple[Vault, ProfileInfo]:
    """A vault with a profile that has learnt nothing."""
    vault = Vault(tmp_path_factory.mktemp("learning") / "vault")
    return vault, vault.import_directory(shelf.vault.directory(shelf.profiles["unclip-l"].key))


@pytest.fixture(scope="module")
def learnt(plain: tuple[Vault, ProfileInfo], collection: Path) -> tuple[Vault, ProfileInfo, str]:
    """The same with what a user's command has learnt, and what it printed."""
    vault, _ = plain
    config = vault.path.parent / "archiver.toml"
    config.write_text(f'[vault]\npath = "{vault.path}"\n[decoder]\ndevice = "cpu"\n')
    command = ["--config", str(config), "models", "learn", "unclip-l", str(collection), "--count", "9999"]
    answer = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert answer.exit_code == 1, answer.output  # one file could not be read
    return vault, vault.named("unclip-l"), answer.output


def coded(vault: Vault, profile: ProfileInfo, picture: Picture, scheme: Scheme) -> tuple[Record, NDArray[np.uint8]]:
    engine = LocalEngine(vault, profile, "default", 1, device="cpu")
    (record,) = engine.encode([picture], scheme)
    (made,) = engine.decode([record])
    engine.close()
    return record, made


def test_the_command_says_what_it_made_of_what(
    plain: tuple[Vault, ProfileInfo], learnt: tuple[Vault, ProfileInfo, str]
) -> None:
    vault, profile, said = learnt
    assert profile.fingerprint != plain[1].fingerprint and profile.fingerprint.hex()[:16] in said
    assert "learnt from 468 pictures" in said and "torn.jpg was left out: " in said
    assert {info.fingerprint for info in vault.list()} == {plain[1].fingerprint, profile.fingerprint}
    vault.verify(profile)


@pytest.mark.parametrize("scheme", [Scheme.COCLI, Scheme.COCLICO])
def test_records_are_coded_by_it_and_decode_to_nearly_the_same(
    scheme: Scheme, shelf: Shelf, plain: tuple[Vault, ProfileInfo], learnt: tuple[Vault, ProfileInfo, str]
) -> None:
    vault, profile, _ = learnt
    record, made = coded(vault, profile, shelf.pictures[0], scheme)
    before, made_before = coded(vault, plain[1], shelf.pictures[0], scheme)
    assert record.profile == profile.key and record.version == 4 and record.has(SectionKind.LEARNT_EMBEDDING)
    assert before.profile == plain[1].key and before.has(SectionKind.EMBEDDING)
    # The seed is of the picture, so that only the embedding differs.
    told_other = replace(coded(vault, profile, shelf.pictures[1], scheme)[0], seed=record.seed)
    engine = LocalEngine(vault, profile, "default", 1, device="cpu")
    (other,) = engine.decode([told_other])
    engine.close()
    assert np.abs(made.astype(int) - made_before).mean() < np.abs(other.astype(int) - made_before).mean()


def test_it_goes_with_its_profile(shelf: Shelf, learnt: tuple[Vault, ProfileInfo, str], tmp_path: Path) -> None:
    vault, profile, _ = learnt
    record, made = coded(vault, profile, shelf.pictures[0], Scheme.COCLI)
    vault.export_tar(profile, tmp_path / "profile.tar")
    elsewhere = Vault(tmp_path / "elsewhere")
    assert elsewhere.import_tar(tmp_path / "profile.tar") == profile
    engine = LocalEngine(elsewhere, profile, "default", 1, device="cpu")
    assert np.array_equal(engine.decode([record])[0], made)
    engine.close()
    # Taken back, it waits with all of its files, and comes again as it was.
    unpin(elsewhere, profile, 0)
    assert pulled(elsewhere, "unclip-l").info.fingerprint == profile.fingerprint
    assert pin(elsewhere, "unclip-l") == profile


def test_what_is_learnt_again_takes_its_place(learnt: tuple[Vault, ProfileInfo, str], tmp_path: Path) -> None:
    shutil.copytree(learnt[0].path, tmp_path / "vault", symlinks=True)
    vault, profile = Vault(tmp_path / "vault"), learnt[1]
    parts = load_codebook(vault.directory(profile.key) / "codebook" / "codebook.safetensors")
    other = Codebook(parts.mean, parts.axes, parts.vectors[:, ::-1].copy())
    again = with_codebook(vault, profile, other, "the same, backwards")
    assert again.fingerprint != profile.fingerprint and len(again.files) == len(profile.files)
    assert vault.named("unclip-l") == again


def test_a_damaged_codebook_is_refused_by_name(
    shelf: Shelf, learnt: tuple[Vault, ProfileInfo, str], tmp_path: Path
) -> None:
    record, _ = coded(learnt[0], learnt[1], shelf.pictures[0], Scheme.COCLI)
    shutil.copytree(learnt[0].path, tmp_path / "vault", symlinks=True)
    vault = Vault(tmp_path / "vault")
    path = (vault.directory(record.profile) / "codebook" / "codebook.safetensors").resolve()
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    engine = LocalEngine(vault, learnt[1], "default", 1, device="cpu")
    with pytest.raises(WeightsDamaged, match="codebook"):
        engine.decode([record])
    engine.close()


def test_a_record_that_wants_a_codebook_of_a_profile_without_is_refused(
    shelf: Shelf, plain: tuple[Vault, ProfileInfo], learnt: tuple[Vault, ProfileInfo, str]
) -> None:
    record, _ = coded(learnt[0], learnt[1], shelf.pictures[0], Scheme.COCLI)
    forged = replace(record, profile=plain[1].key)
    engine = LocalEngine(plain[0], plain[1], "default", 1, device="cpu")
    with pytest.raises(RecordCorrupt, match="codebook"):
        engine.decode([forged])
    engine.close()


def learn(
    vault: Vault, profile: ProfileInfo, paths: list[Path], stop: Event, advance: Callable[[Path], None]
) -> object:
    return learning.learn(vault, profile, paths, "cpu", stop, advance)


def test_whoever_stops_it_finds_nothing_changed(plain: tuple[Vault, ProfileInfo], collection: Path) -> None:
    stop, seen = Event(), []

    def advance(path: Path) -> None:
        seen.append(path)
        stop.set()

    assert learn(*plain, sorted(collection.iterdir()), stop, advance) is None
    assert len(seen) == 1


def test_too_few_pictures_are_refused_before_anything_is_made(
    plain: tuple[Vault, ProfileInfo], collection: Path
) -> None:
    with pytest.raises(TooFewToLearnFrom, match="7 pictures can be read"):
        learn(*plain, [*sorted(collection.glob("00[0-6].jpg")), collection / "torn.jpg"], Event(), lambda _: None)


def test_a_profile_with_short_embeddings_takes_none(tmp_path: Path, collection: Path) -> None:
    vault = Vault(tmp_path / "vault")
    (profile,) = vault.install_embedded()
    with pytest.raises(CodebookNotTaken):
        learn(vault, profile, sorted(collection.iterdir()), Event(), lambda _: None)


@pytest.mark.parametrize("what", ["nothing", "other tensors", "other numbers", "other shapes"])
def test_a_file_that_holds_no_codebook_is_refused(what: str, tmp_path: Path) -> None:
    path = tmp_path / "codebook.safetensors"
    wrong = {"mean": np.zeros(3, np.float16), "axes": np.zeros((1, 1, 4), np.float16)}
    match what:
        case "nothing":
            path.write_bytes(b"")
        case "other tensors":
            save_file({"weights": np.zeros(3, np.float32)}, path)
        case "other numbers":  # which torch knows and NumPy does not
            header = json.dumps({"mean": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}).encode()
            path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        case _:
            save_file(wrong | {"vectors": np.zeros((1, 2, 1), np.float16)}, path)
    with pytest.raises(ProfileInvalid, match="no codebook"):
        load_codebook(path)
