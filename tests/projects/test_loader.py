"""The loader: imports the package, all of it or what a process needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace.config.settings import Settings, load_settings
from headrace.kernel.errors import ProjectError
from headrace.projects.loader import load_modules

NAME = "loaded_project"


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "headrace.toml").write_text(f'[project]\nname = "{NAME}"\n')
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "__init__.py").touch()
    before = list(sys.path)
    yield folder
    sys.path[:] = before
    for name in [module for module in sys.modules if module.split(".")[0] == NAME]:
        del sys.modules[name]


def settings(package: Path) -> Settings:
    return load_settings(package.parent)


def names(package: Path, *without: str) -> list[str]:
    return [module.__name__ for module in load_modules(settings(package), without=without)]


def test_every_module_is_imported_or_those_that_do_not_import_a_package(package: Path) -> None:
    (package / "events.py").write_text("import json\n")
    (package / "features.py").write_text("from colorsys import hsv_to_rgb\n")
    (package / "models.py").write_text(f"from {NAME}.features import hsv_to_rgb\n")
    (package / "more.py").write_text("from . import models\n")
    whole = [NAME, f"{NAME}.events", f"{NAME}.features", f"{NAME}.models", f"{NAME}.more"]
    assert names(package) == whole
    assert names(package, "colorsys") == [NAME, f"{NAME}.events"]


def test_a_module_left_out_is_not_imported(package: Path) -> None:
    (package / "events.py").touch()
    (package / "heavy.py").write_text("import colorsys\nraise RuntimeError('imported')\n")
    assert names(package, "colorsys") == [NAME, f"{NAME}.events"]


def test_a_package_of_the_same_name_in_another_folder_is_imported_anew(
    package: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (package / "events.py").write_text("WHO = 'one'\n")
    other = tmp_path_factory.mktemp("other")
    (other / NAME).mkdir()
    (other / "headrace.toml").write_text(f'[project]\nname = "{NAME}"\n')
    (other / NAME / "__init__.py").touch()
    (other / NAME / "events.py").write_text("WHO = 'other'\n")
    loaded = [load_modules(opened)[1].WHO for opened in (settings(package), load_settings(other)) * 2]
    assert loaded == ["one", "other", "one", "other"]


def test_an_edit_within_the_same_second_and_of_the_same_size_is_seen(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    module = package / "events.py"
    module.write_text("WHO = 'ann'\n")
    os.utime(module, ns=(1_700_000_000_000_000_000, 1_700_000_000_000_000_000))
    load_modules(settings(package))
    module.write_text("WHO = 'bob'\n")
    os.utime(module, ns=(1_700_000_000_500_000_000, 1_700_000_000_500_000_000))
    load_modules(settings(package))
    assert sys.modules[f"{NAME}.events"].WHO == "bob"


def test_an_edited_module_is_imported_anew_and_an_unedited_one_is_kept(package: Path) -> None:
    (package / "events.py").write_text("WHO = 'one'\n")
    first = load_modules(settings(package))[1]
    assert load_modules(settings(package))[1] is first
    (package / "events.py").write_text("WHO = 'another'\n")
    assert load_modules(settings(package))[1].WHO == "another"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import json\n\nraise ValueError('broken')\n",
            "events.py:3: it cannot be imported: ValueError: broken",
        ),
        ("import sys\n\nsys.exit('done')\n", "events.py:3: it cannot be imported: SystemExit: done"),
        ("import nothing_of_this_name\n", "events.py:1"),
        ("def f(:\n", "events.py:1"),
    ],
)
def test_a_broken_module_is_reported_with_its_line(package: Path, text: str, message: str) -> None:
    (package / "events.py").write_text(text)
    with pytest.raises(ProjectError) as caught:
        load_modules(settings(package), without=["feast"])
    assert message in str(caught.value)


def test_a_missing_package_is_reported(tmp_path: Path) -> None:
    (tmp_path / "headrace.toml").write_text('[project]\nname = "nowhere"\n')
    with pytest.raises(ProjectError, match="nowhere"):
        load_modules(load_settings(tmp_path))
