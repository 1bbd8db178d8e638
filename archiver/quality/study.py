"""A whole run over a folder: the subject, the photographs, and the files that come out of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from threading import Event

from archiver.config import Settings
from archiver.decoder.engine import Engine
from archiver.decoder.opening import open_engine
from archiver.errors import ImageRefused, NothingToMeasure, ProfileInvalid
from archiver.formats.inspection import refuse_ours
from archiver.models.vault import Vault
from archiver.quality import plots, sheets
from archiver.quality.bench import Bench, Options, Pixels, Reconstruct, Result
from archiver.quality.codecs import CODECS
from archiver.quality.search import write_whole
from archiver.quality.summary import Summaries, Summary


@dataclass(frozen=True, slots=True)
class Report:
    """What a run found, and where it is written. left_out: what was not measured, and why."""

    profile: str
    fingerprint: bytes
    preset: str
    pictures: int
    left_out: dict[Path, str]
    seconds: float
    summaries: tuple[Summary, ...]
    table: Path
    plot: Path
    sheets: tuple[Path, ...]


def packaged_settings(weights: Path, vault: Path, preset: str) -> Settings:
    """Settings for the profile in the folder `weights`, brought into a vault of its own.

    Raises ProfileUnknown, ProfileInvalid, WeightsDamaged, OSError.
    """
    profile = Vault(vault).import_directory(weights)
    chosen = {"profile": profile.fingerprint.hex(), "preset": preset}
    return Settings.model_validate({"vault": {"path": vault.absolute()}, "model": chosen})


def open_subject(settings: Settings) -> tuple[Engine, Reconstruct | None]:
    """The engine of a configuration, and its autoencoder alone where it is of the embedded kind.

    Raises what `open_engine` raises, and WeightsDamaged.
    """
    engine = open_engine(settings)
    folder = Vault(settings.vault.path).directory(engine.profile.key)
    return engine, _autoencoder(folder)


def _autoencoder(folder: Path) -> Reconstruct | None:
    import torch

    from archiver.decoder.pixels import to_pixels, to_tensor
    from archiver.models.embedded import Autoencoder, load_network, read_profile

    try:
        network = load_network(folder, read_profile(folder), "autoencoder")
    except ProfileInvalid:  # of another kind: there is no such row then
        return None
    assert isinstance(network, Autoencoder)

    def reconstruct(pixels: Pixels) -> Pixels:
        with torch.inference_mode():
            return to_pixels(network.decode(network.encode(to_tensor(pixels))))

    return reconstruct


def study(
    paths: Sequence[Path], settings: Settings, options: Options, out: Path, stop: Event, advance: Callable[[Path], None]
) -> Report:
    """Measure photographs and write `results.jsonl`, `table.md`, `rate-distortion.png` and the contact sheets to `out`.

    What was measured before, with the same weights and options, is taken from there. `advance` is told of each
    photograph that is done; once `stop` is set, the rest is left out. Raises NothingToMeasure, and what
    `archiver.quality.bench.measure` raises.
    """
    began = time.monotonic()
    engine, reconstruct = open_subject(settings)
    with closing(engine):
        gathered = _measure_all(paths, engine, reconstruct, options, out, stop, advance)
    found = tuple(gathered.summaries.all())
    write_whole(out / "table.md", markdown(found).encode())
    plots.draw(found, out / "rate-distortion.png")
    return Report(
        profile=engine.profile.name,
        fingerprint=engine.profile.fingerprint,
        preset=settings.model.preset,
        pictures=len(gathered.measured),
        left_out=gathered.left_out,
        seconds=time.monotonic() - began,
        summaries=found,
        table=out / "table.md",
        plot=out / "rate-distortion.png",
        sheets=tuple(sheets.join_strips((strip for strip in gathered.strips if strip.exists()), out)),
    )


@dataclass(slots=True)
class _Gathered:
    summaries: Summaries = field(default_factory=Summaries)
    measured: list[Path] = field(default_factory=list)
    left_out: dict[Path, str] = field(default_factory=dict)
    strips: list[Path] = field(default_factory=list)


def _measure_all(
    paths: Sequence[Path],
    engine: Engine,
    reconstruct: Reconstruct | None,
    options: Options,
    out: Path,
    stop: Event,
    advance: Callable[[Path], None],
) -> _Gathered:
    bench = Bench(engine, options, out / "cache", reconstruct)
    gathered = _Gathered()
    partial = out / "results.jsonl.partial"
    with partial.open("w", encoding="utf-8") as rows:
        for path in paths:
            if stop.is_set():
                break
            if reason := _refused(path):
                gathered.left_out[path] = reason
                continue
            try:
                result = bench.result(path, gathered.measured[-1] if gathered.measured else None)
            except ImageRefused as error:
                gathered.left_out[path] = error.message
                continue
            gathered.measured.append(path)
            gathered.summaries.add(result)
            gathered.strips.append(_strip(result, options, out / "cache" / "strips" / f"{result.key}.png"))
            rows.write("".join(json.dumps({"path": str(path)} | asdict(row)) + "\n" for row in result.rows))
            advance(path)
    if not gathered.measured:
        raise NothingToMeasure(path=paths[0].parent)
    partial.replace(out / "results.jsonl")
    return gathered


def _refused(path: Path) -> str | None:
    """Why the file at `path` is no photograph to measure by: what was released, or cannot be opened."""
    try:
        with path.open("rb") as file:
            refuse_ours(file)
    except ImageRefused as error:
        return error.message
    except OSError as error:
        return error.strerror
    return None


def _strip(result: Result, options: Options, path: Path) -> Path:
    """The contact sheet's part for one picture; drawn when it is measured, for its pixels are not kept.

    A process that was killed just then leaves none.
    """
    if result.pictures:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheets.draw_strip(result, options.codecs).save(path)
    return path


COLUMNS = ("method", "held to", "n", "fit", "bytes", "bpp", "semantics", "BRISQUE", "NIQE", "colour", "Fréchet")
MARKED_COLUMNS = ("own semantics *", "label BCE *")


def cells(one: Summary) -> tuple[str, ...]:
    """One line of the table, as text."""
    rate = ("", "") if one.size is None or one.bpp is None else (f"{one.size.mean:,.0f}", f"{one.bpp.mean:.4f}")
    return (
        one.method,
        one.target,
        str(one.pictures),
        "" if one.fitting is None else str(one.fitting),
        *rate,
        f"{one.semantics.mean:.2f} ± {one.semantics.deviation:.2f}",
        _brisque(one),
        f"{one.niqe.mean:.1f}",
        f"{one.colour.mean:.1f}",
        f"{one.frechet:.2f}",
        f"{one.own_semantics.mean:.2f}",
        "" if one.label_bce is None else f"{one.label_bce.mean:.3f}",
    )


def _brisque(one: Summary) -> str:
    """Its mean and deviation, and of how many pictures where some have none."""
    if one.brisque is None:
        return ""
    some = f" (n {one.brisque.pictures})" if one.brisque.pictures < one.pictures else ""
    return f"{one.brisque.mean:.0f} ± {one.brisque.deviation:.0f}{some}"


def markdown(summaries: Sequence[Summary]) -> str:
    """The table for a page of documentation."""
    head = (*COLUMNS, *MARKED_COLUMNS)
    ordered = in_order(summaries)
    lines = ["| " + " | ".join(line) + " |" for line in (head, ("---",) * len(head), *map(cells, ordered))]
    return "\n".join(lines) + "\n"


def in_order(summaries: Sequence[Summary]) -> list[Summary]:
    """Anchors and schemes first, then the codecs by what they were held to."""
    targets = list(dict.fromkeys(one.target for one in summaries))
    return sorted(summaries, key=lambda one: (one.method in CODECS, targets.index(one.target)))
