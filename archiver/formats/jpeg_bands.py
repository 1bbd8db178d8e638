"""A large baseline JPEG, encoded in bands side by side, because a reader waits for it.

After a restart marker an encoder knows nothing of what came before it (ITU-T T.81, F.1.2): a picture whose restart
interval is a band has the scans of its bands, encoded as pictures of their own, one behind the other. Every coefficient
is what it would be in one piece.
"""

from __future__ import annotations

import os
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ROWS = 128  # pixels of a band; whole MCUs under any sampling
_MOST_MCUS = 0xFFFF  # of a restart interval
_SOF0, _DRI, _SOS, _RST0, _EOI = 0xC0, 0xDD, 0xDA, 0xD0, b"\xff\xd9"


def encode(picture: NDArray[np.uint8], quality: int, *, subsampled: bool) -> bytes:
    """A JPEG of uint8 (h, w) or (h, w, 3), sRGB; with `subsampled` chroma has half the width and height.

    The same for the same arguments, however many cores there are.
    """
    mcu = 16 if subsampled and picture.ndim == 3 else 8
    height, width = picture.shape[:2]
    across, rows = -(-width // mcu), _ROWS
    while across * (rows // mcu) > _MOST_MCUS:
        rows //= 2

    def band(top: int) -> bytes:
        return _baseline(picture[top : top + rows], quality, subsampled=subsampled)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as lanes:
        return _joined(list(lanes.map(band, range(0, height, rows))), height, across * (rows // mcu))


def _baseline(band: NDArray[np.uint8], quality: int, *, subsampled: bool) -> bytes:
    import cv2  # Pillow's encoder would not let the other bands run; here, for it takes long to import

    sampling = cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420 if subsampled else cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
    done, data = cv2.imencode(".jpg", band if band.ndim == 2 else cv2.cvtColor(band, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise AssertionError("OpenCV has no JPEG encoder")
    return data.tobytes()


def _joined(bands: list[bytes], height: int, interval: int) -> bytes:
    """The JPEG of bands with the same tables; interval: MCUs of each but the last."""
    frame, scan, begin = _layout(bands[0])
    head = bytearray(bands[0][:begin])
    head[frame + 5 : frame + 7] = struct.pack(">H", height)  # behind marker, length and precision
    head[scan:scan] = struct.pack(">BBHH", 0xFF, _DRI, 4, interval)
    parts = [bytes(head)]
    for number, band in enumerate(bands):
        if number:
            parts.append(bytes((0xFF, _RST0 + (number - 1) % 8)))
        parts.append(band[begin : -len(_EOI)])
    return b"".join(parts) + _EOI


def _layout(data: bytes) -> tuple[int, int, int]:
    """Where the frame header, the scan header and the scan of a baseline JPEG begin."""
    at, frame = 2, 0
    while data[at + 1] != _SOS:
        if data[at + 1] == _SOF0:
            frame = at
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]
    return frame, at, at + 2 + struct.unpack_from(">H", data, at + 2)[0]
