"""What the READMEs of the examples tell a reader to run, or show as code: it exists in the example."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.docs.blocks import find_blocks, parse
from tests.examples.example import EXAMPLES

from headrace.cli.main import cli

READMES = sorted(EXAMPLES.glob("*/README.md"))


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, without those behind `&&` or `;`."""
    for block in find_blocks(text, "console", "sh"):
        for line in block.splitlines():
            match = re.match(r"\$ (.*)|((?:headrace|python) .*)", line)
            if match:
                yield shlex.split(re.split(r"&&|;", match[1] or match[2])[0], comments=True)


CASES = [
    pytest.param(path.parent, words, id=f"{path.parent.name}: {' '.join(words)[:60]}")
    for path in READMES
    for words in commands(path.read_text())
]


@pytest.mark.parametrize(("folder", "words"), CASES)
def test_a_command_of_a_readme_exists_with_its_options(
    folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models.yaml").touch()
    (tmp_path / "telco_churn.csv").touch()
    (tmp_path / "FOLDER").mkdir()
    monkeypatch.chdir(tmp_path)
    if words[:3] == ["python", "-m", "services"]:
        assert (EXAMPLES.parent / "services" / words[3]).is_dir()
        words = words[words.index("--") + 1 :]
    program, *arguments = words
    if program == "headrace":
        parse(cli, arguments)
    elif program in ("python", "cp"):
        (file, *_) = [word for word in arguments if not word.startswith("-")]
        assert (folder / file).exists()
    else:
        assert program in ("git", "dvc", "cd", "curl", "sed")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_code_that_a_readme_shows_is_that_of_the_example(readme: Path) -> None:
    code = [normalise(path.read_text()) for path in readme.parent.rglob("*.py")]
    for block in find_blocks(readme.read_text(), "python"):
        if "headrace.project()" not in block:  # what a reader types
            for part in block.split("..."):
                assert any(normalise(part) in text for text in code), part


def normalise(code: str) -> str:
    """The code without comments, spaces and line ends, and without commas before and behind it."""
    bare = re.sub(r"\s", "", re.sub(r"  # .*$", "", code, flags=re.MULTILINE))
    return re.sub(r",(?=[)\]}])", "", bare).strip(",")
