"""The daemon as systemd runs it: it archives, and whatever is done to it, no image is lost."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from archiver.formats import Kind, read_envelope
from tests.access.watching import until
from tests.system.machine import TIER, Machine

pytestmark = pytest.mark.root

UNIT = "archiver.service"
RECALL_UNIT = "archiver-recall.service"
DROPIN = f"/run/systemd/system/{UNIT}.d/test.conf"
QUICK = "[Service]\nRestartSec=100ms\nNice=0\n"
STATE = "/var/lib/archiver"
CONFIG_FILE = "/etc/archiver/config.toml"
PHOTOGRAPHS = 32
PROFILE = "random-7"
CONFIG = f"""
[model]
profile = "{PROFILE}"
preset = "draft"
batch = 2  # so that a stop, which finishes the batches in hand, finds some that are not

[release]
min_free = 0

[schedule]
scan = "1h"
archive = "1h"

[[tier]]
name = "photographs"
path = "{TIER}"

[[rule]]
name = "everything"
scheme = "sgc"
min_size = 0
unused_for = "0s"
unchanged_for = "0s"
# These pictures are noise: there is no meaning to keep, and that is not what is tested here.
gate = {{ semantic = -1.0, colour = "none" }}
"""
# The tests look at what stands in the tier; where readers are noticed, that would recall it.
TRANSPARENT = CONFIG
CONFIG = f'{CONFIG}\n[recall]\nmode = "managed"\n'
IDLE = CONFIG.replace('name = "everything"', 'name = "everything"\naction = "keep"')


@dataclass(frozen=True, slots=True)
class Original:
    """A photograph as it was before the daemon saw it. path: in the tier's folder as seen from outside."""

    path: Path
    sha256: str
    mtime_ns: int
    owner: tuple[int, int]
    mode: int

    @classmethod
    def of(cls, path: Path) -> Original:
        facts = path.stat()
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return cls(path, digest, facts.st_mtime_ns, (facts.st_uid, facts.st_gid), facts.st_mode)

    def released(self) -> bool:
        with self.path.open("rb") as file:
            envelope = read_envelope(file)
        return envelope is not None and envelope.kind is Kind.PLACEHOLDER

    def whole(self, held: set[str]) -> bool:
        """The original is in place, or its record is and the original is held."""
        if self.released():
            return self.sha256 in held
        return hashlib.sha256(self.path.read_bytes()).hexdigest() == self.sha256


def picture(seed: int) -> bytes:
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize(
        (320, 240), Image.Resampling.BICUBIC
    )
    grain = random.integers(-20, 20, (240, 320, 3))
    pixels = np.clip(np.asarray(coarse, dtype=np.int16) + grain, 0, 255).astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, format=("JPEG", "PNG", "WEBP", "TIFF")[seed % 4])
    return encoded.getvalue()


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [picture(seed) for seed in range(PHOTOGRAPHS)]


@pytest.fixture
def bare(machine: Machine) -> Iterator[Machine]:
    """The machine with the unit and nothing else of ours: no configuration, no state, an empty tier."""
    yield machine
    machine.run("systemctl", "stop", UNIT, RECALL_UNIT)
    machine.run("systemctl", "reset-failed", UNIT, RECALL_UNIT, check=False)
    machine.run("rm", "-rf", STATE, CONFIG_FILE, DROPIN)
    machine.run("find", TIER, "-mindepth", "1", "-delete")
    machine.run("systemctl", "daemon-reload")


@pytest.fixture
def originals(bare: Machine, pictures: list[bytes]) -> list[Original]:
    """Photographs of two users in the tier, years old."""
    tier = bare.root / TIER.lstrip("/")
    made = []
    for number, data in enumerate(pictures):
        path = tier / ("anna", "ben")[number % 2] / f"{number:03}.{('jpg', 'png', 'webp', 'tif')[number % 4]}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
        os.chown(path, 2000 + number % 2, 3000)
        path.chmod(0o640)
        os.utime(path, (1_400_000_000 + number, 1_300_000_000 + number))
        made.append(Original.of(path))
    return made


@pytest.fixture(scope="module")
def installation(machine: Machine) -> str:
    """A copy to start from: an empty catalog, and a vault with a profile of small networks with random weights. They
    are quick, and what is tested here must hold whatever they are."""
    from archiver.models.embedded import init_random, save_profile

    folder = machine.root / "var" / "tmp" / PROFILE
    save_profile(folder, init_random(7, long_side=64), PROFILE, "CC0-1.0")
    with (folder / "profile.toml").open("a", encoding="utf-8") as file:
        file.write('\n[presets.draft.sgc]\nsampler = "ddim"\nsteps = 2\nguidance = 1.0\nstart = 0.7\n')
    configure(machine, CONFIG)
    machine.run("mkdir", "-p", STATE)
    machine.run("archiver", "db", "upgrade")
    machine.run("archiver", "models", "import", f"/var/tmp/{PROFILE}")
    machine.run("mv", STATE, f"{STATE}.pristine")
    machine.run("rm", CONFIG_FILE)
    return f"{STATE}.pristine"


