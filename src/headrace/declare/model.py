"""Model: its labels, features, trainer and gate."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal

import attrs

from headrace.declare.baselines import Baseline
from headrace.declare.convert import to_duration
from headrace.declare.gate import Rule
from headrace.declare.metrics import TASKS, Task, tasks_of
from headrace.declare.outcomes import Outcomes
from headrace.declare.place import Place
from headrace.declare.search import Tune
from headrace.declare.splits import ByTime, Split, WalkForward
from headrace.declare.table import Table
from headrace.declare.trainers import Trainer
from headrace.kernel.errors import ProjectError

__all__ = ["Missing", "Model", "task_of", "threshold_of"]

_DEFAULT_THRESHOLD = 0.5

Missing = Literal["model", "refuse"] | Mapping[str, Any]
_LARGEST = 3.4028234663852886e38  # the largest float32: a model would see a larger number as infinite
# The name is part of a lake table, a stage of the build, a path of the endpoint and a folder.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

_TYPES: dict[str, tuple[type, str, str]] = {
    "labels": (Table, "a table", "the function under @table, without quotation marks"),
    "target": (str, "the name of a column", '"the_column"'),
    "trainer": (Trainer, "a trainer", "XGBoost(), or another trainer"),
    "tune": (Tune, "a search", "Tune(...)"),
    "split": (Split, "a split", "ByTime(), or another split"),
    "baseline": (Baseline, "a baseline", "SeasonalNaive(...)"),
    "outcomes": (Outcomes, "a declaration of outcomes", "Outcomes(...)"),
}
"""Argument → its type, that type in words, and what to write."""
_OPTIONAL = {"tune", "baseline", "outcomes"}


def _to_rules(rules: Rule | Iterable[Rule]) -> tuple[Rule, ...]:
    return (rules,) if isinstance(rules, Rule) else tuple(rules)


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
        trainer: the algorithm that fits it.
        task: `binary` (the target is 0 or 1), `multiclass` (one of several classes) or `regression` (a number).
            None: the only task that has every metric in `tune` and `gate`; otherwise the target's values
            decide.
        tune: the search for its parameters; None: no search.
        split: how the label rows are divided.
        baseline: predictions to compare the model of a regression with, on the same test rows.
        missing: how a missing feature is handled, in training and in serving: `model` (the model sees null),
            `refuse` (a request is answered with 422, and training leaves such rows out), or defaults, feature →
            value.
        unavailable: how a request is answered while the online store does not answer: `refuse` (503), or
            `missing` (the store's features count as missing, and `missing=` decides).
        refresh: the age of its inputs at which the model becomes stale; text such as `1d`, or a timedelta.
        gate: the rules that a version must pass before it becomes champion.
        outcomes: the events that say what really happened after a prediction; None: they are not known here.
        threshold: the probability from which on a binary model's answer counts as yes. Backtests, outcomes and
            canaries compare decisions by it; answers do not depend on it.
        place: the line of the declaration.

    Raises:
        ProjectError: an argument is of another type, the name, `task`, `missing`, `unavailable`, `threshold` or
            `refresh` is not valid, no task has all the metrics, or the trainer lacks a parameter that `tune`
            names.
    """

    name: str
    labels: Table = attrs.field(kw_only=True)
    target: str = attrs.field(kw_only=True)
    features: Any = attrs.field(kw_only=True)
    trainer: Trainer = attrs.field(kw_only=True)
    task: Task | None = attrs.field(default=None, kw_only=True)
    tune: Tune | None = attrs.field(default=None, kw_only=True)
    split: Split = attrs.field(default=None, converter=_to_split, kw_only=True)
    baseline: Baseline | None = attrs.field(default=None, kw_only=True)
    missing: Missing = attrs.field(default="model", kw_only=True)
    unavailable: Literal["refuse", "missing"] = attrs.field(default="refuse", kw_only=True)
    refresh: timedelta = attrs.field(default=timedelta(days=1), converter=to_duration, kw_only=True)
    gate: tuple[Rule, ...] = attrs.field(default=(), converter=_to_rules, kw_only=True)
    outcomes: Outcomes | None = attrs.field(default=None, kw_only=True)
    threshold: float = attrs.field(default=_DEFAULT_THRESHOLD, kw_only=True)
    place: Place = attrs.field(init=False, factory=Place.of_caller)

    def __attrs_post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ProjectError(
                f"{self.name!r} is not a valid model name",
                where=str(self.place),
                remedy="Begin it with a letter; then letters, digits, _ and - may follow.",
            )
        _check_types(self)
        _check_missing(self.name, self.missing, self.place)
        _check_unavailable(self)
        _check_threshold(self)
        task_of(self)
        _check_baseline(self)
        if self.tune is not None:
            self.trainer.check_parameters(self.tune.space, self.place)


