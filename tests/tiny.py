"""A tiny project on disk: some tables on one file of two prices."""

from __future__ import annotations

import sys
from pathlib import Path


def write(root: Path, tables: str) -> Path:
    """Writes the project `tiny` into a new folder; `tables` is the text of its tables.py."""
    (root / "tiny").mkdir(parents=True)
    (root / "data").mkdir()
    (root / "headrace.toml").write_text('[project]\nname = "tiny"\n')
    (root / "tiny" / "__init__.py").write_text("")
    (root / "tiny" / "tables.py").write_text(tables)
    (root / "data" / "prices.csv").write_text("price\n1\n2\n")
    return root


def edit(root: Path, *edits: tuple[str, str]) -> None:
    """Replaces texts in the project's tables.py, each of which must be there."""
    file = root / "tiny" / "tables.py"
    text = file.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    file.write_text(text)
    forget()


def forget() -> None:
    """Drops the project from the imported modules, so that its edited code is imported."""
    for name in [name for name in sys.modules if name.split(".")[0] == "tiny"]:
        del sys.modules[name]
