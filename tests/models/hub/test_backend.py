"""What a hub profile's networks do with a record: the same classes as the real ones, with small random weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from archiver.codec import label_map, schemes
from archiver.codec.dct import basis
from archiver.codec.record import AttentionGuidance, EmbeddingGuidance, Record, Scheme, Section, SectionKind
from archiver.decoder import guidance
from archiver.decoder.decoding import Steered, decode_records
from archiver.decoder.hub import HubBackend, open_hub
from archiver.decoder.local import LocalEngine
from archiver.errors import HubNotInstalled, ProfileInvalid, RecordCorrupt, SchemeUnsupported, WeightsDamaged
from archiver.models.hub.memory import Needs, Plan, group_of, plan
from archiver.models.hub.networks import HubNetworks
from archiver.models.hub.recipes import read_recipe
from archiver.models.vault import Vault
from tests.models.hub import tiny
from tests.models.hub.conftest import NAMES, Shelf

EMBEDDED_IN = [("sd15", Scheme.COCLI), ("unclip-l", Scheme.COCLI)]


def coded(shelf: Shelf, backend: HubBackend, scheme: Scheme, picture: int = 0, steps: int = 4) -> Record:
    """A record of a picture under a profile's own preset, in fewer steps."""
    profile = shelf.profiles[backend.name]
    own = next(preset.steering for preset in profile.presets if preset.scheme is scheme)
    facts = backend.observe(shelf.pictures[picture].pixels, scheme)
    steering = replace(own, steps=steps)
    return schemes.compose(shelf.pictures[picture], facts, scheme, profile.key, (8, 4), steering)


def noisy(backend: HubBackend, record: Record) -> Tensor:
    generator = torch.Generator().manual_seed(record.seed)
    return torch.randn((1, *backend.latent_shape(record.grid)), generator=generator)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    return float(np.abs(one.astype(int) - other).mean())


# -- a picture's whole way ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_scheme_goes_from_picture_to_record_to_picture(shelf: Shelf, name: str) -> None:
    profile = shelf.profiles[name]
    engine = LocalEngine(shelf.vault, profile, "default", 1)
    again = LocalEngine(shelf.vault, profile, "default", 2)
    try:
        for scheme in profile.schemes:
            (record,) = engine.encode(shelf.pictures[:1], scheme)
            assert record == again.encode(shelf.pictures[:1], scheme)[0] == Record.from_bytes(record.to_bytes())
            assert record.profile == profile.key and record.grid == (8, 4)
            assert len(record.to_bytes()) <= 256
            (picture,) = engine.decode([record])
            assert picture.shape == (64, 128, 3) and picture.std() > 5
            assert np.array_equal(picture, again.decode([record])[0]), scheme
            (report,) = engine.measure(shelf.pictures[:1], [picture])
            assert -1 <= report.semantic <= 1
            assert (report.label_bce is None) == (name == "unclip-l")
    finally:
        engine.close()
        again.close()


@pytest.mark.parametrize("name", ["sd15", "unclip-l"])
def test_a_batch_of_three_is_three_of_one(shelf: Shelf, backends: dict[str, HubBackend], name: str) -> None:
    for scheme in shelf.profiles[name].schemes:
        # Colour maps of one size, as the service only puts such records together.
        records = [coded(shelf, backends[name], scheme, seed) for seed in range(3)]
        steering, shared = records[0].steering, records[0].sections[1:]
        records = [replace(record, sections=(record.sections[0], *shared)) for record in records]
        if scheme is Scheme.SESECO:
            records = [replace(records[0], seed=seed) for seed in range(3)]
        assert all(record.steering == steering for record in records)
        together = decode_records(backends[name], records)
        alone = [decode_records(backends[name], [record])[0] for record in records]
        assert difference(alone[0], alone[1]) > 1
        for one, other in zip(together, alone, strict=True):
            assert np.abs(one.astype(int) - other).max() <= 1, scheme


