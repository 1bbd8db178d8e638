"""Promises of the configuration: complete documentation, every problem at once, no secret ever shown."""

from __future__ import annotations

import os
import re
import tomllib
import traceback
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from archiver.config import (
    LocalTierSettings,
    RecallRuleSettings,
    RuleSettings,
    S3TierSettings,
    Section,
    Settings,
    compile_patterns,
    config_path,
    load,
    parse,
    path_matches,
    redact_url,
)
from archiver.config_prices import PriceSettings, StorageClassPrices
from archiver.config_problems import known_sections
from archiver.config_text import advice, default_config, example, render
from archiver.errors import ConfigInvalid, ConfigMissing

HERE = Path("test.toml")
PASSWORD = "hunter2-correct-horse"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ARCHIVER_CATALOG_URL", raising=False)
    monkeypatch.delenv("ARCHIVER_CONFIG", raising=False)


def problems_of(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, HERE)
    return caught.value.problems


# -- the example -------------------------------------------------------------------------------------------------------

# A key of the example, its value, and the default where the comment names one.
ENTRY = re.compile(r"^(?P<key>[a-z_]+) = (?P<value>.+?)(?:  # default: (?P<default>.+))?$")


def documented() -> dict[str, Any]:
    """Dotted key -> the default that the example teaches, from the first table of each kind."""
    found: dict[str, Any] = {}
    section, seen = "", set[str]()
    for line in example().splitlines():
        if header := re.match(r"^\[+([a-z.]+)\]+$", line):
            title = "tier.local" if header[1] == "tier" else header[1]
            section = title if title not in seen else "(repeated)"
            seen.add(title)
        elif line == 'kind = "s3"':
            section = "tier.s3"
            found |= {"tier.s3.name": "", "tier.s3.kind": "s3"}
        elif (entry := ENTRY.match(line)) and section != "(repeated)":
            found[f"{section}.{entry['key']}"] = tomllib.loads(f"x = {entry['default'] or entry['value']}")["x"]
    return found


def fields() -> Iterator[tuple[str, str, type[BaseModel]]]:
    for title, model in known_sections(Settings):
        for name in model.model_fields:
            kind = model.model_fields[name].annotation
            kinds = (kind, *get_args(kind))
            if title and not any(isinstance(one, type) and issubclass(one, Section) for one in kinds):
                yield f"{title}.{name}", name, model


def test_the_example_is_a_valid_configuration() -> None:
    settings = parse(example(), HERE)
    assert [tier.name for tier in settings.tier] == ["phones", "albums", "bucket"]
    assert [rule.action for rule in settings.rule] == ["release", "record"]
    assert settings.rule[1].gate.semantic > settings.rule[0].gate.semantic


def test_the_example_documents_every_key_and_no_other() -> None:
    assert sorted(documented()) == sorted(key for key, _, _ in fields())


