"""A tiny project on disk: some tables on one file of two prices."""

from __future__ import annotations

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
