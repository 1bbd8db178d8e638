"""What a user does with the program, on real files: each verb does its act, explains it, and says how it ended."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cli.installation import Answer, Installation, call, photograph

ROOT = Path(__file__).resolve().parents[2]


def tree(folder: Path) -> dict[str, tuple[int, int, int, str]]:
    """Every file below a folder: inode, size, mtime and hash."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            about = path.stat()
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path)] = (about.st_ino, about.st_size, about.st_mtime_ns, digest)
    return found


def states(place: Installation) -> dict[str, int]:
    summary = place.run("--json", "status").ok().lines[0]["tiers"][0]["summary"]
    return {one["state"]: one["files"] for one in summary["states"] if one["files"]}


@pytest.fixture
def scanned(place: Installation) -> Installation:
    place.run("scan").ok()
    return place


@pytest.fixture
def released(scanned: Installation) -> Installation:
    scanned.run("archive", scanned.photos).ok()
    assert states(scanned) == {"released": 3}
    return scanned


# -- first steps -------------------------------------------------------------------------------------------------------


def test_init_makes_a_valid_configuration_and_archives_nothing(tmp_path: Path, packaged: Path) -> None:
    photograph(tmp_path / "My Photos" / "a.jpg", 1)
    before = tree(tmp_path / "My Photos")
    config = tmp_path / "etc" / "archiver.toml"
    call("--config", config, "init", tmp_path / "My Photos", "--state", tmp_path / "state").ok()
    call("--config", config, "config", "check").ok()
    assert tomllib.loads(config.read_text())["tier"] == [{"name": "my-photos", "path": str(tmp_path / "My Photos")}]
    assert tree(tmp_path / "My Photos") == before


def test_init_never_overwrites_a_configuration(place: Installation) -> None:
    before = place.config.read_text()
    answer = place.run("init", place.photos)
    assert (answer.code, place.config.read_text()) == (2, before)
    place.run("init").ok()


def test_init_refuses_what_is_no_folder(tmp_path: Path, packaged: Path) -> None:
    answer = call("--config", tmp_path / "a.toml", "init", tmp_path / "nowhere")
    assert answer.code == 4
    assert not (tmp_path / "a.toml").exists()


def test_every_problem_of_a_configuration_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[catalog]\nurk = 1\n[release]\ngrace = 'soon'\n")
    answer = call("--config", tmp_path / "a.toml", "config", "check", "--json")
    problems = answer.lines[0]["problems"]
    assert answer.code == 2
    assert len(problems) == 2
    assert any("did you mean url" in problem for problem in problems)


