"""Ray's worker, but that it imports Ray Serve without pandas: a second less of CPU, 40 MB less.

Serve takes pandas only to encode frames, and does without where there is none. Run as a script, with
the arguments of Ray's own. Whoever asks for pandas after that has it.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_TAKES_PANDAS = "ray.serve._private.utils"


class _WithoutPandas(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if "pandas" in sys.modules:
            self._loader.exec_module(module)
            return
        sys.modules["pandas"] = None  # type: ignore[assignment]  # an ImportError to who asks
        try:
            self._loader.exec_module(module)
        finally:
            del sys.modules["pandas"]


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _TAKES_PANDAS:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _WithoutPandas(spec.loader)
        return spec


if __name__ == "__main__":
    del sys.path[0]  # this folder: its modules' names must not hide others
    sys.meta_path.insert(0, _Finder())
    # Ray's own worker, as __main__: what it starts looks there.
    runpy.run_module("ray._private.workers.default_worker", run_name="__main__", alter_sys=True)
