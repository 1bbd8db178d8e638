"""Label maps, coded without loss: the set of labels, then each cell by its neighbours that are already coded.

A cell nearly always has the label of one of its four known neighbours. Which of them are equal (15 possible patterns)
is the context; within a context the choice between the distinct neighbours and "another label" has adaptive integer
counts, whose start was counted on maps of 240 photographs. The method is ours; the paper's scheme asks only for a
lossless map.

    words varint | rows varint | columns varint | range-coded: number of labels, label set, cells row by row
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numpy.typing import NDArray

from archiver.codec.entropy import SymbolCoder, SymbolReader, SymbolWriter
from archiver.codec.fields import FieldReader, varint

MAX_WORDS = 256
MAX_SIDE = 128

# Pattern of the neighbours west, north, north-east, north-west (numbered by first appearance) -> weights of the
# distinct neighbours in that order, then of another label. They sum to about 1000, so that one more occurrence, 10,
# counts as 1 in 100. Part of the format: a change needs a new version of the record.
_START: dict[tuple[int, ...], tuple[int, ...]] = {
    (0, 0, 0, 0): (978, 22),
    (0, 0, 0, 1): (987, 1, 12),
    (0, 0, 1, 0): (768, 195, 37),
    (0, 0, 1, 1): (982, 3, 14),
    (0, 0, 1, 2): (769, 205, 2, 24),
    (0, 1, 0, 0): (788, 183, 29),
    (0, 1, 0, 1): (973, 14, 13),
    (0, 1, 0, 2): (967, 3, 3, 28),
    (0, 1, 1, 0): (395, 557, 48),
    (0, 1, 1, 1): (595, 361, 44),
    (0, 1, 1, 2): (454, 411, 64, 72),
    (0, 1, 2, 0): (314, 441, 183, 63),
    (0, 1, 2, 1): (546, 210, 185, 59),
    (0, 1, 2, 2): (764, 147, 79, 10),
    (0, 1, 2, 3): (439, 273, 180, 31, 78),
}
_STEP = 10
_UNSEEN = 4  # weight of a label of the set that has not occurred yet, against isqrt(4 n) + 1 after n occurrences


def encode(labels: NDArray[np.uint8], words: int) -> bytes:
    """Code a map (rows, columns) of labels 0..words-1.

    Raises ValueError for a map that the format does not hold.
    """
    rows, columns = labels.shape
    if not (1 <= words <= MAX_WORDS and 1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE):
        raise ValueError(f"a map of {columns}x{rows} labels out of {words} is too large")
    if int(labels.max()) >= words:
        raise ValueError(f"label {int(labels.max())} of {words}")
    writer = SymbolWriter()
    _walk(writer, labels.tolist(), words)
    return varint(words) + varint(rows) + varint(columns) + writer.to_bytes()


def decode(payload: bytes) -> NDArray[np.uint8]:
    """The map (rows, columns) of a payload.

    Raises RecordCorrupt.
    """
    reader = FieldReader(payload)
    words = reader.varint("the number of label words", 1, MAX_WORDS)
    rows = reader.varint("the label map's rows", 1, MAX_SIDE)
    columns = reader.varint("the label map's columns", 1, MAX_SIDE)
    cells = [[0] * columns for _ in range(rows)]
    symbols = SymbolReader(reader.rest())
    _walk(symbols, cells, words)
    symbols.finish("the label map")
    return np.array(cells, np.uint8)


def _walk(coder: SymbolCoder, cells: list[list[int]], words: int) -> None:
    """Code every cell in place: a writer finds its symbols in `cells`, a reader leaves them there."""
    labels = _code_label_set(coder, {label for row in cells for label in row}, words)
    occurrences = dict.fromkeys(labels, 0)
    weights = {pattern: list(start) for pattern, start in _START.items()}
    for y, row in enumerate(cells):
        above = cells[y - 1] if y else row
        for x in range(len(row)):
            near, pattern = _neighbours(row, above, x, y)
            row[x] = (
                _code_cell(coder, row[x], near, weights[pattern], occurrences)
                if near
                else _code_other(coder, row[x], labels, occurrences)
            )
            occurrences[row[x]] += 1


def _code_label_set(coder: SymbolCoder, present: set[int], words: int) -> list[int]:
    """Code which labels occur, every set of the same size being equally likely."""
    missing = coder.code([1] * words, len(present) - 1) + 1
    labels = []
    for word in range(words):
        if (
            coder.code([words - word - missing, missing], int(word in present))
            if 0 < missing < words - word
            else missing
        ):
            labels.append(word)
            missing -= 1
    return labels


def _neighbours(row: list[int], above: list[int], x: int, y: int) -> tuple[list[int], tuple[int, ...]]:
    """The distinct labels among west, north, north-east and north-west, and their pattern; none for the first cell.

    Outside the map the nearest known cell stands in.
    """
    if y:
        north = above[x]
        west = row[x - 1] if x else north
        near = (west, north, above[min(x + 1, len(row) - 1)], above[max(x - 1, 0)])
    elif x:
        near = (row[x - 1],) * 4
    else:
        return [], ()
    distinct = list(dict.fromkeys(near))
    return distinct, tuple(map(distinct.index, near))


def _code_cell(coder: SymbolCoder, label: int, near: list[int], weights: list[int], occurrences: dict[int, int]) -> int:
    others = [word for word in occurrences if word not in near]
    choice = near.index(label) if label in near else len(near)
    choice = coder.code(weights if others else weights[:-1], choice)
    weights[choice] += _STEP
    return near[choice] if choice < len(near) else _code_other(coder, label, others, occurrences)


def _code_other(coder: SymbolCoder, label: int, others: list[int], occurrences: dict[int, int]) -> int:
    weights = [isqrt(4 * occurrences[word]) + 1 if occurrences[word] else _UNSEEN for word in others]
    return others[coder.code(weights, others.index(label) if label in others else 0)]
