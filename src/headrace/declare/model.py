"""Model: labels, features, how it is trained, and what it must pass."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs

from headrace.declare.convert import to_duration
from headrace.declare.gate import Rule
from headrace.declare.metrics import TASKS, Task, tasks_of
from headrace.declare.place import Place
from headrace.declare.search import Tune
from headrace.declare.splits import ByTime, Split
from headrace.declare.table import Table
from headrace.declare.trainers import Trainer
from headrace.kernel.errors import ProjectError

__all__ = ["Missing", "Model", "task_of"]

Missing = Literal["model", "refuse"] | Mapping[str, Any]
_LARGEST = 3.4028234663852886e38  # of float32: what is beyond is infinite to a model
# The name is part of a lake table, a stage of the build, a path of the endpoint and a folder.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")


def _to_rules(rules: Any) -> tuple[Rule, ...]:
    return tuple(rules)


def _to_split(split: Split | None) -> Split:
    return ByTime() if split is None else split


@attrs.frozen(eq=False)
class Model:
    """One model.

    Attributes:
        name: its name, also MLflow's: a letter, then letters, digits, `_` and `-`.
        labels: the table of labels: entity keys, `event_timestamp`, the target, and what the request
            carries (the inputs of on-demand views).
        target: the label's column.
        features: a Feast FeatureService.
        trainer: how it is fitted.
        task: `binary` (the target is 0 or 1), `multiclass` (one of several classes) or `regression` (a number).
            None: the one task that has every metric named by `tune` and `gate`; else it follows from the
            target's values.
        tune: how its parameters are searched, or None.
        split: how rows are divided.
        missing: what a missing feature means, in training and serving alike: `model` (the model sees null),
            `refuse` (the request is answered 422, and training leaves such rows out), or defaults, feature →
            value.
        refresh: how old its inputs may grow before that alone makes it stale; text such as `1d` is read.
        gate: what a version must pass before it becomes champion.
        place: where it is declared.

    Raises:
        ProjectError: the name, `task`, `missing` or `refresh` is not valid, or no task has all the metrics.
    """

    name: str
    labels: Table = attrs.field(kw_only=True)
    target: str = attrs.field(kw_only=True)
    features: Any = attrs.field(kw_only=True)
    trainer: Trainer = attrs.field(kw_only=True)
    task: Task | None = attrs.field(default=None, kw_only=True)
    tune: Tune | None = attrs.field(default=None, kw_only=True)
    split: Split = attrs.field(default=None, converter=_to_split, kw_only=True)
    missing: Missing = attrs.field(default="model", kw_only=True)
    refresh: timedelta = attrs.field(default=timedelta(days=1), converter=to_duration, kw_only=True)
    gate: tuple[Rule, ...] = attrs.field(default=(), converter=_to_rules, kw_only=True)
    place: Place = attrs.field(init=False, factory=Place.of_caller)

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ProjectError(
                f"{self.name!r} is not a valid model name",
                where=str(self.place),
                remedy="Begin it with a letter; then letters, digits, _ and - may follow.",
            )
        _check_missing(self.name, self.missing, self.place)
        task_of(self)


def task_of(model: Model) -> Task | None:
    """The declared task, or the only one that has every metric that `tune` and `gate` name; None: it is open.

    Raises:
        ProjectError: no such task exists, or no task has all the metrics.
    """
    where = str(model.place)
    if model.task is not None and model.task not in TASKS:
        raise ProjectError(
            f"task={model.task!r} of model {model.name!r} is not a task",
            where=where,
            remedy=f"Tasks: {', '.join(TASKS)}.",
        )
    metrics = [rule.metric for rule in model.gate] + ([] if model.tune is None else [model.tune.metric])
    possible = set(TASKS if model.task is None else [model.task])
    for metric in metrics:
        tasks = tasks_of(metric)
        if not possible & tasks:
            other = f"its task is {model.task}" if model.task else "its other metrics are of another task"
            raise ProjectError(
                f"{metric} of model {model.name!r} is a metric of {' and '.join(sorted(tasks))}, and {other}",
                where=where,
                remedy="Name metrics of one task in tune= and gate=.",
            )
        possible &= tasks
    return next(iter(possible)) if len(possible) == 1 else None


def _check_missing(model: str, missing: Missing, place: Place) -> None:
    if missing in ("model", "refuse"):
        return
    wrong = repr(missing)
    if isinstance(missing, Mapping):
        invalid = {feature: value for feature, value in missing.items() if not _is_default(value)}
        if not invalid:
            return
        feature, value = next(iter(invalid.items()))
        wrong = f"{{{feature!r}: {value!r}}}"
    raise ProjectError(
        f"missing={wrong} of model {model!r} is not a policy",
        where=str(place),
        remedy='Give it "model", "refuse", or defaults: {feature: a finite number, True, False or text}.',
    )


def _is_default(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, (bool, int, float)) and abs(value) <= _LARGEST)
