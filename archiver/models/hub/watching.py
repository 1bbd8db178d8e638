"""Looking at a self-attention's weights while a denoiser runs, through diffusers' own attention processors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor

_SEEN: ContextVar[list[Tensor] | None] = ContextVar("seen", default=None)  # a thread's own: threads share networks


class WatchedAttention:
    """An attention processor that does what the one it stands for does, and shows the weights to whoever watches."""

    def __init__(self, usual: Any) -> None:
        self._usual = usual

    def __call__(self, attention: Any, hidden_states: Tensor, *args: Any, **keys: Any) -> Any:
        """As any processor of diffusers; self-attention only."""
        if (seen := _SEEN.get()) is not None:
            query, key = (
                attention.head_to_batch_dim(layer(hidden_states)) for layer in (attention.to_q, attention.to_k)
            )
            weights = attention.get_attention_scores(query, key)
            seen.append(weights.float().unflatten(0, (-1, attention.heads)))
        return self._usual(attention, hidden_states, *args, **keys)


@contextmanager
def watching() -> Iterator[list[Tensor]]:
    """What a watched attention shows to this thread, (B, heads, cells, cells) for each run."""
    seen: list[Tensor] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)
