"""Matrix: converts feature values to a model's input, in the same way for training and serving.

Numbers become float64 and then float32. Text becomes its index among the values of the train part. Missing
values follow the plan's policy. A value is **missing** if it is null, NaN, infinite, or larger than float32
can hold (3.4e38), because it would be infinite for the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import compress
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from headrace.features.plan import FeaturePlan, FeatureRef
from headrace.kernel.errors import ProjectError

if TYPE_CHECKING:
    import polars as pl

__all__ = ["Encoding", "Matrix", "MatrixRows", "check_dtypes"]

_LARGEST = float(np.finfo(np.float32).max)
_UNSEEN = -1.0  # the code of text that is not in the train part; the model sees NaN
_SLICE = 100_000  # rows of a frame that are float64 in memory at once


class Encoding(msgspec.Struct, frozen=True):
    """The numbers of text values, learnt from the train part alone.

    Attributes:
        features: the columns of the matrix, in the model's order.
        categories: for each column of text, its values in the train part, sorted. The code of a value is its
            index. The model sees NaN for text that is not in the train part.
    """

    features: tuple[str, ...]
    categories: dict[str, tuple[str, ...]] = {}

    @staticmethod
    def learn(train: pl.DataFrame, plan: FeaturePlan) -> Encoding:
        """Learns the encoding of the plan's features from the train part, with defaults filled in."""
        import polars as pl

        defaults = _defaults(plan)
        categories = {}
        for feature in plan.features:
            if feature.dtype == "string":
                values = train[feature.column].cast(pl.String)
                if feature.column in defaults:
                    values = values.fill_null(str(defaults[feature.column]))
                categories[feature.column] = tuple(values.drop_nulls().unique().sort())
        return Encoding(tuple(feature.column for feature in plan.features), categories)


class MatrixRows(NamedTuple):
    """The model's input for n rows.

    Attributes:
        matrix: float32 [n, features], C-contiguous, in the order of `plan.features`; NaN where a feature is
            missing without a default, or is text that is not in the train part.
        numbers: float64 [n, features]: the matrix before rounding; codes in the columns of text.
        missing: bool [n, features]: which features were missing, with or without a default; None if none was.
    """

    matrix: NDArray[np.float32]
    numbers: NDArray[np.float64]
    missing: NDArray[np.bool_] | None