def test_a_runner_decodes_hub_records_in_batches_of_the_size_that_was_asked_for(shelf: Shelf) -> None:
    engine = LocalEngine(shelf.vault, shelf.profiles["unclip-l"], "default", 1, batch=2)
    alone = LocalEngine(shelf.vault, shelf.profiles["unclip-l"], "default", 1)
    try:
        records = engine.encode(shelf.pictures, Scheme.COCLI)
        generated = engine.generate(records)
        assert all("batch 2" in one.device for one in generated)
        for one, other in zip(generated, alone.decode(records), strict=True):
            assert np.abs(one.pixels.astype(int) - other).max() <= 1
    finally:
        engine.close()
        alone.close()


# -- what the networks are told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "scheme"), EMBEDDED_IN)
def test_the_embedding_shapes_the_picture(
    shelf: Shelf, backends: dict[str, HubBackend], name: str, scheme: Scheme
) -> None:
    one, other = (coded(shelf, backends[name], scheme, picture) for picture in (0, 1))
    swapped = replace(one, sections=other.sections)
    pictures = [decode_records(backends[name], [record])[0] for record in (one, swapped)]
    assert difference(*pictures) > 0.2


def test_the_labels_shape_the_picture(shelf: Shelf, backends: dict[str, HubBackend]) -> None:
    backend = backends["sd15"]
    record = coded(shelf, backend, Scheme.SGC)
    pictures, estimates = [], []
    for left, right in ((2, 9), (9, 2)):
        labels = np.full((4, 8), left, np.uint8)
        labels[:, 4:] = right
        section = Section(SectionKind.LABEL_MAP, label_map.encode(labels, tiny.WORDS))
        told = replace(record, sections=(section, record.sections[1]))
        pictures.append(decode_records(backend, [told])[0])
        with torch.no_grad():
            estimates.append(Steered(backend, [told]).predict(noisy(backend, record), 500, 0))
    assert (estimates[0] - estimates[1]).abs().mean() > 1e-3
    assert difference(*pictures) > 0.01


def test_guidance_of_one_is_the_conditional_estimate_itself(shelf: Shelf, backends: dict[str, HubBackend]) -> None:
    """It is computed without the other side; a scale just beside 1, which the record cannot hold, must be near it."""
    for name, scheme in [*EMBEDDED_IN, ("sd15", Scheme.SGC)]:
        record = coded(shelf, backends[name], scheme)
        z = noisy(backends[name], record)
        with torch.no_grad():
            alone, near, far = (
                Steered(backends[name], [replace(record, steering=replace(record.steering, guidance=scale))]).predict(
                    z, 500, 0
                )
                for scale in (1.0, 1.0001, 4.0)
            )
        assert (alone - near).abs().max() < 1e-3 < (alone - far).abs().max()


def test_the_lora_is_in_the_networks(shelf: Shelf, backends: dict[str, HubBackend]) -> None:
    plain, fused = (backends[name].networks.unet for name in ("sd15", "sd15-tcd"))
    layer = "mid_block.attentions.0.transformer_blocks.0.attn1"
    queries, keys = (
        [getattr(unet.get_submodule(layer), part).weight for unet in (plain, fused)] for part in ("to_q", "to_k")
    )
    lora = load_file(backends["sd15-tcd"].networks._only("lora"))
    change = lora[f"unet.{layer}.to_q.lora_B.weight"] @ lora[f"unet.{layer}.to_q.lora_A.weight"]
    assert torch.allclose(queries[1] - queries[0], change, atol=1e-5) and change.abs().max() > 0.1
    assert torch.equal(*keys)
    assert not any("lora" in name for name, _ in fused.named_parameters())


