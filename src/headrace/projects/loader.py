"""The project loader: imports the project's package, all of it or what a process needs of it."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from headrace.code.importers import find_importers
from headrace.code.source_files import list_modules, stamp
from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError, ProjectError

__all__ = ["load_modules", "project_files"]

_stamps: dict[str, dict[str, tuple[int, int]]] = {}  # package → what its files were when it was imported


def project_files(settings: Settings) -> dict[str, Path]:
    """Module name → file, for every module of the project's package, in the order of their names.

    Raises:
        ProjectError: there is no such package.
    """
    package = settings.root / settings.project
    if not (package / "__init__.py").is_file():
        raise ProjectError(
            f"the project's package {settings.project!r} is not there",
            where=str(settings.root),
            remedy=f"Make {settings.project}/__init__.py; it declares events, tables, features and models.",
        )
    return list_modules(settings.root, settings.project)


def load_modules(settings: Settings, *, without: Iterable[str] = ()) -> list[ModuleType]:
    """The modules of the project's package, imported.

    Args:
        settings: whose project.
        without: outside packages this process does not want to pay for, such as `feast` (5 s):
            modules that import them, or that import project modules that do, are left out. A name
            with dots leaves out that module alone.

    Raises:
        ProjectError: a module cannot be imported; it names the file and the line.
    """
    files = project_files(settings)
    unwanted = find_importers(files, frozenset(without))
    root = str(settings.root)
    if root not in sys.path:
        sys.path.insert(0, root)
    _forget_other_text(settings, files)
    return [_import(name, path) for name, path in files.items() if name not in unwanted]


def _forget_other_text(settings: Settings, files: dict[str, Path]) -> None:
    """What was imported before must not stand in for what the files say now: neither a package of
    this name from another folder, nor this one before an edit (notebooks, tests, a build after another)."""
    stamps = {str(path): stamp(path) for path in files.values()}
    if _stamps.get(settings.project) != stamps:
        for name in [n for n in sys.modules if n.split(".")[0] == settings.project]:
            del sys.modules[name]
        importlib.invalidate_caches()
        _stamps[settings.project] = stamps


def _import(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except HeadraceError:
        raise
    except Exception as error:
        line = error.lineno if isinstance(error, SyntaxError) else _line_in(error, path)
        place = str(path) if line is None else f"{path}:{line}"
        raise ProjectError(f"it cannot be imported: {type(error).__name__}: {error}", where=place) from error


def _line_in(error: BaseException, path: Path) -> int | None:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else None