def test_a_password_is_never_shown(place: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", "postgresql://archiver:hunter2@localhost:1/none")
    for args in (["config", "show"], ["config", "show", "--json"], ["doctor"], ["scan"], ["status"], ["db", "current"]):
        answer = place.run(*args)
        assert "hunter2" not in answer.out + answer.err, args


def test_db_reports_the_schema(place: Installation) -> None:
    shown = place.run("db", "current", "--json").ok().lines[0]
    assert shown["found"] == shown["wanted"]
    assert "was current" in place.run("db", "upgrade").ok().out


# -- plan --------------------------------------------------------------------------------------------------------------


def test_plan_changes_nothing(place: Installation) -> None:
    scanned = place
    os.utime(scanned.photos / "rome.jpg", (0, 0))
    scanned.run("scan").ok()
    files, audit = tree(scanned.photos), scanned.run("audit", "--json").ok().out
    assert "rome.jpg" in scanned.run("plan").ok().out
    scanned.run("archive", "--dry-run").ok()
    scanned.run("archive", "--dry-run", scanned.photos).ok()
    scanned.run("plan", "--explain", scanned.photos / "rome.jpg").ok()
    assert tree(scanned.photos) == files
    assert scanned.run("audit", "--json").ok().out == audit


def test_plan_names_the_condition_that_decided(scanned: Installation) -> None:
    shown = scanned.run("plan", "--explain", scanned.photos / "rome.jpg").ok()
    assert "does not match" in shown.out
    assert "fails" in shown.out
    assert "the rule waits for 30d" in shown.out


def test_an_empty_plan_says_why(scanned: Installation) -> None:
    assert "No image is cold by the rules" in scanned.run("plan").ok().out
    text = scanned.config.read_text()
    scanned.config.write_text(text.replace("[[tier]]", "[[tier]]\nhigh_watermark = 1.0\nlow_watermark = 0.99"))
    os.utime(scanned.photos / "rome.jpg", (0, 0))
    scanned.run("scan").ok()
    assert "full: releases begin at the tier's high watermark" in scanned.run("plan").ok().out


def test_nothing_is_planned_before_the_first_scan(place: Installation) -> None:
    assert place.run("plan").code == 4


def test_an_unknown_tier_is_named_with_those_there_are(place: Installation) -> None:
    answer = place.run("scan", "musik")
    assert answer.code == 2
    assert "photos" in answer.err


# -- archive, recall, undo ---------------------------------------------------------------------------------------------


def test_archive_recall_and_undo_come_back_to_the_original_bytes(scanned: Installation) -> None:
    before = tree(scanned.photos)
    rome = scanned.photos / "rome.jpg"
    answer = scanned.run("archive", rome).ok()
    assert "release" in answer.out
    assert rome.stat().st_blocks * 512 == 4096
    assert "a placeholder" in scanned.run("status", rome).ok().out
    scanned.run("recall", rome).ok()
    shown = scanned.run("status", rome).ok().out
    assert "SYNTHETIC" in shown
    scanned.run("undo", rome).ok()
    after = {path: about for path, about in tree(scanned.photos).items() if "/.archiver/" not in path}
    assert after == before
    assert states(scanned) == {"resident": 2, "recorded": 1}


def test_a_folder_is_recalled_and_released_again_without_encoding(released: Installation) -> None:
    released.run("recall", released.photos / "2009").ok()
    assert states(released) == {"released": 1, "recalled": 2}
    lines = released.run("archive", "--json", released.photos).ok().lines
    assert [line["act"] for line in lines if line["type"] == "outcome"] == ["release", "release"]
    assert states(released) == {"released": 3}


def test_undo_into_a_folder_changes_nothing_in_the_tier(released: Installation, tmp_path: Path) -> None:
    before = tree(released.photos)
    (tmp_path / "out").mkdir()
    released.run("undo", released.photos / "rome.jpg", "--to", tmp_path / "out").ok()
    assert tree(released.photos) == before
    assert (tmp_path / "out" / "rome.jpg").read_bytes() == photograph(tmp_path / "same.jpg", 1).read_bytes()


def test_undo_of_what_somebody_wrote_over_tells_the_way_to_both_versions(released: Installation) -> None:
    rome = photograph(released.photos / "rome.jpg", 4)
    released.run("scan").ok()
    assert "archiver undo --to DIR copies it" in released.run("status", rome).ok().out
    answer = released.run("undo", rome)
    assert answer.code == 1
    assert f"{rome}  undo: was changed since it was released" in answer.out
    assert "hint: It is treated as a new original. `archiver undo --to DIR` puts" in answer.out


def test_a_file_that_fails_the_gate_stays_and_says_why(scanned: Installation) -> None:
    scanned.config.write_text(
        scanned.config.read_text().replace("semantic = -1.0", "semantic = 1.0").replace('"none"', "0.0")
    )
    before = tree(scanned.photos)
    answer = scanned.run("archive", scanned.photos)
    assert answer.code == 1
    assert "below the gate" in answer.out
    assert {p: a for p, a in tree(scanned.photos).items() if "/.archiver/" not in p} == before
    assert "below the gate" in scanned.run("status", scanned.photos / "rome.jpg").ok().out


def test_a_pinned_folder_is_left_alone(scanned: Installation) -> None:
    assert scanned.run("pin", scanned.photos / "2009").code == 2  # a folder asks for --subtree
    scanned.run("pin", "--subtree", scanned.photos / "2009").ok()
    assert "2009" in scanned.run("pins").ok().out
    scanned.run("archive", scanned.photos)
    assert states(scanned) == {"resident": 2, "released": 1}
    scanned.run("unpin", scanned.photos / "2009").ok()
    assert scanned.run("unpin", scanned.photos / "2009").code == 1


def test_paths_outside_every_tier_are_refused(place: Installation, tmp_path: Path) -> None:
    for verb in ("archive", "recall", "undo", "status", "pin"):
        answer = place.run(verb, tmp_path / "elsewhere.jpg")
        assert (answer.code, "lies in no configured tier" in answer.err) == (2, True), verb


def test_tiers_and_paths_are_not_mixed(place: Installation) -> None:
    assert place.run("archive", "photos", place.photos / "rome.jpg").code == 2


def test_an_interrupted_run_finishes_the_file_in_hand_and_leaves_nothing_half_done(
    place: Installation, weights: Path
) -> None:
    for seed in range(9):
        photograph(place.photos / "many" / f"{seed}.jpg", seed, (320, 240))
    place.config.write_text(place.config.read_text() + "batch = 1\n")
    place.run("scan").ok()
    command = [sys.executable, "-m", "archiver", "--config", place.config, "archive", "--json", place.photos / "many"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        running.stdout.readline()  # the first file is done
        running.send_signal(signal.SIGINT)
        rest, said = running.communicate()
    assert running.returncode == 130, said
    assert "stopping after the file in hand" in said
    summary = json.loads(rest.splitlines()[-1])
    done = summary["counts"]["release"]["done"]
    assert 0 < done < 9
    assert states(place) == {"resident": 12 - done, "released": done}
    assert list((place.photos / ".archiver" / "journal").iterdir()) == []
    assert "Nothing to do" in place.run("reconcile").ok().out


# -- looking -----------------------------------------------------------------------------------------------------------


def test_status_needs_neither_torch_nor_sqlalchemy(standing: Installation) -> None:
    program = (
        f"import sys; sys.argv = ['archiver', '--config', {str(standing.config)!r}, 'status', *sys.argv[1:]]\n"
        "from archiver.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(' '.join({'torch', 'sqlalchemy', 'diffusers', 'PIL'} & set(sys.modules)))"
    )
    for args in ([], [str(standing.photos / "rome.jpg")]):
        done = subprocess.run([sys.executable, "-c", program, *args], capture_output=True, text=True, cwd=ROOT)
        assert (done.returncode, done.stderr) == (0, "")
        assert "released" in done.stdout


def test_status_of_a_folder_counts_what_is_below_it(standing: Installation) -> None:
    shown = standing.run("status", "--json", standing.photos / "2009").ok().lines[0]
    assert shown["type"] == "folder"
    assert [(state, files) for state, files, _ in shown["states"]] == [("released", 2)]


def test_status_of_a_file_tells_record_fidelity_policy_and_history(standing: Installation) -> None:
    shown = standing.run("status", "--json", standing.photos / "rome.jpg").ok().lines[0]
    assert shown["file"]["state"] == "released"
    assert shown["record"]["rule"] == "cold"
    assert sum(size for _, size in shown["parts"]) == len(bytes.fromhex(shown["record"]["payload"]))
    assert shown["fidelity"]["semantic"] is not None
    assert [row["act"] for row in shown["history"]] == ["released", "recorded"]
    assert shown["held"]["size"] == (standing.photos / "rome.jpg").stat().st_size


def test_a_record_is_shown_from_a_copy_of_a_placeholder_without_any_catalog(
    standing: Installation, tmp_path: Path
) -> None:
    shutil.copy(standing.photos / "rome.jpg", tmp_path / "copy.jpg")
    shown = call("--config", tmp_path / "none.toml", "record", "show", "--json", tmp_path / "copy.jpg").ok().lines[0]
    assert shown["found_in"] == "the placeholder itself"
    assert sum(part["bytes"] for part in shown["parts"]) == shown["bytes"]
    assert shown["record"]["scheme"] == "sgc"
    said = call("--config", tmp_path / "none.toml", "record", "show", tmp_path / "copy.jpg").ok().out
    assert f"version {shown['version']}" in said
    assert all(part["text"].split(",")[0] in said for part in shown["parts"])


def test_a_file_without_a_record_says_so(scanned: Installation, tmp_path: Path) -> None:
    assert scanned.run("record", "show", scanned.photos / "rome.jpg").code == 5
    shutil.copy(scanned.photos / "rome.jpg", tmp_path / "elsewhere.jpg")
    for name in ("elsewhere.jpg", "mistyped.jpg", "."):
        refused = scanned.run("record", "show", tmp_path / name)
        assert refused.code == 5 and "there is no record" in refused.err


def test_the_audit_lists_every_act_newest_first(standing: Installation) -> None:
    acts = [line["act"] for line in standing.run("audit", "--json", standing.photos / "rome.jpg").ok().lines]
    assert acts == ["released", "recorded"]
    assert len(standing.run("audit", "--json", "--limit", "2").ok().lines) == 2
    assert standing.run("audit", "--since", "soon").code == 2


def test_a_tier_that_stands_on_another_disk_now_is_accepted_by_name(released: Installation) -> None:
    old = released.photos.rename(released.photos.with_name("old"))
    shutil.copytree(old, released.photos, symlinks=True)
    assert "rebuild --accept" in released.run("scan").err
    assert released.run("rebuild", "--accept", "nowhere").code == 2
    released.run("rebuild", "--accept", "photos").ok()
    assert states(released) == {"released": 3}


def test_every_verb_speaks_json(released: Installation) -> None:
    rome = released.photos / "rome.jpg"
    for args in (
        ["scan"], ["plan"], ["plan", "--explain", rome], ["status"], ["status", rome], ["audit"], ["doctor"],
        ["verify"], ["expire"], ["reconcile"], ["recall", rome], ["archive", rome], ["undo", rome],
        ["record", "show", rome], ["pin", rome], ["pins"], ["unpin", rome], ["models", "list"], ["models", "verify"],
        ["config", "check"], ["config", "show"], ["config", "path"], ["db", "current"], ["db", "upgrade"],
        ["rebuild"], ["init"],
    ):  # fmt: skip
        answer = released.run("--json", *args)
        assert answer.lines, args
        assert all(isinstance(line, dict) for line in answer.lines), args
        assert "Traceback" not in answer.err, args


# -- care --------------------------------------------------------------------------------------------------------------


def test_verify_finds_a_damaged_held_original(released: Installation) -> None:
    released.run("verify").ok()
    held = next((released.photos / ".archiver" / "holding").iterdir())
    held.write_bytes(b"\0" * held.stat().st_size)
    answer = released.run("verify", "--restart")
    assert answer.code == 1
    assert "does not match its recorded hash" in answer.out


def test_a_word_that_is_a_tier_and_a_folder_here_is_asked_about(
    released: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    answer = released.run("archive", "photos")
    assert answer.code == 2
    assert "./photos" in answer.err
    monkeypatch.chdir(released.photos.parent)  # the tier's own folder: both mean the same
    released.run("archive", "photos").ok()


def test_a_lost_catalog_is_rebuilt_from_the_placeholders(released: Installation, tmp_path: Path) -> None:
    shutil.move(tmp_path / "state", tmp_path / "lost")
    shutil.copytree(tmp_path / "lost" / "vault", tmp_path / "state" / "vault", symlinks=True)
    assert released.run("status").code == 3
    released.run("rebuild").ok()
    assert states(released) == {"released": 3}
    released.run("undo", released.photos / "rome.jpg").ok()


def test_doctor_finds_nothing_wrong_with_a_sound_installation(standing: Installation) -> None:
    report = standing.run("doctor", "--json").lines[0]
    assert [check for check in report["checks"] if check["verdict"] == "broken"] == []
    assert any("3 live records can be decoded" in check["finding"] for check in report["checks"])


def test_doctor_finds_missing_and_damaged_weights(released: Installation, tmp_path: Path) -> None:
    target = next((tmp_path / "state" / "vault" / "objects").iterdir())
    target.chmod(0o644)
    with target.open("r+b") as file:
        file.write(b"damage")
    answer = released.run("doctor", "--json")
    assert answer.code == 7
    assert "does not have the pinned SHA-256" in answer.out
    target.unlink()
    answer = released.run("doctor", "--json")
    assert answer.code == 7
    assert "3 live records cannot be decoded" in answer.out


def test_doctor_finds_a_clock_that_went_backwards(standing: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    from archiver import doctor

    monkeypatch.setattr(doctor.time, "time", lambda: 1_000_000_000.0)
    assert "behind the last act" in standing.run("doctor").out


def test_doctor_goes_on_where_the_catalog_is_lost(released: Installation, tmp_path: Path) -> None:
    (tmp_path / "state" / "catalog.db").unlink()
    report = released.run("doctor", "--json").lines[0]
    subjects = {check["subject"]: check["verdict"] for check in report["checks"]}
    assert subjects["catalog"] == "broken"
    assert subjects["configuration"] == "ok"
    assert sum("rebuild" in check["hint"] for check in report["checks"]) == 1  # said once, not by every part


def test_doctor_names_a_tier_that_has_another_name_now(released: Installation) -> None:
    released.config.write_text(released.config.read_text().replace('name = "photos"', 'name = "pictures"'))
    report = released.run("doctor", "--json").lines[0]
    found = {check["subject"]: check["finding"] for check in report["checks"] if check["verdict"] == "warning"}
    assert found["tier photos"] == "not in the configuration: 3 files, 3 originals held"


def test_who_asks_of_a_file_in_a_tier_that_was_never_scanned_is_told_so(released: Installation) -> None:
    released.config.write_text(released.config.read_text().replace('name = "photos"', 'name = "pictures"'))
    for verb in (["plan", "--explain"], ["audit"]):
        answer = released.run(*verb, released.photos / "rome.jpg")
        assert (answer.code, "pictures" in answer.err) == (4, True)


def test_doctor_finds_a_preset_that_the_profile_lacks(released: Installation) -> None:
    released.config.write_text(released.config.read_text().replace("[model]\n", '[model]\npreset = "fst"\n'))
    report = released.run("doctor", "--json").lines[0]
    assert [check["finding"] for check in report["checks"] if check["verdict"] == "broken"] == [
        "profile embedded-1 has no preset fst for scheme sgc"
    ]


def test_without_the_model_libraries_everything_works_but_encoding_and_decoding(released: Installation) -> None:
    program = (
        "import json, sys\n"
        "sys.modules.update(torch=None, diffusers=None)  # as where they are not installed\n"
        "from archiver.cli.main import cli\n"
        "for args in json.loads(sys.argv[1]):\n"
        "    try: cli.main(args)\n"
        "    except SystemExit as end: sys.stderr.write(f'{args[2]} ended with {end.code}\\n')\n"
    )
    rome = str(released.photos / "rome.jpg")
    harmless = [["scan"], ["plan"], ["status", rome], ["verify"], ["undo", rome], ["expire"], ["rebuild"]]
    calls = [["--config", str(released.config), *args] for args in (*harmless, ["recall", str(released.photos)])]
    command = [sys.executable, "-c", program, json.dumps(calls)]
    said = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stderr.splitlines()
    assert said[: len(harmless)] == [f"{args[0]} ended with 0" for args in harmless]
    assert said[len(harmless) :] == [
        "error: this needs the model libraries, which are not installed (torch)",
        "hint: pip install 'archiver[decode]'",
        "recall ended with 6",
    ]


# -- models ------------------------------------------------------------------------------------------------------------


def test_a_profile_that_live_records_need_is_never_removed(standing: Installation) -> None:
    answer = standing.run("models", "remove", "embedded-1")
    assert answer.code == 6
    assert "3 live records" in answer.err
    standing.run("models", "verify").ok()


def test_a_profile_survives_export_and_import(place: Installation, tmp_path: Path) -> None:
    place.run("models", "export", "embedded-1", tmp_path / "one.tar").ok()
    place.run("models", "remove", "embedded-1").ok()
    assert place.run("models", "list", "--json").ok().lines == []
    place.run("models", "import", tmp_path / "one.tar").ok()
    assert [one["name"] for one in place.run("models", "list", "--json").ok().lines] == ["embedded-1"]


# -- demo --------------------------------------------------------------------------------------------------------------


def demo(folder: Path, work: Path, *args: str) -> Answer:
    return call("demo", folder, "--work", work, *args)


def test_the_demo_shows_the_whole_way_and_leaves_the_originals_alone(tmp_path: Path, packaged: Path) -> None:
    for seed in range(4):
        photograph(tmp_path / "mine" / f"{seed}.jpg", seed)
    (tmp_path / "mine" / "4.jpg").write_bytes(b"\xff\xd8 no photograph")
    before = tree(tmp_path / "mine")
    answer = demo(tmp_path / "mine", tmp_path / "work", "--count", "5", "--json")
    assert answer.code in (0, 1), answer.err  # weights without meaning may fail the gate
    shown = answer.lines[-1]
    assert shown["type"] == "demo"
    assert len(shown["specimens"]) == 4
    assert set(shown["left_out"]) == {str(tmp_path / "mine" / "4.jpg")}
    assert tree(tmp_path / "mine") == before
    assert (tmp_path / "work" / "contact-sheet.png").stat().st_size > 0
    assert "SYNTHETIC" in (tmp_path / "work" / "contact-sheet.html").read_text()
    call("--config", tmp_path / "work" / "archiver.toml", "status").ok()


def test_the_demo_deletes_nothing(tmp_path: Path, packaged: Path) -> None:
    photograph(tmp_path / "work" / "precious.jpg", 1)
    before = tree(tmp_path / "work")
    answer = demo(tmp_path / "work", tmp_path / "work")
    assert (answer.code, tree(tmp_path / "work")) == (2, before)


def test_a_demo_without_photographs_says_so(tmp_path: Path, packaged: Path) -> None:
    (tmp_path / "empty").mkdir()
    answer = demo(tmp_path / "empty", tmp_path / "work")
    assert answer.code == 2
    assert "no photographs" in answer.err
    assert not (tmp_path / "work").exists()
