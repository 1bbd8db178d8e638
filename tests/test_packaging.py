"""What is shipped: the wheel's contents, and limits that keep the source readable and the repository light."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
MAX_FILE_BYTES = 32_000_000
MAX_MODULE_LINES = 500


def tracked() -> list[Path]:
    """Files under version control that are in the working tree."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, check=True, capture_output=True).stdout
    return [path for name in listing.decode().split("\0") if name and (path := REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=REPOSITORY,
        check=True,
        capture_output=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        return set(archive.namelist())


def test_the_wheel_has_every_module_of_the_package(contents: set[str]) -> None:
    modules = {str(path.relative_to(REPOSITORY)) for path in tracked() if path.is_relative_to(REPOSITORY / "archiver")}
    assert modules
    assert modules <= contents


@pytest.mark.parametrize(
    "name",
    [
        "archiver/py.typed",
        "archiver/config.example.toml",
        "archiver/migrations/env.py",
        "archiver/migrations/script.py.mako",
    ],
)
def test_the_wheel_has_what_the_program_reads_at_run_time(contents: set[str], name: str) -> None:
    assert name in contents


def test_the_wheel_has_every_migration(contents: set[str]) -> None:
    versions = {path.name for path in (REPOSITORY / "migrations" / "versions").glob("*.py")}
    assert versions
    assert {f"archiver/migrations/versions/{name}" for name in versions} <= contents


def test_the_wheel_has_the_embedded_weights_and_their_model_card(contents: set[str]) -> None:
    assert any(name.startswith("archiver/models/") and name.endswith(".safetensors") for name in contents)
    assert any(name.startswith("archiver/models/") and name.endswith(".md") for name in contents)


def test_the_wheel_has_the_units_where_systemd_looks_below_a_prefix(contents: set[str]) -> None:
    installed = {re.sub(r"^[^/]+\.data/data/", "", name) for name in contents}
    assert "lib/systemd/system/archiver.service" in installed
    assert "lib/systemd/system/archiver-decoder.service" in installed
    assert "lib/systemd/system/archiver-gateway.service" in installed
    assert "lib/systemd/system/archiver-s3-listen.service" in installed
    assert "lib/sysusers.d/archiver.conf" in installed
    assert "share/archiver/tiers.conf" in installed


def test_the_wheel_has_the_license(contents: set[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_the_wheel_has_no_tests_and_no_leavings(contents: set[str]) -> None:
    assert not [name for name in contents if name.startswith("tests/") or "__pycache__" in name]


@pytest.mark.parametrize("module", ["archiver.cli.main", "archiver.daemon"])
def test_the_program_starts_without_the_model_libraries(module: str) -> None:
    heavy = {"torch", "diffusers", "skimage", "cv2"}
    code = f"import sys, {module}; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_no_tracked_file_is_too_large_to_clone() -> None:
    assert [str(path) for path in tracked() if path.stat().st_size > MAX_FILE_BYTES] == []


def test_no_module_is_too_long_to_read() -> None:
    lengths = {
        str(path.relative_to(REPOSITORY)): len(path.read_text(encoding="utf-8").splitlines())
        for path in tracked()
        if path.suffix == ".py"
    }
    assert {name: lines for name, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


@pytest.mark.parametrize("name", ["demo", "tests"])
def test_the_readme_marks_the_commands_that_ci_runs(name: str) -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    marked = re.search(rf"^<!-- {name}: begin -->\n(.*?)^<!-- {name}: end -->$", readme, re.DOTALL | re.MULTILINE)
    assert marked is not None
    assert re.search(r"^    \S", marked[1], re.MULTILINE)
