"""Finds the modules of a project that import given packages or modules, directly or through each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headrace.code.reader import SourceModule

__all__ = ["find_importers"]


def find_importers(files: Mapping[str, Path], targets: frozenset[str]) -> set[str]:
    """The modules whose imports, directly or through other modules here, reach a target.

    Args:
        files: module name → file.
        targets: names of packages, which include all their modules; a dotted name is a single module.

    Raises:
        ProjectError: a file is not valid Python.
    """
    if not targets:
        return set()
    packages = {target for target in targets if "." not in target}
    imports = {name: _names_imported_by(SourceModule(name, path)) for name, path in files.items()}
    importers = {
        name
        for name, names in imports.items()
        if any(imported in targets or imported.split(".")[0] in packages for imported in names)
    }
    while added := {name for name, names in imports.items() if name not in importers and names & importers}:
        importers |= added
    return importers


def _names_imported_by(module: SourceModule) -> set[str]:
    """Every absolute dotted name in the module's import statements, at any depth."""
    names: set[str] = set()
    for statement in module.statements:
        for imported in module.imports_in(statement):
            names |= {imported.module, f"{imported.module}.{imported.name}".rstrip(".")}
    return names
