"""The networks in this process, each loaded when it is first needed.

The same record gives the same bytes on one machine, whatever travels with it. The last bits of a convolution depend on
the size of its batch and on the number of cores, so neither may depend on the load. On a CPU every record is decoded
alone, on one core (guided by an embedding: in two threads, on however many cores), as many at a time as there are
threads. On a GPU, which small networks keep as busy with one record as with eight, all calls have one batch size: what
is missing is filled up with copies, and the size is part of the device's name, as it is of what the pixels depend on.
docs/decoder.md tells what that costs.
"""

from __future__ import annotations

import ctypes
import gc
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from archiver.codec import schemes
from archiver.codec.record import Record
from archiver.decoder.backend import Backend
from archiver.decoder.decoding import decode_records
from archiver.decoder.embedded import EmbeddedBackend
from archiver.decoder.engine import Generated
from archiver.decoder.judge import judge
from archiver.decoder.work import Decode, DeviceLost, Encode, Measure, OutOfMemory, Work
from archiver.errors import DecoderFailed, HubNotInstalled, RecordCorrupt
from archiver.models.embedded import Autoencoder, Denoiser, ProfileMeta, SemanticEncoder, load_network, read_profile
from archiver.models.embedded.denoiser import cosine_alphas_cumprod
from archiver.models.profiles import HUB_FORMAT, format_of
from archiver.models.vault import Vault

Device = Literal["auto", "cpu", "cuda"]
GPU_BATCH = 8


class StoredNetworks:
    """The networks of one profile, verified and loaded one by one; `archiver.models.embedded.Networks`."""

    def __init__(self, directory: Path, device: torch.device) -> None:
        self.device = device
        self.meta: ProfileMeta = read_profile(directory)
        self.alphas_cumprod: Tensor = cosine_alphas_cumprod()
        self.loaded: dict[str, torch.nn.Module] = {}
        self._directory = directory
        self._loading = threading.Lock()

    @property
    def autoencoder(self) -> Autoencoder:
        """Pictures to latents and back. Raises WeightsDamaged, ProfileInvalid."""
        network = self._network("autoencoder")
        assert isinstance(network, Autoencoder)
        return network

    @property
    def denoiser(self) -> Denoiser:
        """Predicts v. Raises WeightsDamaged, ProfileInvalid."""
        network = self._network("denoiser")
        assert isinstance(network, Denoiser)
        return network

    @property
    def semantics(self) -> SemanticEncoder:
        """What a picture shows. Raises WeightsDamaged, ProfileInvalid."""
        network = self._network("semantics")
        assert isinstance(network, SemanticEncoder)
        return network

    def _network(self, name: str) -> torch.nn.Module:
        # Whoever needs it first may be in inference mode; weights made there could never be steered through.
        with self._loading, torch.inference_mode(False):
            if name not in self.loaded:
                network = load_network(self._directory, self.meta, name)
                self.loaded[name] = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
            return self.loaded[name]


def open_backend(directory: Path, device: torch.device, batch: int = 0) -> Backend:
    """The networks of the profile in a folder, none of them loaded yet.

    batch: how many records are decoded together, 0 for what suits networks and device. Raises ProfileUnknown,
    ProfileInvalid, HubNotInstalled.
    """
    if format_of(directory) != HUB_FORMAT:
        return EmbeddedBackend(StoredNetworks(directory, device))
    try:
        from archiver.decoder.hub import open_hub
    except ImportError as error:
        raise HubNotInstalled(missing=error.name or error) from error
    return open_hub(directory, device, batch)


