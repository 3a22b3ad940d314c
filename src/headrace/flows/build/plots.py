"""The metrics and plots of a training, as files for DVC: `dvc metrics` and `dvc plots` read them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from headrace.flows.build.pointers import write_if_changed

__all__ = ["PlotFile", "metrics_file", "plots_folder", "plots_of", "write_metrics", "write_plots"]


class PlotFile(NamedTuple):
    """A plot: a CSV file, and how DVC draws it.

    Attributes:
        path: the file, relative to the project.
        template: DVC's template.
        title: the title.
        x, y: the columns that are drawn across and up, which are also the labels of the axes.
    """

    path: str
    template: str
    title: str
    x: str
    y: str


class _Kind(NamedTuple):
    """A kind of plot of a task: its name, template, title and axes, and the rows (x, y) of an evaluation."""

    name: str
    template: str
    title: str
    x: str
    y: str
    rows: Callable[[Any], Iterable[tuple[Any, Any]]]


_KINDS: Mapping[str, tuple[_Kind, ...]] = {
    "binary": (
        _Kind("roc", "simple", "ROC", "false positive rate", "true positive rate", lambda e: e.curves.roc),
        _Kind("precision", "simple", "Precision over recall", "recall", "precision", lambda e: e.curves.pr),
        _Kind(
            "calibration",
            "scatter",
            "Calibration",
            "mean score",
            "share that is 1",
            lambda e: ((tenth.mean_score, tenth.share) for tenth in e.calibration),
        ),
    ),
    "multiclass": (
        _Kind(
            "confusion",
            "confusion",
            "Confusion matrix",
            "predicted",
            "actual",
            lambda e: ((predicted, actual) for actual, predicted in e.pairs),
        ),
    ),
    "regression": (_Kind("quantiles", "scatter", "Quantiles", "target", "prediction", lambda e: e.quantiles),),
}


def metrics_file(model: str) -> str:
    """The file of a model's metrics, relative to the project."""
    return f"metrics/{model}.json"


def plots_of(model: str, task: str | None) -> tuple[PlotFile, ...]:
    """The plots of a model; none if only the target's values decide its task."""
    return tuple(
        PlotFile(_path(model, kind), kind.template, f"{kind.title}: {model}", kind.x, kind.y)
        for kind in _KINDS.get(task or "", ())
    )


def write_metrics(root: Path, model: str, metrics: Mapping[str, float]) -> None:
    """Writes the metrics file."""
    write_if_changed(root / metrics_file(model), json.dumps(metrics, indent=1).encode() + b"\n")


def write_plots(root: Path, model: str, task: str, evaluation: Any) -> None:
    """Writes the files of the model's plots."""
    for kind in _KINDS[task]:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([(kind.x, kind.y), *kind.rows(evaluation)])
        write_if_changed(root / _path(model, kind), text.getvalue().encode())


def plots_folder(model: str) -> str:
    """The folder of a model's plots, relative to the project."""
    return f"plots/{model}"


def _path(model: str, kind: _Kind) -> str:
    return f"{plots_folder(model)}/{kind.name}.csv"
