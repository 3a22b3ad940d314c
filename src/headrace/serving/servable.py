"""Servable: everything that one version of a model needs to predict."""

from __future__ import annotations

from collections.abc import Container, Sequence

import numpy as np
import numpy.typing as npt
from attrs import frozen

from headrace.features.online import OnlineStore
from headrace.features.online.lookup import Lookup
from headrace.features.plan import FeaturePlan, decode_plan
from headrace.kernel.errors import Unavailable
from headrace.registry import Registry
from headrace.serving.errors import no_number
from headrace.serving.prediction import Value
from headrace.serving.prepared import load_prepared
from headrace.training.files import PLAN
from headrace.training.trainers.folder import Predictor
from headrace.training.trainers.port import Outputs

__all__ = ["Servable", "check_filled", "decode_answers", "find_no_numbers", "load_servable"]


@frozen
class Servable:
    """One version of a model, ready to predict.

    Attributes:
        version: the number of the version.
        plan: its feature plan.
        columns: the names of its features, in the order of the matrix.
        lookup: looks up and computes the features.
        predictor: the model itself.
    """

    version: int
    plan: FeaturePlan
    columns: tuple[str, ...]
    lookup: Lookup
    predictor: Predictor

    def predict(
        self, matrix: npt.NDArray[np.float32], indexes: Sequence[int] | None = None
    ) -> tuple[list[Value], list[dict[str, float]] | None]:
        """The value of each row, and the probabilities of its classes, if it has any (serving.prediction).

        Args:
            matrix: the features.
            indexes: the index of each row in its request, for errors; None: they are the whole request.

        Raises:
            ModelFailed: an output is not a finite number: JSON has none but null for it.
        """
        return self._decode(self.predictor.predict(matrix), indexes)

    def predict_each(
        self, matrix: npt.NDArray[np.float32], indexes: Sequence[int] | None = None
    ) -> tuple[list[Value], list[dict[str, float]] | None]:
        """As `predict`, and each row has the value that it has alone."""
        if self.predictor.is_batch_invariant or len(matrix) == 1:
            return self.predict(matrix, indexes)
        outputs = [self.predictor.predict(matrix[row : row + 1]) for row in range(len(matrix))]
        return self._decode(np.concatenate(outputs), indexes)

    def _decode(
        self, outputs: Outputs, indexes: Sequence[int] | None
    ) -> tuple[list[Value], list[dict[str, float]] | None]:
        rows = find_no_numbers(outputs)
        if rows:
            raise no_number(rows, indexes)
        return decode_answers(self.predictor, outputs)


def find_no_numbers(outputs: Outputs) -> list[int]:
    """The rows of a model's outputs that have a NaN or an infinite number."""
    is_finite = np.isfinite(outputs)
    if is_finite.all():
        return []
    rows: list[int] = np.flatnonzero(~is_finite.reshape(len(outputs), -1).all(axis=1)).tolist()
    return rows


def decode_answers(predictor: Predictor, outputs: Outputs) -> tuple[list[Value], list[dict[str, float]] | None]:
    """The value of each row of the predictor's outputs, and the probabilities of its classes, if it has any."""
    labels = predictor.meta.classes
    if not labels:
        return outputs.tolist(), None
    names = [str(label) for label in labels]
    values: list[Value] = [labels[code] for code in outputs.argmax(axis=1)]
    return values, [dict(zip(names, row, strict=True)) for row in outputs.tolist()]


def load_servable(registry: Registry, store: OnlineStore, model: str, version: int) -> Servable:
    """Verifies the version's bundle and loads it.

    Raises:
        CallError: the version does not exist.
        Refused: its bundle is not the registered one.
        ProjectError: its features cannot be served.
    """
    bundle = registry.bundle(model, version, apart=True)
    plan = decode_plan((bundle / PLAN).read_bytes())
    store.prepare(plan)
    predictor = load_prepared(registry, bundle)
    columns = tuple(feature.column for feature in plan.features)
    # The first call is slow, so it is made before any client's.
    fill = 0.0 if plan.missing == "refuse" else np.nan
    predictor.predict(np.full((1, len(columns)), fill, np.float32))
    return Servable(version, plan, columns, Lookup(plan, store, predictor.meta.encoding), predictor)


def check_filled(filled: Container[str], plan: FeaturePlan) -> None:
    """Checks that every stored view of the plan has values.

    Args:
        filled: the digests of the views that have.
        plan: the plan.

    Raises:
        Unavailable: a view has none yet.
    """
    for view in plan.stored:
        if view.digest not in filled:
            raise Unavailable(
                f"view {view.name!r} holds no values yet",
                where=f"model {plan.model}",
                remedy="Fill it first: headrace build online",
            )
