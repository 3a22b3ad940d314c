"""Makes the notebooks of the tutorial from its pages: python docs/notebooks.py.

A page's prose becomes cells of text, a block that is a file writes the file, a block `console` runs in bash,
and Python runs as it is. The notebooks lie in one folder, and make one project in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parent / "tutorial"
NOTEBOOKS = FOLDER / "notebooks"
PAGES = ["index", "events", "tables", "features", "model", "predictions", "why"]
BLOCK = re.compile(r"^```(\w+)(?: title=\"(.*?)\")?\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
COMMENT = re.compile(r"^<!-- .*? -->\n", re.MULTILINE)  # what a test does with the block below it
LINK = re.compile(r"(?<=\]\()([^)#:\s]+\.md)(?=[)#])")
ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
FIRST = "cd payments"  # a notebook begins in its own folder
BEGIN = "%cd -q payments\n"
UP = """\
from contextlib import ExitStack

import headrace

servers = ExitStack()  # they run until servers.close()
servers.enter_context(headrace.project().up())
"""
DOWN = "servers.close()\n"
NEWEST = """\
import headrace

headrace.project().ingest()  # the last predictions may not be in their table yet
newest = headrace.project().table("headrace_predictions").to_polars().sort("at")["id"][-1]
newest
"""


def name_notebook(page: str) -> str:
    """The file of a page's notebook; the files sort in the order of the tutorial."""
    return f"{PAGES.index(page)}_{page}.ipynb"


def make_notebook(page: str) -> str:
    """The notebook of a page of the tutorial, as the text of an .ipynb file without outputs."""
    cells = list(make_cells((FOLDER / f"{page}.md").read_text()))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    notebook = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 4}
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def make_cells(text: str) -> Iterator[dict[str, object]]:
    """The cells of a page."""
    text = COMMENT.sub("", text)
    prose, end, has_id = "", 0, False
    if FIRST not in text:
        yield code_cell(BEGIN)
    for match in BLOCK.finditer(text):
        prose += text[end : match.start()]
        end = match.end()
        language, title, block = match.groups()
        if language not in {"python", "console"}:
            prose += match[0]
            continue
        if prose.strip():
            yield text_cell(prose)
        prose = ""
        code = block if language == "python" else "".join(find_commands(block))
        if ID.search(code) and not has_id:
            has_id = True
            yield code_cell(NEWEST)
        yield from map(code_cell, [f"%%writefile {title}\n{block}"] if title else run_block(language, block))
    prose += text[end:]
    yield text_cell(prose)
    if "$ headrace up\n" in text:
        yield code_cell(DOWN)


def run_block(language: str, block: str) -> Iterator[str]:
    """The cells that do what a block of commands or Python says."""
    if language == "python":
        yield re.sub(f'"{ID.pattern}"', "newest", block)
        return
    commands = find_commands(block)
    if commands == ["headrace up\n"]:
        yield UP
        return
    bash = "".join(command for command in commands if not command.startswith("cd "))
    if bash:
        yield ("%%bash -e -s {newest}\n" if ID.search(bash) else "%%bash -e\n") + ID.sub('"$1"', bash)
    yield from (f"%{command}" for command in commands if command.startswith("cd "))


def find_commands(block: str) -> list[str]:
    """The commands of a block `console`, each with the end of its line."""
    return re.findall(r"^\$ (.*\n)", block, re.MULTILINE)


def text_cell(text: str) -> dict[str, object]:
    """A cell of prose, whose links lead from the folder of the notebooks."""
    return {"cell_type": "markdown", "metadata": {}, "source": to_lines(LINK.sub(relink, text.strip()))}


def code_cell(text: str) -> dict[str, object]:
    """A cell of code that has not run."""
    source = to_lines(text.removesuffix("\n"))
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": source}


def relink(match: re.Match[str]) -> str:
    """A link of a page, for its notebook: to another page's notebook, or to the page."""
    page = match[1].removesuffix(".md")
    return name_notebook(page) if page in PAGES else f"../{match[1]}"


def to_lines(text: str) -> list[str]:
    """The text as a notebook's file has it."""
    return text.splitlines(keepends=True)


if __name__ == "__main__":
    NOTEBOOKS.mkdir(exist_ok=True)
    for name in PAGES:
        (NOTEBOOKS / name_notebook(name)).write_text(make_notebook(name))
