"""Every scheme's record stays within its budget, says what it was given, and is read for ever."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import zlib
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_pictures import attention, label_map, photograph
from numpy.typing import NDArray

from archiver.codec import codebook, colour_map, dct, schemes
from archiver.codec.codebook import Codebook
from archiver.codec.colour import shrink
from archiver.codec.entropy import two_sided_geometric
from archiver.codec.explain import explain
from archiver.codec.picture import Picture
from archiver.codec.record import EmbeddingGuidance, Record, Scheme, Section, SectionKind
from archiver.codec.schemes import LEARNT_GROUPS
from archiver.errors import RecordCorrupt

GOLDEN = Path(__file__).parent / "golden"
BUDGETS = {
    Scheme.SGC: 685,
    Scheme.COCLI: 88,
    Scheme.COCLICO: 256,
    Scheme.G_COCLICO: 256,
    Scheme.SEACOM: 256,
    Scheme.SESECO: 685,
}
WITH_COLOURS = [scheme for scheme in BUDGETS if scheme not in (Scheme.COCLI, Scheme.SEACOM)]


def facts(seed: int, grid: tuple[int, int]) -> schemes.Facts:
    embedding = np.random.default_rng(seed).normal(size=256).astype(np.float32)
    columns, rows = (-(-side // 2) for side in grid)
    labels = label_map(seed, 2 * grid[1], 2 * grid[0])
    return schemes.Facts(embedding, labels, 32, attention(seed, 4, rows, columns))


def _book(dimensions: int) -> Codebook:
    """A codebook of made numbers, the same for ever: a random generator's stream may change with its library."""
    shapes = {"mean": (dimensions,), "axes": (LEARNT_GROUPS, 6, dimensions), "vectors": (LEARNT_GROUPS, 256, 6)}
    parts = {}
    for name, shape in shapes.items():
        stream = hashlib.shake_256(f"{name} {dimensions}".encode()).digest(math.prod(shape))
        parts[name] = (np.frombuffer(stream, np.int8).reshape(shape) / 64).astype(np.float16)
    return Codebook(**parts)


BOOKS = {dimensions: _book(dimensions) for dimensions in (768, 1024)}  # CLIP's ViT-L/14 and ViT-H/14


def learnt_record(scheme: Scheme, seed: int = 0, dimensions: int = 768, grid: tuple[int, int] = (48, 32)) -> Record:
    """One whose embedding is coded by a codebook; of the largest picture whose sides take two bytes each."""
    picture = Picture(photograph(seed, 16 * grid[0], 16 * grid[1]), 16383, 10922)
    known = facts(seed, grid)
    embedding = np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)
    steering = replace(schemes.PRESETS["default"][scheme], colours_condition=False)
    known = replace(known, embedding=embedding)
    return schemes.compose(picture, known, scheme, b"profile!", grid, steering, BOOKS[dimensions])


def record(
    scheme: Scheme,
    seed: int = 0,
    grid: tuple[int, int] = (16, 16),
    preset: str = "default",
    *,
    guided: bool = False,
    told_colours: bool | None = None,
) -> Record:
    """`guided`: by the embedding, too. `told_colours`: whether the network is, where the preset does not decide."""
    picture = Picture(photograph(seed, 16 * grid[0], 16 * grid[1]), 250 * grid[0], 250 * grid[1])
    steering = schemes.PRESETS[preset][scheme]
    if guided:
        steering = replace(steering, embedding=EmbeddingGuidance(4 / 32, 5))
    if told_colours is not None:
        steering = replace(steering, colours_condition=told_colours)
    return schemes.compose(picture, facts(seed, grid), scheme, b"profile!", grid, steering)


@pytest.mark.parametrize("scheme", BUDGETS)
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("preset", ["default", "paper"])
@pytest.mark.parametrize("guided", [False, True])
def test_a_record_stays_within_its_budget(scheme: Scheme, seed: int, preset: str, guided: bool) -> None:
    assert len(record(scheme, seed, preset=preset, guided=guided).to_bytes()) <= BUDGETS[scheme]


@pytest.mark.parametrize("scheme", [Scheme.SGC, Scheme.SESECO])
def test_a_label_scheme_holds_an_embedding_where_it_is_guided_by_one(scheme: Scheme) -> None:
    plain, guided = record(scheme), record(scheme, guided=True)
    assert SectionKind.EMBEDDING not in {section.kind for section in plain.sections}
    assert schemes.material(plain).embedding is None
    found, wanted = schemes.material(guided), facts(0, (16, 16))
    assert np.array_equal(found.labels, wanted.labels)
    assert found.embedding is not None
    assert found.embedding @ wanted.embedding > 0.85 * np.linalg.norm(found.embedding) * np.linalg.norm(
        wanted.embedding
    )
    with pytest.raises(RecordCorrupt, match="embedding"):
        schemes.check(replace(plain, steering=guided.steering))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("grid", [(16, 16), (32, 32), (1, 1), (16, 1), (40, 30)])
