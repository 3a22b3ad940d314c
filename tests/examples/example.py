"""Imports modules of an example under names of their own: several examples have a `generate.py`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

__all__ = ["EXAMPLES", "import_package_module", "load_script"]

EXAMPLES = Path(__file__).parents[2] / "examples"


def load_script(example: str, name: str) -> ModuleType:
    """Loads a script beside the example's package, such as `generate`."""
    unique = f"{example}_{name}"
    spec = importlib.util.spec_from_file_location(unique, EXAMPLES / example / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[unique] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def import_package_module(example: str, name: str) -> ModuleType:
    """Imports a module of the example's package, such as `sales.tables`."""
    package = name.partition(".")[0]
    with pytest.MonkeyPatch.context() as patch:
        for module in [module for module in sys.modules if module.partition(".")[0] == package]:
            patch.delitem(sys.modules, module)  # of a project of the same name in a test before
        patch.syspath_prepend(str(EXAMPLES / example))
        return importlib.import_module(name)
