"""The training loop that both networks share: seeded, resumable, limited by steps or by time."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from archiver.errors import TrainingStale

log = logging.getLogger(__name__)
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")
_Network = TypeVar("_Network", bound=nn.Module)


Tell = Callable[[float, dict[str, float]], None]
"""Told how far a stage has come, 0 to 1, and what was measured, where something was."""


def nobody(_share: float, _measured: dict[str, float]) -> None:
    """Who is told, where nobody asked."""


class Stopped(Exception):
    """Raised by who is told, to end a stage that keeps nothing before its end."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How far a stage goes: the first of `steps` and `minutes` (of training, over all resumptions) that is reached.

    `tell` hears of every step; when `stop` is set, the step in hand is the last one, and is saved.
    """

    steps: int | None = None
    minutes: float | None = None
    tell: Tell = nobody
    stop: Event = field(default_factory=Event)

    def progress(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent, 0 to 1."""
        shares = [step / self.steps if self.steps else 0.0, seconds / 60 / self.minutes if self.minutes else 0.0]
        return min(1.0, max(shares))


@dataclass(frozen=True, slots=True)
class Rhythm:
    """Learning rate, averaging and bookkeeping of one stage."""

    rate: float
    warm_up: int = 200
    cool_down: float = 0.3  # share of the budget over which the rate falls to nearly zero
    ema: float = 0.999
    clip: float = 1.0
    weight_decay: float = 0.01
    log_every: int = 50
    save_every: int = 250
    check_every: int = 1000


CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class Course:
    """How a stage is trained: `batch` samples a step, all that is random by `seed`."""

    batch: int
    seed: int
    rhythm: Rhythm
    device: torch.device = CPU


StepLoss = Callable[[int, float, np.random.Generator, torch.Generator], dict[str, Tensor]]
"""(samples, progress 0..1, numpy generator, torch generator) -> named losses of one part of a batch; `total` is
minimised. The torch generator is on the device where the network is, and what is computed is to be there, too.
"""

_PARTS = 2
"""Parts of a batch on a CPU, each computed by a thread of its own that does not share its operations.

On shared cores this is several times faster than letting two threads share every operation, since they need not wait
for one another until the end of the step; and the result does not depend on the number of cores.
"""


def workers() -> ThreadPoolExecutor:
    """Threads for the parts of a batch."""
    return ThreadPoolExecutor(_PARTS, "part", lambda: torch.set_num_threads(1))


def autocast(device: torch.device) -> torch.autocast:
    """Matrix products in bfloat16."""
    return torch.autocast(device.type, torch.bfloat16)


def sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device. From pageable memory the CPU would wait until the GPU has nothing left to do."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def placed(network: _Network, device: torch.device) -> _Network:
    """The network on its device, channels last, which both CPUs and GPUs compute faster."""
    return network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


