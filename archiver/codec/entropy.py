"""Arithmetic coding of symbols under integer-weighted models, for encoder and decoder alike.

A model is a sequence of positive integer weights. `code` of a `SymbolWriter` and of a `SymbolReader` have the same
shape, so that a section's model is written down once, as one walk over its symbols, and both directions run it.

Models are integers because the two directions may run on different machines: sums of integers are exact in float64, and
what constriction computes from them is one division and one product each, which IEEE 754 fixes to the last bit.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import constriction
import numpy as np
from numpy.typing import NDArray

from archiver.errors import RecordCorrupt

_queue = constriction.stream.queue
_model = constriction.stream.model
_WORD = 32
_STATE = 64  # bits of constriction's range coder state
_PADDING_WORDS = 3


class SymbolCoder(Protocol):
    """Codes one symbol after the other."""

    def code(self, weights: Sequence[int], symbol: int) -> int:
        """Code a symbol 0..len(weights)-1. A writer writes `symbol` and returns it; a reader ignores it and returns
        what was written.
        """
        ...


def _categorical(weights: Sequence[int]) -> object:
    return _model.Categorical(np.array(weights, np.float64), perfect=False, lazy=True)


class SymbolWriter:
    """A range encoder (Martin 1979; here constriction's) whose output is cut to the shortest unambiguous bytes."""

    def __init__(self) -> None:
        self._coder = _queue.RangeEncoder()

    def code(self, weights: Sequence[int], symbol: int) -> int:
        """Write `symbol`; one with no alternative costs nothing."""
        if len(weights) > 1:
            self.encode(symbol, _categorical(weights))
        return symbol

    def encode(self, symbol: int, model: object) -> None:
        """Write `symbol` under a model of constriction's."""
        self._coder.encode(symbol, model)

    def to_bytes(self) -> bytes:
        """The shortest bytes that, followed by zeros, lie in the coder's final interval.

        constriction rounds up to 32-bit words; on maps of a hundred bytes the two bytes saved on average matter.
        """
        position, (lower, width) = self._coder.pos()  # of 32-bit words, and the 64-bit state
        bits = _WORD * position + _STATE
        words = self._coder.get_compressed()
        value = int.from_bytes(words.astype(">u4").tobytes(), "big") << max(0, bits - _WORD * len(words))
        # The state is the final interval's lower end modulo 2^64; the words lie within the interval.
        low = value - (value - lower) % (1 << _STATE)

        def above(count: int) -> int:
            """The least number of so many bytes that is not below the interval."""
            return int(-(-low >> bits - 8 * count))

        # More bytes fit where fewer do. One after the other took seconds for the longest payload of a record.
        count = bisect_left(range(bits // 8), True, key=lambda few: above(few) << bits - 8 * few < low + width)
        return bytes(above(count).to_bytes(count, "big"))


class SymbolReader:
    """The range decoder for what a `SymbolWriter` wrote."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        padded = data + bytes(-len(data) % 4 + 4 * _PADDING_WORDS)
        words: NDArray[np.uint32] = np.frombuffer(padded, ">u4").astype(np.uint32)
        self._coder = _queue.RangeDecoder(words)
        self._again = SymbolWriter()  # writes what is read, for `finish`

    def code(self, weights: Sequence[int], symbol: int = 0) -> int:  # noqa: ARG002 - the writer's signature
        """Read the next symbol.

        Raises RecordCorrupt where no symbol has this code.
        """
        if len(weights) == 1:
            return 0
        model = _categorical(weights)
        try:
            found = int(self._coder.decode(model))
        except AssertionError:  # constriction's answer to bits that no encoder writes
            raise RecordCorrupt(problem="a coded map does not follow its model") from None
        self._again.encode(found, model)
        return found

    def finish(self, what: str) -> None:
        """Prove that the bytes are those that a `SymbolWriter` makes of what was read, no more and no fewer: zeros
        stand in for bytes that are missing, and bytes that are left over would not be looked at.

        Raises RecordCorrupt.
        """
        if self._again.to_bytes() != self._data:
            raise RecordCorrupt(problem=f"{what} does not end where its content does")


@lru_cache(maxsize=4096)
def two_sided_geometric(centre: int, low: int, high: int, spread: int) -> tuple[int, ...]:
    """Weights of the integers `low`..`high`, falling on both sides of `centre` by the ratio spread / (spread + 256).

    `spread` is about 256 times the mean absolute deviation (JPEG-LS models its residuals so: ITU-T T.87); it is rounded
    to three significant bits, which costs nothing to speak of and lets most models be taken from the cache.
    """
    coarse = max(0, spread.bit_length() - 3)
    spread = spread >> coarse << coarse
    falling = [1 << 20]
    for _ in range(high - low):
        falling.append(falling[-1] * spread // (spread + 256))
    return tuple(1 + falling[min(abs(value - centre), high - low)] for value in range(low, high + 1))
