"""The program itself: it starts at once, a failure is one line and a hint, exit codes are the documented ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event

import click
import pytest
from click.testing import CliRunner

from archiver import errors
from archiver.cli.invocation import Invocation
from archiver.cli.main import VERBS, cli, foreseen
from archiver.cli.output import Column, Output, human_ratio, jsonable, printable
from archiver.cli.reporter import Reporter, report
from archiver.cli.verb import VerbCommand
from archiver.lifecycle.outcome import Tally
from tests.cli.installation import Installation

ROOT = Path(__file__).resolve().parents[2]
ALL_VERBS = [verb for verbs in VERBS.values() for verb in verbs]


def commands(command: click.Command, path: str = "archiver") -> list[tuple[str, click.Command]]:
    """Every command below one, groups included."""
    found = [(path, command)]
    if isinstance(command, click.Group):
        for name in command.list_commands(click.Context(command)):
            inner = command.get_command(click.Context(command), name)
            assert inner is not None
            found += commands(inner, f"{path} {name}")
    return found


def run(*args: str, **extra: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "archiver", *args], capture_output=True, text=True, cwd=ROOT, **extra)  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("verb", ALL_VERBS, ids=lambda verb: verb.name)
def test_the_listed_help_is_the_verbs_own(verb) -> None:
    command = cli.get_command(click.Context(cli), verb.name)
    assert command is not None
    assert (command.help or "").strip().partition("\n")[0] == verb.help
    assert command.name == verb.name


def test_every_verb_has_an_example_and_the_common_options() -> None:
    for path, command in commands(cli):
        assert {"config", "as_json", "verbose"} <= {parameter.name for parameter in command.params}, path
        if not isinstance(command, click.Group):
            assert isinstance(command, VerbCommand), path
            assert path in command.example, path


@pytest.mark.parametrize("args", [["--help"], ["status", "--help"], ["recall", "--help"]])
def test_help_loads_no_model_library(args: list[str]) -> None:
    program = (
        f"import sys; sys.argv = ['archiver', *{args!r}]\n"
        "from archiver.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join({'torch', 'sqlalchemy', 'diffusers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0
    assert "Usage: archiver" in done.stdout
    assert "torch" not in done.stderr and "diffusers" not in done.stderr
    if args == ["--help"]:
        assert done.stderr == ""


def test_a_failure_is_one_line_and_a_hint_and_its_exit_code(tmp_path: Path) -> None:
    done = run("--config", str(tmp_path / "none.toml"), "config", "check")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"error: no configuration at {tmp_path / 'none.toml'}",
        "hint: Run `archiver init`, or name a file with --config or $ARCHIVER_CONFIG.",
    ]


def test_a_failure_is_json_where_json_was_asked_for(tmp_path: Path) -> None:
    done = run("config", "check", "--json", "--config", str(tmp_path / "none.toml"))
    failure = json.loads(done.stderr)
    assert (done.returncode, failure["type"], failure["error"], failure["exit_code"]) == (
        2,
        "error",
        "ConfigMissing",
        2,
    )


def test_a_mistake_before_json_is_json_too() -> None:
    done = run("undo", "--bogus", "--json")
    failure = json.loads(done.stderr)
    assert (done.returncode, failure["error"], failure["exit_code"]) == (2, "Usage", 2)


def test_a_wrong_option_exits_with_2_and_names_the_near_verb() -> None:
    done = run("stats")
    assert done.returncode == 2
    assert "Did you mean 'status'?" in done.stderr


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (28, errors.DiskFull),
        (30, errors.ReadOnlyFilesystem),
        (13, errors.PermissionRefused),
        (5, errors.InputOutputError),
    ],
)
def test_a_failing_system_call_is_foreseen(number: int, kind: type[errors.ArchiverError]) -> None:
    failure = foreseen(OSError(number, os.strerror(number), "/srv/photos/a.jpg"))
    assert type(failure) is kind
    assert failure.exit_code == 7
    assert "/srv/photos/a.jpg" in failure.message


def test_that_the_current_folder_is_gone_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as error:
        Path("rome.jpg").absolute()
    failure = foreseen(error.value)
    assert failure is not None and failure.message == "the current folder is no longer there"


def test_a_defect_is_not_dressed_up_as_a_failure() -> None:
    assert foreseen(KeyError("x")) is None


def test_every_exit_code_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text()
    documented = {line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")}
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.ArchiverError)
    }
    assert {str(code) for code in codes | {0, 1, 70, 130, 141}} <= documented


@pytest.mark.parametrize("words", [["config", "path"], ["--help"], ["plan", "--help"]], ids=" ".join)
def test_the_reader_of_a_pipe_may_go_away(words: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "archiver", *words]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_gets_the_number_of_a_closed_stream(closed: str) -> None:
    """What a library prints would be written into it."""
    program = (
        "import atexit, os; from archiver.cli.main import cli;"
        "atexit.register(lambda: os._exit(0 if os.open('/', os.O_RDONLY) > 2 else 9)); cli(['config', 'path'])"
    )
    command = ["sh", "-c", f'"$0" -c "$1" {closed}', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_cli_reference_is_current() -> None:
    done = subprocess.run([sys.executable, "-m", "archiver.cli.docs"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert (ROOT / "docs" / "cli.md").read_text() == done.stdout, "run: python -m archiver.cli.docs > docs/cli.md"


def test_file_names_cannot_speak_to_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name, shown = "a\x1b[31mb\n\udcff.jpg", "a\\x1b[31mb\\n\\xff.jpg"
    assert printable(name) == shown
    output = Output()
    output.facts([("name", name)], title=name)
    output.table([Column("name")], [[name]], title=name)
    assert capsys.readouterr().out.count(shown) == 4


def test_a_title_is_not_folded_to_the_width_of_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    title = "/srv/photos/2009/a folder with a long name (tier photos)"
    Output().table([Column("state")], [["released"]], title=title)
    assert title in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("encoding", ["utf-8:strict", "ascii"])
def test_a_status_shows_any_name_on_any_terminal(place: Installation, encoding: str) -> None:
    """Its heading is the name itself: neither what no encoding holds nor what a terminal obeys may be in it."""
    odd = Path(os.fsdecode(bytes(place.photos / "a") + "\x1b[31mß\n".encode() + b"\xff.jpg"))
    (place.photos / "rome.jpg").rename(odd)
    place.run("scan").ok()
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = run("--config", str(place.config), "status", str(odd), env=environment, encoding="utf-8")
    shown = "\\xdf" if encoding == "ascii" else "ß"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"{place.photos}/a\\x1b[31m{shown}\\n\\xff.jpg"


def test_paths_in_json_give_their_exact_bytes_back() -> None:
    path = Path(os.fsdecode(b"/srv/\xff\xe4.jpg"))
    assert os.fsencode(json.loads(json.dumps(jsonable(path)))) == b"/srv/\xff\xe4.jpg"


@pytest.mark.parametrize(
    ("before", "after", "said"), [(1_000_000, 4096, "244x"), (100, 40, "2.5x"), (0, 4, ""), (4, 0, "")]
)
def test_ratios_are_readable(before: int, after: int, said: str) -> None:
    assert human_ratio(before, after) == said


def test_version_is_that_of_the_package() -> None:
    from archiver import __version__

    done = CliRunner().invoke(cli, ["--version"])
    assert (done.exit_code, done.output) == (0, f"archiver {__version__}\n")


def test_the_first_interrupt_lets_the_file_in_hand_be_finished(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from archiver.cli.invocation import Invocation, interruptible\n"
        "with interruptible(Invocation()) as stop:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    assert stop.wait(10)\n"
        "    print('finished')\n"
        "    try: os.kill(os.getpid(), signal.SIGINT); stop.clear(); stop.wait(10)\n"
        "    except KeyboardInterrupt: print('stopped')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split() == ["finished", "stopped"], done.stderr
    assert signal.getsignal(signal.SIGINT) is not None


def test_an_interrupt_is_heeded_in_the_middle_of_a_wait() -> None:
    """Where the main thread holds the lock of the Event that it is about to wait for."""
    program = (
        "import os, signal\n"
        "from archiver.cli.invocation import Invocation, interruptible\n"
        "with interruptible(Invocation()) as stop:\n"
        "    with stop._cond:\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    print(stop.wait(60))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stdout.split() == ["True"], done.stderr


def test_the_summary_of_an_interrupted_run_names_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(_reporter: Reporter, stop: Event) -> Tally:
        stop.set()
        return Tally()

    assert report(Invocation(as_json=True), "waiting", interrupted) == 130
    assert json.loads(capsys.readouterr().out)["exit_code"] == 130
    assert report(Invocation(), "waiting", interrupted) == 130
    assert "Nothing was done." in capsys.readouterr().out
