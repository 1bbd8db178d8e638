"""What `archiver mount` puts together: the settings' tiers, who recalls, and the FUSE filesystem."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from archiver import logs
from archiver.config import Settings
from archiver.errors import FuseMissing, MountRefused, NotInAnyTier
from archiver.lifecycle.opening import open_site
from archiver.notify import Notifier


def serve_mount(
    settings: Settings, source: Path, mountpoint: Path, *, allow_other: bool, ready: Callable[[], None]
) -> None:
    """Mount `source` at `mountpoint` and serve it until it is unmounted; `ready` is called once it is there.

    Raises MountRefused, FuseMissing, MountFailed, NotInAnyTier and what open_site raises.
    """
    source, mountpoint = _checked(settings, source, mountpoint)
    try:
        from archiver.access.fuse import Mirror, serve
    except (ImportError, OSError) as error:
        raise FuseMissing(reason=error) from error
    from archiver.access.fuse_recalls import Recalls

    if allow_other and os.geteuid() != 0:
        raise MountRefused(mountpoint=mountpoint, reason="only root can act for other users (-o allow_other)")
    logs.configure(settings.log)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # one for each file that anybody has open
    notifier = Notifier()

    def mounted() -> None:
        ready()
        notifier.ready(f"{source} is at {mountpoint}")

    with open_site(settings) as site:
        recalls = Recalls(site)
        try:
            roots = [tier.root for tier in site.local_tiers]
            serve(Mirror(source, roots, recalls, mounted), source, mountpoint, allow_other=allow_other)
        finally:
            notifier.stopping()
            recalls.close()


def serve_in_background(config: Path, source: Path, mountpoint: Path, *, allow_other: bool) -> int:
    """Start `archiver mount` as a process of its own; return once it serves, or with its exit code."""
    command = [sys.executable, "-m", "archiver", "--config", str(config), "mount", str(source), str(mountpoint)]
    command += ["-o", "allow_other"] if allow_other else []
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert server.stdout is not None
    return 0 if server.stdout.readline() else server.wait()


def _checked(settings: Settings, source: Path, mountpoint: Path) -> tuple[Path, Path]:
    """Both as absolute paths without symbolic links."""
    try:
        source = source.resolve(strict=True)
        mountpoint = mountpoint.resolve(strict=True)
        folders = source.is_dir(), mountpoint.is_dir()
    except OSError as error:
        if error.errno == errno.ENOTCONN:
            raise MountRefused(mountpoint=mountpoint, reason="the server of an earlier mount has died there") from error
        raise MountRefused(mountpoint=mountpoint, reason=f"{error.filename}: {error.strerror}") from error
    for path, is_folder in zip((source, mountpoint), folders, strict=True):
        if not is_folder:
            raise MountRefused(mountpoint=mountpoint, reason=f"{path} is not a folder")
    roots = [tier.path.resolve() for tier in settings.tier if tier.kind == "local"]
    if not any(source.is_relative_to(root) or root.is_relative_to(source) for root in roots):
        raise NotInAnyTier(path=source)
    for path in (source, *roots):
        if mountpoint.is_relative_to(path):
            raise MountRefused(mountpoint=mountpoint, reason=f"it lies in {path}, which it would show within itself")
    return source, mountpoint
