"""Model: labels, features, how it is trained, and what it must pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from headrace.declare.gate import Rule
from headrace.declare.place import Place
from headrace.declare.search import Tune
from headrace.declare.table import Table
from headrace.kernel.errors import ProjectError
from headrace.kernel.time import duration

__all__ = ["ByTime", "Missing", "Model", "XGBoost"]

Missing = Literal["model", "refuse"] | Mapping[str, Any]
_LARGEST = 3.4028234663852886e38  # of float32: what is beyond is infinite to a model


@dataclass(frozen=True)
class ByTime:
    """Split by the label's time: train, then validation, then test, with `gap` between them.

    Attributes:
        validation, test: shares of the rows, 0 to 1.
        gap: rows within this time before a boundary are dropped: a label's horizon, so that no
            training label was decided by what happened in the next part.
    """

    validation: float = 0.15
    test: float = 0.15
    gap: timedelta = timedelta(0)

    def __init__(self, validation: float = 0.15, test: float = 0.15, gap: str | timedelta = "0s") -> None:
        if not (0 < validation < 1 and 0 < test < 1 and validation + test < 1):
            raise ProjectError(
                f"validation={validation} and test={test} must lie in 0..1 and leave a train part",
                where=str(Place.of_caller()),
            )
        object.__setattr__(self, "validation", validation)
        object.__setattr__(self, "test", test)
        object.__setattr__(self, "gap", duration(gap))


@dataclass(frozen=True)
class XGBoost:
    """Gradient-boosted trees by XGBoost.

    Attributes:
        num_boost_round: the most trees; fewer where the validation part stops improving.
        early_stopping_rounds: how many rounds without improvement end the fit.
        parameters: XGBoost's own, such as `objective`.
    """

    num_boost_round: int = 300
    early_stopping_rounds: int = 20
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __init__(self, num_boost_round: int = 300, early_stopping_rounds: int = 20, **parameters: Any) -> None:
        object.__setattr__(self, "num_boost_round", num_boost_round)
        object.__setattr__(self, "early_stopping_rounds", early_stopping_rounds)
        object.__setattr__(self, "parameters", parameters)


@dataclass(frozen=True, eq=False)
class Model:
    """One model.

    Attributes:
        name: its name, also MLflow's.
        labels: the table of labels: entity keys, `event_timestamp`, the target, and what the request
            carries (the inputs of on-demand views).
        target: the label's column, 0 or 1.
        features: a Feast FeatureService.
        trainer: how it is fitted.
        tune: how its parameters are searched, or None.
        split: how rows are divided.
        missing: what a missing feature means, in training and serving alike: `model` (the model sees null),
            `refuse` (the request is answered 422, and training leaves such rows out), or defaults, feature →
            value.
        refresh: how old its inputs may grow before that alone makes it stale.
        gate: what a version must pass before it becomes champion.
        place: where it is declared.
    """

    name: str
    labels: Table
    target: str
    features: Any
    trainer: XGBoost
    tune: Tune | None = None
    split: ByTime = field(default_factory=ByTime)
    missing: Missing = "model"
    refresh: timedelta = timedelta(days=1)
    gate: tuple[Rule, ...] = ()
    place: Place = field(default_factory=lambda: Place("?", 0))

    def __init__(
        self,
        name: str,
        *,
        labels: Table,
        target: str,
        features: Any,
        trainer: XGBoost,
        tune: Tune | None = None,
        split: ByTime | None = None,
        missing: Missing = "model",
        refresh: str | timedelta = "1d",
        gate: Sequence[Rule] = (),
    ) -> None:
        values = {
            "name": name,
            "labels": labels,
            "target": target,
            "features": features,
            "trainer": trainer,
            "tune": tune,
            "split": split or ByTime(),
            "missing": _checked_missing(name, missing),
            "refresh": duration(refresh),
            "gate": tuple(gate),
            "place": Place.of_caller(),
        }
        for field_name, value in values.items():
            object.__setattr__(self, field_name, value)


def _checked_missing(model: str, missing: Missing) -> Missing:
    if missing in ("model", "refuse"):
        return missing
    wrong = repr(missing)
    if isinstance(missing, Mapping):
        values = [one for one in missing.items() if not _is_default(one[1])]
        if not values:
            return missing
        wrong = f"{{{values[0][0]!r}: {values[0][1]!r}}}"
    raise ProjectError(
        f"missing={wrong} of model {model!r} is not a policy",
        where=str(Place.of_caller()),
        remedy='Give it "model", "refuse", or defaults: {feature: a finite number, True, False or text}.',
    )


def _is_default(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, (bool, int, float)) and abs(value) <= _LARGEST)
