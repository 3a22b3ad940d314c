"""The face that a bundle has for stock MLflow: `mlflow.pyfunc.load_model("models:/purchase@champion")`.

Its input is a frame with the plan's feature columns (`view__feature`), not a request: what looks
features up is Headrace's endpoint.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.features.plan import Plan

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

__all__ = ["write_mlmodel"]

_TYPES = {"int64": "long", "float64": "double", "string": "string", "bool": "boolean"}


def write_mlmodel(bundle: Path, plan: Plan) -> None:
    """Writes `MLmodel`, which tells MLflow how to load the bundle. The same plan gives the same file."""
    inputs = [
        {"name": one.column, "type": _TYPES.get(one.dtype, "double"), "required": False}
        for one in plan.features
    ]
    text = {
        "flavors": {
            "python_function": {
                "loader_module": "headrace.training.pyfunc",
                "data": "model",
                "python_version": platform.python_version(),
            }
        },
        "mlflow_version": version("mlflow"),
        "signature": {
            "inputs": json.dumps(inputs),
            "outputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": [-1]}}]),
            "params": None,
        },
    }
    # JSON is YAML too, and needs no YAML library here.
    (bundle / "MLmodel").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def _load_pyfunc(path: str) -> Any:
    """What MLflow calls, with the folder that `data` names."""
    return _Loaded(Path(path))


class _Loaded:
    def __init__(self, folder: Path) -> None:
        from headrace.training.trainers import xgboost

        self._predictor = xgboost.load(folder)

    def predict(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Probabilities for a frame of features, shape (n,)."""
        import polars as pl

        frame = pl.from_pandas(rows)
        return self._predictor.predict(self._predictor.meta.encoding.matrix(frame))
