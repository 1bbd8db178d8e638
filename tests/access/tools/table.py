"""Programs that read files, each as a function: what it made of a file, in a folder to work in.

On a released file each must yield what it yields on the generated image. Not a test module.
"""

from __future__ import annotations

import mmap
import subprocess
from collections.abc import Callable
from pathlib import Path

from PIL import Image

Tool = Callable[[Path, Path], bytes]
COPIERS: dict[str, Tool] = {}  # what they yield is the file itself
READERS: dict[str, Tool] = {}
PROGRAMS = ("cat", "cp", "install", "mv", "tar", "rsync", "dd", "ffmpeg", "vipsthumbnail")
_PATIENCE = 100  # seconds for one file


def run(*command: str | Path) -> bytes:
    """Standard output; raises CalledProcessError on a warning, too, if the program says so by its exit code."""
    done = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False)
    assert done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def copier(name: str) -> Callable[[Tool], Tool]:
    def remember(tool: Tool) -> Tool:
        COPIERS[name] = tool
        return tool

    return remember


def reader(name: str) -> Callable[[Tool], Tool]:
    def remember(tool: Tool) -> Tool:
        READERS[name] = tool
        return tool

    return remember


@copier("cat")
def cat(file: Path, _work: Path) -> bytes:
    return run("cat", file)


def _copies(name: str, *command: str) -> None:
    def tool(file: Path, work: Path) -> bytes:
        run(*command, file, work / "copy")
        return (work / "copy").read_bytes()

    COPIERS[name] = tool


_copies("cp", "cp")
_copies("cp --sparse=always", "cp", "--sparse=always")
_copies("cp --sparse=never", "cp", "--sparse=never")
_copies("cp --reflink=auto -a", "cp", "--reflink=auto", "-a")
_copies("install", "install", "-m", "600")
_copies("rsync", "rsync", "-aX")
_copies("rsync --sparse", "rsync", "--sparse", "--inplace")
_copies("mv to another filesystem", "mv")


def _tars(name: str, *options: str) -> None:
    def tool(file: Path, work: Path) -> bytes:
        # It compares the change time, which nobody can put back: of a released file it warns, and ends with 1.
        create = ("tar", "-C", file.parent, *options, "-cf", work / "archive.tar", file.name)
        done = subprocess.run(create, capture_output=True, timeout=_PATIENCE, check=False)
        warned = done.stderr.decode().strip() == f"tar: {file.name}: file changed as we read it"
        assert done.returncode == int(warned), done.stderr
        run("tar", "-C", work, "-xf", work / "archive.tar")
        return (work / file.name).read_bytes()

    COPIERS[name] = tool


_tars("tar")
_tars("tar -S", "-S")


@copier("dd iflag=direct")
def dd_direct(file: Path, work: Path) -> bytes:
    run("dd", f"if={file}", f"of={work / 'copy'}", "iflag=direct", "bs=64k")
    return (work / "copy").read_bytes()


@copier("python mmap")
def mapped(file: Path, _work: Path) -> bytes:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as memory:
        return bytes(memory)


@copier("python, from the end")
def from_the_end(file: Path, _work: Path) -> bytes:
    with file.open("rb") as opened:
        opened.seek(5000)
        tail = opened.read()
        opened.seek(0)
        return opened.read(5000) + tail


@reader("Pillow")
def pillow(file: Path, _work: Path) -> bytes:
    with Image.open(file) as image:
        return image.convert("RGB").tobytes()


@reader("ffmpeg")
def ffmpeg(file: Path, _work: Path) -> bytes:
    return run("ffmpeg", "-v", "error", "-i", file, "-f", "rawvideo", "-pix_fmt", "rgb24", "-")


@reader("vipsthumbnail")
def thumbnail(file: Path, work: Path) -> bytes:
    run("vipsthumbnail", "--size", "64", "--output", work / "thumb.png", file)
    with Image.open(work / "thumb.png") as image:
        return image.convert("RGB").tobytes()
