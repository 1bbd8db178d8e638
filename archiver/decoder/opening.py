"""The engine that a configuration asks for. Imports no torch by itself."""

from __future__ import annotations

import importlib.util
import os

from archiver.config import Settings
from archiver.decoder.engine import Engine
from archiver.decoder.queued import QueuedEngine
from archiver.decoder.service import DecodeService
from archiver.decoder.work import Runner
from archiver.errors import ModelsNotInstalled
from archiver.models.vault import Vault


def open_engine(settings: Settings) -> Engine:
    """The engine of a configuration; weights are loaded when they are first needed.

    Raises ModelsNotInstalled, ConfigInvalid (no usable token), DecoderFailed (the device is not there).
    """
    if settings.decoder.url is None:
        return open_here(settings)
    from archiver.decoder.remote import RemoteEngine

    return RemoteEngine(settings, open_coder=open_here)


def open_here(settings: Settings) -> QueuedEngine:
    """The engine that decodes on this machine, in this process or in a worker. Raises as `open_engine` does."""
    vault, decoder = Vault(settings.vault.path), settings.decoder
    threads = settings.model.threads or len(os.sched_getaffinity(0))
    runner: Runner
    if decoder.where == "worker":
        from archiver.decoder.worker import WHERE, Setup, WorkerRunner

        if importlib.util.find_spec("torch") is None:
            raise ModelsNotInstalled(missing="torch")
        where, runner = WHERE, WorkerRunner(Setup(vault.path, decoder.device, decoder.batch, threads))
    else:
        try:
            from archiver.decoder.networks import LocalRunner
        except ImportError as error:
            raise ModelsNotInstalled(missing=error.name or error) from error
        where = "in this process"
        runner = LocalRunner(vault, device=decoder.device, batch=decoder.batch, threads=threads)
    idle = None if decoder.idle is None else decoder.idle.total_seconds()
    service = DecodeService(runner, limit=decoder.waiting, idle=idle, where=where)
    return QueuedEngine(vault, settings.model.profile, settings.model.preset, service)