class Trainer:
    """AdamW with an exponential moving average of the weights, checkpointed as one safetensors file.

    Everything random in step n comes from generators seeded by (seed, n), so that a run that was cut off and resumed
    reaches the same weights as one that was not, as long as its budget counts steps.
    """

    def __init__(self, network: nn.Module, path: Path, course: Course, made_of: str = "") -> None:
        """`made_of`: the positions of the earlier stages that the network comes from, where it is of no use to others.

        Raises TrainingStale: the checkpoint at `path` is of others.
        """
        self.network, self.path, self.made_of = network, path, made_of
        self.rhythm, self.seed, self.device = course.rhythm, course.seed, course.device
        self.parts = _PARTS if self.device == CPU else 1
        self.samples = max(1, course.batch // self.parts)  # of a part
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(), lr=self.rhythm.rate, betas=(0.9, 0.99), weight_decay=self.rhythm.weight_decay
        )
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.step, self.seconds = 0, 0.0
        if path.exists():
            require_made_of(path, made_of)
            self._restore()

    def save(self) -> None:
        """Write weights, averages, optimiser and position; the previous checkpoint stays whole until the new one is."""
        tensors = {f"weights.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"ema.{name}": p for name, p in self.ema.items()}
        for name, parameter in self.parameters.items():
            for moment in _MOMENTS:
                if parameter in self.optimizer.state:
                    tensors[f"{moment}.{name}"] = self.optimizer.state[parameter][moment]
        at = position_at(self.step, self.seconds, self.seed)
        write_safetensors(self.path, tensors, {"position": at, "made_of": self.made_of})

    def _restore(self) -> None:
        at = json.loads(position(self.path))
        with safe_open(self.path, framework="pt") as file:
            names = set(file.keys())
            with torch.no_grad():
                for name, parameter in self.parameters.items():
                    parameter.copy_(file.get_tensor(f"weights.{name}"))
                    self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
                    if f"step.{name}" in names:
                        self.optimizer.state[parameter] = {m: file.get_tensor(f"{m}.{name}") for m in _MOMENTS}
                        for moment in ("exp_avg", "exp_avg_sq"):  # the optimiser wants the parameter's memory layout
                            value = torch.empty_like(parameter)
                            value.copy_(self.optimizer.state[parameter][moment])
                            self.optimizer.state[parameter][moment] = value
        self.step, self.seconds, self.seed = at["step"], at["seconds"], at["seed"]
        log.info("resumed %s at step %d, %.1f minutes in", self.path.name, self.step, self.seconds / 60)

    def _learning_rate(self, progress: float) -> float:
        warm = min(1.0, (self.step + 1) / self.rhythm.warm_up)
        left = min(1.0, (1 - progress) / self.rhythm.cool_down)
        return self.rhythm.rate * warm * (0.02 + 0.98 * 0.5 * (1 - math.cos(math.pi * left)))

    def _part(self, loss: StepLoss, progress: float, part: int) -> tuple[dict[str, Tensor], list[Tensor]]:
        """Losses and gradients of one part of the batch."""
        seed = int(np.random.SeedSequence([self.seed, self.step, part]).generate_state(1)[0])
        noise = torch.Generator(self.device).manual_seed(seed)
        losses = loss(self.samples, progress, np.random.default_rng(seed), noise)
        gradients = torch.autograd.grad(losses["total"], list(self.parameters.values()))
        return {name: value.detach() for name, value in losses.items()}, list(gradients)

    def _advance(self, loss: StepLoss, progress: float, pool: ThreadPoolExecutor) -> dict[str, Tensor]:
        """One optimiser step on the mean gradient of all parts; returns their mean losses.

        These stay on the device: to look at them at every step would have a GPU wait for the CPU.
        """
        results = list(pool.map(lambda part: self._part(loss, progress, part), range(self.parts)))
        for index, parameter in enumerate(self.parameters.values()):
            parameter.grad = _mean([gradients[index] for _, gradients in results])
        losses = {name: _mean([part[name] for part, _ in results]) for name in results[0][0]}
        norm = nn.utils.clip_grad_norm_(self.parameters.values(), self.rhythm.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self._learning_rate(progress)
        self.optimizer.step()
        self.step += 1
        decay = min(self.rhythm.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                self.ema[name].lerp_(parameter, 1 - decay)
        return losses | {"gradient": norm}

    def run(self, budget: Budget, loss: StepLoss, check: Callable[[], dict[str, float]] | None = None) -> None:
        """Train until the budget is spent, logging to `<checkpoint>.jsonl`; `check` is run on the averaged weights."""
        with workers() as pool:
            self._run(budget, loss, check, pool)

    def _run(
        self, budget: Budget, loss: StepLoss, check: Callable[[], dict[str, float]] | None, pool: ThreadPoolExecutor
    ) -> None:
        journal = self.path.with_suffix(".jsonl")
        while (progress := budget.progress(self.step, self.seconds)) < 1 and not budget.stop.is_set():
            begun = time.monotonic()
            losses = self._advance(loss, progress, pool)
            self.seconds += time.monotonic() - begun
            share = budget.progress(self.step, self.seconds)
            done = share >= 1
            row: dict[str, float] = {}
            if check is not None and (done or self.step % self.rhythm.check_every == 0):
                with Averaged(self):
                    row = check()
            if done or self.step % self.rhythm.log_every == 0 or self.step % self.rhythm.check_every == 0:
                row = {name: float(value) for name, value in losses.items()} | row
                entry = {"step": self.step, "minutes": round(self.seconds / 60, 2)}
                entry |= {name: round(value, 5) for name, value in row.items()}
                log.info("%s", entry)
                with journal.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(entry) + "\n")
            budget.tell(share, row)
            if done or self.step % self.rhythm.save_every == 0 or budget.stop.is_set():
                self.save()


def _mean(parts: list[Tensor]) -> Tensor:
    return sum(parts[1:], start=parts[0]) / len(parts)


class Averaged:
    """Context in which a trainer's network holds the averaged weights, in evaluation mode."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    def _swap(self) -> None:
        with torch.no_grad():
            for name, parameter in self.trainer.parameters.items():
                other = self.trainer.ema[name]
                kept = parameter.detach().clone()
                parameter.copy_(other)
                other.copy_(kept)

    def __enter__(self) -> None:
        self._swap()
        self.trainer.network.eval()

    def __exit__(self, *_: object) -> None:
        self._swap()
        self.trainer.network.train()


def write_safetensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write `tensors` so that `path` holds either the old file or the whole new one, even through a power cut."""
    partial = path.with_suffix(".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata)
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def position_at(step: int, seconds: float, seed: int) -> str:
    """Where in training a checkpoint is written, as it is kept in it: JSON."""
    return json.dumps({"step": step, "seconds": seconds, "seed": seed})


def position(path: Path) -> str:
    """Where in training the checkpoint at `path` was written."""
    with safe_open(path, framework="pt") as file:
        return str(file.metadata()["position"])


def require_made_of(path: Path, made_of: str) -> None:
    """Raise TrainingStale unless the checkpoint at `path` comes from these positions of earlier stages."""
    with safe_open(path, framework="pt") as file:
        if file.metadata().get("made_of", "") != made_of:
            raise TrainingStale(path=path)


def averaged_weights(path: Path, part: str = "") -> dict[str, Tensor]:
    """The averaged weights of a checkpoint, or of one network of those that it holds."""
    prefix = f"ema.{part}." if part else "ema."
    with safe_open(path, framework="pt") as file:
        return {name.removeprefix(prefix): file.get_tensor(name) for name in file.keys() if name.startswith(prefix)}  # noqa: SIM118
