"""Steering on the weights that ship: what each scheme's side information does to real networks' estimates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_pictures import photograph
from numpy.typing import NDArray
from torch import Tensor

import archiver.models
from archiver.codec import region_colours, schemes
from archiver.codec.colour import area_means, shrink
from archiver.codec.dct import basis
from archiver.codec.picture import Picture
from archiver.codec.record import AttentionGuidance, EmbeddingGuidance, Record, Scheme, Section, SectionKind
from archiver.decoder import guidance
from archiver.decoder.attention import octaves, received, reference
from archiver.decoder.decoding import Steered, decode_latents, decode_records
from archiver.decoder.embedded import EmbeddedBackend
from archiver.decoder.judge import judge
from archiver.decoder.pixels import to_tensor
from archiver.models.embedded import Conditions, load_embedded

DIRECTORY = Path(archiver.models.__file__).parent / "weights" / "embedded-1"
GRID = (12, 8)


@pytest.fixture(scope="module")
def models() -> EmbeddedBackend:
    torch.set_num_threads(1)
    return EmbeddedBackend(load_embedded(DIRECTORY))


def coded(
    models: EmbeddedBackend,
    scheme: Scheme,
    seed: int,
    steps: int = 10,
    guide: EmbeddingGuidance | None = None,
    told_colours: bool = False,
) -> Record:
    """The record of a made photograph, with fewer steps than the default preset takes."""
    picture = Picture(photograph(seed, 16 * GRID[0], 16 * GRID[1]), 1200, 800)
    steering = replace(schemes.PRESETS["default"][scheme], steps=steps, embedding=guide)
    if told_colours:
        steering = replace(steering, colours_condition=True)
    return schemes.compose(picture, models.observe(picture.pixels, scheme), scheme, bytes(8), GRID, steering)


def attended(models: EmbeddedBackend, record: Record) -> Tensor:
    """What attention the clean latent of a record draws, in octaves, as an encoder would see it."""
    embedding = schemes.material(record).embedding
    assert embedding is not None
    with torch.no_grad():
        return octaves(reference(models.networks, decode_latents(models, [record]), torch.from_numpy(embedding)[None]))[
            0
        ]


def coefficients(x: Tensor) -> Tensor:
    down, across = (torch.from_numpy(np.array(basis(size))) for size in x.shape[2:])
    return down @ x.double() @ across.T


def noisy(record: Record) -> Tensor:
    return torch.randn((1, 16, GRID[1], GRID[0]), generator=torch.Generator().manual_seed(record.seed))


# -- SEACOM ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("told_colours", "until", "left"),
    [(False, 0.5, 0.7), (True, 1.0, 0.9)],  # colours alone bring a layout four times as near, and leave less to pull
)
def test_seacom_pulls_attention_toward_the_stored_maps(
    models: EmbeddedBackend, seed: int, told_colours: bool, until: float, left: float
) -> None:
    record = coded(models, Scheme.SEACOM, seed, told_colours=told_colours)
    assert len(record.to_bytes()) <= 256
    stored = schemes.material(record).attention
    assert stored is not None

    def distance(strength: float) -> float:
        steering = replace(record.steering, attention=AttentionGuidance(strength, 0.5))
        found = attended(models, replace(record, steering=steering.rounded())).numpy()
        return float(np.square(area_means(found, stored.shape[2], stored.shape[1]) - stored).mean())

    free, pulled = distance(0.0), distance(0.1)
    assert pulled < left * free, (free, pulled)


def test_seacom_follows_the_maps_of_another_picture_when_they_are_swapped_in(models: EmbeddedBackend) -> None:
    """The pull is toward what is stored, not toward what the network would do anyway."""
    one, other = coded(models, Scheme.SEACOM, 0), coded(models, Scheme.SEACOM, 1)
    maps = [schemes.material(record).attention for record in (one, other)]
    swapped = replace(one, sections=(one.sections[0], other.sections[1]))
    for record, wanted, unwanted in ((one, 0, 1), (swapped, 1, 0)):
        found = attended(models, record).numpy()
        near, far = (float(np.square(found - maps[which]).mean()) for which in (wanted, unwanted))
        assert near < far


def test_seacom_without_strength_is_plain_sampling(models: EmbeddedBackend) -> None:
    record = coded(models, Scheme.SEACOM, 0, steps=4)
    still = replace(record, steering=replace(record.steering, attention=AttentionGuidance(0.0, 0.5)))
    plain = replace(record, steering=replace(record.steering, attention=None))
    assert np.array_equal(decode_records(models, [still])[0], decode_records(models, [plain])[0])


def test_seacom_s_step_shortens_the_distance_it_was_taken_for(models: EmbeddedBackend) -> None:
    record = coded(models, Scheme.SEACOM, 2)
    step = Steered(models, [record]).steer(10)
    assert step is not None
    z = noisy(record)
    distances = []
    for _ in range(3):
        moved = step(z, 900, 9)
        assert float((moved - z).norm()) <= 0.103 * float(z.norm())
        z = moved
        distances.append(_attention_distance(models, record, z))
    assert distances == sorted(distances, reverse=True)
    assert step(z, 400, 4) is z  # the second half of the steps is free


def _attention_distance(models: EmbeddedBackend, record: Record, z: Tensor) -> float:
    material = schemes.material(record)
    assert material.embedding is not None and material.attention is not None
    wanted = torch.from_numpy(material.attention)[None]
    told = Conditions(torch.from_numpy(material.embedding)[None])
    _, distance = guidance.attention_guidance(
        z, wanted, lambda x: octaves(received(models.networks, x, 900, told)), 0.0
    )
    return float(distance)


# -- G-COCLICO ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("time", [950, 500, 50])
def test_g_coclico_reaches_what_is_known_and_leaves_the_null_space_to_the_network(
    models: EmbeddedBackend, time: int
) -> None:
    record = coded(models, Scheme.G_COCLICO, 0)
    linear = record.steering.linear
    assert linear is not None
    guided = replace(record, steering=replace(record.steering, linear=replace(linear, strength=1.0, pixel_steps=0)))
    free = replace(record, steering=replace(record.steering, linear=None))
    mask = guidance.low_frequency_mask(GRID[1], GRID[0], linear.cutoff).double()
    with torch.no_grad():
        steered = Steered(models, [guided])
        assert steered.known is not None
        x0, unsteered = (one.predict(noisy(record), time, 9) for one in (steered, Steered(models, [free])))
        assert (mask * (coefficients(x0) - coefficients(steered.known))).abs().max() < 1e-5
        assert ((1 - mask) * (coefficients(x0) - coefficients(unsteered))).abs().max() < 5e-6
        assert (mask * (coefficients(unsteered) - coefficients(steered.known))).abs().max() > 0.1


# -- embeddings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", schemes.SUPPORTED)
def test_embedding_guidance_shows_more_of_what_is_stored(models: EmbeddedBackend, scheme: Scheme) -> None:
    one, other = (coded(models, scheme, seed, steps=2, guide=EmbeddingGuidance(6 / 32, 4)) for seed in (0, 1))
    swapped = replace(one, sections=tuple(map(_embedding_of(other), one.sections)))  # not what is shown anyway
    for guided in (one, swapped):
        assert _shown(models, guided) > _shown(models, _barely(guided)) + 0.15


@pytest.mark.parametrize("seed", range(2))
def test_what_guidance_gains_counts_for_little_with_the_gate(models: EmbeddedBackend, seed: int) -> None:
    """Else it would let everything pass that was steered by the network that it looks through: at full size it counted
    three quarters of what was aimed at, at half the size a quarter at most.
    """
    guided = coded(models, Scheme.SGC, seed, steps=1, guide=EmbeddingGuidance(6 / 32, 5))
    original = photograph(seed, 16 * GRID[0], 16 * GRID[1])
    before, after = (decode_records(models, [record])[0] for record in (_barely(guided), guided))
    aimed = _shown(models, guided) - _shown(models, _barely(guided))
    judged = judge(models, original, after).semantic - judge(models, original, before).semantic
    assert judged < 0.4 * aimed


def _embedding_of(other: Record) -> Callable[[Section], Section]:
    theirs = Section(SectionKind.EMBEDDING, other.section(SectionKind.EMBEDDING))
    return lambda section: theirs if section.kind is SectionKind.EMBEDDING else section


def _barely(record: Record) -> Record:
    """The same record, with as little guidance by its embedding as one can ask for."""
    return replace(record, steering=replace(record.steering, embedding=EmbeddingGuidance(1 / 32, 1)))


def _shown(models: EmbeddedBackend, record: Record) -> float:
    """Cosine of a stored embedding to that of the picture it was decoded to."""
    stored = schemes.material(record).embedding
    picture = decode_records(models, [record])[0]
    seen = models.observe(picture, Scheme.COCLI).embedding
    assert stored is not None
    return float(stored @ seen / np.linalg.norm(stored) / np.linalg.norm(seen))


def test_embedding_guidance_is_each_record_s_own(models: EmbeddedBackend) -> None:
    """In batches of one size, as the decoder makes them, a picture does not depend on who else is in its batch."""
    records = [coded(models, Scheme.COCLICO, seed, steps=1, guide=EmbeddingGuidance(6 / 32, 3)) for seed in (0, 1, 2)]
    pictures = decode_records(models, records)
    for places in ((1, 0, 0), (2, 2, 1)):
        for place, picture in zip(places, decode_records(models, [records[place] for place in places]), strict=True):
            assert np.array_equal(pictures[place], picture)


def test_views_are_mirrored_and_of_three_sizes_and_show_the_same(models: EmbeddedBackend) -> None:
    """What is looked at is the picture, whole, whichever way: a photograph of a subject is as near to it in all."""
    with torch.no_grad():
        pictures = to_tensor(photograph(0, 512, 256))  # large enough for three sizes in steps of 32 pixels
        z = models.encode(pictures)
        shown = models.decode(z).clamp(-1, 1)
        seen = models.networks.semantics(shown).embedding
        other = models.networks.semantics(models.decode(models.encode(-pictures)).clamp(-1, 1)).embedding
        likeness = [float(models.likeness(z, seen, view)) for view in range(6)]
        unlike = [float(models.likeness(z, other, view)) for view in range(6)]
        assert likeness[0] == pytest.approx(1, abs=1e-5)
        assert len({round(one, 4) for one in likeness}) == 6, "six different views"
        assert all(one > 0.8 and one > another + 0.3 for one, another in zip(likeness, unlike, strict=True))
        turned = models.networks.semantics(shown.flip(3)).embedding
        assert float(models.likeness(z, turned, 3)) == pytest.approx(1, abs=1e-5), (
            "the fourth is mirrored, of full size"
        )


# -- SESECO ------------------------------------------------------------------------------------------------------------


def test_seseco_s_precision_of_one_region_changes_no_other_region_s_guidance(models: EmbeddedBackend) -> None:
    record, region, inside = _seseco(models)
    coarse, fine = (_with_precision(models, record, refine) for refine in (frozenset[int](), frozenset({region})))
    known = [schemes.material(one) for one in (coarse, fine)]
    assert known[0].colours is not None and known[1].colours is not None
    assert np.array_equal(known[0].colours[~inside], known[1].colours[~inside])
    assert np.abs(known[0].colours[inside].astype(int) - known[1].colours[inside]).max() > 0
    with torch.no_grad():
        x0, target = noisy(record), Steered(models, [coarse]).known
        assert target is not None
        moved = [_region_step(x0, target, material.detail) for material in known]
    change = (moved[1] - moved[0]).abs().amax((0, 1)).numpy()
    assert not change[~inside].any()
    assert change[inside].max() > 0.05


def test_seseco_s_precision_of_one_region_stays_local_in_the_finished_picture(models: EmbeddedBackend) -> None:
    """The network sees the whole picture, so that a little changes elsewhere, too."""
    record, region, inside = _seseco(models)
    pictures = [
        decode_records(models, [_with_precision(models, record, refine)])[0]
        for refine in (frozenset[int](), frozenset({region}))
    ]
    means = [shrink(picture, *GRID).astype(int) for picture in pictures]
    change = np.abs(means[1] - means[0]).mean(-1)
    assert change[inside].mean() > 3 * change[~inside].mean()


def _seseco(models: EmbeddedBackend) -> tuple[Record, int, NDArray[np.bool_]]:
    """A record of two label regions, the one that is refined or not, and its cells."""
    record = coded(models, Scheme.SESECO, 4)
    labels = np.zeros((2 * GRID[1], 2 * GRID[0]), np.uint8)
    labels[:, GRID[0] :] = 7
    facts = replace(models.observe(_picture(), Scheme.SESECO), labels=labels)
    record = schemes.compose(Picture(_picture(), 1200, 800), facts, Scheme.SESECO, bytes(8), GRID, record.steering)
    inside = np.zeros((GRID[1], GRID[0]), np.bool_)
    inside[:, GRID[0] // 2 :] = True
    return record, 7, inside


def _picture() -> NDArray[np.uint8]:
    """Fine stripes that a coarse colour map cannot hold."""
    pixels = photograph(4, 16 * GRID[0], 16 * GRID[1]).astype(int)
    stripes = 60 * (np.arange(16 * GRID[0]) // 16 % 2) - 30
    return np.clip(pixels // 2 + 60 + stripes[None, :, None], 0, 255).astype(np.uint8)


def _with_precision(models: EmbeddedBackend, record: Record, refine: frozenset[int]) -> Record:
    labels = schemes.material(record).labels
    assert labels is not None
    payload = region_colours.encode(shrink(_picture(), *GRID), labels, 8, 12, refine)
    return replace(record, sections=(record.sections[0], Section(SectionKind.REGION_COLOURS, payload)))


def _region_step(x0: Tensor, known: Tensor, detail: NDArray[np.float32] | None) -> Tensor:
    assert detail is not None
    mask = guidance.low_frequency_mask(GRID[1], GRID[0], 0.25)
    return guidance.region_guidance(x0, known, mask, torch.from_numpy(detail)[None, None])