def test_a_record_that_does_not_fit_the_networks_is_refused_by_name(
    shelf: Shelf, backends: dict[str, HubBackend]
) -> None:
    labelled = coded(shelf, backends["sd15"], Scheme.SGC)
    with pytest.raises(SchemeUnsupported, match="ControlNet"):
        decode_records(backends["unclip-l"], [labelled])
    many = Section(SectionKind.LABEL_MAP, label_map.encode(np.full((4, 8), 200, np.uint8), 256))
    with pytest.raises(RecordCorrupt, match="label 200"):
        decode_records(backends["sd15"], [replace(labelled, sections=(many, labelled.sections[1]))])
    record = coded(shelf, backends["sd15"], Scheme.COCLI)
    short = schemes.embedding.encode(schemes.embedding.quantise(np.ones(7, np.float32), 3))
    with pytest.raises(RecordCorrupt, match="7 dimensions"):
        decode_records(backends["sd15"], [replace(record, sections=(Section(SectionKind.EMBEDDING, short),))])
    coloured = coded(shelf, backends["sd15"], Scheme.COCLICO)
    steered = replace(record, steering=replace(record.steering, embedding=EmbeddingGuidance(4 / 32, 3)))
    with pytest.raises(SchemeUnsupported, match="embedding"):
        decode_records(backends["sd15"], [steered])
    with pytest.raises(SchemeUnsupported, match="colours"):
        told = replace(coloured.steering, colours_condition=True)
        decode_records(backends["sd15"], [replace(coloured, steering=told)])
    with pytest.raises(SchemeUnsupported):
        backends["unclip-l"].observe(shelf.pictures[0].pixels, Scheme.SGC)


# -- steering ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sd15", "unclip-l"])
@pytest.mark.parametrize("time", [900, 50])
def test_g_coclico_reaches_what_is_known_and_leaves_the_null_space_to_the_network(
    shelf: Shelf, backends: dict[str, HubBackend], name: str, time: int
) -> None:
    backend = backends[name]
    record = coded(shelf, backend, Scheme.G_COCLICO)
    linear = record.steering.linear
    assert linear is not None
    guided = replace(record, steering=replace(record.steering, linear=replace(linear, strength=1.0, pixel_steps=0)))
    free = replace(record, steering=replace(record.steering, linear=None))
    _, rows, columns = backend.latent_shape(record.grid)
    mask = guidance.low_frequency_mask(rows, columns, linear.cutoff).double()
    down, across = (torch.from_numpy(np.array(basis(size))) for size in (rows, columns))
    with torch.no_grad():
        steered = Steered(backend, [guided])
        assert steered.known is not None
        z = noisy(backend, record)
        x0, unsteered = steered.predict(z, time, 9), Steered(backend, [free]).predict(z, time, 9)
    scale = float(unsteered.abs().max())
    reached, known, before = (down @ x.double() @ across.T for x in (x0, steered.known, unsteered))
    assert (mask * (reached - known)).abs().max() < 1e-5 * max(1, scale)
    assert ((1 - mask) * (reached - before)).abs().max() < 1e-5 * max(1, scale)
    assert (mask * (before - known)).abs().max() > 0.1


def test_seseco_moves_each_region_by_its_own_precision(shelf: Shelf, backends: dict[str, HubBackend]) -> None:
    backend = backends["sd15"]
    record = coded(shelf, backend, Scheme.SESECO)
    z = noisy(backend, record)
    moved = []
    with torch.no_grad():
        for share in (1.0, 0.5):
            steered = Steered(backend, [record])
            assert steered._latent_detail is not None
            detail = torch.ones_like(steered._latent_detail)
            detail[..., :8] = share  # of the left half alone
            steered._latent_detail = detail
            moved.append(steered.predict(z, 500, 9))
    change = (moved[1] - moved[0]).abs().amax((0, 1))
    assert not change[:, 8:].any() and change[:, :8].max() > 0.01