@pytest.fixture
def service(bare: Machine, installation: str) -> Machine:
    """The machine with configuration, catalog and vault; the daemon is not running."""
    bare.run("cp", "-a", installation, STATE)
    configure(bare, CONFIG)
    # At once and not behind everything else that runs here: nobody waits for a real daemon, but this test does.
    bare.write(DROPIN, QUICK)
    bare.run("systemctl", "daemon-reload")
    return bare


def configure(machine: Machine, text: str) -> None:
    machine.write(CONFIG_FILE, text)


def cat(path: Path) -> bytes:
    """What a process of its own reads."""
    return subprocess.run(["cat", path], stdout=subprocess.PIPE, timeout=60, check=True).stdout


def kind_of(data: bytes) -> Kind | None:
    """What a file is, by what it carries."""
    envelope = read_envelope(io.BytesIO(data))
    return None if envelope is None else envelope.kind


def held(machine: Machine) -> set[str]:
    """Hashes of the originals in the holding area."""
    folder = machine.root / TIER.lstrip("/") / ".archiver" / "holding"
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()} if folder.exists() else set()


def assert_nothing_lost(machine: Machine, originals: list[Original]) -> None:
    kept = held(machine)
    assert [original.path.name for original in originals if not original.whole(kept)] == []


def assert_undone(machine: Machine, originals: list[Original]) -> None:
    """`archiver undo` brings every original back, byte for byte, as its owner left it."""
    machine.run("archiver", "undo", TIER)
    assert [Original.of(original.path) for original in originals] == originals


def start(machine: Machine, *until: str) -> None:
    with machine.expect(UNIT, *until):
        machine.run("systemctl", "start", UNIT)


def kill(machine: Machine, signal: str) -> None:
    machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={signal}", UNIT)


def test_the_daemon_archives_a_folder_and_undo_brings_every_byte_back(
    service: Machine, originals: list[Original]
) -> None:
    start(service, "started", "archive photographs: ")
    assert all(original.released() for original in originals)
    for original in originals:
        facts = original.path.stat()
        assert (facts.st_mtime_ns, (facts.st_uid, facts.st_gid), facts.st_mode) == (
            original.mtime_ns,
            original.owner,
            original.mode,
        )
    assert_nothing_lost(service, originals)
    assert_undone(service, originals)


def test_an_installation_as_documented_archives_photographs_with_the_shipped_weights(bare: Machine) -> None:
    package = find_spec("skimage")
    assert package is not None
    folder = Path(str(package.origin)).parent / "data"
    tier = bare.root / TIER.lstrip("/")
    for name in ("astronaut.png", "camera.png", "gravel.png", "hubble_deep_field.jpg"):
        shutil.copyfile(folder / name, tier / name)
        os.utime(tier / name, (1_400_000_000, 1_300_000_000))
    originals = [Original.of(path) for path in sorted(tier.glob("*.*g"))]
    for original in originals:
        os.utime(original.path, ns=(1_400_000_000_000_000_000, original.mtime_ns))  # that was no use of it
    bare.run("archiver", "init", TIER)
    with bare.expect(UNIT, "started", "archive photographs: ", timeout=240):
        bare.run("systemctl", "start", UNIT)
    bare.run("systemctl", "stop", UNIT)
    released = [original for original in originals if original.released()]
    assert released, "the gate refused all of them"
    assert_nothing_lost(bare, originals)
    assert_undone(bare, originals)


def test_a_reader_gets_an_image_whatever_is_killed_meanwhile(service: Machine, originals: list[Original]) -> None:
    configure(service, TRANSPARENT)
    start(service, "started", "archive photographs: ")
    # From outside of the machine, as a container's reader looks from inside.
    readers = [subprocess.Popen(["cat", original.path], stdout=subprocess.PIPE) for original in originals]
    service.run("systemctl", "kill", "--kill-whom=all", "--signal=SIGKILL", RECALL_UNIT)
    with service.expect(UNIT, "Scheduled restart job", "started"):
        kill(service, "SIGKILL")
    seen = [reader.communicate(timeout=60)[0] for reader in readers]
    assert [kind_of(data) is None for data in seen] == [False] * len(originals)
    assert [len(data) for data in seen] == [original.path.stat().st_size for original in originals]
    # And once all is well again, everybody gets an image.
    for original in originals[:8]:
        until(lambda path=original.path: kind_of(cat(path)) is Kind.GENERATED)
        assert b"trainedAlgorithmicMedia" in cat(original.path)
        assert original.path.stat().st_mtime_ns == original.mtime_ns
    assert_undone(service, originals)


