"""The face that a bundle has for stock MLflow: `mlflow.pyfunc.load_model("models:/purchase@champion")`.

Its input is a frame with the plan's feature columns (`view__feature`), not a request: what looks
features up is Headrace's endpoint. What is missing in it, columns that are left out included, means what it
means when serving.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headrace.features.plan import FeaturePlan, FeatureRef, decode_plan
from headrace.features.values.matrix import Matrix
from headrace.kernel.errors import CallError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import polars as pl

__all__ = ["PLAN", "write_mlmodel"]

PLAN = "plan.json"
"""The plan's file in a bundle, beside the model's folder."""


def write_mlmodel(bundle: Path, plan: FeaturePlan) -> None:
    """Writes `MLmodel`, which tells MLflow how to load the bundle. The same plan gives the same file."""
    # MLflow's "long" can't be missing, and its "double" takes no int64. So the columns are of any type, and are
    # converted here (_Loaded).
    inputs = [{"name": one.column, "type": "any", "required": False} for one in plan.features]
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

        self._plan = decode_plan((folder.parent / PLAN).read_bytes())
        self._predictor = xgboost.load(folder)
        self._matrix = Matrix(self._plan, self._predictor.meta.encoding)

    def predict(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Probabilities for a frame of features, shape (n,).

        Raises:
            CallError: a column is not of its feature's dtype, or a feature is missing and the model refuses
                that.
        """
        import polars as pl

        frame = pl.from_pandas(rows)
        nothing = pl.Series([None] * len(frame))
        features = pl.DataFrame(
            {
                one.column: _converted(frame[one.column] if one.column in frame.columns else nothing, one)
                for one in self._plan.features
            }
        )
        seen = self._matrix.of_frame(features)
        if self._plan.missing == "refuse" and seen.missing is not None:
            row, missing = next((n, names) for n, names in enumerate(self._matrix.missing(seen)) if names)
            raise CallError(f"the model refuses to answer without {', '.join(missing)}", where=f"row {row}")
        return self._predictor.predict(seen.matrix)


def _converted(column: pl.Series, feature: FeatureRef) -> pl.Series:
    import polars as pl

    dtype = pl.String() if feature.dtype == "string" else pl.Float64()
    if (column.dtype in (pl.String, pl.Categorical)) == (dtype == pl.String) or column.dtype == pl.Null:
        return column.cast(dtype)
    if column.null_count() == len(column):
        return pl.Series([None] * len(column), dtype=dtype)
    raise CallError(
        f"column {feature.column!r} is {column.dtype}, and the feature is {feature.dtype}",
        remedy="Give each column the type that the training set has.",
    )
