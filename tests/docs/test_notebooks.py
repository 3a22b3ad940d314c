"""The notebooks of the tutorial: made from its pages, and run one after the other."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import nbformat
import pytest
from nbclient import NotebookClient
from tests.docs.blocks import PORTS

from headrace.kernel.ports import find_free_port

ROOT = Path(__file__).parents[2]
SHOWN_AS_TABLE = {"index": 0, "events": 1, "tables": 1, "features": 1, "model": 2, "predictions": 1, "why": 1}


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_notebooks", ROOT / "docs" / "notebooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()


@pytest.mark.parametrize("page", GENERATOR.PAGES)
def test_a_notebook_is_made_from_its_page(page: str) -> None:
    """`python docs/notebooks.py` writes them anew."""
    file = GENERATOR.NOTEBOOKS / GENERATOR.name_notebook(page)
    assert file.read_text() == GENERATOR.make_notebook(page)
    nbformat.validate(nbformat.read(file, as_version=4))


def test_each_link_of_a_notebook_leads_to_a_file() -> None:
    folder = GENERATOR.NOTEBOOKS
    assert sorted(GENERATOR.name_notebook(page) for page in GENERATOR.PAGES) == sorted(os.listdir(folder))
    for page in GENERATOR.PAGES:
        for cell in nbformat.read(folder / GENERATOR.name_notebook(page), as_version=4).cells:
            for target in GENERATOR.LINK.findall(cell.source):
                assert (folder / target).is_file(), target


@pytest.fixture
def ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Port in the notebooks → a free port, which the kernels' environment names."""
    free = [str(find_free_port()) for _ in PORTS]
    for name, port in zip(("PREDICT", "COLLECTOR", "CONSOLE"), free, strict=True):
        monkeypatch.setenv(f"HEADRACE_{name}_PORT", port)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    return dict(zip(PORTS, free, strict=True))


def test_the_notebooks_run_one_after_the_other(tmp_path: Path, ports: dict[str, str]) -> None:
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shown = {}
    for page in GENERATOR.PAGES:
        text = (GENERATOR.NOTEBOOKS / GENERATOR.name_notebook(page)).read_text()
        for port, free in ports.items():
            text = text.replace(f"localhost:{port}", f"localhost:{free}")
        notebook = nbformat.reads(text, as_version=4)
        NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        shown[page] = sum("<table" in html for html in find_html(notebook))
    assert shown == SHOWN_AS_TABLE
    example = ROOT / "examples" / "minimal" / "payments"
    for file in example.glob("*.py"):
        written = folder / "payments" / "payments" / file.name
        assert written.read_text().strip() == file.read_text().strip(), file.name


def find_html(notebook: nbformat.NotebookNode) -> Iterator[str]:
    """What the cells show as HTML."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield output.get("data", {}).get("text/html", "")
