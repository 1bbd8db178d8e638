"""Weights come from a hub whole or not at all, and are used only when their hashes were accepted."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from archiver.errors import (
    DiskFull,
    HubFileChanged,
    HubFileMissing,
    HubOffline,
    HubUnreachable,
    ProfileInUse,
    ProfileInvalid,
    ProfileNotPulled,
    ProfileUnknown,
    WeightsDamaged,
)
from archiver.models.hub.pulling import Hub, all_pulled, pin, pull, pulled, pulled_folder, unpin
from archiver.models.hub.recipes import Recipe, find_recipe, packaged, read_recipe
from archiver.models.vault import Vault
from tests.models.hub.hub_server import COMMIT, HubServer, serving

pytest.importorskip("huggingface_hub")
RECIPE = """
format = "archiver-hub-1"
name = "tiny"
about = "two files"
licence = "CC0-1.0"
long_side = 64
multiple = 64
words = 1
schemes = ["cocli"]
[memory]
decode_gpu = 1
decode_cpu = 2
encode_cpu = 3
[backend]
cell = 16
[presets.default.cocli]
sampler = "ddim"
steps = 2
guidance = 1.0
[[files]]
name = "unet/config.json"
repository = "someone/model"
revision = "main"
path = "unet/config.json"
[[files]]
name = "unet/diffusion_pytorch_model.safetensors"
repository = "someone/model"
revision = "main"
path = "unet/diffusion_pytorch_model.fp16.safetensors"
"""
BIG = "unet/diffusion_pytorch_model.fp16.safetensors"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    folder = tmp_path / "served" / "someone" / "model" / "unet"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"a": 1}')
    save_file({"w": np.random.default_rng(1).random(1 << 18, np.float32)}, folder / Path(BIG).name)  # 1 MiB
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))  # no cache of this machine has a say
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    with serving(tmp_path / "served") as server:
        yield server


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return find_recipe(str(tmp_path / "tiny.toml"))


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault(tmp_path / "vault")


def quiet(_: str) -> None: ...


def served(hub: HubServer, path: str = BIG) -> Path:
    return hub.root / "someone" / "model" / path


def with_hash(recipe: Recipe, tmp_path: Path, sha256: str) -> Recipe:
    (tmp_path / "pinned.toml").write_text(recipe.text + f'sha256 = "{sha256}"\n')
    return read_recipe(tmp_path / "pinned.toml")


# -- pulling and accepting ---------------------------------------------------------------------------------------------


def test_what_was_pulled_is_no_profile_before_it_is_accepted(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    profile = pull(recipe, vault, Hub(hub.endpoint), quiet)
    assert vault.list() == ()
    with pytest.raises(ProfileUnknown):
        vault.named("tiny")
    assert [one.info for one in all_pulled(vault)] == [profile]
    accepted = pin(vault, "tiny")
    assert vault.list() == (accepted,) and accepted == profile
    vault.verify(accepted)
    assert not pulled_folder(vault, "tiny").exists()
    with pytest.raises(ProfileNotPulled):
        pin(vault, "tiny")


def test_the_vaults_own_copy_says_commit_size_and_hash_of_every_file(
    hub: HubServer, recipe: Recipe, vault: Vault
) -> None:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    profile = pin(vault, "tiny")
    kept = read_recipe(vault.directory(profile.key) / "profile.toml")
    assert kept.is_pinned and not recipe.is_pinned
    for source in kept.sources:
        data = served(hub, source.path).read_bytes()
        assert (source.revision, source.size) == (COMMIT, len(data))
        assert source.sha256 == hashlib.sha256(data).hexdigest()


def test_a_pinned_recipe_pulls_the_very_same_profile_again(
    hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path
) -> None:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    profile = pin(vault, "tiny")
    kept = read_recipe(vault.directory(profile.key) / "profile.toml")
    elsewhere = Vault(tmp_path / "elsewhere")
    assert pull(kept, elsewhere, Hub(hub.endpoint), quiet) == profile == pin(elsewhere, "tiny")


def test_what_drives_the_networks_is_part_of_the_fingerprint(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text(RECIPE.replace("cell = 16", "cell = 8"))
    assert find_recipe(str(tmp_path / "other.toml")).info.fingerprint != recipe.info.fingerprint


def test_what_changed_after_it_came_is_not_accepted(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    file = pulled_folder(vault, "tiny") / recipe.sources[1].name
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(WeightsDamaged):
        pin(vault, "tiny")
    assert vault.list() == ()


def test_unpinning_takes_a_profile_out_and_keeps_its_files(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    profile = pin(vault, "tiny")
    with pytest.raises(ProfileInUse):
        unpin(vault, profile, live_records=1)
    assert vault.list() == (profile,) and not all_pulled(vault)
    unpin(vault, profile, live_records=0)
    assert vault.list() == ()
    assert pulled(vault, "tiny").is_pinned
    downloads = len(hub.downloads())
    assert pin(vault, "tiny") == profile
    vault.verify(profile)
    assert len(hub.downloads()) == downloads


# -- a network that fails ----------------------------------------------------------------------------------------------


def test_a_pull_that_was_killed_goes_on_where_it_was(
    hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; import huggingface_hub.constants as constants\n"
        "constants.DOWNLOAD_CHUNK_SIZE = 1 << 16\n"
        "from archiver.models.hub.pulling import Hub, pull; from archiver.models.hub.recipes import find_recipe\n"
        "from archiver.models.vault import Vault\n"
        "pull(find_recipe(sys.argv[1]), Vault(Path(sys.argv[2])), Hub(sys.argv[3]), print)\n"
    )
    hub.stall_after = 300_000
    words = [sys.executable, "-c", script, str(tmp_path / "tiny.toml"), str(vault.path), hub.endpoint]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert hub.stalled.wait(60)
        partial = pulled_folder(vault, "tiny")
        while not any(file.stat().st_size >= 1 << 18 for file in partial.rglob("*.partial")):
            assert process.poll() is None
            os.sched_yield()
        process.kill()
    assert not all_pulled(vault)
    before = len(hub.asked)
    hub.stall_after = None
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    again = [(path, asked) for method, path, asked in hub.asked[before:] if method == "GET"]
    assert [path for path, _ in again] == [BIG]  # the small file was there
    assert int(again[0][1].removeprefix("bytes=").rstrip("-")) >= 1 << 18
    vault.verify(pin(vault, "tiny"))


def test_nothing_is_brought_twice(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    for _ in range(2):
        pull(recipe, vault, Hub(hub.endpoint), quiet)
    assert len(hub.downloads()) == 2


def test_weights_that_another_profile_brought_are_not_brought_again(
    hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path
) -> None:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    pin(vault, "tiny")
    (tmp_path / "second.toml").write_text(RECIPE.replace('name = "tiny"', 'name = "second"'))
    pull(find_recipe(str(tmp_path / "second.toml")), vault, Hub(hub.endpoint), quiet)
    assert [path for path, _ in hub.downloads()].count(BIG) == 1


def test_a_hub_that_is_not_there_is_named(recipe: Recipe, vault: Vault, hub: HubServer) -> None:
    endpoint = hub.endpoint
    hub.shutdown()
    hub.server_close()
    with pytest.raises(HubUnreachable, match=r"127\.0\.0\.1"):
        pull(recipe, vault, Hub(endpoint), quiet)


def test_offline_means_that_nobody_is_asked(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    with pytest.raises(HubOffline):
        pull(recipe, vault, Hub(hub.endpoint, offline=True), quiet)
    assert hub.asked == []
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    asked = len(hub.asked)
    vault.verify(pin(vault, "tiny"))  # needs no hub
    assert len(hub.asked) == asked


def test_a_file_that_was_withdrawn_is_named(hub: HubServer, recipe: Recipe, vault: Vault) -> None:
    served(hub).unlink()
    with pytest.raises(HubFileMissing, match=r"fp16\.safetensors"):
        pull(recipe, vault, Hub(hub.endpoint), quiet)
    shutil.rmtree(hub.root / "someone")
    with pytest.raises(HubFileMissing, match="someone/model"):
        pull(recipe, vault, Hub(hub.endpoint), quiet)


def test_a_mirror_never_sees_the_hub_s_token(
    hub: HubServer, recipe: Recipe, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    assert set(hub.tokens) == {""}


def test_a_full_disk_is_noticed_before_anything_comes(
    hub: HubServer, recipe: Recipe, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("archiver.models.hub.pulling._SPARE", 1 << 60)
    with pytest.raises(DiskFull):
        pull(recipe, vault, Hub(hub.endpoint), quiet)
    assert hub.downloads() == []


# -- a hub that has something else -------------------------------------------------------------------------------------


def test_other_weights_than_the_recipe_pins_are_refused_before_they_come(
    hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path
) -> None:
    with pytest.raises(HubFileChanged, match="pins 0000"):
        pull(with_hash(recipe, tmp_path, "0" * 64), vault, Hub(hub.endpoint), quiet)
    assert hub.downloads() == []


def test_bytes_that_are_not_what_was_announced_are_refused_and_forgotten(
    hub: HubServer, recipe: Recipe, vault: Vault
) -> None:
    hub.lie = "f" * 64
    with pytest.raises(HubFileChanged, match="announced ffff"):
        pull(recipe, vault, Hub(hub.endpoint), quiet)
    assert not all_pulled(vault)
    hub.lie = None
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    vault.verify(pin(vault, "tiny"))


def test_a_small_file_that_is_not_what_the_recipe_pins_is_refused(
    hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path
) -> None:
    """Of small files a hub announces no SHA-256: it is the bytes that are compared."""
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    kept = read_recipe(vault.directory(pin(vault, "tiny").key) / "profile.toml")
    served(hub, "unet/config.json").write_text('{"a": 2}')  # as long as before
    hub.commit = COMMIT.replace("1", "2")
    with pytest.raises(HubFileChanged, match=r"config\.json"):
        pull(kept, Vault(tmp_path / "elsewhere"), Hub(hub.endpoint), quiet)


# -- recipes -----------------------------------------------------------------------------------------------------------


def test_every_packaged_recipe_says_all_that_it_must() -> None:
    names = {recipe.info.name for recipe in packaged()}
    assert names == {"sd15", "sd15-tcd", "unclip-l", "unclip-h"}
    for recipe in packaged():
        own = {(preset.name, preset.scheme) for preset in recipe.info.presets}
        assert own == {("default", scheme) for scheme in recipe.info.schemes}
        assert not any(preset.steering.colours_condition for preset in recipe.info.presets)
        assert recipe.info.licence and min(recipe.memory.decode_gpu, recipe.memory.encode_cpu) > 0
        assert find_recipe(recipe.info.name) == recipe


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('path = "unet/config.json"', 'path = "../config.json"'),
        ('path = "unet/config.json"', 'path = "unet/config.bin"'),
        ('name = "unet/config.json"', 'name = "../config.json"'),
        ('name = "unet/config.json"', 'name = "a/b/config.json"'),
        ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
        ('repository = "someone/model"', 'repository = "https://evil/model"'),
        ('format = "archiver-hub-1"', 'format = "other"'),
        ("decode_gpu = 1", "decode_tpu = 1"),
        ("[backend]", "[behind]"),
        ("[[files]]", "[files]"),
    ],
)
def test_a_recipe_that_is_wrong_is_refused_before_anything_is_asked(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "bad.toml").write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(ProfileInvalid):
        find_recipe(str(tmp_path / "bad.toml"))


# -- export and import -------------------------------------------------------------------------------------------------


@pytest.fixture
def exported(hub: HubServer, recipe: Recipe, vault: Vault, tmp_path: Path) -> Path:
    pull(recipe, vault, Hub(hub.endpoint), quiet)
    vault.export_tar(pin(vault, "tiny"), tmp_path / "tiny.tar")
    return tmp_path / "tiny.tar"


def test_a_hub_profile_travels_as_a_tar(exported: Path, vault: Vault, tmp_path: Path) -> None:
    elsewhere = Vault(tmp_path / "elsewhere")
    (profile,) = vault.list()
    assert elsewhere.import_tar(exported) == profile
    elsewhere.verify(profile)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_tar_brings_nothing(exported: Path, tmp_path: Path, share: float) -> None:
    os.truncate(exported, int(exported.stat().st_size * share) // 512 * 512)
    elsewhere = Vault(tmp_path / "elsewhere")
    with pytest.raises((ProfileInvalid, WeightsDamaged)):
        elsewhere.import_tar(exported)
    assert elsewhere.list() == () and not list((elsewhere.path / "incoming").iterdir())


def test_a_damaged_tar_brings_nothing(exported: Path, tmp_path: Path) -> None:
    elsewhere = Vault(tmp_path / "elsewhere")
    with tarfile.open(exported) as tar:
        contents = [(member.offset_data, member.size) for member in tar]
        headers = [member.offset for member in tar]
    assert len(contents) == 4  # each file, the description and its seal
    places = [start + size * share // 7 for start, size in contents for share in (0, 3, 6)]
    for place in [*places, *(header + 10 for header in headers)]:
        data = bytearray(exported.read_bytes())
        data[place] ^= 0x10
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises((ProfileInvalid, WeightsDamaged)):
            elsewhere.import_tar(tmp_path / "bad.tar")
        assert elsewhere.list() == ()


@pytest.mark.parametrize(
    "name", ["../unet/config.json", "unet/../../x.json", "/unet/config.json", "unet/deep/config.json", "unet/.x.json"]
)
def test_a_tar_that_climbs_out_writes_nothing(exported: Path, tmp_path: Path, name: str) -> None:
    elsewhere = Vault(tmp_path / "in" / "elsewhere")
    with tarfile.open(exported) as whole, tarfile.open(tmp_path / "evil.tar", "w") as evil:
        for member in whole:
            stream = whole.extractfile(member)
            if member.name == "unet/config.json":
                member.name = name
            evil.addfile(member, stream)
    before = sorted(tmp_path.rglob("*.json"))
    with pytest.raises(ProfileInvalid, match="not part of a profile"):
        elsewhere.import_tar(tmp_path / "evil.tar")
    assert sorted(tmp_path.rglob("*.json")) == before


def test_a_tar_with_a_file_twice_or_a_folder_as_a_file_is_refused(exported: Path, tmp_path: Path) -> None:
    for name in ("unet/config.json", "unet.json"):
        with tarfile.open(tmp_path / "evil.tar", "w") as evil, tarfile.open(exported) as whole:
            for member in whole:
                evil.addfile(member, whole.extractfile(member))
            # The second time, a file where a folder is wanted.
            for again in (name, f"{name}/config.json")[: 1 + (name == "unet.json")]:
                odd = tarfile.TarInfo(again)
                odd.size = 2
                evil.addfile(odd, io.BytesIO(b"{}"))
        with pytest.raises(ProfileInvalid):
            Vault(tmp_path / "elsewhere").import_tar(tmp_path / "evil.tar")


# -- the commands ------------------------------------------------------------------------------------------------------


def test_the_commands_pull_show_pin_and_unpin(hub: HubServer, recipe: Recipe, tmp_path: Path) -> None:
    from archiver.cli.main import cli

    (tmp_path / "config.toml").write_text(
        f'[catalog]\nurl = "sqlite:///{tmp_path}/catalog.db"\n'
        f'[vault]\npath = "{tmp_path}/vault"\nmirror = "{hub.endpoint}"\n'
    )

    def run(*words: str) -> tuple[int, str]:
        answer = CliRunner(env={"COLUMNS": "200"}).invoke(
            cli, ["--config", str(tmp_path / "config.toml"), "models", *words]
        )
        if answer.exception is not None and not isinstance(answer.exception, SystemExit):
            raise answer.exception
        return answer.return_value if answer.return_value is not None else answer.exit_code, answer.output

    toml = str(tmp_path / "tiny.toml")
    assert "not known before the first pull" in run("show", toml)[1]
    _code, text = run("pull", toml)
    assert hashlib.sha256(served(hub).read_bytes()).hexdigest() in text.replace("\n", "")
    assert "models pin tiny" in text
    assert "pulled, not accepted" in run("show", "tiny")[1]
    assert "pinned, in the vault" in run("pin", "tiny")[1]
    assert "whole" in run("verify", "tiny")[1]
    assert "in the vault" in run("show", "tiny")[1]
    assert run("pull", "other")[0] == 6
