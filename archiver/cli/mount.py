"""mount: a folder through FUSE, where released files are recalled when they are read."""

from __future__ import annotations

from pathlib import Path

import click

from archiver.cli.invocation import Invocation, pass_invocation
from archiver.cli.verb import VerbCommand

_FOLDER = click.Path(path_type=Path)


@click.command(
    cls=VerbCommand,
    example="""
    archiver mount /srv/photos /mnt/photos
    archiver mount -o allow_other --background /srv/photos /mnt/photos
    umount /mnt/photos
    """,
)
@click.argument("source", type=_FOLDER)
@click.argument("mountpoint", type=_FOLDER)
@click.option("-o", "options", type=click.Choice(["allow_other"]), multiple=True, help="Let other users in, too.")
@click.option("--background", is_flag=True, help="Return when it is mounted; a process of its own serves it.")
@pass_invocation
def mount(invocation: Invocation, source: Path, mountpoint: Path, options: tuple[str, ...], background: bool) -> int:
    """Show a folder at another place, where reading a released file recalls it.

    For containers and older kernels, where the kernel cannot tell the daemon of a read. SOURCE is a tier, a folder in
    one, or a folder with tiers in it; whatever is done at MOUNTPOINT is done there. The daemon generates the images
    where one runs, else this process does. It ends with `umount MOUNTPOINT`, with Ctrl-C or SIGTERM.
    """
    from archiver.access.mounting import serve_in_background, serve_mount

    if background:
        return serve_in_background(invocation.config_path, source, mountpoint, allow_other="allow_other" in options)

    def ready() -> None:
        invocation.output.text(f"{source} is at {mountpoint}")
        invocation.output.json({"source": source, "mountpoint": mountpoint}, "mounted")

    serve_mount(invocation.settings, source, mountpoint, allow_other="allow_other" in options, ready=ready)
    return 0
