"""Reading and writing the fields of a record; everything that comes from outside passes through `FieldReader`."""

from __future__ import annotations

from archiver.errors import RecordCorrupt

_VARINT_BYTES = 5  # 35 bits: more than any length, size or count in a record


def varint(value: int) -> bytes:
    """Unsigned LEB128: seven bits a byte, low bits first.

    Raises ValueError for a negative value or one over 32 bits.
    """
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{value} does not fit a varint of a record")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class FieldReader:
    """Takes fields off bytes, front to back. Every method raises RecordCorrupt where the bytes run out."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes not yet taken."""
        return len(self._data) - self.position

    def take(self, count: int, what: str) -> bytes:
        """The next `count` bytes."""
        if count > self.left:
            raise RecordCorrupt(problem=f"it ends within {what}")
        taken = self._data[self.position : self.position + count]
        self.position += count
        return taken

    def rest(self) -> bytes:
        """All bytes that are left."""
        return self.take(self.left, "the rest")

    def byte(self, what: str) -> int:
        """The next byte."""
        return self.take(1, what)[0]

    def varint(self, what: str, low: int, high: int) -> int:
        """An unsigned LEB128 number between `low` and `high`, both included, in its shortest form."""
        value = 0
        for index in range(_VARINT_BYTES):
            byte = self.byte(what)
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                break
        else:
            raise RecordCorrupt(problem=f"{what} is no number")
        if index and not byte:
            raise RecordCorrupt(problem=f"{what} is not in its shortest form")
        if not low <= value <= high:
            raise RecordCorrupt(problem=f"{what} is {value}, not within {low}..{high}")
        return value

    def finish(self, what: str) -> None:
        """Prove that nothing is left."""
        if self.left:
            raise RecordCorrupt(problem=f"{self.left} bytes too many after {what}")