class LocalRunner:
    """`archiver.decoder.work.Runner` in this process.

    device: "auto" takes a GPU where there is one. batch: records decoded together, 0 for what suits the device.
    threads: cores used on a CPU. Raises DecoderFailed where the device is not there.
    """

    def __init__(self, vault: Vault, *, device: Device = "auto", batch: int = 0, threads: int = 1) -> None:
        self._vault = vault
        self._threads = threads
        self._stored: dict[bytes, Backend] = {}
        self._asked = batch
        self._lock = threading.Lock()
        with_gpu = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not with_gpu:
            raise DecoderFailed(where="in this process", reason="there is no CUDA device")
        self._device = torch.device("cuda" if with_gpu else "cpu")
        self._batch = batch or (GPU_BATCH if with_gpu else 1)
        # NumPy's BLAS has a helper thread a core, which waits in a busy loop for the next call: on the lanes' cores.
        threadpool_limits(1, user_api="blas")
        if with_gpu:
            _be_deterministic()

    @property
    def device(self) -> str:
        """For the label of a generated image: all that its bytes depend on besides record and weights."""
        return self._name(self._batch)

    def _name(self, batch: int) -> str:
        name = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
        together = f", batch {batch}" if batch > 1 else ""
        return f"{name}, torch {torch.__version__}{together}"

    @property
    def batch(self) -> int:
        """How many records one call decodes together."""
        return self._batch

    @property
    def lanes(self) -> int:
        """How many calls may be under way at once."""
        return self._threads if self._device.type == "cpu" else 1

    @property
    def loaded(self) -> tuple[str, ...]:
        """The networks in memory, by name."""
        with self._lock:
            return tuple(f"{one.name}/{name}" for one in self._stored.values() for name in one.loaded)

    def start(self) -> None:
        """Nothing is to be done: each network is loaded when it is needed."""

    def run(self, works: Sequence[Work]) -> list[Any]:
        """Do works of one company.

        Raises OutOfMemory, DeviceLost, ProfileUnknown, ProfileInvalid, WeightsDamaged, RecordCorrupt.
        """
        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # of this thread: another number would give other bytes
        with _named_failures():
            if all(isinstance(work, Decode) for work in works):
                return self._decode([work.record for work in works if isinstance(work, Decode)])
            return [self._do(work) for work in works]

    def shrink(self) -> bool:
        """Decode half as many together from now on; False where it is one already."""
        with self._lock:
            if self._batch == 1:
                return False
            self._batch //= 2
        self._trim()
        return True

    def fall_back(self) -> bool:
        """Leave a GPU that failed for the CPU; False on the CPU."""
        with self._lock:
            if self._device.type == "cpu":
                return False
            self._device = torch.device("cpu")
            self._batch = 1
            self._stored.clear()
        return True

    def unload(self) -> None:
        """Give the memory of the weights back."""
        with self._lock:
            self._stored.clear()
        self._trim()

    def _decode(self, records: list[Record]) -> list[Generated]:
        backend = self._backend(records[0].profile)
        columns, rows = records[0].grid
        if max(columns, rows) * backend.cell > backend.long_side:  # what it makes at most bounds a decode's memory
            raise RecordCorrupt(problem=f"its grid of {columns}x{rows} is larger than {backend.name} works at")
        batch = self._batch if backend.batch is None else min(self._batch, backend.batch)
        made: list[Generated] = []
        for first in range(0, len(records), batch):
            some = records[first : first + batch]
            device = self._name(batch)
            pictures = decode_records(backend, some + some[-1:] * (batch - len(some)))
            made += [Generated(pixels, device) for pixels in pictures[: len(some)]]
        return made

    def _do(self, work: Work) -> Any:
        match work:
            case Encode(picture, scheme, steering, key):
                backend = self._backend(key)
                height, width, _ = picture.pixels.shape
                side = backend.cell
                facts = backend.observe(picture.pixels, scheme)
                grid = (width // side, height // side)
                return schemes.compose(picture, facts, scheme, key, grid, steering, backend.codebook)
            case Measure(picture, decoded, key):
                return judge(self._backend(key), picture.pixels, decoded)
            case Decode(record):
                return self._decode([record])[0]

    def _backend(self, key: bytes) -> Backend:
        """That of the profile that a record names. Raises ProfileUnknown, ProfileInvalid, HubNotInstalled."""
        with self._lock:
            if key not in self._stored:
                self._stored[key] = open_backend(self._vault.directory(key), self._device, self._asked)
            return self._stored[key]

    def _trim(self) -> None:
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):  # glibc keeps freed memory otherwise
            trim(0)


@contextmanager
def _named_failures() -> Iterator[None]:
    """What torch raises, as what the service knows."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("out of memory") from error
    except torch.AcceleratorError as error:
        raise DeviceLost(str(error).partition("\n")[0]) from error
    except RuntimeError as error:
        problem = str(error).partition("\n")[0]
        if "can't allocate memory" in problem:  # what torch's CPU allocator says
            raise OutOfMemory("out of memory") from error
        if "CUDA" in problem or "cuDNN" in problem or "CUBLAS" in problem:
            raise DeviceLost(problem) from error
        raise


def _be_deterministic() -> None:
    """Of kernels that give one result, and in float32 all through."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