class Matrix:
    """Converts the values of one plan's features to its model's matrix. Threads may share it.

    Args:
        plan: the features and the policy for missing ones.
        encoding: the numbers of text values; without an encoding the model sees NaN for all text.

    Attributes:
        columns: the features (`view__feature`), in the order of the matrix.

    Raises:
        ProjectError: a feature is neither a number nor text.
    """

    def __init__(self, plan: FeaturePlan, encoding: Encoding | None = None) -> None:
        check_dtypes(plan.features, where=f"model {plan.model}")
        categories = {} if encoding is None else encoding.categories
        defaults = _defaults(plan)
        self.columns = tuple(feature.column for feature in plan.features)
        self._codes = {
            index: {text: float(code) for code, text in enumerate(categories.get(feature.column, ()))}
            for index, feature in enumerate(plan.features)
            if feature.dtype == "string"
        }
        self._text_defaults = {index: defaults.get(self.columns[index]) for index in self._codes}
        self._defaults = np.array(
            [
                self._code(index, defaults.get(name))
                if index in self._codes
                else float(defaults.get(name, np.nan))
                for index, name in enumerate(self.columns)
            ]
        )
        self._text = list(self._codes)

    def of_rows(self, rows: Sequence[Sequence[Any]]) -> MatrixRows:
        """The matrix for rows of Python values, as a lookup and on-demand views return them.

        Args:
            rows: at least one row; each has the values of `columns`: None, int, float, bool, or str for text.
        """
        if self._codes:
            coded = [list(row) for row in rows]
            for row in coded:
                for index in self._codes:
                    row[index] = self._code(index, row[index])
            rows = coded
        return self._fill(np.array(rows, dtype=np.float64))

    def of_frame(self, frame: pl.DataFrame) -> MatrixRows:
        """The matrix for a frame that has `columns`, of the plan's dtypes, and may have others."""
        return self._fill(self._numbers(frame))

    def slices(self, frame: pl.DataFrame) -> Iterator[MatrixRows]:
        """As `of_frame`, for a slice of the rows at a time."""
        for first in range(0, len(frame), _SLICE):
            yield self.of_frame(frame[first : first + _SLICE])

    def values(
        self, rows: MatrixRows, text: Mapping[str, Sequence[str | None]]
    ) -> list[list[float | str | None]]:
        """The values of the rows for responses and the log: numbers as float64, text as it is, NaN or None if
        missing.

        Args:
            rows: the result of `of_rows` or `of_frame`.
            text: for each column of text, its values.
        """
        values: list[list[Any]] = rows.numbers.tolist()
        for index, default in self._text_defaults.items():
            for row, value in zip(values, text[self.columns[index]], strict=True):
                row[index] = default if value is None else value
        return values

    def missing(self, rows: MatrixRows) -> list[list[str]]:
        """For each row, the features that were missing."""
        if rows.missing is None:
            return [[] for _ in range(len(rows.matrix))]
        return [list(compress(self.columns, row)) for row in rows.missing.tolist()]

    def count_infinite(self, frame: pl.DataFrame) -> dict[str, int]:
        """Feature → in how many rows of the frame it is infinite for a model; features without such rows are
        left out."""
        counts = np.zeros(len(self.columns), dtype=np.int64)
        for first in range(0, len(frame), _SLICE):
            counts += (np.abs(self._numbers(frame[first : first + _SLICE])) > _LARGEST).sum(axis=0)
        return {name: int(count) for name, count in zip(self.columns, counts, strict=True) if count}

    def complete(self, frame: pl.DataFrame) -> pl.Series:
        """For each row of the frame, whether it has every feature; a boolean series."""
        import polars as pl

        parts = [
            np.ones(len(rows.matrix), dtype=np.bool_) if rows.missing is None else ~rows.missing.any(axis=1)
            for rows in self.slices(frame)
        ]
        return pl.Series(np.concatenate([np.empty(0, dtype=np.bool_), *parts]))

    def _code(self, index: int, text: str | None) -> float:
        return np.nan if text is None else self._codes[index].get(text, _UNSEEN)

    def _numbers(self, frame: pl.DataFrame) -> NDArray[np.float64]:
        import polars as pl

        numbers = np.empty((len(frame), len(self.columns)), dtype=np.float64)
        for index, name in enumerate(self.columns):
            column = frame[name]
            if index in self._codes:
                codes = self._codes[index] or {"": _UNSEEN}
                coded = column.cast(pl.String).replace_strict(
                    list(codes), list(codes.values()), default=_UNSEEN, return_dtype=pl.Float64
                )
                numbers[:, index] = coded.to_numpy()
                numbers[column.is_null().to_numpy(), index] = np.nan
            else:
                numbers[:, index] = column.cast(pl.Float64).to_numpy()
        return numbers

    def _fill(self, numbers: NDArray[np.float64]) -> MatrixRows:
        """Replaces missing values by defaults, and rounds to float32. Changes `numbers`."""
        present = np.abs(numbers) <= _LARGEST  # false for NaN and infinity
        missing = None
        if 0 in present.tobytes():  # ten times as fast as present.all() for one row
            missing = ~present
            np.copyto(numbers, self._defaults, where=missing)
        matrix = numbers.astype(np.float32)
        if self._text:
            codes = matrix[:, self._text]
            matrix[:, self._text] = np.where(codes < 0, np.nan, codes)
        return MatrixRows(matrix, numbers, missing)


def check_dtypes(features: Sequence[FeatureRef], *, where: str) -> None:
    """Raises ProjectError if a feature is neither a number nor text: a matrix cannot hold it."""
    for feature in features:
        if feature.dtype not in ("int64", "float64", "bool", "string"):
            raise ProjectError(
                f"feature {feature.column} is {feature.dtype}, but a matrix holds only numbers and text",
                where=where,
                remedy="Convert it to numbers in an on-demand view, and name that view in the feature service.",
            )


def _defaults(plan: FeaturePlan) -> Mapping[str, Any]:
    return plan.missing if isinstance(plan.missing, dict) else {}