@pytest.mark.parametrize(
    ("key", "name", "model"), list(fields()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_the_example_teaches_the_true_default(key: str, name: str, model: type[BaseModel]) -> None:
    default = model.model_fields[name].default
    if default is PydanticUndefined:  # name and path have none
        assert model.model_fields[name].is_required()
        return
    taught = documented()[key]
    required = {
        LocalTierSettings: {"name": "t", "path": "/t"},
        S3TierSettings: {"name": "t", "bucket": "photos"},
        RuleSettings: {"name": "r"},
        RecallRuleSettings: {"name": "r"},
        PriceSettings: {"name": "p", "storage": [{"name": "STANDARD"}]},
        StorageClassPrices: {"name": "STANDARD"},
    }.get(model, {})
    if name == "url_file":
        assert taught == "none"
        assert default is None
        return
    assert getattr(model.model_validate({**required, name: taught}), name) == default


def test_every_key_of_the_example_is_explained() -> None:
    lines = example().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"^\[+[a-z.]+\]+$", line):
            around = lines[number - 1 : number + 2]
            assert any(text.startswith("#") or "#" in text for text in around) or "=" in around[-1], line
    assert sum(line.startswith("#") for line in lines) > 40


MANUAL = Path(__file__).parent.parent / "docs" / "configuration.md"


@pytest.mark.parametrize("block", re.findall(r"```toml\n(.*?)```", MANUAL.read_text(), re.DOTALL))
def test_every_example_of_the_manual_is_valid(block: str) -> None:
    parse(block, HERE)


def test_the_manual_speaks_of_keys_that_exist_and_of_every_key_of_a_rule() -> None:
    text = MANUAL.read_text()
    known = {key for key, _, _ in fields()}
    short = {key.rpartition(".")[2] for key in known} | {"gate"}
    # In the manual a key stands in backticks, alone, with its section, or with a value.
    for word in re.findall(r"`((?:[a-z]+\.)?[a-z]+_[a-z_]+)(?: = [^`]+)?`", text):
        assert word in known | short, word
    for name in RuleSettings.model_fields:
        assert name in ("name", "scheme") or f"`{name}`" in text or f"{name} =" in text, name


# -- problems ----------------------------------------------------------------------------------------------------------


def test_all_problems_are_listed_at_once() -> None:
    found = problems_of(
        """
        grace = "3d"
        [catlog]
        [schedule]
        scan = "0s"
        [[tier]]
        name = "a"
        path = "relative/path"
        [[tier]]
        name = "b"
        path = "/x"
        high_watermark = 0.5
        low_watermark = 0.8
        [[tier]]
        name = "b"
        path = "/x/inside"
        [[rule]]
        name = "r"
        tiers = ["nowhere"]
        scheme = "g_coclico"
        min_size = "1 MB"
        max_size = "1 kB"
        include = []
        [[rule]]
        unused_for = 180
        formats = ["jpg"]
        """
    )
    expected = [
        "unknown key grace (did you mean [release] grace?)",
        "unknown key catlog (did you mean catalog?)",
        "schedule.scan: must be at least a second",
        'tier "a": path: must be an absolute path',
        'tier "b": low_watermark: 0.8 must not be above high_watermark (0.5)',
        "two tiers have the name 'b'",
        "tiers 'b' and 'b' overlap: /x and /x/inside",
        "rule 'r' names tier 'nowhere', which is not configured",
        'rule "r": scheme: should be',
        "did you mean 'g-coclico'?",
        'rule "r": max_size: 1000 is below the minimum (1000000)',
        'rule "r": include: is empty',
        "rule 2: name is missing",
        "rule 2: unused_for: 180 is no duration",
        "did you mean 'jpeg'?",
    ]
    for sentence in expected:
        assert any(sentence in problem for problem in found), (sentence, found)
    assert len(found) == 14


@pytest.mark.parametrize(
    ("key", "name", "model"), list(fields()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_misspelt_key_is_answered_with_the_right_one(key: str, name: str, model: type[BaseModel]) -> None:
    title, wrong = key.rpartition(".")[0], name + "x"
    repeated = ("tier", "rule", "recall.rule", "prices")
    title, _, kind = title.partition(".") if title.startswith("tier.") else (title, "", "")
    header = f"[[{title}]]" if title in repeated else f"[[rule]]\n[{title}]" if "." in title else f"[{title}]"
    header = "[[prices]]\n[[prices.storage]]" if title == "prices.storage" else header
    header += f'\nkind = "{kind}"' if kind else ""
    assert any(f"unknown key {wrong}" in p or f".{wrong}" in p for p in problems_of(f"{header}\n{wrong} = 1"))
    assert any(re.search(rf"did you mean {name}\?", problem) for problem in problems_of(f"{header}\n{wrong} = 1"))


def test_a_single_bracket_is_answered_with_two() -> None:
    assert problems_of('[tier]\nname = "a"') == ("tier: write [[tier]], in double brackets, for each of them",)


@pytest.mark.parametrize("key", ["vault.path", "catalog.url_file"])
def test_relative_paths_are_refused(key: str) -> None:
    section, name = key.split(".")
    for path in ("relative", "~/photos", "./x", "/srv/../etc"):
        assert problems_of(f'[{section}]\n{name} = "{path}"')[0].startswith(f"{key}: must")


@pytest.mark.parametrize("pattern", ["", "!", "# comment", "[z-a]", "trailing\\\\"])
def test_unreadable_patterns_are_refused(pattern: str) -> None:
    assert "is no path pattern" in problems_of(f'[[rule]]\nname = "r"\nexclude = ["{pattern}"]')[0]


def test_overlapping_tiers_are_refused() -> None:
    tiers = '[[tier]]\nname = "a"\npath = "/p"\n[[tier]]\nname = "b"\npath = "/p/q"\n'
    assert problems_of(tiers) == ("tiers 'a' and 'b' overlap: /p and /p/q",)
    apart = parse(tiers.replace('"/p/q"', '"/pq"'), HERE).tier[1]
    assert isinstance(apart, LocalTierSettings)
    assert apart.path == Path("/pq")


def test_tiers_that_overlap_by_a_symbolic_link_are_refused(tmp_path: Path) -> None:
    (tmp_path / "photos" / "2019").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "photos" / "2019")
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    two = '[[tier]]\nname = "a"\npath = "{0}/photos"\n[[tier]]\nname = "b"\npath = "{0}/{1}"\n'
    (problem,) = problems_of(two.format(tmp_path, "link"))
    assert problem.startswith(f"tiers 'a' and 'b' overlap: {tmp_path}/photos and {tmp_path}/link are")
    for apart in ("circle", "photos-2019", "no/such/folder"):
        assert len(parse(two.format(tmp_path, apart), HERE).tier) == 2


BUCKET = '[[tier]]\nname = "{}"\nkind = "s3"\nbucket = "photos"\nprefix = "{}"\nendpoint = "{}"\n'


def test_tiers_of_one_bucket_are_refused_where_their_prefixes_overlap() -> None:
    one = BUCKET.format("a", "2019", "https://s3.example")
    assert problems_of(one + BUCKET.format("b", "2019/phone", "https://S3.example/")) == (
        "tiers 'a' and 'b' overlap: s3://photos/2019 and s3://photos/2019/phone",
    )
    for other in (
        ("b", "2019-phone", "https://s3.example"),
        ("b", "2019", "https://another.example"),
        ("b", "2019", ""),
    ):
        assert len(parse(one + BUCKET.format(*other), HERE).tier) == 2


def test_a_tier_of_unknown_kind_is_told_of_both() -> None:
    assert problems_of('[[tier]]\nname = "a"\npath = "/a"\nkind = "S3"') == (
        "tier \"a\": kind: should be 'local' or 's3'",
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("endpoint", "https://user:secret@s3.example"),
        ("endpoint", "s3.example"),
        ("prefix", "/photos"),
        ("prefix", "photos//2019"),
        ("prefix", ".archiver/"),
        ("prefix", "a/../b"),
        ("inventory", "https://reports.example/"),
        ("sse_key", "arn:aws:kms:eu-central-1:1:key/2"),
        ("bytes_per_second", "0 B"),
        ("bucket", "p"),
    ],
)
def test_a_bucket_that_could_not_be_one_is_refused(key: str, value: str) -> None:
    known = {"name": "b", "kind": "s3", "bucket": "photos"} | {key: value}
    problems = problems_of("[[tier]]\n" + "\n".join(f'{name} = "{given}"' for name, given in known.items()))
    assert len(problems) == 1
    assert key in problems[0]
    assert "secret" not in problems[0]


def test_files_that_cannot_be_read_say_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigMissing):
        load(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b"# \xe4\n")
    with pytest.raises(ConfigInvalid, match="not UTF-8"):
        load(tmp_path / "latin.toml")
    (tmp_path / "broken.toml").write_text("[catalog\n")
    with pytest.raises(ConfigInvalid, match="not TOML"):
        load(tmp_path / "broken.toml")
    with pytest.raises(ConfigInvalid, match="cannot be read"):
        load(tmp_path)