def test_a_daemon_killed_in_the_middle_comes_back_and_finishes_with_nothing_lost(
    service: Machine, originals: list[Original]
) -> None:
    start(service, "release done", "release done")
    with service.expect(UNIT, "Scheduled restart job", "started", "release done"):
        kill(service, "SIGKILL")
    assert not all(original.released() for original in originals), "it had finished before it was killed again"
    with service.expect(UNIT, "Scheduled restart job", "started", "archive photographs: "):
        kill(service, "SIGKILL")
    assert service.show(UNIT, "NRestarts") == "2"
    assert all(original.released() for original in originals)
    assert_nothing_lost(service, originals)
    assert_undone(service, originals)


def test_a_stop_in_the_middle_ends_in_order_and_leaves_no_file_half_way(
    service: Machine, originals: list[Original]
) -> None:
    start(service, "release done")
    service.run("systemctl", "stop", UNIT)
    assert service.show(UNIT, "Result") == "success"
    assert service.show(UNIT, "ExecMainStatus") == "0"
    released = [original for original in originals if original.released()]
    assert len(released) < len(originals), "it had finished before it was stopped"
    assert_nothing_lost(service, originals)
    # What is held is exactly what was released: nothing was left between the two.
    assert held(service) == {original.sha256 for original in released}
    assert_undone(service, released)


def test_a_reload_takes_a_new_configuration_without_a_restart(service: Machine, originals: list[Original]) -> None:
    configure(service, IDLE)
    start(service, "started")
    process = service.main_pid(UNIT)
    configure(service, CONFIG)
    with service.expect(UNIT, "reloading", "started", "archive photographs: "):
        service.run("systemctl", "reload", UNIT)
    assert service.main_pid(UNIT) == process
    assert all(original.released() for original in originals)


def test_a_reload_of_a_broken_configuration_keeps_the_old_one(service: Machine) -> None:
    configure(service, IDLE)
    start(service, "started")
    process = service.main_pid(UNIT)
    configure(service, IDLE + "\nunheard_of = 1\n")
    with service.expect(UNIT, "unheard_of", "started", "scan of photographs"):
        service.run("systemctl", "reload", UNIT)
    assert service.main_pid(UNIT) == process


def test_the_watchdog_restarts_a_daemon_that_hangs(service: Machine) -> None:
    configure(service, IDLE)
    service.write(DROPIN, f"{QUICK}WatchdogSec=2s\n")
    service.run("systemctl", "daemon-reload")
    start(service, "started")
    with service.expect(UNIT, "Watchdog timeout", "Scheduled restart job", "started"):
        kill(service, "SIGSTOP")


def test_a_second_daemon_on_the_same_catalog_is_refused(service: Machine) -> None:
    configure(service, IDLE)
    start(service, "started")
    second = service.run("archiver", "run", check=False)
    assert second.returncode == 7
    assert "another archiver daemon" in second.stderr


def test_a_wrong_configuration_is_reported_and_not_tried_again(service: Machine) -> None:
    configure(service, CONFIG + "\nunheard_of = 1\n")
    with service.expect(UNIT, "unheard_of", "Failed with result 'exit-code'"):
        assert service.run("systemctl", "start", UNIT, check=False).returncode != 0
    assert service.show(UNIT, "NRestarts") == "0"
    assert service.show(UNIT, "ExecMainStatus") == "2"


def test_a_tier_that_is_not_mounted_is_waited_for_and_nothing_in_it_is_forgotten(
    service: Machine, originals: list[Original]
) -> None:
    configure(service, IDLE)
    start(service, "scan of photographs")
    service.run("systemctl", "stop", UNIT)
    service.run("mkdir", "-p", "/mnt/elsewhere")
    service.run("mount", "--bind", TIER, "/mnt/elsewhere")
    service.run("umount", TIER)
    configure(service, CONFIG.replace('"1h"', '"2s"'))
    # An empty folder is where the tier was: that is not an empty tier.
    start(service, "started", "cannot be reached")
    assert '"gone"' not in service.run("archiver", "audit", "--json", "--limit", "0").stdout
    # It comes back under the running daemon.
    with service.expect(UNIT, "archive photographs: "):
        service.run("mount", "--bind", "/mnt/elsewhere", TIER)
        service.run("umount", "/mnt/elsewhere")
    service.run("systemctl", "stop", UNIT)
    assert all(original.released() for original in originals)
    assert_undone(service, originals)
