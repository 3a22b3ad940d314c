"""The project loader: imports the modules of the project's package that a process needs."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from headrace.code.importers import find_importers
from headrace.code.source_files import PARAMS_FILE, list_modules, stamp
from headrace.config.settings import Settings
from headrace.kernel.errors import HeadraceError, ProjectError

__all__ = ["load_modules", "module_stamps", "project_files"]

_stamps: dict[str, dict[str, tuple[int, int]]] = {}  # package → the stamps of what it was imported from


def project_files(settings: Settings) -> dict[str, Path]:
    """Module name → file, for every module of the project's package, sorted by name.

    Raises:
        ProjectError: the package does not exist.
    """
    package = settings.root / settings.project
    if not (package / "__init__.py").is_file():
        raise ProjectError(
            f"the project's package {settings.project!r} does not exist",
            where=str(settings.root),
            remedy=f"Create {settings.project}/__init__.py; it declares events, tables, features and models.",
        )
    return list_modules(settings.root, settings.project)


def module_stamps(settings: Settings) -> dict[str, tuple[int, int]]:
    """File → its stamp (code.source_files.stamp), for all that an import of the project's package reads: its
    modules, and params.yaml if there is one.

    Raises:
        ProjectError: the package does not exist.
    """
    params = settings.root / PARAMS_FILE
    files = [*project_files(settings).values(), *([params] if params.is_file() else [])]
    return {str(path): stamp(path) for path in files}


def load_modules(settings: Settings, *, without: Iterable[str] = ()) -> list[ModuleType]:
    """Imports the modules of the project's package, and returns them.

    Args:
        settings: the project's settings.
        without: packages that this process does not need, such as `feast` (5 s to import). Modules that import
            them, directly or through other modules of the project, are left out. A name with dots leaves out
            only that module.

    Raises:
        ProjectError: a module cannot be imported; it names the file and the line.
    """
    files = project_files(settings)
    unwanted = find_importers(files, frozenset(without))
    root = str(settings.root)
    if sys.path[:1] != [root]:  # another project may have a package of the same name, such as another checkout
        sys.path[:] = [root, *(path for path in sys.path if path != root)]
    _forget_stale_modules(settings)
    with _no_bytecode():
        return [_import(name, path) for name, path in files.items() if name not in unwanted]


def _forget_stale_modules(settings: Settings) -> None:
    """Removes modules from sys.modules that were imported from another folder, or before they or params.yaml
    were edited (in notebooks, in tests, by one build after another)."""
    stamps = module_stamps(settings)
    if _stamps.get(settings.project) != stamps:
        for name in [n for n in sys.modules if n.split(".")[0] == settings.project]:
            del sys.modules[name]
        importlib.invalidate_caches()
        _stamps[settings.project] = stamps


@contextmanager
def _no_bytecode() -> Iterator[None]:
    """While the block runs, imports write no bytecode: after an edit that keeps a file's size, within a second
    of the last edit, Python would load the old bytecode."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _import(name: str, path: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except HeadraceError:
        raise
    except (Exception, SystemExit) as error:
        line = error.lineno if isinstance(error, SyntaxError) else _find_line(error, path)
        place = str(path) if line is None else f"{path}:{line}"
        raise ProjectError(f"it cannot be imported: {type(error).__name__}: {error}", where=place) from error


def _find_line(error: BaseException, path: Path) -> int | None:
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    return lines[-1] if lines else None
