"""How near a decoded picture is to its original."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FidelityReport:
    """semantic: cosine of the semantic features of original and decoded, -1..1, higher is better.

    label_bce: binary cross-entropy between the label-word probabilities of both, in nats, lower is better; None where
    the profile has no labels. colour: mean absolute difference of 16x16 thumbnails, 0..255, lower is better.
    """

    semantic: float
    label_bce: float | None
    colour: float
