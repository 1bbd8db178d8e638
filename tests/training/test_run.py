"""The whole of training, from tar shards to a profile that loads."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from archiver.codec import schemes
from archiver.errors import (
    GpuMissing,
    TrainingBegun,
    TrainingDataDamaged,
    TrainingDataMissing,
    TrainingStageMissing,
    TrainingStale,
)
from archiver.models.embedded import EmbeddedModels, init_random, load_embedded, save_profile
from archiver.models.profiles import read_profile
from archiver.training.data import Photos, held_out, load_photos, shard_members, to_pixels, to_tensor
from archiver.training.features import load_features, visual_words, whitening
from archiver.training.loop import position
from archiver.training.run import train


def test_all_stages_end_in_a_profile_whose_semantics_were_learnt(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, "all", steps=2, seed=3, long_side=64, weights=tmp_path / "weights", name="tiny", threads=1)
    models = load_embedded(tmp_path / "weights")
    features, photos = load_features(tmp_path), load_photos(shards, tmp_path, 64)
    assert models.meta.name == "tiny" and models.meta.long_side == 128  # with the finish, twice what it was trained on
    latents = torch.from_numpy(features.latents[photos.train, 0]).float()
    torch.testing.assert_close(latents.std((0, 2, 3)), torch.ones(16), rtol=0.02, atol=0)
    with torch.no_grad():
        semantics = models.semantics(photos.pictures(photos.train[:4]))
        encoded = models.autoencoder.encode(photos.pictures(photos.train[:4]))
    agreement = (semantics.labels.numpy() == features.labels[photos.train[:4]]).mean()
    assert agreement > 0.9  # the cache was made in bfloat16, the profile holds float16
    torch.testing.assert_close(encoded, latents[:4], rtol=0.1, atol=0.2)


def test_the_finish_changes_the_denoiser_and_the_decoder_and_leaves_the_encoder(shards: Path, tmp_path: Path) -> None:
    for stage in ("autoencoder", "features", "denoiser"):
        train(shards, tmp_path, stage, steps=1, long_side=64)
    train(shards, tmp_path, "export", long_side=64, weights=tmp_path / "before")
    train(shards, tmp_path, "finish", steps=3, long_side=64, seed=1)
    train(shards, tmp_path, "export", long_side=64, weights=tmp_path / "after")
    before, after = (load_embedded(tmp_path / name) for name in ("before", "after"))
    assert before.meta.long_side == 64 and after.meta.long_side == 128
    assert not read_profile(tmp_path / "before").presets
    assert {preset.scheme for preset in read_profile(tmp_path / "after").presets} == set(schemes.SUPPORTED)
    assert _kept(before, after) == {"encoder": True, "decoder": False, "denoiser": False, "semantics": True}


def test_the_polish_changes_the_autoencoder_and_leaves_the_denoiser(shards: Path, tmp_path: Path) -> None:
    for stage in ("autoencoder", "features", "denoiser", "finish"):
        train(shards, tmp_path, stage, steps=1, long_side=64)
    train(shards, tmp_path, "export", long_side=64, weights=tmp_path / "before")
    train(shards, tmp_path, "polish", steps=3, long_side=64, seed=1)
    train(shards, tmp_path, "export", long_side=64, weights=tmp_path / "after")
    before, after = (load_embedded(tmp_path / name) for name in ("before", "after"))
    assert before.meta.long_side == after.meta.long_side == 128
    assert _kept(before, after) == {"encoder": False, "decoder": False, "denoiser": True, "semantics": True}
    assert before.autoencoder.latent_std.equal(after.autoencoder.latent_std)  # the denoiser's measure


def _kept(before: EmbeddedModels, after: EmbeddedModels) -> dict[str, bool]:
    """Which networks have the same weights in both."""
    return {
        name: all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
        for name, one, other in (
            ("encoder", before.autoencoder.encoder, after.autoencoder.encoder),
            ("decoder", before.autoencoder.decoder, after.autoencoder.decoder),
            ("denoiser", before.denoiser, after.denoiser),
            ("semantics", before.semantics, after.semantics),
        )
    }


def test_finished_stages_are_not_repeated(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, "autoencoder", steps=1, long_side=64)
    train(shards, tmp_path, "features", long_side=64)
    kept = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    train(shards, tmp_path, "autoencoder", steps=1, long_side=64)
    train(shards, tmp_path, "features", long_side=64)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept


def test_a_run_begins_from_a_profile_and_exports_it_as_it_was(shards: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    save_profile(given, init_random(7, long_side=64), "embedded-1", "Apache-2.0")
    train(shards, out, "features", long_side=64, start=given)
    train(shards, out, "export", long_side=64)
    assert load_embedded(out / "profile").meta.digest == load_embedded(given).meta.digest
    seen = load_features(out), load_photos(shards, out, 64)
    with torch.no_grad():
        encoded = load_embedded(given).autoencoder.encode(seen[1].pictures(np.arange(4)))
    torch.testing.assert_close(torch.from_numpy(np.array(seen[0].latents[:4, 0])).float(), encoded, rtol=0.1, atol=0.1)


def test_every_stage_trains_on_from_a_profile(shards: Path, tmp_path: Path) -> None:
    given, out = tmp_path / "given", tmp_path / "out"
    save_profile(given, init_random(7, long_side=64), "embedded-1", "Apache-2.0")
    heard: dict[str, float] = {}

    def tell(stage: str, share: float, _measured: dict[str, float]) -> None:
        heard[stage] = share

    train(shards, out, "all", steps=1, long_side=64, start=given, tell=tell)
    assert list(heard) == ["photographs", "autoencoder", "features", "denoiser", "finish", "polish"]
    assert set(heard.values()) == {1.0}
    kept = _kept(load_embedded(given), load_embedded(out / "profile"))
    assert kept == {"encoder": False, "decoder": False, "denoiser": False, "semantics": True}
    for network in ("autoencoder", "denoiser"):
        assert json.loads(position(out / f"{network}.safetensors"))["step"] == 1


def test_a_run_that_began_otherwise_is_not_begun_again(shards: Path, tmp_path: Path) -> None:
    given, other, out = tmp_path / "given", tmp_path / "other", tmp_path / "out"
    for seed, folder in enumerate((given, other)):
        save_profile(folder, init_random(seed, long_side=64), "embedded-1", "Apache-2.0")
    train(shards, out, "features", long_side=64, start=given)
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    train(shards, out, "features", long_side=64, start=given)
    with pytest.raises(TrainingBegun):
        train(shards, out, "features", long_side=64, start=other)
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before
    train(shards, tmp_path / "anew", "autoencoder", steps=1, long_side=64)
    with pytest.raises(TrainingBegun):
        train(shards, tmp_path / "anew", "features", long_side=64, start=given)


def test_what_was_made_of_an_earlier_autoencoder_is_not_mixed_with_a_later_one(shards: Path, tmp_path: Path) -> None:
    train(shards, tmp_path, "all", steps=1, long_side=64)
    train(shards, tmp_path, "autoencoder", steps=2, long_side=64)
    for stage in ("denoiser", "export"):
        with pytest.raises(TrainingStale, match=r"latents\.npy"):
            train(shards, tmp_path, stage, steps=2, long_side=64)
    train(shards, tmp_path, "features", long_side=64)
    for stage in ("export", "polish", "finish"):
        with pytest.raises(TrainingStale, match=r"finish\.safetensors"):
            train(shards, tmp_path, stage, steps=2, long_side=64)
    (tmp_path / "finish.safetensors").unlink()
    train(shards, tmp_path, "finish", steps=2, long_side=64)
    with pytest.raises(TrainingStale, match=r"polish\.safetensors"):
        train(shards, tmp_path, "export", long_side=64)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(GpuMissing):
        train(shards, tmp_path / "out", "autoencoder", steps=1, device="cuda")
    assert not (tmp_path / "out").exists()


def test_training_without_a_limit_or_without_photographs_is_refused(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="minutes or steps"):
        train(shards, tmp_path, "autoencoder")
    with pytest.raises(ValueError, match="nonsense"):
        train(shards, tmp_path, "nonsense", steps=1)
    with pytest.raises(TrainingDataMissing, match="no tar file"):
        train(tmp_path, tmp_path / "out", "autoencoder", steps=1)


def _shard(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_a_shard_that_is_no_whole_tar_file_is_named(shards: Path, tmp_path: Path) -> None:
    whole = (shards / "train-0.tar").read_bytes()
    for data in (b"junk" * 1000, whole[: len(whole) // 2 + 100], gzip.compress(whole)[:2000]):
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(TrainingDataDamaged, match=r"bad\.tar"):
            load_photos(tmp_path, tmp_path / "cache", 64)


def test_shards_without_photographs_are_refused(tmp_path: Path) -> None:
    for name in ("one.jpg", "one.webp"):
        _shard(tmp_path / "one.tar", {name: b"no picture"})
        for _ in range(2):  # no cache is left behind that says otherwise
            with pytest.raises(TrainingDataMissing):
                load_photos(tmp_path, tmp_path / "cache", 64)


def test_a_damaged_photograph_is_left_out(shards: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = dict(shard_members([shards / "train-0.tar"]))
    first, second, *_ = members
    _shard(tmp_path / "some.tar", members | {first: members[first][:50], second: b"junk"})
    (tmp_path / "whole").mkdir()
    whole = load_photos(_shard(tmp_path / "whole" / "w.tar", members).parent, tmp_path / "other", 64)
    for _ in range(2):  # decoded, then from the cache
        photos = load_photos(tmp_path, tmp_path / "cache", 64)
        assert np.array_equal(photos.pixels, whole.pixels[2:])
        assert len(photos.train) + len(photos.validation) == len(members) - 2
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == [first, second]


def test_photographs_may_have_any_name_that_a_tar_holds(shards: Path, tmp_path: Path) -> None:
    picture = next(shard_members([shards / "train-0.tar"]))[1]
    names = ("one\ntwo.webp", "three\u2028four.webp", "five\rsix.webp", os.fsdecode(b"caf\xe9.webp"))
    _shard(tmp_path / "odd.tar", dict.fromkeys(names, picture))
    for _ in range(2):  # decoded, then from the cache
        photos = load_photos(tmp_path, tmp_path / "cache", 64)
        assert len(photos.train) + len(photos.validation) == len(photos.pixels) == len(names)


def test_a_run_does_not_go_on_with_photographs_of_another_size(shards: Path, tmp_path: Path) -> None:
    load_photos(shards, tmp_path, 32)
    with pytest.raises(TrainingBegun):
        load_photos(shards, tmp_path, 64)


def test_a_shard_whose_headers_hold_no_numbers_is_named(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a", "GNU.sparse.realsize": "9"}
    with tarfile.open(tmp_path / "odd.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.webp")
        member.size, member.pax_headers = 512, sparse
        tar.addfile(member, io.BytesIO(b"many\n".ljust(512)))
    with pytest.raises(TrainingDataDamaged, match=r"odd\.tar"):
        load_photos(tmp_path, tmp_path / "cache", 64)


@pytest.mark.parametrize(
    ("stage", "earlier"), [("features", "autoencoder"), ("denoiser", "features"), ("export", "denoiser")]
)
def test_a_stage_without_its_predecessor_names_it(shards: Path, tmp_path: Path, stage: str, earlier: str) -> None:
    with pytest.raises(TrainingStageMissing, match=f"stage {earlier} has not run"):
        train(shards, tmp_path, stage, steps=1, long_side=64)


def test_held_out_photographs_are_never_trained_on(shards: Path, tmp_path: Path) -> None:
    photos = load_photos(shards, tmp_path, 64)
    names = [name for name, _ in shard_members(sorted(shards.iterdir()))]
    assert [names[row] for row in photos.validation] == [name for name in names if held_out(name)]
    assert not set(photos.train) & set(photos.validation)
    assert len(photos.train) + len(photos.validation) == len(names)
    share = np.mean([held_out(f"{number:06d}.webp") for number in range(10_000)])
    assert 0.015 < share < 0.025


def test_crops_are_pieces_of_training_photographs(shards: Path, tmp_path: Path) -> None:
    photos = load_photos(shards, tmp_path, 64)
    only = Photos(photos.pixels, photos.train[:1], photos.validation)
    for crop in to_pixels(only.crops(np.random.default_rng(0), 4, 48)):
        candidates = np.lib.stride_tricks.sliding_window_view(photos.pixels[photos.train[0]], (48, 48, 3))[:, :, 0]
        assert any((candidates == view).all((2, 3, 4)).any() for view in (crop, crop[:, ::-1]))


def test_bytes_survive_the_way_to_tensors_and_back() -> None:
    pixels = np.arange(2 * 4 * 8 * 3, dtype=np.uint8).reshape(2, 4, 8, 3)
    assert np.array_equal(to_pixels(to_tensor(pixels)), pixels)


def test_whitening_gives_unit_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((3000, 1280), generator=generator) @ torch.diag(torch.linspace(1, 9, 1280))
    features = features - features.mean(0)
    torch.testing.assert_close((features @ whitening(features).T).std(0), torch.ones(256), rtol=1e-3, atol=0)


def test_visual_words_find_well_separated_clusters() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(64)[:32]
    points = centres.repeat(50, 1) + 0.02 * torch.randn((1600, 64), generator=generator)
    words = visual_words(torch.nn.functional.normalize(points, dim=1), seed=0)
    nearest = (words @ centres.T).max(1).values
    assert words.shape == (32, 64) and nearest.min() > 0.65