@pytest.mark.parametrize("name", ["sd15", "unclip-l"])
def test_seacom_s_step_shortens_the_distance_to_the_stored_maps(
    shelf: Shelf, backends: dict[str, HubBackend], name: str
) -> None:
    backend = backends[name]
    record = coded(shelf, backend, Scheme.SEACOM)
    maps = schemes.material(record).attention
    assert maps is not None and maps.shape[0] == 4
    # Maps that no network of random weights would draw by itself.
    wanted = torch.linspace(-1, 1, maps.shape[2]).expand(1, *maps.shape).contiguous()
    steered = Steered(
        backend, [replace(record, steering=replace(record.steering, attention=AttentionGuidance(0.1, 1)))]
    )
    steered._attention = wanted
    step = steered.steer(10)
    assert step is not None
    attend, z = backend.attention(steered._told), noisy(backend, record)
    distances = []
    for _ in range(5):
        distances.append(float((guidance._area_means(attend(z, 600), *maps.shape[1:]) - wanted).square().mean()))
        z = step(z, 600, 9)
    assert distances[-1] < distances[0]


def test_watching_attention_changes_nothing(shelf: Shelf, backends: dict[str, HubBackend]) -> None:
    backend = backends["sd15"]
    record = coded(shelf, backend, Scheme.SEACOM)
    plain = replace(record, steering=replace(record.steering, attention=None))
    still = replace(record, steering=replace(record.steering, attention=AttentionGuidance(0.0, 0.5)))
    assert np.array_equal(decode_records(backend, [plain])[0], decode_records(backend, [still])[0])


# -- memory ------------------------------------------------------------------------------------------------------------

GIB = 1 << 30
SD = {
    "unet": 1756 << 20,
    "controlnet": 690 << 20,
    "vae": 160 << 20,
    "image_encoder": 1206 << 20,
    "segmenter": 156 << 20,
}


@pytest.mark.parametrize(
    ("total", "free", "batch", "wanted"),
    [
        (80, 79, 8, Plan(sliced=False, tiled=False, one_by_one=False)),
        (24, 23, 1, Plan(sliced=False, tiled=False, one_by_one=False)),
        (24, 3, 1, Plan(sliced=False, tiled=False, one_by_one=True)),  # somebody else has most of it
        (6, 6, 1, Plan(sliced=False, tiled=False, one_by_one=True)),
        (3, 3, 1, Plan(sliced=True, tiled=False, one_by_one=True)),
        (2, 2, 1, Plan(sliced=True, tiled=True, one_by_one=True)),
    ],
)
def test_the_plan_follows_from_the_memory(total: int, free: int, batch: int, wanted: Plan) -> None:
    assert plan(total * GIB, free * GIB, Needs(SD, 64 * 64, batch, 2)) == wanted