def test_the_file_is_chosen_by_option_then_environment_then_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert config_path() == Path("/etc/archiver/config.toml")
    (tmp_path / "archiver").mkdir()
    (tmp_path / "archiver/config.toml").touch()
    assert config_path() == tmp_path / "archiver/config.toml"
    monkeypatch.setenv("ARCHIVER_CONFIG", "/named")
    assert config_path() == Path("/named")
    assert config_path(Path("/given")) == Path("/given")


# -- secrets -----------------------------------------------------------------------------------------------------------


def test_a_password_is_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"postgresql+psycopg://me:{PASSWORD}@db/archiver?sslpassword={PASSWORD}"
    secret = tmp_path / "url"
    secret.write_text(url + "\n")
    direct = parse(f'[catalog]\nurl = "{url}"', HERE)
    by_file = parse(f'[catalog]\nurl_file = "{secret}"', HERE)
    monkeypatch.setenv("ARCHIVER_CATALOG_URL", url)
    by_environment = Settings()
    for settings in (direct, by_file, by_environment):
        assert settings.catalog_url == url
        shown = [settings.redacted_url, render(settings), repr(settings), str(settings), *advice(settings, HERE)]
        assert not any(PASSWORD in text for text in shown)
        assert settings.redacted_url == "postgresql+psycopg://me:***@db/archiver?sslpassword=***"


