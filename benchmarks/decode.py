"""Decode throughput: images/s of the decode service over those of the bare sampler at the same batch.

    python benchmarks/decode.py [--count N] [--batch B] [--threads T] [--scheme S] [--device D] [--json]

Codes made pictures with the embedded profile, then decodes them: by the sampler itself, as many calls at a time as the
device can use and as many records in each as `batch` says; through the service in this process; through one in a worker
process; and over HTTP from a server on loopback. After one round that warms up, the places take turns for `--rounds`
rounds; a ratio is the median of those within each round, so that what else the machine does meets all alike. The bar is
0.95. CPU seconds an image, and their ratio, say the same where the machine is busy otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.table import Table

from archiver.codec.picture import Picture
from archiver.codec.record import Record, Scheme
from archiver.config import Settings
from archiver.decoder.backend import Backend
from archiver.decoder.decoding import decode_records
from archiver.decoder.networks import open_backend
from archiver.decoder.opening import open_engine
from archiver.models.vault import Vault

Decode = Callable[[Sequence[Record]], Sequence[NDArray[np.uint8]]]


def made_pictures(count: int, side: int) -> list[Picture]:
    """Soft shapes; what is in a picture does not change how long it takes."""
    pictures = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), np.uint8)
        large = Image.fromarray(small).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        pictures.append(Picture(np.asarray(large), side, side * 3 // 4))
    return pictures


def bare(vault: Vault, batch: int, threads: int, device: str) -> Decode:
    """The sampler itself, with nothing before it."""
    networks: dict[bytes, Backend] = {}
    calls = ThreadPoolExecutor(threads if device == "cpu" else 1, initializer=torch.set_num_threads, initargs=(1,))

    def decode(records: Sequence[Record]) -> Sequence[NDArray[np.uint8]]:
        key = records[0].profile
        if key not in networks:
            networks[key] = open_backend(vault.directory(key), torch.device(device))
        batches = [records[start : start + batch] for start in range(0, len(records), batch)]
        done = calls.map(lambda some: decode_records(networks[key], some), batches)
        return [pixels for some in done for pixels in some]

    return decode


def settings_for(work: Path, options: argparse.Namespace, **decoder: str) -> Settings:
    place = {"batch": options.batch, "device": options.device, **decoder}
    model = {"threads": options.threads, "profile": options.profile}
    return Settings.model_validate({"vault": {"path": work / "vault"}, "model": model, "decoder": place})


def server(work: Path, options: argparse.Namespace, resources: ExitStack) -> str:
    """Start `archiver decoder serve` on loopback; its address."""
    config = work / "server.toml"
    config.write_text(
        f'[vault]\npath = "{work}/vault"\n[model]\nthreads = {options.threads}\nprofile = "{options.profile}"\n'
        f'[decoder]\nlisten = "127.0.0.1:0"\nbatch = {options.batch}\ndevice = "{options.device}"\n'
    )
    command = [sys.executable, "-m", "archiver", "--config", config, "--json", "decoder", "serve"]
    process = resources.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
    resources.callback(process.terminate)
    assert process.stdout is not None
    address: str = json.loads(process.stdout.readline())["address"]
    return address


def cpu_seconds() -> float:
    """CPU time of this process, its worker and its server: what a busy machine does not blur."""
    total, waiting = 0, [os.getpid()]
    while waiting:
        pid = waiting.pop()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
        children = Path(f"/proc/{pid}/task").glob("*/children")
        waiting += [int(child) for path in children for child in path.read_text().split()]
    return total / os.sysconf("SC_CLK_TCK")


def ratio(bare: Sequence[float], took: Sequence[float]) -> float:
    return round(median(one / other for one, other in zip(bare, took, strict=True)), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scheme", default="sgc")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--profile", default="embedded-1")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="archiver-bench-") as folder, ExitStack() as resources:
        work = Path(folder)
        vault = Vault(work / "vault")
        vault.install_embedded()
        places: dict[str, Decode] = {"bare sampler": bare(vault, options.batch, options.threads, options.device)}
        wheres = {"process": "process", "worker": "worker", "http": server(work, options, resources)}
        for name, where in wheres.items():
            engine = open_engine(settings_for(work, options, where=where))
            resources.callback(engine.close)
            places[name] = engine.decode
            if name == "process":
                side = engine.profile.long_side
                records = engine.encode(made_pictures(options.count, side), Scheme.parse(options.scheme))
        pictures = {name: decode(records) for name, decode in places.items()}  # loads and warms up
        for found in pictures.values():
            assert all(map(np.array_equal, found, pictures["bare sampler"])), "not the same pictures"
        seconds: dict[str, list[float]] = {name: [] for name in places}
        cpu: dict[str, list[float]] = {name: [] for name in places}
        for _ in range(options.rounds):
            for name, decode in places.items():
                began, burnt = time.perf_counter(), cpu_seconds()
                decode(records)
                seconds[name].append(time.perf_counter() - began)
                cpu[name].append(cpu_seconds() - burnt)
    results = [
        {
            "where": name,
            "images_per_second": round(options.count / median(took), 3),
            "ratio": ratio(seconds["bare sampler"], took),
            "cpu_seconds_per_image": round(median(cpu[name]) / options.count, 3),
            "cpu_ratio": ratio(cpu["bare sampler"], cpu[name]),
        }
        for name, took in seconds.items()
    ]
    if options.json:
        print(json.dumps({"batch": options.batch, "threads": options.threads, "results": results}))
        return
    title = f"batch {options.batch}, {options.threads} threads"
    table = Table("where", "images/s", "of the bare sampler", "CPU s an image", "of the bare sampler", title=title)
    for result in results:
        table.add_row(*(str(value) for value in result.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
