"""A bundle as an MLflow model: `mlflow.pyfunc.load_model("models:/purchase@champion")`.

Its input is a frame with the plan's feature columns (`view__feature`), not a request: only Headrace's endpoint
looks features up. A missing value or column is treated as in serving.
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
from headrace.training.files import MODEL, PLAN
from headrace.training.trainers.folder import load_model
from headrace.training.trainers.port import Label

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import polars as pl

__all__ = ["write_mlmodel"]


def write_mlmodel(bundle: Path, plan: FeaturePlan, classes: tuple[Label, ...] = ()) -> None:
    """Writes `MLmodel`, which tells MLflow how to load the bundle. The same plan gives the same file.

    Args:
        bundle: the folder.
        plan: the features.
        classes: the labels of a multiclass model.
    """
    # MLflow's "long" cannot be missing, and its "double" does not accept int64. So the signature allows any
    # type, and _PyfuncModel converts the columns.
    inputs = [{"name": feature.column, "type": "any", "required": False} for feature in plan.features]
    shape = [-1, len(classes)] if classes else [-1]
    text = {
        "flavors": {
            "python_function": {
                "loader_module": "headrace.training.pyfunc",
                "data": MODEL,
                "python_version": platform.python_version(),
            }
        },
        "mlflow_version": version("mlflow"),
        "signature": {
            "inputs": json.dumps(inputs),
            "outputs": json.dumps([{"type": "tensor", "tensor-spec": {"dtype": "float64", "shape": shape}}]),
            "params": None,
        },
    }
    # MLflow reads YAML. JSON is valid YAML, and writing it needs no YAML library.
    (bundle / "MLmodel").write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")


def _load_pyfunc(path: str) -> Any:
    """Loads the model. MLflow calls this function by name, with the folder that `data` names."""
    return _PyfuncModel(Path(path))


class _PyfuncModel:
    def __init__(self, folder: Path) -> None:
        self._plan = decode_plan((folder.parent / PLAN).read_bytes())
        self._predictor = load_model(folder)
        self._matrix = Matrix(self._plan, self._predictor.meta.encoding)

    def predict(self, rows: pd.DataFrame) -> npt.NDArray[np.float64]:
        """The model's outputs for a frame of features (see `Predictor.predict`).

        Raises:
            CallError: a column does not have its feature's dtype, or a feature is missing and the model refuses
                missing features.
        """
        import polars as pl

        frame = pl.from_pandas(rows)
        nulls = pl.Series([None] * len(frame))
        features = pl.DataFrame(
            {
                feature.column: _convert(
                    frame[feature.column] if feature.column in frame.columns else nulls, feature
                )
                for feature in self._plan.features
            }
        )
        values = self._matrix.of_frame(features)
        if self._plan.missing == "refuse" and values.missing is not None:
            row, missing = next((n, names) for n, names in enumerate(self._matrix.missing(values)) if names)
            raise CallError(f"the model refuses to answer without {', '.join(missing)}", where=f"row {row}")
        return self._predictor.predict(values.matrix)


def _convert(column: pl.Series, feature: FeatureRef) -> pl.Series:
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