def test_seacom_holds_colours_for_a_network_that_is_told_them(seed: int, grid: tuple[int, int]) -> None:
    plain, told = record(Scheme.SEACOM, seed, grid), record(Scheme.SEACOM, seed, grid, told_colours=True)
    assert schemes.material(plain).colours is None
    assert (plain.version, told.version) == (2, 3)
    assert Record.from_bytes(told.to_bytes()) == told
    assert len(told.to_bytes()) <= BUDGETS[Scheme.SEACOM]
    found = schemes.material(told)
    assert found.attention is not None and found.colours is not None
    columns, rows = schemes.map_size(grid, 16)
    assert found.colours.shape == (rows, columns, 3)
    original = shrink(photograph(seed, 16 * grid[0], 16 * grid[1]), columns, rows)
    assert np.abs(found.colours.astype(int) - original).mean() < 16
    preview = schemes.colour_preview(told)
    assert preview is not None and np.array_equal(preview, found.colours)


def _swatches(block: int, saturated: bool) -> NDArray[np.uint8]:
    """512x512 pixels of random colours, or of random corners of the colour cube, in squares of `block` pixels."""
    cells = -(-512 // block)
    colours = np.random.default_rng(block).integers(0, 256, (cells, cells, 3), np.uint8)
    colours = (colours >> 7) * np.uint8(255) if saturated else colours
    return np.ascontiguousarray(colours.repeat(block, 0).repeat(block, 1)[:512, :512])


@pytest.mark.parametrize("saturated", [False, True])
@pytest.mark.parametrize("block", [1, 8, 16, 21, 32, 64])
def test_noise_and_swatches_are_coded_more_coarsely_but_within_the_budget(block: int, saturated: bool) -> None:
    picture = Picture(_swatches(block, saturated), 20_000, 20_000)
    known = facts(0, (32, 32))
    for scheme, budget in BUDGETS.items():
        steering = replace(schemes.PRESETS["default"][scheme], embedding=EmbeddingGuidance(4 / 32, 5))
        for told in {steering.colours_condition, scheme is Scheme.SEACOM}:
            told_steering = replace(steering, colours_condition=told)
            coded = schemes.compose(picture, known, scheme, bytes(8), (32, 32), told_steering)
            assert len(coded.to_bytes()) <= budget, scheme
            schemes.check(Record.from_bytes(coded.to_bytes()))


@pytest.mark.parametrize(
    "pair", [((0, 0, 0), (255, 255, 255)), ((255, 0, 0), (0, 0, 255)), ((0, 255, 0), (255, 0, 255))]
)
def test_two_pure_colours_side_by_side_stay_what_they_are(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    """Their first coefficient is out of the range of the finest DCT steps, in which nothing else would take room."""
    halves = np.array(pair, np.uint8)[:, None, None].repeat(256, 1).repeat(512, 2).reshape(512, 512, 3)
    for scheme in WITH_COLOURS:
        steering = schemes.PRESETS["default"][scheme]
        coded = schemes.compose(Picture(halves, 512, 512), facts(0, (32, 32)), scheme, bytes(8), (32, 32), steering)
        shown = schemes.preview(coded)
        assert np.abs(shown.astype(int) - shrink(halves, shown.shape[1], shown.shape[0])).mean() < 16, scheme
    for rung in schemes._DCT_RUNGS[3:]:
        assert dct.holds(shrink(halves, 2, 2), dct.Truncation(*rung))


def test_the_coarsest_colours_take_next_to_nothing_whatever_they_are() -> None:
    """So that colours always fit: what stands beside them in a budget of 256 bytes is 118 bytes at most."""
    side, *steps = schemes._MAP_RUNGS[-1]
    luma, chroma, *_ = kept = schemes._DCT_RUNGS[-1]
    assert (side, luma, chroma) == (1, 1, 1)
    for colour in np.stack(np.meshgrid(*[np.arange(0, 256, 17, np.uint8)] * 3), -1).reshape(-1, 1, 1, 3):
        assert len(colour_map.encode(colour, steps[0], steps[1])) <= 6
        # A mean is coded alike for every size of the map, but for the two bytes of its size.
        assert len(dct.encode(colour, dct.Truncation(*kept))) <= 12


def test_the_coarsest_attention_leaves_room_for_colours() -> None:
    """No level of two bits costs more than 13: the rarest weight is 1 in 2^13, whatever came before."""
    side, bits = schemes._ATTENTION_STEPS[-1]
    weights = [two_sided_geometric(centre, 0, 3, 16) for centre in range(4)]
    assert max(math.log2(sum(some) / min(some)) for some in weights) < 13
    assert (26 + 11) + (2 + 55) + (3 + 5 + 4 * side * side * 13 // 8) + (2 + 6) < BUDGETS[Scheme.SEACOM]
    assert bits == 2


@pytest.mark.parametrize("steering", [None, EmbeddingGuidance(4 / 32, 5)])
def test_cocli_keeps_its_budget_for_the_largest_sources(steering: EmbeddingGuidance | None) -> None:
    told = replace(schemes.PRESETS["default"][Scheme.COCLI], embedding=steering)
    known = facts(0, (16, 16))
    for side in (16_383, 16_384, 1 << 20):
        picture = Picture(photograph(0, 256, 256), side, side)
        coded = schemes.compose(picture, known, Scheme.COCLI, bytes(8), (16, 16), told)
        assert len(coded.to_bytes()) <= BUDGETS[Scheme.COCLI]
        found = schemes.material(coded).embedding
        assert found is not None
        cosine = found @ known.embedding / np.linalg.norm(found) / np.linalg.norm(known.embedding)
        assert cosine > (0.75 if steering and side > 16_383 else 0.88)


@pytest.mark.parametrize("scheme", BUDGETS)
@pytest.mark.parametrize("grid", [(16, 16), (16, 11), (9, 16), (1, 1), (16, 1), (40, 30)])
def test_a_record_gives_back_what_it_was_given(scheme: Scheme, grid: tuple[int, int]) -> None:
    coded = record(scheme, 3, grid)
    assert Record.from_bytes(coded.to_bytes()) == coded
    given = facts(3, grid)
    found = schemes.material(coded)
    if found.labels is not None:
        assert np.array_equal(found.labels, given.labels)
    else:
        assert found.embedding is not None
        cosine = found.embedding @ given.embedding / np.linalg.norm(found.embedding) / np.linalg.norm(given.embedding)
        assert cosine > 0.88
    assert (found.attention is None) == (scheme is not Scheme.SEACOM)
    if found.attention is not None and given.attention is not None and found.attention.shape == given.attention.shape:
        assert np.abs(found.attention - np.log2(given.attention.clip(1 / 8, 8))).max() < 0.8
    if scheme in WITH_COLOURS:
        preview = schemes.preview(coded)
        rows, columns, _ = preview.shape
        assert (columns, rows) == schemes.map_size(grid, min(32, max(columns, rows)))
        original = shrink(photograph(3, 16 * grid[0], 16 * grid[1]), columns, rows)
        assert np.abs(preview.astype(int) - original).mean() < 12
    else:
        assert schemes.colour_preview(coded) is None
        assert schemes.preview(coded).shape == (grid[1], grid[0], 3)


def test_the_paper_s_colour_maps_have_16_cells_a_side_and_finer_ones_need_a_network_that_knows_them() -> None:
    for scheme in WITH_COLOURS:
        assert schemes.preview(record(scheme, 3, (32, 24), preset="paper")).shape == (12, 16, 3)
    assert schemes.preview(record(Scheme.SGC, 3, (32, 24))).shape == (24, 32, 3)


def test_the_same_picture_gives_the_same_record_and_another_one_another_seed() -> None:
    assert record(Scheme.SGC, 1) == record(Scheme.SGC, 1)
    assert record(Scheme.SGC, 1).seed != record(Scheme.SGC, 2).seed


def test_the_steering_travels_with_the_record() -> None:
    for preset, steerings in schemes.PRESETS.items():
        for scheme, steering in steerings.items():
            assert Record.from_bytes(record(scheme, preset=preset).to_bytes()).steering == steering.rounded()


@pytest.mark.parametrize("scheme", BUDGETS)
def test_the_parts_of_a_record_add_up(scheme: Scheme) -> None:
    coded = record(scheme)
    told = explain(coded)
    assert told.bytes == len(coded.to_bytes()) == sum(part.bytes for part in told.parts)
    assert told.bits_per_pixel == pytest.approx(8 * told.bytes / 4000**2)
    assert all(part.bytes > 0 and part.text for part in told.parts)


def test_a_record_without_what_its_scheme_needs_is_corrupt() -> None:
    coded = record(Scheme.SGC)
    for kept in coded.sections:
        with pytest.raises(RecordCorrupt, match="sgc record without"):
            schemes.check(replace(coded, sections=(kept,)))


@pytest.mark.parametrize("scheme", BUDGETS)
def test_junk_after_a_payload_is_corrupt(scheme: Scheme) -> None:
    coded = record(scheme, grid=(4, 4))
    for index, section in enumerate(coded.sections):
        for junk in (b"\0", b"junk" * 100):
            longer = replace(section, payload=section.payload + junk)
            sections = (*coded.sections[:index], longer, *coded.sections[index + 1 :])
            with pytest.raises(RecordCorrupt):
                schemes.check(replace(coded, sections=sections))


@pytest.mark.parametrize("scheme", BUDGETS)
def test_a_section_that_a_scheme_has_no_use_for_is_corrupt(scheme: Scheme) -> None:
    coded = record(scheme, grid=(4, 4))
    useless = set(SectionKind) - {section.kind for section in coded.sections} - {SectionKind.LEARNT_EMBEDDING}
    if scheme is Scheme.SEACOM:
        useless.remove(SectionKind.COLOUR_MAP)
    for kind in useless:
        with pytest.raises(RecordCorrupt, match="no use for"):
            schemes.check(replace(coded, sections=(*coded.sections, Section(kind, b"x" * 60_000))))


def test_a_label_map_that_does_not_fit_the_grid_is_corrupt() -> None:
    with pytest.raises(RecordCorrupt, match="grid"):
        schemes.check(replace(record(Scheme.SGC), grid=(16, 15)))


@pytest.mark.parametrize("dimensions", sorted(BOOKS))
@pytest.mark.parametrize("scheme", [Scheme.COCLI, Scheme.COCLICO, Scheme.G_COCLICO, Scheme.SEACOM])
def test_learnt_embeddings_keep_every_budget_whatever_their_dimensions(scheme: Scheme, dimensions: int) -> None:
    coded = learnt_record(scheme, dimensions=dimensions)
    assert len(coded.to_bytes()) <= BUDGETS[scheme]
    again = Record.from_bytes(coded.to_bytes())
    assert again == coded and again.version == 4
    found = schemes.material(again, BOOKS[dimensions]).embedding
    assert found is not None and found.shape == (dimensions,)
    wanted = codebook.decode(coded.section(SectionKind.LEARNT_EMBEDDING), BOOKS[dimensions])
    assert np.array_equal(found, wanted)


def test_what_needs_no_codebook_is_read_without_it() -> None:
    coded = learnt_record(Scheme.COCLICO)
    schemes.check(coded)
    found = schemes.material(coded)
    assert found.embedding is None and found.colours is not None
    assert any("by the profile's codebook" in part.text for part in explain(coded).parts)


def test_an_older_version_is_refused_for_what_it_cannot_hold() -> None:
    data = bytearray(learnt_record(Scheme.COCLI).to_bytes())
    data[2] = 3 << 4 | Scheme.COCLI
    data[-4:] = zlib.crc32(data[:-4]).to_bytes(4, "big")
    with pytest.raises(RecordCorrupt, match="version"):
        Record.from_bytes(bytes(data))


@settings(max_examples=80, deadline=None)
@given(st.sampled_from(sorted(BUDGETS)), st.data())
def test_hostile_sections_are_read_or_refused(scheme: Scheme, data: st.DataObject) -> None:
    coded = record(scheme, grid=(4, 4))
    hostile = []
    for section in coded.sections:
        payload = bytearray(section.payload)
        for _ in range(data.draw(st.integers(0, 4))):
            payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
        hostile.append(Section(section.kind, bytes(payload[: data.draw(st.integers(0, len(payload)))])))
    with suppress(RecordCorrupt):
        schemes.check(replace(coded, sections=tuple(hostile)))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.rec")), ids=lambda path: path.stem)
def test_golden_records_are_read_for_ever(path: Path) -> None:
    """The .json beside each record says what was read from it when it was written; see golden/README.md."""
    expected = json.loads(path.with_suffix(".json").read_text())
    golden = Record.from_bytes(path.read_bytes())
    found = schemes.material(golden, BOOKS[768])
    assert golden.scheme.label == expected["scheme"]
    assert [part.text for part in explain(golden).parts] == expected["parts"]
    assert (None if found.labels is None else found.labels.tolist()) == expected["labels"]
    assert (found.colours is None) == (expected["colours"] is None)
    if found.colours is not None:
        # A DCT is rounded at the end, which may fall either way on another machine.
        tolerance = 1 if golden.scheme is Scheme.G_COCLICO else 0
        assert np.abs(found.colours.astype(int) - expected["colours"]).max() <= tolerance
    assert (found.embedding is None) == (expected["embedding"] is None)
    if found.embedding is not None:
        assert np.allclose(found.embedding, expected["embedding"], atol=1e-4)
    assert (None if found.attention is None else found.attention.tolist()) == expected.get("attention")


def test_there_is_a_golden_record_of_every_scheme() -> None:
    assert {path.stem.split("-v")[0] for path in GOLDEN.glob("*.rec")} == {scheme.label for scheme in Scheme}


def test_the_codec_imports_no_torch() -> None:
    code = (
        "import sys, archiver.codec.schemes, archiver.codec.explain, archiver.codec.fidelity, archiver.models.vault,"
        "archiver.decoder.engine; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
