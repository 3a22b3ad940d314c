"""Training and prediction: a search by Ray Tune against a plain loop, predictions of a row, and metrics.

python bench/training.py [--json]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from headrace.cluster.connection import connect
from headrace.config.settings import make_settings
from headrace.declare.model import Model
from headrace.declare.place import Place
from headrace.declare.search import Tune, integers, loguniform, uniform
from headrace.declare.splits import ByTime
from headrace.declare.table import Table
from headrace.declare.trainers import XGBoost
from headrace.features.plan import FeaturePlan, FeatureRef
from headrace.training.evaluation import evaluator_for
from headrace.training.fit import fit_folds, save
from headrace.training.matrices import Matrices, to_matrices
from headrace.training.splits import divide
from headrace.training.trainers.port import Budget
from headrace.training.trainers.xgboost import MODEL as BOOSTER
from headrace.training.trainers.xgboost import XGBoostTrainer
from headrace.training.tuning import search

ROWS, FEATURES, TRIALS = 100_000, 15, 12
TUNE = Tune(
    "pr_auc",
    TRIALS,
    {
        "max_depth": integers(3, 6),
        "learning_rate": loguniform(0.02, 0.3),
        "min_child_weight": loguniform(1, 50),
        "subsample": uniform(0.6, 1.0),
    },
)
MODEL = Model(
    "bench",
    labels=Table(name="labels", function=lambda frame: frame, reads=(), place=Place("?", 0)),
    target="target",
    features=None,
    trainer=XGBoost(),
    tune=TUNE,
    split=ByTime(0.15, 0.15, "30m"),
)
EVALUATOR = evaluator_for("binary")


def make_matrices() -> Matrices:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(ROWS, FEATURES))
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-(x[:, 0] + x[:, 1] * x[:, 2] - 2)))).astype(int)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    plan = FeaturePlan("bench", (), (), tuple(FeatureRef("x", f"f{n}", "float64") for n in range(FEATURES)))
    rows = pl.DataFrame(x, schema=[feature.column for feature in plan.features]).with_columns(
        target=y, event_timestamp=pl.Series([start + timedelta(measure_seconds=n) for n in range(ROWS)])
    )
    return to_matrices(divide(rows, MODEL.split, "target"), "target", plan)


def measure_seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fit_in_a_loop(matrices: Matrices, settings: Sequence[Mapping[str, Any]]) -> None:
    """The same fits one after another in this process, with all its threads."""
    trainer, data = XGBoostTrainer(), matrices.final
    for parameters in settings:
        fitted = trainer.fit(trainer.prepare(data), XGBoost(), parameters, seed=0, budget=Budget(threads=2))
        EVALUATOR.metric("pr_auc", data.validation.target, fitted.validation)


def measure(folder: Path) -> list[dict[str, object]]:
    settings = make_settings(folder, "bench", state=folder / "state")
    matrices = make_matrices()
    results: list[dict[str, object]] = []

    def add(work: str, ours: float, unit: str, peer: float | None = None) -> None:
        comparison = {} if peer is None else {"peer": peer, "ratio": ours / peer}
        results.append({"work": work, "ours": ours, "unit": unit, **comparison})

    start = time.perf_counter()
    with connect(settings):
        add("Ray started", time.perf_counter() - start, "s")
        start = time.perf_counter()
        trials = search(matrices, MODEL, TUNE, folder / "ray")
        tuning_seconds = time.perf_counter() - start
        start = time.perf_counter()
        (fitted,) = fit_folds(matrices.folds, MODEL, trials[0].parameters, folder / "ray")
        add("fit by Ray Train", time.perf_counter() - start, "s")
    loop = measure_seconds(lambda: fit_in_a_loop(matrices, [trial.parameters for trial in trials]))
    add(f"{TRIALS} trials on {ROWS:,} x {FEATURES}, against a plain loop", tuning_seconds, "s", loop)

    predictor = save(folder / "model", fitted, MODEL, matrices)
    test = matrices.test
    evaluated = measure_seconds(lambda: EVALUATOR.evaluate(test.target, predictor.predict(test.matrix)))
    add("metrics of 15,000 rows", evaluated, "s")
    row = test.matrix[:1].astype(np.float64)
    import xgboost

    booster = xgboost.Booster(model_file=folder / "model" / BOOSTER)
    booster.set_param({"nthread": 1})
    times = 2000
    ours = measure_seconds(lambda: [predictor.predict(row) for _ in range(times)]) / times
    peer = measure_seconds(lambda: [booster.inplace_predict(row) for _ in range(times)]) / times
    add("the answer for a row, against inplace_predict", ours * 1e6, "us", peer * 1e6)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one object a line")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for figure in measure(Path(folder)):
            print(json.dumps(figure) if arguments.json else figure)


if __name__ == "__main__":
    main()
