"""Rate-distortion plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isnan, nan
from pathlib import Path

from archiver.errors import MeasuresNotInstalled
from archiver.quality.codecs import CODECS
from archiver.quality.summary import Summary

_PANELS: tuple[tuple[str, Callable[[Summary], float]], ...] = (
    ("semantics (higher is better)", lambda one: one.semantics.mean),
    ("BRISQUE (lower is better)", lambda one: one.brisque.mean if one.brisque else nan),
    ("colour error (lower is better)", lambda one: one.colour.mean),
    ("Fréchet distance (lower is better)", lambda one: one.frechet),
)
_MARKERS = "*osD^vPX"
_ANCHORS = ("another photograph", "autoencoder alone")


def draw(summaries: Sequence[Summary], path: Path) -> None:
    """Four measures over bytes as one PNG: codecs as lines, schemes as points. Raises MeasuresNotInstalled, OSError."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MeasuresNotInstalled(missing=error.name or error) from None
    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, value) in zip(figure.subplots(2, 2).flat, _PANELS, strict=True):
        for name in CODECS:
            points = sorted((one.size.mean, value(one)) for one in summaries if one.method == name and one.size)
            if points:
                axes.plot(*zip(*points, strict=True), ".-", label=name, linewidth=1)
        schemes = [one for one in summaries if one.size and one.method not in CODECS]
        for one, marker in zip(schemes, _MARKERS, strict=False):
            assert one.size is not None
            axes.plot(one.size.mean, value(one), marker, color="black", label=one.method, markersize=8)
        for one in summaries:
            if one.method.startswith(_ANCHORS) and not isnan(value(one)):
                axes.axhline(value(one), linestyle=":", color="grey", linewidth=1)
                axes.text(1, value(one), one.method, transform=axes.get_yaxis_transform(), ha="right", fontsize=8)
        axes.set(xscale="log", xlabel="bytes, mean over the pictures", title=title)
        axes.grid(alpha=0.3)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    figure.savefig(path, dpi=110)
