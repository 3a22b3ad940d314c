"""Predicts with XGBoost's C library, without its Python package.

Importing XGBoost's Python package takes seconds and some 150 MB, because it brings scikit-learn and
scipy. A process that only predicts needs neither: it loads the library in the package and calls the few
functions of its documented C interface (https://xgboost.readthedocs.io/en/stable/c.html).
"""

from __future__ import annotations

import ctypes
import importlib.util
import threading
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headrace.kernel.errors import HeadraceError, Unavailable

__all__ = ["Booster", "load_library"]

_PREDICT = (
    b'{"type": 0, "training": false, "iteration_begin": 0, "iteration_end": 0,'
    b' "strict_shape": false, "cache_id": 0, "missing": NaN}'
)
_loading = threading.Lock()
_library: ctypes.CDLL | None = None


class Booster:
    """A fitted booster. Threads may share it.

    Args:
        path: a model file as XGBoost's `save_model` writes it (`.ubj` or `.json`).
        threads: how many threads one prediction uses. One is fastest for few rows.

    Raises:
        Unavailable: XGBoost is not installed.
        HeadraceError: XGBoost cannot read the file.
    """

    def __init__(self, path: Path, threads: int = 1) -> None:
        self._library = load_library()
        self._handle = ctypes.c_void_p()
        self._call("XGBoosterCreate", None, ctypes.c_uint64(0), ctypes.byref(self._handle))
        self._call("XGBoosterLoadModel", self._handle, str(path).encode())
        self._call("XGBoosterSetParam", self._handle, b"nthread", str(threads).encode())

    def predict(self, matrix: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The output of the objective for each row: a probability for `binary:logistic`.

        Args:
            matrix: float32, C-contiguous, shape (n, features); NaN is a missing value.

        Returns:
            float32, shape (n,), or (n, classes) if the objective has an output for each class.
        """
        rows, columns = matrix.shape
        address = matrix.__array_interface__["data"][0]
        array_interface = (
            f'{{"data": [{address}, true], "shape": [{rows}, {columns}], "typestr": "<f4", "version": 3}}'
        )
        shape = ctypes.POINTER(ctypes.c_uint64)()
        dimensions = ctypes.c_uint64()
        result = ctypes.POINTER(ctypes.c_float)()
        self._call(
            "XGBoosterPredictFromDense",
            self._handle,
            array_interface.encode(),
            _PREDICT,
            None,
            ctypes.byref(shape),
            ctypes.byref(dimensions),
            ctypes.byref(result),
        )
        # Copied, because the library owns the result and overwrites it at this thread's next call.
        return np.ctypeslib.as_array(result, tuple(shape[: dimensions.value])).copy()

    def _call(self, function: str, *arguments: object) -> None:
        if getattr(self._library, function)(*arguments) != 0:
            message = self._library.XGBGetLastError().decode(errors="replace").strip()
            raise HeadraceError(f"XGBoost: {message.splitlines()[0] if message else function + ' failed'}")

    def __del__(self) -> None:
        handle = getattr(self, "_handle", None)
        if handle:
            self._library.XGBoosterFree(handle)


def load_library() -> ctypes.CDLL:
    """XGBoost's library, which is loaded once. Raises Unavailable if it is not installed."""
    global _library
    with _loading:
        if _library is None:
            _library = ctypes.CDLL(str(_path()))
            _library.XGBGetLastError.restype = ctypes.c_char_p
    return _library


def _path() -> Path:
    spec = importlib.util.find_spec("xgboost")  # finds it without importing it
    for folder in (spec and spec.submodule_search_locations) or ():
        for name in ("libxgboost.so", "libxgboost.dylib"):
            if (path := Path(folder) / "lib" / name).is_file():
                return path
    raise Unavailable("XGBoost's library is not installed", remedy="pip install xgboost")