def threshold_of(model: Model | None) -> float:
    """The model's threshold; of a model that is no longer declared, the default."""
    return _DEFAULT_THRESHOLD if model is None else model.threshold


def task_of(model: Model) -> Task | None:
    """The declared task, or the only one that has every metric that `tune` and `gate` name; None: several do.

    Raises:
        ProjectError: no such task exists, or no task has all the metrics.
    """
    where = str(model.place)
    if model.task is not None and model.task not in TASKS:
        raise ProjectError(
            f"task={model.task!r} of model {model.name!r} is not a valid task",
            where=where,
            remedy=f"The tasks are {', '.join(TASKS)}.",
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


def _check_types(model: Model) -> None:
    for argument, (kind, what, example) in _TYPES.items():
        value = getattr(model, argument)
        if isinstance(value, kind) or (value is None and argument in _OPTIONAL):
            continue
        written = value.__name__ if isinstance(value, type) else repr(value)
        is_class = isinstance(value, type) and issubclass(value, kind)
        raise ProjectError(
            f"{argument}={written} of model {model.name!r} is {'a class, not' if is_class else 'not'} {what}",
            where=str(model.place),
            remedy=f"Write {argument}={f'{written}(...)' if is_class else example}.",
        )
    for rule in model.gate:
        if not isinstance(rule, Rule):
            raise ProjectError(
                f"{rule!r} in gate= of model {model.name!r} is not a rule",
                where=str(model.place),
                remedy='Write rules, such as gate=[at_least("roc_auc", 0.7)].',
            )


def _check_baseline(model: Model) -> None:
    rules = [rule for rule in model.gate if rule.kind == "better_than_baseline"]
    if rules and model.baseline is None:
        raise ProjectError(
            f"the gate of model {model.name!r} compares with a baseline, and it declares none",
            where=str(model.place),
            remedy='Declare one, such as baseline=SeasonalNaive("364d").',
        )
    if model.baseline is not None and task_of(model) not in ("regression", None):
        raise ProjectError(
            f"model {model.name!r} declares a baseline, and its task is {task_of(model)}",
            where=str(model.place),
            remedy="Remove it: a baseline predicts numbers.",
        )
    if model.baseline is not None and not isinstance(model.split, (ByTime, WalkForward)):
        raise ProjectError(
            f"model {model.name!r} declares a baseline of earlier labels, and its split is not by time",
            where=str(model.place),
            remedy="Declare split=ByTime() or WalkForward(...), or remove the baseline.",
        )


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
        f"missing={wrong} of model {model!r} is not valid",
        where=str(place),
        remedy='Write "model", "refuse", or defaults: {feature: a finite number, True, False or text}.',
    )


def _check_unavailable(model: Model) -> None:
    if model.unavailable not in ("refuse", "missing"):
        raise ProjectError(
            f"unavailable={model.unavailable!r} of model {model.name!r} is not valid",
            where=str(model.place),
            remedy='Write "refuse" or "missing".',
        )
    if model.unavailable == "missing" and model.missing == "refuse":
        raise ProjectError(
            f'unavailable="missing" of model {model.name!r} has no use: it refuses missing features',
            where=str(model.place),
            remedy='Write unavailable="refuse", or another missing=.',
        )


def _check_threshold(model: Model) -> None:
    threshold: object = model.threshold
    is_number = isinstance(threshold, (int, float)) and not isinstance(threshold, bool)
    if not (is_number and 0 <= model.threshold <= 1):
        raise ProjectError(
            f"threshold={threshold!r} of model {model.name!r} is not a probability from 0 to 1",
            where=str(model.place),
        )
    if model.threshold != _DEFAULT_THRESHOLD and task_of(model) not in ("binary", None):
        raise ProjectError(
            f"model {model.name!r} declares a threshold, and its task is {task_of(model)}",
            where=str(model.place),
            remedy="Remove it: only a binary model's answer is a probability.",
        )


def _is_default(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, (bool, int, float)) and abs(value) <= _LARGEST)