def test_what_shapes_the_bytes_never_follows_from_what_is_free() -> None:
    needs = Needs(SD, 64 * 64, 1, 2)
    for total in range(1, 30):
        plans = [plan(total * GIB, free * GIB // 4, needs) for free in range(4 * total + 1)]
        assert len({(one.sliced, one.tiled) for one in plans}) == 1
        assert plans == sorted(plans, key=lambda one: not one.one_by_one)  # more room never means less at a time


def test_with_little_memory_only_the_networks_at_work_are_there_and_the_bytes_are_the_same(shelf: Shelf) -> None:
    roomy, tight = (
        HubBackend(
            HubNetworks(shelf.vault.directory(shelf.profiles["sd15"].key), torch.device("cpu"), 1, (64 * GIB, free)), 1
        )
        for free in (64 * GIB, 1 << 20)
    )
    assert not roomy.networks.plan.one_by_one and tight.networks.plan.one_by_one
    for scheme in (Scheme.SGC, Scheme.G_COCLICO):
        records = [coded(shelf, backend, scheme) for backend in (roomy, tight)]
        assert records[0] == records[1]
        pictures = [decode_records(backend, [records[0]])[0] for backend in (roomy, tight)]
        assert np.array_equal(*pictures)
        assert tight.loaded == ("vae",)
        assert set(roomy.loaded) >= {"unet", "vae"}
        assert all(name in group_of("unet") for name in ("unet", "controlnet"))


def test_a_small_device_gets_slices_and_tiles(shelf: Shelf) -> None:
    memory = (2 << 20, 2 << 20)
    directory = shelf.vault.directory(shelf.profiles["unclip-l"].key)
    small = HubBackend(HubNetworks(directory, torch.device("cpu"), 1, memory), 1)
    assert small.networks.plan == Plan(sliced=True, tiled=True, one_by_one=True)
    assert small.networks.vae.use_tiling
    whole = shelf.backend("unclip-l")
    record = coded(shelf, whole, Scheme.COCLI)
    pictures = [decode_records(backend, [record])[0] for backend in (whole, small)]
    assert difference(*pictures) < 3


def test_unloading_and_switching_profiles_keeps_the_bytes(shelf: Shelf) -> None:
    engine = LocalEngine(shelf.vault, shelf.profiles["unclip-l"], "default", 1)
    other = LocalEngine(shelf.vault, shelf.profiles["sd15-tcd"], "default", 1)
    try:
        (record,) = engine.encode(shelf.pictures[:1], Scheme.COCLI)
        (foreign,) = other.encode(shelf.pictures[:1], Scheme.COCLI)
        first, second = engine.decode([record])[0], engine.decode([foreign])[0]
        assert {name.split("/")[0] for name in engine.stats().loaded} == {"unclip-l", "sd15-tcd"}
        engine.service._runner.unload()
        assert engine.stats().loaded == ()
        assert np.array_equal(second, engine.decode([foreign])[0])
        assert np.array_equal(first, engine.decode([record])[0])
        assert engine.profile_of(foreign) == shelf.profiles["sd15-tcd"]
    finally:
        engine.close()
        other.close()


def test_a_recall_never_loads_what_only_encodes(shelf: Shelf) -> None:
    engine = LocalEngine(shelf.vault, shelf.profiles["sd15"], "default", 1)
    (record,) = engine.encode(shelf.pictures[:1], Scheme.SGC)
    engine.close()
    reader = LocalEngine(shelf.vault, shelf.profiles["sd15"], "default", 1)
    reader.decode([record])
    assert set(reader.stats().loaded) == {"sd15/unet", "sd15/controlnet", "sd15/vae"}
    reader.close()


# -- weights that are not what they should be --------------------------------------------------------------------------


def repinned(folder: Path, vault: Path) -> HubBackend:
    """The profile in a folder whose pins were made for what now lies there."""
    recipe = read_recipe(folder / "profile.toml")
    (folder / "profile.toml").write_text(recipe.pinned(tiny.pins(folder, recipe)))
    kept = Vault(vault)
    return open_hub(kept.directory(kept.import_directory(folder).key), torch.device("cpu"))


def test_damaged_weights_are_never_decoded_with(weights: Path) -> None:
    backend = open_hub(weights, torch.device("cpu"))
    path = weights / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsDamaged, match="vae"):
        backend.decode(torch.zeros(1, 4, 8, 8))


def test_a_checkpoint_that_lacks_a_weight_is_refused(weights: Path, tmp_path: Path) -> None:
    """The libraries would make it up."""
    path = weights / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors.pop("decoder.conv_out.weight")
    save_file(tensors, path)
    with pytest.raises(ProfileInvalid, match="missing"):
        repinned(weights, tmp_path / "vault").decode(torch.zeros(1, 4, 8, 8))


def test_a_checkpoint_of_another_shape_is_refused(weights: Path, tmp_path: Path) -> None:
    config = weights / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"latent_channels": 8}))
    with pytest.raises(ProfileInvalid):
        repinned(weights, tmp_path / "vault").decode(torch.zeros(1, 8, 8, 8))


def test_a_pickle_is_never_looked_at(weights: Path) -> None:
    path = weights / "vae" / "diffusion_pytorch_model.safetensors"
    shutil.move(path, path.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(WeightsDamaged):
        open_hub(weights, torch.device("cpu"))


def test_an_open_clip_that_cannot_be_imported_is_named(
    shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from archiver.models.hub.encoders import load_image_encoder

    (tmp_path / "open_clip_config.json").write_text("{}")
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    with pytest.raises(HubNotInstalled, match="open_clip"):
        load_image_encoder(tmp_path)
