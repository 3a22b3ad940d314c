"""Pages name only what exists: their Python, commands, settings and data are read, without running them."""

from __future__ import annotations

import configparser
import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml
from tests.docs.blocks import BLOCK, ELSEWHERE, EXCERPT, PLACES, find_blocks, parse, select_blocks
from tests.docs.python_blocks import check_python

from headrace.cli.main import cli
from headrace.config.settings import load_settings

ROOT = Path(__file__).parents[2]
PAGES = [
    pytest.param(page, id=str(page.relative_to(ROOT)))
    for pattern in (
        "README.md",
        "docs/*.md",
        "docs/[!d]*/*.md",
    )  # decisions are history
    for page in sorted(ROOT.glob(pattern))
]
READ_ONLY = {"csv", "ini", "json", "toml", "yaml", "sql", "mermaid", "promql"}
CODE = re.compile(r"(?<!`)`(headrace [^`\n]+)`(?!`)")
OPERATORS = {"&&", "||", "|", ";", ">", ">>", "<", "2>&1", "&"}


def find_commands(text: str) -> Iterator[list[str]]:
    """The arguments of each command `headrace` in the shell blocks, and in blocks that show a session."""
    shown = list(find_blocks(text, "sh"))
    session = re.findall(r"^\$ (.*)", text, re.MULTILINE)
    for line in "\n".join([*shown, *session]).replace("\\\n", " ").splitlines():
        if "headrace " not in line or line.startswith("curl"):
            continue
        words = shlex.split(re.sub(r"\$\(date.*?\)", "2026-03-01", line), comments=True)
        part: list[str] = []
        for word in [*words, ";"]:
            if word in OPERATORS or word == "--":
                if part[:1] == ["headrace"]:
                    yield part[1:]
                part = []
            else:
                part.append(word)


def check_names(command: click.Command, words: list[str]) -> None:
    """Asserts that the command and its options exist; its arguments may be placeholders."""
    while isinstance(command, click.Group) and words and re.match("[a-z]", words[0]):
        inner = command.get_command(click.Context(command), words[0])
        assert inner is not None, words
        command, words = inner, words[1:]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.partition("=")[0] in {*known, "--help", "--version"}, word


@pytest.mark.parametrize("page", PAGES)
def test_the_python_of_a_page_uses_what_exists(page: Path) -> None:
    assert list(check_python(find_blocks(page.read_text(), "python"))) == []


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("from headrace import Modell", "cannot import name|has no attribute"),
        ("from headrace.lakes import open", "No module named"),
        ("import headrace\nheadrace.projekt()", "does not exist"),
        ("import headrace\nheadrace.project(profil='x')", "'profil'"),
        ("import headrace\nheadrace.project().tabel('x')", "OpenProject has no tabel"),
        ("rows = project.table('x', att='v1')", "'att'"),
        ("rows = project.table('x')\nrows.to_polar()", "Rows has no to_polar"),
        ("for version in project.table_versions('x'):\n    version.number", "TableVersion has no number"),
        ("purchase = Model('purchase', ..., missings={})", "'missings'"),
        ("@table(partition='x')\ndef f(rows): ...", "reads"),
        ("with project.up() as up:\n    project.statuss", "no statuss"),
        ("print(project.build(target='x'))", "'target'"),
        ("x = Tune(metric='a', trials=3, ...)", "'trials'"),
        ("x = (", "never closed"),
    ],
)
def test_python_that_uses_what_does_not_exist_is_found(block: str, fault: str) -> None:
    (message,) = check_python([block])
    assert re.search(fault, message)


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_exist_with_their_arguments(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    (tmp_path / "models.yaml").touch()
    monkeypatch.chdir(tmp_path)
    for words in find_commands(text):
        if "--help" in words:
            check_names(cli, words)
        else:
            parse(cli, words)
    for code in CODE.findall(text):
        check_names(cli, re.split(r"[\s\[\]|]+", code)[1:])


@pytest.mark.parametrize("page", PAGES)
def test_each_command_of_a_page_stands_in_a_block_that_is_run(page: Path) -> None:
    """Or in one that says what is done with it."""
    text = select_blocks(page.read_text())
    assert re.findall(r"^(?:\$ .*|headrace .*)", BLOCK.sub("", text), re.MULTILINE) == []
    languages = {language for language, _, _ in BLOCK.findall(text)}
    assert languages <= {"console", "sh", "python", "diff", *READ_ONLY}


@pytest.mark.parametrize("page", PAGES)
def test_an_excerpt_stands_where_its_page_says(page: Path) -> None:
    for path, block in EXCERPT.findall(page.read_text()):
        files = sorted((ROOT / path).glob("*.md")) if (ROOT / path).is_dir() else [ROOT / path]
        lines = {line for file in files for line in split_lines(file.read_text())}
        for line in split_lines(block):
            assert any(other.startswith(line) for other in lines), f"{path} lacks: {line}"


def split_lines(text: str) -> Iterator[str]:
    """Each line of code or command of a text, without prompts, comments and spaces around it."""
    for line in text.splitlines():
        for command in re.sub(r"\s+# .*", "", line).removeprefix("$ ").split(" && "):
            if command.strip():
                yield command.strip()


def test_each_place_that_a_page_names_has_a_test_that_follows_it() -> None:
    named = {place for page in PAGES for place, _ in ELSEWHERE.findall(page.values[0].read_text())}
    assert named == set(PLACES)
    for place, file in PLACES.items():
        assert f'"{place}")' in (ROOT / "tests" / file).read_text(), place


@pytest.mark.parametrize("page", PAGES)
def test_the_files_and_targets_that_a_page_runs_exist(page: Path) -> None:
    text = page.read_text()
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z][\w-]*)", text, re.MULTILINE)) <= targets
    for file in re.findall(r"(?:^|`)\$? ?python ((?:tests|bench)/\S+?\.py)", text, re.MULTILINE):
        assert (ROOT / file).is_file(), file
    for module in re.findall(r"python -m (services|tests\.[\w.]+)", text):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


@pytest.mark.parametrize("page", PAGES)
def test_the_settings_and_data_of_a_page_can_be_read(page: Path, tmp_path: Path) -> None:
    text = page.read_text()
    for block in find_blocks(text, "toml"):
        project = "" if "[project]" in block else '[project]\nname = "shop"\n\n'
        (tmp_path / "headrace.toml").write_text(project + block)
        for profile in tomllib.loads(block).get("profile", {"local": {}}):
            assert load_settings(tmp_path, profile).profile_name == profile
    for block in find_blocks(text, "yaml"):
        assert yaml.safe_load(block)
    for block in find_blocks(text, "json"):
        assert json.loads(block)
    for block in find_blocks(text, "ini"):  # systemd takes no comment behind a value
        units = configparser.ConfigParser(strict=True, interpolation=None)
        units.read_string(block)
        assert [value for unit in units.sections() for value in units[unit].values() if "#" in value] == []
