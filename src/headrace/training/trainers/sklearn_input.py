"""What an estimator of scikit-learn is given: the matrix through a preprocessing, or a frame for a Pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headrace.features.values.matrix import Encoding

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["importance_of", "make_preprocessing", "to_frame"]

_MAX_CATEGORIES = 256


def make_preprocessing(encoding: Encoding) -> Any:
    """A transformer of the matrix: numbers imputed by their median and scaled, text one-hot encoded.

    Text that is missing or not in the train part has 0 in all its columns. Of text with more than 256 values
    the rarest share a column.
    """
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    categories = encoding.categories
    numbers = [index for index, name in enumerate(encoding.features) if name not in categories]
    text = [index for index, name in enumerate(encoding.features) if categories.get(name)]
    codes = [np.arange(len(categories[encoding.features[index]]), dtype=np.float64) for index in text]
    encoder = OneHotEncoder(
        categories=codes, max_categories=_MAX_CATEGORIES, handle_unknown="ignore", sparse_output=False
    )
    scale = make_pipeline(SimpleImputer(strategy="median", keep_empty_features=True), StandardScaler())
    return ColumnTransformer([("numbers", scale, numbers), ("text", encoder, text)])


def to_frame(matrix: npt.NDArray[np.float32], encoding: Encoding) -> pd.DataFrame:
    """The matrix as a frame with the features' names: numbers as float64, text as itself; NaN if missing."""
    import pandas as pd

    columns: dict[str, Any] = {}
    for index, name in enumerate(encoding.features):
        column = matrix[:, index]
        if name in encoding.categories:
            texts = np.array([*encoding.categories[name], np.nan], dtype=object)
            column = texts[np.where(np.isnan(column), -1, column).astype(np.intp)]
        columns[name] = column if column.dtype == object else column.astype(np.float64)
    return pd.DataFrame(columns)


def importance_of(pipeline: Any, features: Sequence[str]) -> Mapping[str, float]:
    """Feature → its share of the last step's importance, largest first; empty if the last step has no measure
    of it, or its inputs cannot be traced to features by their names.

    Args:
        pipeline: fitted.
        features: the columns of its input.
    """
    weights = _weights(pipeline.steps[-1][1])
    if weights is None or not weights.sum() > 0:
        return {}
    try:
        names = [str(name) for name in pipeline[:-1].get_feature_names_out(list(features))]
    except (AttributeError, ValueError):  # a step that does not name its outputs
        return {}
    inputs = [_input_behind(name, features) for name in names]
    if len(names) != len(weights) or None in inputs:
        return {}
    shares = dict.fromkeys(features, 0.0)
    for name, weight in zip(inputs, weights, strict=True):
        shares[str(name)] += float(weight / weights.sum())
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


def _weights(estimator: Any) -> npt.NDArray[np.float64] | None:
    """The importance of each input: the mean over the classes for coefficients of several classes."""
    if hasattr(estimator, "feature_importances_"):
        return np.asarray(estimator.feature_importances_, np.float64)
    if hasattr(estimator, "coef_") and isinstance(estimator.coef_, np.ndarray):
        return np.asarray(np.abs(np.atleast_2d(estimator.coef_)).mean(axis=0), np.float64)
    return None


def _input_behind(name: str, features: Sequence[str]) -> str | None:
    """The feature that a column was made from: `scale__facts__mood` from `facts__mood`, and
    `facts__kind_new` from `facts__kind`."""
    matches = [feature for feature in features if f"__{feature}_" in f"__{name}_"]
    return max(matches, key=len, default=None)