@pytest.mark.parametrize(
    "text",
    [
        f'[catalog]\nurl = "postgres//me:{PASSWORD}@db"',
        f'[catalog]\nurl = ["{PASSWORD}"]',
        f'[catalog]\nurl_file = "postgresql://me:{PASSWORD}@db"',
        f'[catalog]\npassword = "{PASSWORD}"',
        f'catalog = "postgresql://me:{PASSWORD}@db"',
        f'[catalog]\nurl = "mysql://me:{PASSWORD}@db/x"\n[[tier]]\nname = "a"',
        f'[catalog]\nurl = "postgresql://me:{PASSWORD}@db:port/x"',
        f'[catalog]\nurl = "postgresql://me:{PASSWORD}@db/x',
    ],
)
def test_no_error_and_no_traceback_echoes_a_secret(text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        parse(text, HERE)
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert not any(PASSWORD in problem for problem in caught.value.problems)


def test_a_useless_secret_file_is_named_but_not_quoted(tmp_path: Path) -> None:
    settings = parse(f'[catalog]\nurl_file = "{tmp_path / "url"}"', HERE)
    with pytest.raises(ConfigInvalid, match="url_file cannot be read"):
        _ = settings.catalog_url
    (tmp_path / "url").write_text(f"{PASSWORD}\n")
    with pytest.raises(ConfigInvalid) as caught:
        _ = settings.catalog_url
    assert PASSWORD not in caught.value.message
    assert str(tmp_path / "url") in settings.redacted_url
    assert PASSWORD not in settings.redacted_url
    assert redact_url(PASSWORD) == "(not a database URL)"


def test_the_catalog_must_be_a_real_database() -> None:
    for url in ("sqlite://", "sqlite:///:memory:", "sqlite:///relative.db", "mysql://h/x", "nonsense"):
        assert len(problems_of(f'[catalog]\nurl = "{url}"')) == 1
    assert "not both" in problems_of('[catalog]\nurl = "sqlite:////x"\nurl_file = "/y"')[0]


def test_a_readable_secret_is_advised_against(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://me:x@db/archiver")
    settings = parse(f'[catalog]\nurl_file = "{secret}"', HERE)
    secret.chmod(0o644)
    assert any("chmod 600" in line for line in advice(settings, HERE))
    secret.chmod(0o600)
    assert not any("chmod 600" in line for line in advice(settings, HERE))


def test_advice_names_what_is_seldom_meant(tmp_path: Path) -> None:
    text = (
        '[release]\ngrace = "0d"\n[[tier]]\nname = "a"\npath = "/nowhere/at/all"\n[[rule]]\nname = "k"\naction = "keep"'
    )
    lines = list(advice(parse(text, HERE), HERE))
    assert [any(word in line for line in lines) for word in ("no rule", "not a folder", "grace")] == [True] * 3
    assert list(advice(Settings(), HERE)) == ["no [[tier]]: nothing is watched"]


# -- text --------------------------------------------------------------------------------------------------------------


def test_what_is_shown_reads_back_as_what_is_in_force() -> None:
    settings = parse(example(), HERE)
    assert parse(render(settings), HERE) == settings
    assert parse(render(Settings()), HERE) == Settings()
    assert 'grace = "30d"  # default' in render(Settings())


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1).filter(
    lambda name: name not in (".", "..")
)


@given(st.lists(names, min_size=1, max_size=4, unique=True), names)
def test_a_new_configuration_is_valid_for_any_folder(folders: list[str], data: str) -> None:
    paths = [Path("/srv") / folder for folder in folders]
    settings = parse(default_config(Path("/var") / data, paths), HERE)
    assert [tier.path for tier in settings.tier] == paths
    assert settings.vault.path == Path("/var") / data / "vault"
    assert settings.release.grace == timedelta(days=30)


def test_a_new_configuration_is_refused_where_it_cannot_work() -> None:
    for folders in ([Path("relative")], [Path("/a"), Path("/a/b")], [Path("/\udcff")]):
        with pytest.raises(ConfigInvalid):
            default_config(Path("/var/lib/archiver"), folders)


# -- patterns ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("**", b"a.jpg", True),
        ("**", b"a/b.jpg", True),
        ("*.jpg", b"deep/er/a.jpg", True),
        ("*.jpg", b"a.JPG", False),
        ("/a/*.jpg", b"a/b.jpg", True),
        ("/a/*.jpg", b"a/b/c.jpg", False),
        ("DCIM/**", b"DCIM/1/2.jpg", True),
        ("DCIM/**", b"x/DCIM/2.jpg", False),
        ("**/Screenshots/", b"a/Screenshots/1.png", True),
        ("Screenshots/", b"a/Screenshots", False),
        ("*.jpg", b"line\nbreak/a.jpg", True),
        ("**/keep/**", b"line\nbreak/keep/a\n.jpg", True),
        ("*.jpg", b"\xff\xfe/\xfd.jpg", True),
    ],
)
def test_patterns_match_as_in_gitignore(pattern: str, path: bytes, matches: bool) -> None:
    assert path_matches(compile_patterns([pattern]), os.fsdecode(path)) is matches


@given(
    st.lists(
        st.binary(min_size=1).filter(lambda part: b"/" not in part and b"\0" not in part and part not in (b".", b"..")),
        min_size=1,
    )
)
def test_everything_matches_everything(parts: list[bytes]) -> None:
    assert path_matches(compile_patterns(["**"]), os.fsdecode(b"/".join(parts)))
    assert path_matches(compile_patterns(["*"]), os.fsdecode(b"/".join(parts)))


def test_the_last_pattern_that_matches_decides() -> None:
    patterns = compile_patterns(["*.jpg", "!best/"])
    assert path_matches(patterns, "a/b.jpg")
    assert not path_matches(patterns, "a/best/b.jpg")
