"""The engine keeps its promises whatever its weights are: these are random."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import attention, label_map, photograph
from threadpoolctl import threadpool_info, threadpool_limits

import archiver.models
from archiver.codec import attention_map, embedding, schemes
from archiver.codec import label_map as label_codec
from archiver.codec.picture import Picture
from archiver.codec.record import (
    EmbeddingGuidance,
    Record,
    Sampler,
    Scheme,
    Section,
    SectionKind,
    Steering,
)
from archiver.config import Settings
from archiver.decoder.engine import Engine
from archiver.decoder.judge import binary_cross_entropy
from archiver.decoder.local import LocalEngine
from archiver.decoder.networks import LocalRunner
from archiver.decoder.opening import open_engine
from archiver.decoder.work import Decode, Encode
from archiver.errors import (
    ModelsNotInstalled,
    PresetUnknown,
    ProfileUnknown,
    RecordCorrupt,
    SchemeUnsupported,
    WeightsDamaged,
)
from archiver.models.embedded import init_random, save_profile
from archiver.models.profiles import read_profile
from archiver.models.vault import Vault

QUICK = """
[presets.quick]
sgc = { sampler = "dpm-solver", steps = 3, guidance = 2.0, start = 0.7, colours_condition = true }
cocli = { sampler = "ddim", steps = 2, guidance = 1.0 }
coclico = { sampler = "ddim", steps = 3, guidance = 1.5, start = 0.7 }
[presets.quick.g-coclico]
sampler = "dpm-solver"
steps = 2
guidance = 2.0
linear = { strength = 1.0, cutoff = 0.25, pixel_steps = 1 }
[presets.quick.seacom]
sampler = "dpm-solver"
steps = 3
guidance = 2.0
attention = { strength = 0.1, until = 0.5 }
[presets.quick.seseco]
sampler = "dpm-solver"
steps = 3
guidance = 2.0
start = 0.7
linear = { strength = 0.8, cutoff = 0.25, pixel_steps = 1 }
"""
SIZES = [(64, 64), (64, 48), (48, 64), (64, 64)]
PICTURES = [Picture(photograph(seed, *size), 40 * size[0], 40 * size[1]) for seed, size in enumerate(SIZES)]


def packaged(folder: Path, seed: int, long_side: int = 64) -> Path:
    """A profile of random weights, for small pictures, with a quick preset."""
    meta = save_profile(folder, init_random(seed, long_side), "random", "CC0-1.0")
    with (folder / "profile.toml").open("r+") as file:
        text = file.read()
        file.seek(0)
        head, bracket, files = text.partition("[[files]]")
        file.write(head + QUICK + bracket + files)
    assert read_profile(folder).fingerprint == meta.digest
    return folder


def _labels(label: int, words: int) -> bytes:
    return label_codec.encode(np.full((4, 4), label, np.uint8), words)


def _embedding(dimensions: int) -> bytes:
    return embedding.encode(embedding.quantise(np.ones(dimensions, np.float32), 2))


def _attention(heads: int) -> bytes:
    return attention_map.encode(attention_map.quantise(np.ones((heads, 2, 2), np.float32), 2))


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    root = tmp_path_factory.mktemp("profiles")
    return [packaged(root / str(seed), seed) for seed in range(2)]


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory, sources: list[Path]) -> Vault:
    vault = Vault(tmp_path_factory.mktemp("vault"))
    vault.import_directory(sources[0])
    return vault


@pytest.fixture(scope="module")
def engine(vault: Vault) -> Iterator[Engine]:
    threads = torch.get_num_threads()
    yield LocalEngine(vault, vault.named("random"), "quick", 2)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def records(engine: Engine) -> dict[Scheme, list[Record]]:
    return {scheme: engine.encode(PICTURES, scheme) for scheme in schemes.SUPPORTED}


@pytest.mark.parametrize("scheme", schemes.SUPPORTED)
def test_a_record_gives_the_same_bytes_alone_in_company_and_on_any_number_of_cores(
    engine: Engine, vault: Vault, records: dict[Scheme, list[Record]], scheme: Scheme
) -> None:
    together = engine.decode(records[scheme])
    alone = [engine.decode([record])[0] for record in reversed(records[scheme])][::-1]
    torch.set_num_threads(2)
    elsewhere = LocalEngine(vault, vault.named("random"), "default", 1).decode(records[scheme])
    for size, *pictures in zip(SIZES, together, alone, elsewhere, strict=True):
        assert pictures[0].shape == (size[1], size[0], 3)
        assert pictures[0].dtype == np.uint8
        assert np.ptp(pictures[0]) > 0
        assert all(np.array_equal(pictures[0], other) for other in pictures[1:])


def test_the_weights_that_ship_give_the_same_bytes_whatever_threads_torch_is_set_to(tmp_path: Path) -> None:
    """At their working size: random networks on small pictures give the same bytes with any number of threads."""
    vault = Vault(tmp_path)
    profile = vault.import_directory(Path(archiver.models.__file__).parent / "weights" / "embedded-1")
    side = profile.long_side
    (steering,) = (one.steering for one in profile.presets if (one.name, one.scheme) == ("fast", Scheme.COCLICO))
    runner = LocalRunner(vault, device="cpu")
    before, pictures = torch.get_num_threads(), []
    try:
        encode = Encode(Picture(photograph(0, side, side), side, side), Scheme.COCLICO, steering, profile.key)
        (record,) = runner.run([encode])
        for threads in (1, 2):
            torch.set_num_threads(threads)
            (made,) = runner.run([Decode(record)])
            pictures.append(made.pixels)
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*pictures)


@pytest.mark.parametrize("scheme", schemes.SUPPORTED)
def test_a_picture_gives_the_same_record_alone_and_in_company(
    engine: Engine, records: dict[Scheme, list[Record]], scheme: Scheme
) -> None:
    assert engine.encode(PICTURES[1:2], scheme) == records[scheme][1:2]
    for record, picture in zip(records[scheme], PICTURES, strict=True):
        assert Record.from_bytes(record.to_bytes()) == record
        assert (record.width, record.height) == (picture.width, picture.height)
        assert record.grid == (picture.pixels.shape[1] // 16, picture.pixels.shape[0] // 16)
        assert record.profile == engine.profile.key


def test_another_process_decodes_the_same_bytes(
    vault: Vault, engine: Engine, records: dict[Scheme, list[Record]], tmp_path: Path
) -> None:
    record = records[Scheme.G_COCLICO][1]
    script = (
        "import sys, numpy as np; from pathlib import Path; from archiver.models.vault import Vault\n"
        "from archiver.decoder.local import LocalEngine; from archiver.codec.record import Record\n"
        "vault = Vault(Path(sys.argv[1])); engine = LocalEngine(vault, vault.named('random'), 'default', 1)\n"
        "np.save(sys.argv[3], engine.decode([Record.from_bytes(bytes.fromhex(sys.argv[2]))])[0])\n"
    )
    subprocess.run(
        [sys.executable, "-c", script, vault.path, record.to_bytes().hex(), tmp_path / "out.npy"], check=True
    )
    assert np.array_equal(np.load(tmp_path / "out.npy"), engine.decode([record])[0])


@pytest.mark.parametrize("scheme", schemes.SUPPORTED)
def test_every_part_of_a_record_shapes_the_picture(engine: Engine, scheme: Scheme) -> None:
    """Another seed, another condition, other colours, another steering: each gives another picture."""
    steering = schemes.PRESETS["default"][scheme]
    quick = replace(steering, steps=3)

    def record(seed: int) -> Record:
        # Random networks see the same in every picture; made facts differ.
        embedding = np.random.default_rng(seed).normal(size=256).astype(np.float32)
        facts = schemes.Facts(embedding, label_map(seed, 8, 8, regions=4), 32, attention(seed, 4, 2, 2))
        picture = Picture(photograph(seed, 64, 64), 64, 64)
        return schemes.compose(picture, facts, scheme, engine.profile.key, (4, 4), quick)

    one, other = record(1), replace(record(2), seed=record(1).seed)
    changed = [replace(one, seed=one.seed ^ 1), replace(one, steering=replace(quick, guidance=5.0))]
    changed.append(replace(one, steering=replace(quick, steps=6)))
    if quick.start is not None:
        changed.append(replace(one, steering=replace(quick, start=0.3)))
    if quick.linear is not None:
        changed.append(replace(one, steering=replace(quick, linear=replace(quick.linear, pixel_steps=0))))
        changed.append(replace(one, steering=replace(quick, linear=replace(quick.linear, cutoff=0.9))))
    if quick.attention is not None:
        changed.append(replace(one, steering=replace(quick, attention=replace(quick.attention, strength=0.5))))
        changed.append(replace(one, steering=replace(quick, attention=replace(quick.attention, until=0.2))))
    if scheme is Scheme.SESECO:  # region colours can only be read with their own label map
        changed.append(other)
    else:
        for index, section in enumerate(other.sections):
            changed.append(replace(one, sections=(*one.sections[:index], section, *one.sections[index + 1 :])))
    plain, *pictures = engine.decode([one, *changed])
    assert all((plain != picture).any() for picture in pictures)


def test_a_profile_of_larger_pictures_sees_them_as_they_are(tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    profile = vault.import_directory(packaged(tmp_path / "wide", 2, 288))
    assert (profile.long_side, profile.multiple) == (288, 32)
    pictures = [Picture(photograph(seed, *size), 4000, 3000) for seed, size in enumerate([(288, 192), (96, 288)])]
    with closing(LocalEngine(vault, profile, "quick", 2)) as engine:
        for scheme in schemes.SUPPORTED:
            records = engine.encode(pictures, scheme)
            assert [decoded.shape for decoded in engine.decode(records)] == [(192, 288, 3), (288, 96, 3)]
            if scheme in (Scheme.SGC, Scheme.SESECO):  # one label for each latent cell
                labels = [schemes.material(record).labels for record in records]
                assert [one.shape for one in labels if one is not None] == [(12, 18), (18, 6)]


def test_an_old_record_is_decoded_by_its_own_profile_after_an_upgrade(
    vault: Vault, sources: list[Path], engine: Engine, records: dict[Scheme, list[Record]], tmp_path: Path
) -> None:
    upgraded = Vault(tmp_path / "vault")
    old = upgraded.import_directory(sources[0])
    new = upgraded.import_directory(sources[1])
    settings = Settings.model_validate(
        {"vault": {"path": upgraded.path}, "model": {"profile": "random", "preset": "quick"}}
    )
    later = open_engine(settings)
    assert later.profile == new
    record = records[Scheme.COCLI][0]
    assert later.profile_of(record) == old
    assert np.array_equal(later.decode([record])[0], engine.decode([record])[0])
    (fresh,) = later.encode(PICTURES[:1], Scheme.COCLI)
    assert fresh.profile == new.key
    assert not np.array_equal(later.decode([fresh])[0], later.decode([record])[0])


def test_a_picture_is_perfectly_near_to_itself_and_darker_is_measured(engine: Engine) -> None:
    originals = [picture.pixels for picture in PICTURES]
    for same in engine.measure(PICTURES, originals):
        assert same.semantic == pytest.approx(1.0, abs=1e-5)
        assert same.colour == 0
    for report in engine.measure(PICTURES, [np.clip(pixels, 20, 255) - 20 for pixels in originals]):
        assert 10 < report.colour <= 20


def test_label_bce_is_least_for_the_same_probabilities() -> None:
    wanted, other = torch.rand((2, 1, 32, 4, 4), generator=torch.Generator().manual_seed(0)).softmax(2)
    same = binary_cross_entropy(wanted, wanted)
    assert binary_cross_entropy(wanted, other) > same > 0
    assert torch.isfinite(binary_cross_entropy(torch.zeros(1, 2, 1, 1), torch.ones(1, 2, 1, 1)))


def test_the_colour_map_of_a_record_is_that_of_its_placeholder(
    engine: Engine, records: dict[Scheme, list[Record]]
) -> None:
    for scheme, (record, *_) in records.items():
        assert np.array_equal(engine.colour_map(record), schemes.preview(record)), scheme


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_scheme_that_needs_no_model_is_none_of_the_engine_s(
    engine: Engine, records: dict[Scheme, list[Record]]
) -> None:
    with pytest.raises(SchemeUnsupported, match="lossless"):
        engine.encode(PICTURES, Scheme.LOSSLESS)
    with pytest.raises(SchemeUnsupported, match="lossless"):
        engine.decode([replace(records[Scheme.COCLI][0], scheme=Scheme.LOSSLESS)])


def test_an_unknown_preset_is_named(vault: Vault) -> None:
    with pytest.raises(PresetUnknown, match="hasty"):
        LocalEngine(vault, vault.named("random"), "hasty", 1).encode(PICTURES[:1], Scheme.SGC)


def test_a_record_without_its_weights_is_named(engine: Engine, records: dict[Scheme, list[Record]]) -> None:
    with pytest.raises(ProfileUnknown, match="00000000"):
        engine.decode([replace(records[Scheme.SGC][0], profile=bytes(8))])


def test_a_corrupt_record_is_named(engine: Engine, records: dict[Scheme, list[Record]]) -> None:
    with pytest.raises(RecordCorrupt):
        engine.decode([replace(records[Scheme.SGC][0], sections=())])


def test_a_record_larger_than_its_profile_works_at_is_refused(
    engine: Engine, records: dict[Scheme, list[Record]]
) -> None:
    record = records[Scheme.COCLI][0]
    assert engine.decode([replace(record, grid=(4, 4))])
    for grid in ((5, 1), (1, 5), (64, 64)):
        with pytest.raises(RecordCorrupt, match="larger than random works at"):
            engine.decode([replace(record, grid=grid)])


@pytest.mark.parametrize(
    ("scheme", "section", "match"),
    [
        (
            Scheme.SGC,
            Section(SectionKind.LABEL_MAP, _labels(200, 256)),
            "label 200",
        ),
        (Scheme.SGC, Section(SectionKind.LABEL_MAP, _labels(32, 33)), "label 32"),
        (Scheme.COCLI, Section(SectionKind.EMBEDDING, _embedding(17)), "17 dimensions"),
        (Scheme.SGC, Section(SectionKind.EMBEDDING, _embedding(255)), "255 dimensions"),
        (Scheme.SEACOM, Section(SectionKind.ATTENTION_MAP, _attention(5)), "5 heads"),
        (Scheme.SEACOM, Section(SectionKind.ATTENTION_MAP, _attention(1)), "1 heads"),
    ],
)
def test_a_record_that_does_not_fit_its_profile_s_networks_is_corrupt(
    engine: Engine, records: dict[Scheme, list[Record]], scheme: Scheme, section: Section, match: str
) -> None:
    record = records[scheme][0]
    if scheme is Scheme.SGC and section.kind is SectionKind.EMBEDDING:
        record = replace(record, steering=replace(record.steering, embedding=EmbeddingGuidance(4 / 32, 1)))
    others = tuple(one for one in record.sections if one.kind != section.kind)
    misfit = replace(record, sections=(*others, section))
    schemes.check(Record.from_bytes(misfit.to_bytes()))
    with pytest.raises(RecordCorrupt, match=match):
        engine.decode([misfit])


def test_damaged_weights_decode_nothing(sources: list[Path], tmp_path: Path) -> None:
    vault = Vault(tmp_path / "vault")
    profile = vault.import_directory(sources[0])
    weights = vault.directory(profile.key) / "denoiser.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.resolve().chmod(0o644)
    weights.write_bytes(data)
    engine = LocalEngine(vault, profile, "quick", 1)
    records = engine.encode(PICTURES[:1], Scheme.COCLI)  # needs the semantic network alone
    with pytest.raises(WeightsDamaged, match="denoiser"):
        engine.decode(records)


def test_without_the_profile_for_new_records_others_are_decoded(
    vault: Vault, engine: Engine, records: dict[Scheme, list[Record]]
) -> None:
    model = {"profile": "away", "preset": "quick", "threads": 1}
    reader = open_engine(Settings.model_validate({"vault": {"path": vault.path}, "model": model}))
    with closing(reader):
        with pytest.raises(ProfileUnknown, match="away"):
            reader.encode(PICTURES[:1], Scheme.SGC)
        (pixels,) = reader.decode(records[Scheme.SGC][:1])
    assert np.array_equal(pixels, engine.decode(records[Scheme.SGC][:1])[0])


def test_without_torch_the_engine_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("archiver.decoder.") or name == "torch"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "torch", None)
    from archiver.decoder.opening import open_engine as fresh

    with pytest.raises(ModelsNotInstalled, match="torch"):
        fresh(Settings.model_validate({"vault": {"path": tmp_path}}))


def test_the_paper_s_preset_is_its_settings() -> None:
    steering = schemes.PRESETS["paper"][Scheme.SGC]
    assert steering == Steering(Sampler.DDIM, steps=200, guidance=2.0, start=0.7)


def test_numpy_has_no_helper_threads_on_the_cores_of_the_networks(engine: Engine, vault: Vault) -> None:
    with threadpool_limits(2, user_api="blas"):
        with closing(LocalEngine(vault, engine.profile, "quick", threads=2)):
            libraries = [library for library in threadpool_info() if library["user_api"] == "blas"]
        assert libraries
        assert all(library["num_threads"] == 1 for library in libraries)
